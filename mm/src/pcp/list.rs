//! Blocks of one order and migratetype at hand of one CPU: a ring of frame numbers, used as a stack from above, so that
//! what was freed last is handed out first, and drained from below.
//!
//! How much it holds follows what the CPU does. A list that runs full after it had run empty would have served: it may
//! grow to twice its size. One that runs full again and again only takes, and one that runs empty only gives: those move
//! ever larger batches. A zone that is short of pages makes its lists small.
//!
//! Every field is an atomic that is read and written with plain accesses: GATE-1 says whose they are, and lengths can be
//! read by anybody, exact while nobody allocates or frees.
//!
//! Cost: taking and putting touch the list's head and one slot. The way to a zone costs one lock for a batch.

use crate::machine::Geometry;
use crate::sync::{AtomicU32, Ordering};
use crate::units::{Count, Order, Pfn};

/// Pages that move between a list and its zone under one lock, to begin with.
const BATCH_PAGES: u32 = 64;

/// How often a batch may double.
const MOST_DOUBLINGS: u32 = 3;

/// A list.
#[derive(Debug)]
#[repr(align(64))]
pub(crate) struct List<'m> {
    /// As many as a power of two, or none.
    slots: &'m [AtomicU32],
    /// Positions count on for ever, and mean slots modulo the ring's size: behind the newest block.
    top: AtomicU32,
    /// The oldest block's.
    bottom: AtomicU32,
    /// The list is full when the top gets here.
    limit: AtomicU32,
    /// How often the batch has doubled.
    doublings: AtomicU32,
    /// Which end it last came to.
    last: AtomicU32,
    /// Blocks in a batch that has not doubled.
    batch: u32,
    order: Order,
}

const RAN_EMPTY: u32 = 1;
const RAN_FULL: u32 = 2;

/// How full the zone of a list is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Supply {
    /// There is enough to keep some at hand.
    Ample,
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
        1..=3 => share >> (order.number() + 1),
        _ if order == G::PAGEBLOCK_ORDER && order < G::MAX_ORDER => share >> (order.number() + 1),
        _ => 0,
    };
    if blocks == 0 { 0 } else { 1 << blocks.ilog2() }
}

impl<'m> List<'m> {
    /// An empty list in these slots.
    pub(super) fn new(slots: &'m [AtomicU32], order: Order) -> Self {
        debug_assert!(slots.is_empty() || slots.len().is_power_of_two());
        #[expect(clippy::cast_possible_truncation, reason = "no ring has 2^32 slots")]
        let capacity = slots.len() as u32;
        let batch = (BATCH_PAGES >> order.number()).clamp(1, (capacity / 4).max(1));
        Self {
            slots,
            top: AtomicU32::new(0),
            bottom: AtomicU32::new(0),
            limit: AtomicU32::new(capacity.min(4 * batch)),
            doublings: AtomicU32::new(0),
            last: AtomicU32::new(0),
            batch,
            order,
        }
    }

    /// The size of its blocks.
    pub(crate) const fn order(&self) -> Order {
        self.order
    }

    /// The most blocks that it can ever hold.
    #[expect(clippy::cast_possible_truncation, reason = "no ring has 2^32 slots")]
    pub(crate) const fn capacity(&self) -> u32 {
        self.slots.len() as u32
    }

    /// Blocks in it.
    pub(crate) fn len(&self) -> u32 {
        self.top.load(Ordering::Relaxed).wrapping_sub(self.bottom.load(Ordering::Relaxed))
    }

    /// Blocks that it may hold at present.
    pub(crate) fn high(&self) -> u32 {
        self.limit.load(Ordering::Relaxed).wrapping_sub(self.bottom.load(Ordering::Relaxed))
    }

    #[inline(always)]
    fn slot(&self, position: u32) -> &AtomicU32 {
        &self.slots[position as usize & (self.slots.len() - 1)]
    }

    /// Takes the newest block.
    #[inline(always)]
    pub(crate) fn take(&self) -> Option<Pfn> {
        let top = self.top.load(Ordering::Relaxed);
        if top == self.bottom.load(Ordering::Relaxed) {
            return None;
        }
        let top = top.wrapping_sub(1);
        self.top.store(top, Ordering::Relaxed);
        Some(Pfn::new(self.slot(top).load(Ordering::Relaxed)))
    }

    /// Puts a block.
    ///
    /// # Errors
    /// The list is full.
    #[inline(always)]
    pub(crate) fn put(&self, head: Pfn) -> Result<(), Pfn> {
        let top = self.top.load(Ordering::Relaxed);
        if top == self.limit.load(Ordering::Relaxed) {
            return Err(head);
        }
        self.slot(top).store(head.number(), Ordering::Relaxed);
        self.top.store(top.wrapping_add(1), Ordering::Relaxed);
        Ok(())
    }

    /// Puts a block that the list wants.
    pub(crate) fn put_room(&self, head: Pfn) {
        let put = self.put(head);
        debug_assert_eq!(put, Ok(()), "invariant PCP-1 broken: a list got more blocks than it wants");
    }

    /// Takes the oldest block.
    pub(crate) fn take_oldest(&self) -> Option<Pfn> {
        let bottom = self.bottom.load(Ordering::Relaxed);
        if bottom == self.top.load(Ordering::Relaxed) {
            return None;
        }
        self.bottom.store(bottom.wrapping_add(1), Ordering::Relaxed);
        let limit = self.limit.load(Ordering::Relaxed);
        self.limit.store(limit.wrapping_add(1), Ordering::Relaxed);
        Some(Pfn::new(self.slot(bottom).load(Ordering::Relaxed)))
    }

    /// The blocks in it, the oldest first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Pfn> {
        let bottom = self.bottom.load(Ordering::Relaxed);
        (0..self.len()).map(move |nth| Pfn::new(self.slot(bottom.wrapping_add(nth)).load(Ordering::Relaxed)))
    }

    fn set_high(&self, high: u32) {
        let high = high.min(self.capacity());
        self.limit.store(self.bottom.load(Ordering::Relaxed).wrapping_add(high), Ordering::Relaxed);
    }

    /// The smallest that it becomes by itself.
    fn lowest_high(&self) -> u32 {
        self.capacity().min(4 * self.batch)
    }

    /// How many blocks the list wants, now that it has run empty.
    pub(crate) fn wants(&self, supply: Supply) -> u32 {
        let again = self.last.load(Ordering::Relaxed) == RAN_EMPTY;
        self.last.store(RAN_EMPTY, Ordering::Relaxed);
        if supply == Supply::Short {
            self.doublings.store(0, Ordering::Relaxed);
            self.set_high(self.batch);
            return (self.batch / 4).max(1);
        }
        self.high().min(self.next_batch(again))
    }

    /// What becomes of a list that has run full.
    pub(crate) fn relieve(&self, supply: Supply) -> Relief {
        let again = self.last.load(Ordering::Relaxed) == RAN_FULL;
        self.last.store(RAN_FULL, Ordering::Relaxed);
        if supply == Supply::Short {
            self.doublings.store(0, Ordering::Relaxed);
            self.set_high(self.batch);
            let most = self.len();
            return Relief::Drain(Count((most + 1).saturating_sub(self.batch / 2).min(most)));
        }
        let high = self.high();
        if !again && high < self.capacity() {
            self.doublings.store(0, Ordering::Relaxed);
            self.set_high(2 * high);
            return Relief::Grown;
        }
        Relief::Drain(Count((self.len() / 2).max(1).min(self.next_batch(again))))
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
        self.set_high((high - high / 8).max(self.lowest_high()));
        self.len().saturating_sub(self.high())
    }
}
