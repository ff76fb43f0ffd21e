//! Free blocks on their way between two lists: the one in hand, and those that wait to be placed.

use crate::desc::map::PageMap;
use crate::image::{Note, NoteFull, layout};
use crate::machine::Geometry;
use crate::units::{Order, Pfn, PfnRange, ZoneId};

/// A free block that is on no list: whoever holds one owns its pages.
///
/// # Invariants
/// `head` is aligned to `order`, and every page of the block lies in one zone (ZONE-1).
#[derive(Debug)]
#[must_use = "dropping a free block loses its pages"]
pub(crate) struct FreeBlock {
    head: Pfn,
    order: Order,
}

impl FreeBlock {
    /// The block of `order` at `head`, which the caller has just taken off a list or out of its owner's hands.
    pub(crate) const fn claim(head: Pfn, order: Order) -> Self {
        debug_assert!(head.is_aligned(order), "invariant ZONE-1 broken: a block is not aligned to its size");
        Self { head, order }
    }

    /// The fewest aligned blocks that make up a run of frames in one zone, which the caller has taken; the highest first, so
    /// that who puts them on lists finds the lowest on top.
    pub(crate) fn claim_all<G: Geometry>(range: PfnRange) -> impl Iterator<Item = Self> {
        let mut end = range.end.number();
        core::iter::from_fn(move || {
            let fits = end.checked_sub(range.start.number())?.checked_ilog2()?;
            let order = end.trailing_zeros().min(fits).min(u32::from(G::MAX_ORDER.number()));
            end -= 1 << order;
            Some(Self::claim(Pfn::new(end), Order::of(order as usize)))
        })
    }

    pub(crate) const fn head(&self) -> Pfn {
        self.head
    }

    pub(crate) const fn order(&self) -> Order {
        self.order
    }

    pub(crate) const fn range(&self) -> PfnRange {
        PfnRange::new(self.head, self.head.plus(self.order.pages()))
    }

    /// Gives up the block: its pages now belong to what the caller writes into its head's descriptor.
    pub(crate) const fn into_head(self) -> Pfn {
        self.head
    }
}

/// What an operation on a zone has yet to do.
///
/// Blocks in flight stand in one chain an order, linked through their heads' second words: however many there are, they
/// need no memory. There are none whenever the zone's lock is free; only a node that is stuck may be left.
#[derive(Debug)]
pub(crate) struct Pending {
    first: [Option<Pfn>; Order::LIMIT.index() + 1],
    /// A node that keeps free memory from merging, and could not be moved for lack of room elsewhere.
    stuck: Option<Pfn>,
    /// A bit for each order with a chain, and [`STUCK`](Self::STUCK): all there is to do, in one word to be looked at.
    todo: u16,
}

impl Pending {
    const STUCK: u16 = 1 << 15;

    pub(crate) const fn new() -> Self {
        Self { first: [None; Order::LIMIT.index() + 1], stuck: None, todo: 0 }
    }

    /// For who reads an image of memory.
    pub(crate) fn write_note(note: &mut Note) -> Result<(), NoteFull> {
        note.place("pending.stuck", Self::STUCK.into())?;
        layout!(note, Self as "Pending": todo)
    }

    /// Whether there is nothing to do.
    #[inline(always)]
    pub(crate) const fn is_idle(&self) -> bool {
        self.todo == 0
    }

    /// Remembers that a node is stuck.
    pub(crate) fn set_stuck(&mut self, node: Option<Pfn>) {
        self.stuck = node;
        self.todo |= Self::STUCK;
    }

    /// The node that is stuck.
    #[cfg(all(test, not(loom)))]
    pub(crate) const fn stuck(&self) -> Option<Pfn> {
        self.stuck
    }

    /// Takes over the care for what is stuck.
    pub(crate) fn take_stuck(&mut self) -> Option<Pfn> {
        self.todo &= !Self::STUCK;
        self.stuck.take()
    }

    /// Adds a block.
    pub(crate) fn push<G: Geometry>(&mut self, map: &PageMap<'_, G>, zone: ZoneId, block: FreeBlock) {
        let order = block.order();
        let head = block.into_head();
        map.page(head).set_isolated(order, zone, self.first[order.index()]);
        self.first[order.index()] = Some(head);
        self.todo |= 1 << order.index();
    }

    /// Takes a block of the smallest order: larger ones may then use it as a node.
    pub(crate) fn pop<G: Geometry>(&mut self, map: &PageMap<'_, G>) -> Option<FreeBlock> {
        let orders = self.todo & !Self::STUCK;
        if orders == 0 {
            return None;
        }
        let order = Order::of(orders.trailing_zeros() as usize);
        let head = self.first[order.index()]?;
        self.unlink(order, map.page(head).next());
        Some(FreeBlock::claim(head, order))
    }

    fn unlink(&mut self, order: Order, next: Option<Pfn>) {
        self.first[order.index()] = next;
        if next.is_none() {
            self.todo &= !(1 << order.index());
        }
    }

    /// Takes the first block of `order` whose head is `wanted`.
    pub(crate) fn take<G: Geometry>(
        &mut self,
        map: &PageMap<'_, G>,
        zone: ZoneId,
        order: Order,
        wanted: impl Fn(Pfn) -> bool,
    ) -> Option<FreeBlock> {
        let mut before: Option<Pfn> = None;
        let mut at = self.first[order.index()];
        while let Some(pfn) = at {
            let next = map.page(pfn).next();
            if wanted(pfn) {
                match before {
                    Some(before) => map.page(before).set_isolated(order, zone, next),
                    None => self.unlink(order, next),
                }
                return Some(FreeBlock::claim(pfn, order));
            }
            before = Some(pfn);
            at = next;
        }
        None
    }

    /// Whether a block smaller than `order` waits.
    pub(crate) const fn has_below(&self, order: Order) -> bool {
        self.todo & ((1 << order.index()) - 1) != 0
    }
}
