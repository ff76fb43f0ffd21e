//! Blocks of one order and migratetype at hand of one CPU: a ring, used as a stack from above, so that what was freed last is
//! handed out first, and drained from below. A slot has both the number of a block's head and where its descriptor is: who
//! frees a block knows both, who takes it needs both, and neither has to be found by way of the other. The number stands in the
//! descriptor as well, for as long as the block is in the list: whatever becomes of a slot, of a bound or of that word, nobody
//! takes what is not at hand.
//!
//! ```text
//!     bottom          near                 top            limit
//!       │ above pivot   │   to be handed out │ free slots   │
//!       └── to the zone first                └── taken from, put to
//! ```
//!
//! What is freed above the zone's pivot, where memory is to come together, goes below all others, and is not handed out while the
//! zone has blocks from below it: else a CPU that frees and allocates in turns would keep using what it should leave alone.
//!
//! How much it holds follows what the CPU does. A list that runs full after it had run empty would have served: it may
//! grow to twice its size. One that runs full again and again only takes, and one that runs empty only gives: those move
//! ever larger batches. A zone that is short of pages makes its lists small.
//!
//! Every field is an atomic that is read and written with plain accesses: GATE-1 says whose they are, and lengths can be
//! read by anybody, exact while nobody allocates or frees.
//!
//! Cost: taking and putting touch one line, one slot, of sixteen bytes, and the head's descriptor. The way to a zone costs one lock
//! for a batch.
#![expect(unsafe_code, reason = "slots and descriptors are reached through thin pointers")]

use core::marker::PhantomData;
use core::ptr::{self, NonNull};

use crate::desc::allocator_word::AllocatorWord;
use crate::desc::owner_word::OwnerWord;
use crate::desc::word::Page;
use crate::image::{Note, NoteFull, layout};
use crate::machine::Geometry;
use crate::sync::{AtomicPtr, AtomicU32, Ordering};
use crate::units::{Count, Order, Pfn};

/// Pages that move between a list and its zone under one lock, to begin with.
const BATCH_PAGES: u32 = 64;

/// How often a batch may double.
const MOST_DOUBLINGS: u32 = 3;

/// A place for a block.
#[derive(Debug)]
pub(super) struct Slot {
    page: AtomicPtr<Page>,
    /// As the descriptor has it.
    number: AtomicPtr<()>,
}

impl Slot {
    /// One that nothing was put into.
    pub(super) fn empty() -> Self {
        Self { page: AtomicPtr::new(ptr::null_mut()), number: AtomicPtr::new(ptr::null_mut()) }
    }
}

/// A list: one line.
#[derive(Debug)]
#[repr(align(64))]
pub(crate) struct List<'m> {
    /// The ring: as many slots as a power of two, or none.
    slots: NonNull<Slot>,
    /// What the heads of its blocks say once they are allocated.
    word: AllocatorWord,
    mask: u32,
    /// The position that is put to next.
    top: AtomicU32,
    /// The position of the oldest block that is to be handed out.
    near: AtomicU32,
    /// The list is full when the top gets here.
    limit: AtomicU32,
    /// The first frame that is above the pivot.
    pivot: AtomicU32,
    /// The position of the block that leaves for the zone next.
    bottom: AtomicU32,
    /// How often the batch has doubled.
    doublings: AtomicU32,
    /// Which end it last came to.
    last: AtomicU32,
    /// The most blocks that the list can ever hold.
    capacity: u32,
    /// Blocks in a batch that has not doubled.
    batch: u32,
    lifetime: PhantomData<(&'m [Slot], &'m Page)>,
}

#[cfg(not(loom))]
const _: () = assert!(size_of::<List<'_>>() == 64);

// SAFETY: a list is a shared reference to atomics that lead to descriptors, which are atomics.
unsafe impl Sync for List<'_> {}
// SAFETY: as above.
unsafe impl Send for List<'_> {}

const RAN_EMPTY: u32 = 1;
const RAN_FULL: u32 = 2;

/// How full the zone of a list is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Supply {
    /// There is enough to keep more at hand.
    Ample,
    /// There is enough to keep some at hand.
    Enough,
    /// Every page counts.
    Short,
}

