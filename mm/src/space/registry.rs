//! The spaces of a machine by their numbers, so that whoever meets a page table finds the space that it belongs to.
#![expect(unsafe_code, reason = "addresses stand for spaces, whose lifetimes the list does not know")]

use core::mem::ManuallyDrop;
use core::num::NonZeroU16;
use core::ptr;

use intrusive_collections::{KeyAdapter, RBTree, RBTreeAtomicLink, UnsafeRef, intrusive_adapter};

use super::mmu::Mmu;
use super::tables::Tables;
use crate::lock::Mutex;
use crate::lock_order::class;
use crate::machine::Machine;
use crate::slab::Counted;
use crate::sync::{AtomicPtr, AtomicU32, Ordering};
use crate::units::SpaceId;

/// A space's place among the others.
#[derive(Debug)]
pub(super) struct Registered {
    link: RBTreeAtomicLink,
    number: AtomicU32,
    /// The reference to its tables that the space has, once there are any.
    tables: AtomicPtr<()>,
}

intrusive_adapter!(ByNumber = UnsafeRef<Registered>: Registered { link: RBTreeAtomicLink });

impl KeyAdapter<'_> for ByNumber {
    type Key = u32;

    fn get_key(&self, space: &Registered) -> u32 {
        space.number.load(Ordering::Relaxed)
    }
}

/// All spaces that are alive.
pub(super) struct Registry(Mutex<class::Registry, Numbers>);

struct Numbers {
    spaces: RBTree<ByNumber>,
    last: u16,
}

impl Registered {
    pub(super) fn new() -> Self {
        let tables = AtomicPtr::new(ptr::null_mut());
        Self { link: RBTreeAtomicLink::new(), number: AtomicU32::new(0), tables }
    }
}

impl Registry {
    pub(super) fn new() -> Self {
        Self(Mutex::new(Numbers { spaces: RBTree::new(ByNumber::NEW), last: 0 }))
    }

    /// Gives a space a number that no other has, the next one after the last that was given. `None` if all are taken.
    ///
    /// # Safety
    /// The value neither moves nor goes before it is [taken off](Self::remove).
    pub(super) unsafe fn add(&self, machine: &impl Machine, space: &Registered) -> Option<SpaceId> {
        let mut numbers = self.0.lock(machine);
        let Numbers { spaces, last } = &mut *numbers;
        let next = |number: u16| number.checked_add(1).unwrap_or(1);
        let mut candidates = core::iter::successors(Some(next(*last)), |&number| Some(next(number)));
        let number =
            candidates.by_ref().take(usize::from(u16::MAX)).find(|&number| spaces.find(&number.into()).is_null())?;
        space.number.store(number.into(), Ordering::Relaxed);
        // SAFETY: the caller's promise.
        spaces.insert(unsafe { UnsafeRef::from_raw(space) });
        *last = number;
        NonZeroU16::new(number).map(SpaceId)
    }

    /// Says where a space's tables are.
    pub(super) fn set_tables<M: Machine, U: Mmu>(&self, space: &Registered, tables: &Counted<'_, M, Tables<'_, M, U>>) {
        space.tables.store(tables.as_raw().as_ptr(), Ordering::Release);
    }

    /// The tables of the space with a number.
    ///
    /// # Safety
    /// The tables of all spaces here are of these types, and live as long as `'a` if they are referred to so long.
    pub(super) unsafe fn find<'a, M: Machine, U: Mmu>(
        &self,
        machine: &M,
        SpaceId(id): SpaceId,
    ) -> Option<Counted<'a, M, Tables<'a, M, U>>> {
        let numbers = self.0.lock(machine);
        let space = numbers.spaces.find(&id.get().into()).get()?;
        let tables = ptr::NonNull::new(space.tables.load(Ordering::Acquire))?;
        // SAFETY: the space has this reference until it is taken off, and the lock is held; this one is not dropped.
        let tables = ManuallyDrop::new(unsafe { Counted::<M, Tables<'a, M, U>>::from_raw(tables) });
        Some(tables.get())
    }

    /// Shows the tables of every space to `visit`, until it fails.
    ///
    /// # Safety
    /// The tables of all spaces here are of these types.
    pub(super) unsafe fn try_for_each<M: Machine, U: Mmu, E>(
        &self,
        machine: &M,
        mut visit: impl FnMut(&Tables<'_, M, U>) -> Result<(), E>,
    ) -> Result<(), E> {
        let numbers = self.0.lock(machine);
        for space in &numbers.spaces {
            if let Some(tables) = ptr::NonNull::new(space.tables.load(Ordering::Acquire)) {
                // SAFETY: as in `find`.
                visit(&ManuallyDrop::new(unsafe { Counted::<M, Tables<'_, M, U>>::from_raw(tables) }))?;
            }
        }
        Ok(())
    }

    /// Whether there is no space.
    pub(super) fn is_empty(&self, machine: &impl Machine) -> bool {
        self.0.lock(machine).spaces.is_empty()
    }

    /// Takes a space off, if it is on.
    ///
    /// # Safety
    /// It was added here, or nowhere.
    pub(super) unsafe fn remove(&self, machine: &impl Machine, space: &Registered) {
        let mut numbers = self.0.lock(machine);
        if space.link.is_linked() {
            // SAFETY: the caller's promise.
            let mut cursor = unsafe { numbers.spaces.cursor_mut_from_ptr(space) };
            cursor.remove();
        }
    }
}
