//! Descriptors of owned blocks: allocated apart from the pages, counted, and never anything but descriptors.
//!
//! A page's second word leads here. Who follows it without a lock must not trust what it finds: the block may be freed
//! meanwhile, and the descriptor serve another one. Two things make that harmless. The memory of descriptors is
//! *type-stable*: it goes back to the page allocator only while nobody walks ([`WalkGate`]). And a descriptor's first
//! word is its generation and its references in one, so that "the same as I saw, and alive" is one compare-and-swap.
//!
//! ```text
//!   state   63      32 31        0      block   63  40 39 32 31    0
//!          +----------+-----------+            +------+-----+------+
//!          |generation| references|            |keeper|order| head |
//!          +----------+-----------+            +------+-----+------+
//!
//!   unborn ──begin──> alive: references > 0 ──last put──> dead ──begin: next generation──> alive
//!                                           ──freeze────> frozen ──begin: next generation──> alive
//! ```
//!
//! Frozen is dead to everyone but the one who froze it and knew of every reference: the owner stays, and the descriptor
//! may come back with another block.
//!
//! Invariants: DESC-1 (a descriptor and its pages name each other), DESC-2 (an owner is looked at only under a
//! reference, and is gone when the last one is).
//! Cost: looking at one is two loads of its first line; a reference is one compare-and-swap.
//!
//! Source: H. Boehm, "Can seqlocks get along with programming language memory models?", MSPC 2012; the
//! `SLAB_TYPESAFE_BY_RCU` caches of Linux.
#![expect(unsafe_code, reason = "an owner lives in a descriptor only while it is referred to")]

#[cfg(all(test, loom))]
mod loom;
#[cfg(all(test, not(loom)))]
mod tests;

use core::fmt;
use core::mem::{MaybeUninit, offset_of};
use core::ptr::NonNull;

use crate::image::{Note, NoteFull};
use crate::sync::{AtomicU32, AtomicU64, Ordering, UnsafeCell, fence};
use crate::units::{Order, Pfn, PfnRange};

/// How often a descriptor's memory has served.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Generation(u32);

/// What a descriptor said at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Described {
    pub(crate) generation: Generation,
    pub(crate) head: Pfn,
    pub(crate) order: Order,
    pub(crate) keeper: Keeper,
}

impl Described {
    /// The frames of the block.
    pub(crate) fn range(&self) -> PfnRange {
        PfnRange::new(self.head, self.head.plus(self.order.pages()))
    }
}

/// Whose a descriptor is: a number for all owners' of one set, and one for all slabs' of one set of caches. An allocator may
/// have several of each, and who walks hands out references to its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Keeper(u32);

impl Keeper {
    /// Of what no walk finds.
    pub(crate) const NOBODY: Self = Self(0);
}

/// What is left after a reference was given up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use = "whoever gave up the last reference frees the block"]
pub(crate) enum Put {
    /// Others still refer to it.
    Others,
    /// Nobody does: it is dead.
    Last,
}

/// A descriptor's life: its generation, its references and its block.
pub(crate) struct Life {
    state: AtomicU64,
    block: AtomicU64,
}

const REFERENCES: u64 = u32::MAX as u64;
/// More are refused: far below what would overflow while as many take one at the same moment as there can be.
const MOST: u64 = 1 << 31;
const GENERATION_SHIFT: u32 = 32;
const ORDER_SHIFT: u32 = 32;
const KEEPER_SHIFT: u32 = 40;

impl Life {
    pub(crate) fn unborn() -> Self {
        Self { state: AtomicU64::new(0), block: AtomicU64::new(0) }
    }

    /// Begins the next generation, with so many references. The caller alone has the descriptor, which is dead or frozen,
    /// and has written all of it that is behind this.
    pub(crate) fn begin(&self, head: Pfn, order: Order, keeper: Keeper, references: u32) {
        let generation = (self.state.load(Ordering::Relaxed) >> GENERATION_SHIFT).wrapping_add(1);
        // Who reads the new block must not read the old state afterwards: pairs with the fence in `look`.
        fence(Ordering::Release);
        let order = u64::from(order.number()) << ORDER_SHIFT;
        let block = u64::from(head.number()) | order | u64::from(keeper.0) << KEEPER_SHIFT;
        self.block.store(block, Ordering::Relaxed);
        // Pairs with the acquires in `look` and `try_get`: who sees the generation sees what it owns.
        self.state.store(generation << GENERATION_SHIFT | u64::from(references), Ordering::Release);
    }