/// What a list that has run full wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Relief {
    /// It has grown, and has room.
    Grown,
    /// So many of its oldest blocks are to go to the zone.
    Drain(Count),
}

/// Blocks of `order` that a list may ever hold, of a zone with `pages` for each CPU: a power of two, or none.
pub(super) fn capacity<G: Geometry>(order: Order, pages: u32) -> u32 {
    let share = (pages / G::CPU_CACHE_SHARE).min(G::CPU_CACHE);
    let blocks = match order.number() {
        0 => share,
        small @ 1..=3 => share >> (small + 1),
        large if order <= G::PAGEBLOCK_ORDER && order < G::MAX_ORDER => share >> (large + 2),
        _ => 0,
    };
    if blocks == 0 { 0 } else { 1 << blocks.ilog2() }
}

/// Blocks of `order` that a shelf may hold, of a zone with `pages` for each CPU: a power of two, or none. Of large ones CPUs have
/// so few at hand that there is nothing to save.
pub(super) fn shelf_capacity<G: Geometry>(order: Order, pages: u32) -> u32 {
    if order.index() <= 3 { capacity::<G>(order, pages) / 4 } else { 0 }
}

/// Blocks between the bounds of a list with so many slots. Who looks while others change it may see one bound from before and one
/// from after: then none.
pub(super) const fn blocks_between(bottom: u32, top: u32, capacity: u32) -> u32 {
    let blocks = top.wrapping_sub(bottom);
    if blocks <= capacity { blocks } else { 0 }
}

impl<'m> List<'m> {
    /// An empty list in these slots, of blocks whose heads say `word` once they are allocated.
    pub(super) fn new(slots: &'m [Slot], word: AllocatorWord) -> Self {
        debug_assert!(slots.is_empty() || slots.len().is_power_of_two());
        #[expect(clippy::cast_possible_truncation, reason = "no ring has 2^32 slots")]
        let capacity = slots.len() as u32;
        let batch = (BATCH_PAGES >> word.order().number()).clamp(1, (capacity / 4).max(1));
        Self {
            slots: NonNull::from(slots).cast(),
            word,
            mask: capacity.saturating_sub(1),
            top: AtomicU32::new(0),
            near: AtomicU32::new(0),
            limit: AtomicU32::new(lowest_high(capacity, batch)),
            pivot: AtomicU32::new(Pfn::LIMIT.number()),
            bottom: AtomicU32::new(0),
            doublings: AtomicU32::new(0),
            last: AtomicU32::new(0),
            capacity,
            batch,
            lifetime: PhantomData,
        }
    }

    /// For who reads an image of memory.
    pub(super) fn write_note(note: &mut Note) -> Result<(), NoteFull> {
        layout!(note, Slot as "Slot": page, number)?;
        layout!(note, Self as "List": slots, word, mask, top, near, limit, bottom, capacity)
    }

    /// What the heads of its blocks say once they are allocated.
    #[inline(always)]
    pub(crate) const fn word(&self) -> AllocatorWord {
        self.word
    }

    /// Whether such blocks are kept at hand at all.
    pub(crate) const fn keeps_any(&self) -> bool {
        self.capacity > 0
    }

    /// Blocks in it, as of now.
    pub(crate) fn len(&self) -> u32 {
        blocks_between(self.bottom.load(Ordering::Relaxed), self.top.load(Ordering::Relaxed), self.capacity)
    }

    /// Whether it has no room.
    pub(crate) fn is_full(&self) -> bool {
        self.top.load(Ordering::Relaxed) == self.limit.load(Ordering::Relaxed)
    }

    /// Blocks that it may hold at present.
    pub(crate) fn high(&self) -> u32 {
        self.limit.load(Ordering::Relaxed).wrapping_sub(self.bottom.load(Ordering::Relaxed))
    }

