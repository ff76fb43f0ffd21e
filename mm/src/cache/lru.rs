//! Which folio goes next: two generations, each in the order in which it was entered.
//!
//! A folio begins in the inactive one. Used a second time while it is there it becomes active; active ones that have not
//! been used since they were last looked at are made inactive again when those are few; and who reaches the end of the
//! inactive ones without having been used is reclaimed. So what is read once passes through without displacing what is
//! used again and again.
//!
//! A folio is on a list as long as it stands in a mapping; the lists have no references, and whoever takes a folio out of
//! its mapping takes it off first.
//!
//! Invariants: LRU-1 (on the list of its generation, and counted with its pages, is exactly who stands in a mapping).
//! Source: Linux's active and inactive lists; T. Johnson, D. Shasha, "2Q", VLDB 1994.
#![expect(unsafe_code, reason = "links folios that a mapping keeps")]

use core::fmt;

use intrusive_collections::{LinkedList, LinkedListAtomicLink, UnsafeRef, intrusive_adapter};

use crate::folio::FrozenFolio;
use crate::lock::Mutex;
use crate::lock_order::class;
use crate::machine::Machine;
use crate::owner::{Folio, FolioFlags, FolioRef, Owners};
use crate::units::{Count, Order};

intrusive_adapter!(ByAge = UnsafeRef<Folio>: Folio { lru: LinkedListAtomicLink });

/// How well a folio has proved itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Generation {
    /// Used once, or not lately.
    Inactive,
    /// Used again and again.
    Active,
}

impl Generation {
    fn of(folio: &Folio) -> Self {
        if folio.flags().contains(FolioFlags::ACTIVE) { Self::Active } else { Self::Inactive }
    }
}

/// The two generations.
pub(super) struct Lru {
    lists: Mutex<class::FolioAges, Lists>,
}

struct Lists {
    inactive: Age,
    active: Age,
}

/// One generation: the youngest in front.
struct Age {
    list: LinkedList<ByAge>,
    pages: u32,
}

// SAFETY: the links are atomic, and folios are `Send` and `Sync`.
unsafe impl Send for Age {}

impl Age {
    fn new() -> Self {
        Self { list: LinkedList::new(ByAge::NEW), pages: 0 }
    }
}

impl Lists {
    fn of(&mut self, generation: Generation) -> &mut Age {
        match generation {
            Generation::Inactive => &mut self.inactive,
            Generation::Active => &mut self.active,
        }
    }

    fn push<M: Machine>(&mut self, folio: &FolioRef<'_, M>) {
        let age = self.of(Generation::of(folio));
        age.pages += folio.order().pages();
        // SAFETY: LRU-1, the folio stands in a mapping, which keeps it until it is taken off.
        age.list.push_front(unsafe { folio.linked() });
    }

    /// Takes a folio off that is on a list.
    fn unlink(&mut self, folio: &Folio, order: Order) {
        let age = self.of(Generation::of(folio));
        // SAFETY: the folio is linked, and its flag says in which list.
        let mut cursor = unsafe { age.list.cursor_mut_from_ptr(folio) };
        if cursor.remove().is_some() {
            age.pages -= order.pages();
        }
    }
}

impl Lru {
    pub(super) fn new() -> Self {
        Self { lists: Mutex::new(Lists { inactive: Age::new(), active: Age::new() }) }
    }

    /// Enters a folio that has just been put into a mapping.
    pub(super) fn add<M: Machine>(&self, folio: &FolioRef<'_, M>) {
        self.lists.lock(folio.owners().machine()).push(folio);
    }

    /// Takes off a folio that leaves its mapping.
    pub(super) fn remove<M: Machine>(&self, folio: &FolioRef<'_, M>) {
        self.take_off(folio.owners().machine(), folio, folio.order());
    }

    /// Takes off a frozen folio that leaves its mapping, or is to change its size.
    pub(super) fn remove_frozen<M: Machine>(&self, folio: &FrozenFolio<'_, M>) {
        self.take_off(folio.owners().machine(), folio, folio.order());
    }

    fn take_off<M: Machine>(&self, machine: &M, folio: &Folio, order: Order) {
        let mut lists = self.lists.lock(machine);
        if folio.lru.is_linked() {
            lists.unlink(folio, order);
        }
    }

    /// Moves a folio to the front of a generation, if it is in one.
    pub(super) fn move_to<M: Machine>(&self, folio: &FolioRef<'_, M>, generation: Generation) {
        let mut lists = self.lists.lock(folio.owners().machine());
        if !folio.lru.is_linked() {
            return;
        }
        lists.unlink(folio, folio.order());
        match generation {
            Generation::Inactive => folio.clear(FolioFlags::ACTIVE),
            Generation::Active => folio.set(FolioFlags::ACTIVE),
        };
        lists.push(folio);
    }

    /// The oldest folio of a generation, which becomes the youngest, so that the next call gives another.
    pub(super) fn oldest<'a, M: Machine>(
        &self,
        owners: &'a Owners<'a, M>,
        generation: Generation,
    ) -> Option<FolioRef<'a, M>> {
        let mut lists = self.lists.lock(owners.machine());
        let age = lists.of(generation);
        // Those that are frozen just now are passed over.
        let mut left = age.pages;
        while left > 0 {
            let oldest = age.list.pop_back()?;
            let address = UnsafeRef::into_raw(oldest.clone());
            age.list.push_front(oldest);
            // SAFETY: LRU-1, whoever is on the list is in a descriptor of these owners.
            if let Some(folio) = unsafe { FolioRef::find_linked(owners, address) } {
                return Some(folio);
            }
            left -= 1;
        }
        None
    }

    /// Pages in a generation.
    pub(super) fn pages(&self, machine: &impl Machine, generation: Generation) -> Count {
        Count(self.lists.lock(machine).of(generation).pages)
    }
}

impl fmt::Debug for Lru {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lru").finish_non_exhaustive()
    }
}