    /// What the descriptor says, if it is alive; all of it from one generation.
    #[expect(clippy::cast_possible_truncation, reason = "the parts are 32, 8 and 24 bits wide")]
    pub(crate) fn look(&self) -> Option<Described> {
        // Pairs with the release in `begin`.
        let before = self.state.load(Ordering::Acquire);
        let block = self.block.load(Ordering::Relaxed);
        // Pairs with the fence in `begin`: if this was a later generation's block, the state is not the old one now.
        fence(Ordering::Acquire);
        let after = self.state.load(Ordering::Relaxed);
        let alive = before & REFERENCES != 0 && after & REFERENCES != 0;
        if !alive || before >> GENERATION_SHIFT != after >> GENERATION_SHIFT {
            return None;
        }
        let generation = Generation((before >> GENERATION_SHIFT) as u32);
        let order = Order::new((block >> ORDER_SHIFT) as u8)?;
        Some(Described {
            generation,
            head: Pfn::new(block as u32),
            order,
            keeper: Keeper((block >> KEEPER_SHIFT) as u32),
        })
    }

    /// Takes a reference if the descriptor is alive and of that generation still. Refused too when there are as many
    /// references as there may be.
    pub(crate) fn try_get(&self, Generation(generation): Generation) -> Option<()> {
        let mut state = self.state.load(Ordering::Relaxed);
        loop {
            let references = state & REFERENCES;
            let same = state >> GENERATION_SHIFT == u64::from(generation);
            if !same || references == 0 || references >= MOST {
                return None;
            }
            // Acquire pairs with the release in `begin`, and with those in `put`.
            match self.state.compare_exchange_weak(state, state + 1, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => return Some(()),
                Err(now) => state = now,
            }
        }
    }

    /// Takes one more reference, of one that the caller has.
    ///
    /// # Panics
    /// There are as many references as there may be; nothing has changed.
    pub(crate) fn get(&self) {
        // Nothing is learned by it: who has a reference has seen the owner.
        let before = self.state.fetch_add(1, Ordering::Relaxed);
        match before & REFERENCES {
            0 => panic!("invariant DESC-2 broken: a reference was taken of what nobody refers to"),
            MOST.. => {
                self.state.fetch_sub(1, Ordering::Relaxed);
                panic!("more references than can be counted");
            }
            _ => {}
        }
    }

    /// Freezes a descriptor, if there are so many references: none can be taken, and no look finds it, until it
    /// [begins](Self::begin) anew.
    pub(crate) fn freeze(&self, references: u32) -> Option<()> {
        let state = self.state.load(Ordering::Relaxed);
        let all = state & !REFERENCES | u64::from(references);
        // Acquire pairs with the releases in `put`: whoever had one is done with it.
        let frozen = self.state.compare_exchange(all, all & !REFERENCES, Ordering::Acquire, Ordering::Relaxed);
        frozen.is_ok().then_some(())
    }

    /// Gives up a reference. Release, so that all that was done under it is done when the last one goes; acquire, so
    /// that the last one sees it.
    ///
    /// # Panics
    /// DESC-2 is broken: there was no reference.
    pub(crate) fn put(&self) -> Put {
        let before = self.state.fetch_sub(1, Ordering::AcqRel);
        match before & REFERENCES {
            0 => panic!("invariant DESC-2 broken: a reference was given up that nobody had"),
            1 => Put::Last,
            _ => Put::Others,
        }
    }

    /// Gives up the reference that the caller has if it is the only one, and nothing otherwise.
    pub(crate) fn put_only(&self) -> Put {
        let state = self.state.load(Ordering::Relaxed);
        let only = state & !REFERENCES | 1;
        // Acquire pairs with the releases in `put`: whoever had one is done with it.
        match self.state.compare_exchange(only, only - 1, Ordering::Acquire, Ordering::Relaxed) {
            Ok(_) => Put::Last,
            Err(_) => Put::Others,
        }
    }

    /// References there are.
    pub(crate) fn references(&self) -> u32 {
        u32::try_from(self.state.load(Ordering::Relaxed) & REFERENCES).unwrap_or(u32::MAX)
    }
}

impl fmt::Debug for Life {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Life({:?}, {} references)", self.look(), self.references())
    }
}

/// A block's descriptor: its life, and what its kind of owner keeps.
///
/// # Invariants
/// DESC-2: `owner` is initialised whenever there are references or it is frozen, and changes hands only when there are
/// none.
#[repr(C, align(16))]
pub(crate) struct Descriptor<T> {
    life: Life,
    owner: UnsafeCell<MaybeUninit<T>>,
}

// SAFETY: the owner is shared only as `&T`, under references, and `T: Sync`; it is made and taken away by one.
unsafe impl<T: Send + Sync> Sync for Descriptor<T> {}
// SAFETY: as above.
unsafe impl<T: Send + Sync> Send for Descriptor<T> {}

impl<T> Descriptor<T> {
    /// A descriptor of nothing: what its memory is made to be, once.
    pub(crate) fn unborn() -> Self {
        Self { life: Life::unborn(), owner: UnsafeCell::new(MaybeUninit::uninit()) }
    }

    /// For who reads an image of memory.
    pub(crate) fn write_note(note: &mut Note, kind: &str) -> Result<(), NoteFull> {
        note.place(format_args!("Descriptor.{kind}.state"), offset_of!(Self, life) + offset_of!(Life, state))?;
        note.place(format_args!("Descriptor.{kind}.block"), offset_of!(Self, life) + offset_of!(Life, block))?;
        note.place(format_args!("Descriptor.{kind}.owner"), offset_of!(Self, owner))
    }