    /// The slot of a position, of a list that has slots.
    #[inline(always)]
    fn slot(&self, position: u32) -> &'m Slot {
        // SAFETY: the position is taken modulo the number of slots.
        let slot = unsafe { self.slots.add((position & self.mask) as usize) };
        // SAFETY: PCP-1, only lists with slots have a position that is neither empty nor full.
        unsafe { slot.as_ref() }
    }

    /// The block at a position, of which there is one: its head's descriptor, and the number that is to stand there.
    #[inline(always)]
    fn at(&self, position: u32) -> (&'m Page, OwnerWord) {
        let slot = self.slot(position);
        // SAFETY: PCP-1, what stands in a list has a descriptor: no null pointer.
        let page = unsafe { NonNull::new_unchecked(slot.page.load(Ordering::Relaxed)) };
        // SAFETY: PCP-1, as above, and those live as long as `'m`.
        (unsafe { page.as_ref() }, OwnerWord::from_bits(slot.number.load(Ordering::Relaxed)))
    }

    /// The block at a position, which leaves the list: its head's descriptor and number.
    ///
    /// # Panics
    /// The descriptor does not say that the block is at hand: something else was written there, or into the slot.
    #[inline(always)]
    fn leaving(&self, position: u32) -> (&'m Page, Pfn) {
        let (page, number) = self.at(position);
        if !page.is_at_hand(number) {
            not_at_hand(number.head());
        }
        page.set_owner(OwnerWord::PLAIN);
        (page, number.head())
    }

    /// Takes the newest block of those that are to be handed out. Gives its head's descriptor and number.
    #[inline(always)]
    pub(crate) fn take(&self) -> Option<(&'m Page, Pfn)> {
        let top = self.top.load(Ordering::Relaxed);
        if top == self.near.load(Ordering::Relaxed) {
            return None;
        }
        let top = top.wrapping_sub(1);
        self.top.store(top, Ordering::Relaxed);
        Some(self.leaving(top))
    }

    /// Puts the block that has this head and descriptor where it is handed out next; `None` if the list is full, or the block is
    /// above the pivot: others are handed out before it.
    #[inline(always)]
    pub(crate) fn put_near(&self, page: &'m Page, head: Pfn) -> Option<()> {
        let top = self.room()?;
        if self.is_above_pivot(head) {
            return None;
        }
        self.push(top, page, head);
        Some(())
    }

    /// Puts the block that has this head and descriptor where it is handed out next, or if it is above the pivot, where it leaves
    /// for the zone next; `None` if the list is full.
    #[inline(always)]
    pub(crate) fn put(&self, page: &'m Page, head: Pfn) -> Option<()> {
        let top = self.room()?;
        if self.is_above_pivot(head) {
            self.put_below_all(page, head);
        } else {
            self.push(top, page, head);
        }
        Some(())
    }

    /// The position that is put to next, if there is room.
    #[inline(always)]
    fn room(&self) -> Option<u32> {
        let top = self.top.load(Ordering::Relaxed);
        (top != self.limit.load(Ordering::Relaxed)).then_some(top)
    }

    #[inline(always)]
    fn is_above_pivot(&self, head: Pfn) -> bool {
        head.number() >= self.pivot.load(Ordering::Relaxed)
    }

    #[inline(always)]
    fn push(&self, top: u32, page: &'m Page, head: Pfn) {
        self.write(top, page, head);
        self.top.store(top.wrapping_add(1), Ordering::Relaxed);
    }

    #[inline(always)]
    fn write(&self, position: u32, page: &'m Page, head: Pfn) {
        let slot = self.slot(position);
        slot.page.store(ptr::from_ref(page).cast_mut(), Ordering::Relaxed);
        let number = OwnerWord::at_hand(head);
        slot.number.store(number.bits(), Ordering::Relaxed);
        page.set_owner(number);
    }

    /// Puts a block where it leaves for the zone next, of a list that is not full.
    #[inline(always)]
    fn put_below_all(&self, page: &'m Page, head: Pfn) {
        let bottom = self.bottom.load(Ordering::Relaxed).wrapping_sub(1);
        self.write(bottom, page, head);
        self.bottom.store(bottom, Ordering::Relaxed);
        self.limit.store(self.limit.load(Ordering::Relaxed).wrapping_sub(1), Ordering::Relaxed);
    }

    /// Puts a block that the list wants, wherever in memory it is: nothing lower was to be had, and it is to be handed out
    /// again when it is freed.
    pub(crate) fn put_wanted(&self, page: &'m Page, head: Pfn) {
        if self.is_above_pivot(head) {
            self.pivot.store(head.plus(1).number(), Ordering::Relaxed);
        }
        debug_assert!(!self.is_full(), "invariant PCP-1 broken: a list got more blocks than it wants");
        self.push(self.top.load(Ordering::Relaxed), page, head);
    }

    /// Shows what a list that is not empty consists of to `see`: what it is for, where it is and how long.
    #[cfg(all(test, not(loom), not(miri)))]
    pub(crate) fn each_part(&self, mut see: impl FnMut(&'static str, NonNull<u8>, usize)) {
        for position in [self.bottom.load(Ordering::Relaxed), self.top.load(Ordering::Relaxed).wrapping_sub(1)] {
            let slot = self.slot(position);
            see("at hand: descriptor", NonNull::from(&slot.page).cast(), 8);
            see("at hand: frame", NonNull::from(&slot.number).cast(), 8);
        }
        for bound in [&self.top, &self.near, &self.limit, &self.pivot, &self.bottom] {
            see("at hand: bounds", NonNull::from(bound).cast(), 4);
        }
    }

    /// Takes up to so many of the blocks that leave next: their heads' descriptors and numbers. They are out of the list from here
    /// on, and are to be had before anything is put into it.
    pub(crate) fn take_oldest(&self, Count(most): Count) -> impl ExactSizeIterator<Item = (&'m Page, Pfn)> {
        let bottom = self.bottom.load(Ordering::Relaxed);
        let taken = most.min(self.len());
        let Count(above_pivot) = self.above_pivot();
        let above = bottom.wrapping_add(taken);
        self.bottom.store(above, Ordering::Relaxed);
        self.near.store(bottom.wrapping_add(above_pivot.max(taken)), Ordering::Relaxed);
        self.limit.store(self.limit.load(Ordering::Relaxed).wrapping_add(taken), Ordering::Relaxed);
        (0..taken).map(move |nth| self.leaving(bottom.wrapping_add(nth)))
    }

    /// Hands up to so many of the oldest blocks over to a shelf that was asked for more than it has had, as far as that has room.
    /// Says how many.
    pub(crate) fn hand_over(&self, shelf: &Self, Count(most): Count) -> Count {
        if shelf.last.load(Ordering::Relaxed) != RAN_EMPTY {
            return Count(0);
        }
        shelf.set_high(shelf.capacity);
        let room = shelf.capacity.saturating_sub(shelf.len());
        if room < most {
            shelf.last.store(RAN_FULL, Ordering::Relaxed);
        }
        let mut handed = 0;
        for (page, head) in self.take_oldest(Count(most.min(room))) {
            shelf.put_wanted(page, head);
            handed += 1;
        }
        Count(handed)
    }

    /// Takes up to so many blocks off a shelf, which learns of it if it has none.
    pub(crate) fn help_itself(&self, shelf: &Self, most: u32) {
        if shelf.len() == 0 {
            shelf.last.store(RAN_EMPTY, Ordering::Relaxed);
        }
        for _ in 0..most {
            let Some((page, head)) = shelf.take() else { return };
            self.put_wanted(page, head);
        }
    }

    /// Learns where the pivot is; `None` if blocks from below it are not to be had, so that one is as good as another.
    pub(crate) fn set_pivot(&self, pivot: Option<Pfn>) {
        self.pivot.store(pivot.unwrap_or(Pfn::LIMIT).number(), Ordering::Relaxed);
        if pivot.is_none() {
            self.near.store(self.bottom.load(Ordering::Relaxed), Ordering::Relaxed);
        }
    }

    /// Blocks that are not to be handed out.
    pub(crate) fn above_pivot(&self) -> Count {
        Count(self.near.load(Ordering::Relaxed).wrapping_sub(self.bottom.load(Ordering::Relaxed)))
    }

    /// The heads of the blocks in it, the oldest first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&'m Page, Pfn)> {
        let bottom = self.bottom.load(Ordering::Relaxed);
        (0..self.len()).map(move |nth| self.at(bottom.wrapping_add(nth))).map(|(page, number)| (page, number.head()))
    }

    /// All that it depends on what its next operations do, its blocks included, the oldest first.
    #[cfg(all(test, not(loom)))]
    pub(super) fn fingerprint(&self) -> impl Iterator<Item = u64> {
        let Count(above_pivot) = self.above_pivot();
        let [pivot, doublings, last] = [&self.pivot, &self.doublings, &self.last].map(|of| of.load(Ordering::Relaxed));
        let numbers = [self.len(), self.high(), above_pivot, pivot, doublings, last];
        numbers.into_iter().chain(self.iter().map(|(_, head)| head.number())).map(u64::from)
    }

    fn set_high(&self, high: u32) {
        self.limit.store(self.bottom.load(Ordering::Relaxed).wrapping_add(high), Ordering::Relaxed);
    }

    /// How many blocks the list wants, now that it has run empty.
    pub(crate) fn wants(&self, supply: Supply) -> u32 {
        let again = self.last.load(Ordering::Relaxed) == RAN_EMPTY;
        self.last.store(RAN_EMPTY, Ordering::Relaxed);
        if supply == Supply::Short {
            self.become_small();
            return (self.batch / 4).max(1);
        }
        self.high().min(self.next_batch(again))
    }

    /// What becomes of a list that has run full.
    pub(crate) fn relieve(&self, supply: Supply) -> Relief {
        let again = self.last.load(Ordering::Relaxed) == RAN_FULL;
        self.last.store(RAN_FULL, Ordering::Relaxed);
        let len = self.len();
        if supply == Supply::Short {
            self.become_small();
            return Relief::Drain(Count((len + 1).saturating_sub(self.batch / 2).min(len)));
        }
        let high = self.high();
        if !again && high < self.capacity && supply == Supply::Ample {
            self.doublings.store(0, Ordering::Relaxed);
            self.set_high(self.capacity.min(2 * high));
            return Relief::Grown;
        }
        Relief::Drain(Count((len / 2).max(1).min(self.next_batch(again))))
    }

    fn become_small(&self) {
        self.doublings.store(0, Ordering::Relaxed);
        self.set_high(self.batch.min(self.capacity));
    }

    /// A batch, doubled once more if the list came to the same end again.
    fn next_batch(&self, again: bool) -> u32 {
        let doublings = if again { (self.doublings.load(Ordering::Relaxed) + 1).min(MOST_DOUBLINGS) } else { 0 };
        self.doublings.store(doublings, Ordering::Relaxed);
        self.batch << doublings
    }

    /// Makes the list an eighth smaller, down to what it began with. Says how many blocks are too many then.
    pub(crate) fn age(&self) -> u32 {
        let high = self.high();
        self.set_high((high - high / 8).max(lowest_high(self.capacity, self.batch)));
        self.len().saturating_sub(self.high())
    }
}

#[cold]
#[inline(never)]
fn not_at_hand(head: Pfn) -> ! {
    panic!("invariant PCP-1 broken: {head:?} is at hand, and not free");
}

/// The smallest that a list becomes by itself.
const fn lowest_high(capacity: u32, batch: u32) -> u32 {
    if capacity < 4 * batch { capacity } else { 4 * batch }
}