    pub(crate) const fn life(&self) -> &Life {
        &self.life
    }

    /// Where the owner stands in a descriptor.
    pub(crate) const fn place_of_owner(descriptor: NonNull<Self>) -> NonNull<T> {
        // SAFETY: the owner lies in the descriptor.
        unsafe { descriptor.cast::<u8>().add(offset_of!(Self, owner)) }.cast()
    }

    /// The descriptor around an owner.
    ///
    /// # Safety
    /// The address comes from [`place_of_owner`](Self::place_of_owner).
    pub(crate) const unsafe fn around(owner: NonNull<T>) -> NonNull<Self> {
        // SAFETY: the caller's promise.
        unsafe { owner.cast::<u8>().sub(offset_of!(Self, owner)) }.cast()
    }

    /// Begins a generation: `owner` owns the block, and the caller has the one reference.
    ///
    /// # Safety
    /// The descriptor is unborn or dead, and the caller alone has it.
    pub(crate) unsafe fn begin(&self, head: Pfn, order: Order, keeper: Keeper, owner: T) {
        // SAFETY: the caller's promise.
        unsafe { self.prepare(owner) };
        self.life.begin(head, order, keeper, 1);
    }

    /// Writes the owner of a descriptor that begins later.
    ///
    /// # Safety
    /// The descriptor is unborn or dead, and the caller alone has it.
    pub(crate) unsafe fn prepare(&self, owner: T) {
        self.owner.with_mut(|place| {
            // SAFETY: DESC-2, there are no references, so nobody looks at the owner.
            let place = unsafe { &mut *place };
            place.write(owner);
        });
    }

    /// The owner.
    ///
    /// # Safety
    /// The caller holds a reference for as long as it looks.
    pub(crate) unsafe fn owner(&self) -> &T {
        // SAFETY: DESC-2, there is a reference, so nobody writes.
        let owner = self.owner.with(|place| unsafe { &*place });
        // SAFETY: DESC-2, there is a reference, so it is initialised.
        unsafe { owner.assume_init_ref() }
    }

    /// Takes the owner out of a descriptor that has died.
    ///
    /// # Safety
    /// The caller has given up the last reference, and this is the first call since.
    pub(crate) unsafe fn take(&self) -> T {
        // SAFETY: DESC-2, there are no references, so nobody looks at the owner.
        let owner = self.owner.with_mut(|place| unsafe { &*place });
        // SAFETY: DESC-2, it was initialised when the generation began, and is taken once.
        unsafe { owner.assume_init_read() }
    }
}

impl<T> fmt::Debug for Descriptor<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Descriptor").field("life", &self.life).finish_non_exhaustive()
    }
}

/// Counts who walks, so that the memory of descriptors goes only when nobody does.
///
/// A walker announces itself *before* it reads a page's second word. Whoever wants to give up descriptors' memory has
/// cleared every word that led there *before* it looks whether anybody walks. Both put a full fence between, so either
/// the walker is seen, or it sees the cleared words. Interrupt handlers walk as anybody does: they are done before what they
/// interrupted goes on.
#[derive(Debug)]
pub(crate) struct WalkGate {
    walking: AtomicU64,
    /// The last keeper's number.
    keepers: AtomicU32,
}

/// Somebody walks until this drops.
#[derive(Debug)]
pub(crate) struct Walking<'g>(&'g WalkGate);

impl WalkGate {
    pub(crate) fn new() -> Self {
        Self { walking: AtomicU64::new(0), keepers: AtomicU32::new(0) }
    }

    /// A keeper that there never was; `None` if there were sixteen million.
    pub(crate) fn new_keeper(&self) -> Option<Keeper> {
        const MOST: u32 = (1 << (u64::BITS - KEEPER_SHIFT)) - 1;
        let next = |last: u32| (last < MOST).then(|| last + 1);
        // Relaxed: numbers differ, and say nothing else.
        self.keepers.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).ok().map(|last| Keeper(last + 1))
    }

    /// Begins a walk.
    pub(crate) fn enter(&self) -> Walking<'_> {
        self.walking.fetch_add(1, Ordering::Relaxed);
        // Pairs with the fence in `is_quiet`.
        fence(Ordering::SeqCst);
        Walking(self)
    }

    /// Whether nobody walks who might have read a word that was cleared before this call.
    pub(crate) fn is_quiet(&self) -> bool {
        // Pairs with the fence in `enter`.
        fence(Ordering::SeqCst);
        // Acquire pairs with the release at the end of a walk: it is done with what it looked at.
        self.walking.load(Ordering::Acquire) == 0
    }
}

impl Drop for Walking<'_> {
    fn drop(&mut self) {
        self.0.walking.fetch_sub(1, Ordering::Release);
    }
}
