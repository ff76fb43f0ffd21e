//! The page descriptor, and what its first word says: the one file that encodes and decodes it.
//!
//! The first word, `allocator`, belongs to the page allocator alone:
//!
//! ```text
//!   63        32 31     24 23    16 15   11 10   9 8     5  4  3     0
//!  +------------+---------+--------+-------+------+-------+---+-------+
//!  |     0      |level or |  zone  |   0   | type | order |end| state |
//!  |            |  group  |        |       |      |       |   |       |
//!  +------------+---------+--------+-------+------+-------+---+-------+
//! ```
//!
//! `type` is the migratetype of the freelist that a free block stands on or a node serves, `end` that list's end, and
//! `level` a node's height above the list's entries; `group` is the charge group that pays for an allocated block. Only
//! a block's head says more than "tail": merging and splitting each write one word, and allocating writes one whatever
//! the block's size. A tail's head is found by rounding down.
//!
//! The second word, `allocatee`, belongs to whoever owns the page (`owner_word`). While nobody does, it is a number:
//! for a free block its position on its list, for a node the first position under it (the way back to its parent's
//! slot), for a block in flight between lists the next one in flight.
//!
//! Invariants: ZONE-1 (a block's zone stands in its head), FREE-1 (its position too).
//! Source: K. Overstreet, "Struct page proposal", linux-mm, 2021-09-23.

use core::fmt;

use super::owner_word::OwnerWord;
use crate::charge::GroupId;
use crate::migratetype::Migratetype;
use crate::sync::{AtomicPtr, AtomicU64, Ordering};
use crate::units::{Order, Pfn, ZoneId};

/// What a page is to the allocator.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PageState {
    /// No memory, or memory of which the boot map says nothing.
    Hole,
    /// Memory that was never the allocator's: firmware's, the kernel's, the descriptors' own.
    Reserved,
    /// Inside a block, behind its head.
    Tail,
    /// The head of a free block on a freelist.
    Free,
    /// A page that serves a freelist as a node.
    Node,
    /// The head of an allocated block.
    Allocated,
    /// The head of a block between two lists, in the hands of one operation.
    Isolated,
}

impl PageState {
    const fn bits(self) -> u64 {
        match self {
            Self::Hole => 0,
            Self::Tail => 1,
            Self::Reserved => 2,
            Self::Allocated => 3,
            Self::Isolated => 4,
            Self::Free => FREE_PAGES,
            Self::Node => NODE,
        }
    }

    const fn decode(bits: u64) -> Option<Self> {
        match bits {
            0 => Some(Self::Hole),
            1 => Some(Self::Tail),
            2 => Some(Self::Reserved),
            3 => Some(Self::Allocated),
            4 => Some(Self::Isolated),
            FREE_PAGES => Some(Self::Free),
            NODE => Some(Self::Node),
            _ => None,
        }
    }
}

/// An end of a freelist.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum End {
    /// Where allocation takes from: blocks still warm in the cache.
    Near,
    /// Where blocks wait that will probably merge soon.
    Far,
}

/// Names one end of one freelist of a zone.
///
/// The seven bits are the same in a descriptor's word and as an index into the zone's table, so that neither is
/// taken apart to get to the other: the end in bit 0, the order in bits 1 to 4, the migratetype in bits 5 and 6.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub(crate) struct ListId(u8);

impl ListId {
    /// Indices that lists can have: there are sixteen orders in the bits, and four migratetypes.
    pub(crate) const COUNT: usize = 1 << 7;

    /// The list of this migratetype and order, at this end.
    pub(crate) const fn new(migratetype: Migratetype, order: Order, end: End) -> Self {
        Self::of_bits(migratetype as u8, order, end)
    }

    /// The list of the migratetype that two bits stand for.
    pub(super) const fn of_bits(migratetype: u8, order: Order, end: End) -> Self {
        Self((migratetype & 3) << 5 | order.number() << 1 | end as u8)
    }

    pub(crate) const fn migratetype(self) -> Migratetype {
        Migratetype::decode(self.0 >> 5)
    }

    /// The order; the largest there is if the bits are none.
    pub(crate) const fn order(self) -> Order {
        match Order::new(self.0 >> 1 & 0xf) {
            Some(order) => order,
            None => Order::LIMIT,
        }
    }

    pub(crate) const fn end(self) -> End {
        if self.0 & 1 == 0 { End::Near } else { End::Far }
    }

    /// The other end of the same list.
    pub(crate) const fn other_end(self) -> Self {
        Self(self.0 ^ 1)
    }

    /// The list of the next smaller order, which there is.
    pub(crate) const fn of_halves(self) -> Self {
        Self(self.0 - (1 << 1))
    }

    /// The list's bit, whatever the end, among those of a zone that are not empty.
    pub(crate) const fn occupied_bit(self) -> u64 {
        1 << (self.0 >> 1 & 0x3f)
    }

    /// The list's place in the zone's table.
    pub(crate) const fn index(self) -> usize {
        self.0 as usize % Self::COUNT
    }
}

impl fmt::Debug for ListId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ListId({:?}, {:?}, {:?})", self.migratetype(), self.order(), self.end())
    }
}

/// A node's place in its list: the level above the entries (a leaf is 1) and the first position under it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct NodePlace {
    pub(crate) level: u8,
    pub(crate) first: Position,
}

/// A position on one end of a freelist, counted from its bottom.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(transparent)]
pub(crate) struct Position(pub(crate) u32);

/// The decoded first word.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub(crate) struct AllocatorWord(u64);

const STATE: u64 = 0xf;
/// The bit in the state that free blocks' heads and nodes have, and no other page.
const FREE_PAGES: u64 = 8;
const NODE: u64 = FREE_PAGES | 1;
const LIST_SHIFT: u32 = 4;
const ORDER_SHIFT: u32 = 5;
const ZONE_SHIFT: u32 = 16;
const LEVEL_SHIFT: u32 = 24;
/// Only nodes have a level and only allocated blocks a group: in one place, all that freeing asks fits into 32 bits.
const GROUP_SHIFT: u32 = LEVEL_SHIFT;
/// State, order and zone: all that a merge asks of a buddy.
const MERGE: u64 = STATE | 0xf << ORDER_SHIFT | 0xff << ZONE_SHIFT;

/// What the word of a block's buddy must say for the two to merge.
#[derive(Clone, Copy)]
pub(crate) struct Mergeable(u64);

impl Mergeable {
    #[inline(always)]
    pub(crate) const fn new(order: Order, zone: ZoneId) -> Self {
        Self(AllocatorWord::head(PageState::Free, order, zone).0)
    }

    /// The same for the parent's buddy; the order is not the largest there is.
    #[inline(always)]
    pub(crate) const fn of_parent(self) -> Self {
        Self(self.0 + (1 << ORDER_SHIFT))
    }
}

impl AllocatorWord {
    pub(crate) const HOLE: Self = Self(PageState::Hole.bits());
    pub(crate) const TAIL: Self = Self(PageState::Tail.bits());
    pub(crate) const RESERVED: Self = Self(PageState::Reserved.bits());

    const fn head(state: PageState, order: Order, zone: ZoneId) -> Self {
        Self(state.bits() | (order.number() as u64) << ORDER_SHIFT | (zone.0 as u64) << ZONE_SHIFT)
    }

    const fn on_list(state: PageState, list: ListId, zone: ZoneId) -> Self {
        Self(state.bits() | (list.0 as u64) << LIST_SHIFT | (zone.0 as u64) << ZONE_SHIFT)
    }

    pub(crate) const fn allocated(order: Order, zone: ZoneId) -> Self {
        Self::head(PageState::Allocated, order, zone)
    }

    /// The same word, of a block that the group pays for.
    const fn charged_to(self, group: GroupId) -> Self {
        Self(self.0 & !(0xff << GROUP_SHIFT) | (group.number() as u64) << GROUP_SHIFT)
    }

    pub(crate) const fn isolated(order: Order, zone: ZoneId) -> Self {
        Self::head(PageState::Isolated, order, zone)
    }

    pub(crate) const fn free(list: ListId, zone: ZoneId) -> Self {
        Self::on_list(PageState::Free, list, zone)
    }

    pub(crate) const fn node(list: ListId, level: u8, zone: ZoneId) -> Self {
        let word = Self::on_list(PageState::Node, list, zone);
        Self(word.0 | (level as u64) << LEVEL_SHIFT)
    }

    /// Whether this heads a free block of `order` in `zone`, on whatever list: one masked compare.
    #[inline(always)]
    pub(crate) const fn is_free(self, order: Order, zone: ZoneId) -> bool {
        self.is_mergeable(Mergeable::new(order, zone))
    }

    /// [`is_free`](Self::is_free), for what is compared with more than once.
    #[inline(always)]
    pub(crate) const fn is_mergeable(self, wanted: Mergeable) -> bool {
        self.0 & MERGE == wanted.0
    }

    /// What the buddy's word must say for the two to merge, once the allocated block that this heads is free.
    #[inline(always)]
    pub(crate) const fn when_freed(self) -> Mergeable {
        Mergeable((self.0 & MERGE) ^ (PageState::Allocated.bits() ^ PageState::Free.bits()))
    }

    /// Whether this heads an allocated block in `zone`.
    #[inline(always)]
    pub(crate) const fn is_allocated_in(self, zone: ZoneId) -> bool {
        self.0 & (STATE | 0xff << ZONE_SHIFT) == PageState::Allocated.bits() | (zone.0 as u64) << ZONE_SHIFT
    }

    /// Whether this heads an allocated block in `zone` that no group but the root pays for: one masked compare, for
    /// what freeing asks.
    #[inline(always)]
    pub(crate) const fn is_uncharged_in(self, zone: ZoneId) -> bool {
        let wanted = PageState::Allocated.bits() | (zone.0 as u64) << ZONE_SHIFT;
        self.0 & (STATE | 0xff << ZONE_SHIFT | 0xff << GROUP_SHIFT) == wanted
    }

    /// The state; `None` if the word was never written by this module.
    pub(crate) const fn state(self) -> Option<PageState> {
        PageState::decode(self.0 & STATE)
    }

    /// Whether the page is behind its block's head.
    pub(crate) const fn is_tail(self) -> bool {
        self.0 & STATE == PageState::Tail.bits()
    }

    /// Whether the page heads a free block or is a node: it could be had, were it not for what it serves.
    #[inline(always)]
    pub(crate) const fn is_free_or_node(self) -> bool {
        self.0 & FREE_PAGES != 0
    }

    /// Whether the page is of `state`.
    pub(crate) const fn is(self, state: PageState) -> bool {
        self.0 & STATE == state.bits()
    }

    /// The order of the block this heads, or of the list this serves; the largest there is if the bits are none.
    pub(crate) const fn order(self) -> Order {
        self.list().order()
    }

    pub(crate) const fn zone(self) -> ZoneId {
        ZoneId((self.0 >> ZONE_SHIFT & 0xff) as u8)
    }

    /// The list end that a free block stands on or a node serves.
    pub(crate) const fn list(self) -> ListId {
        ListId((self.0 >> LIST_SHIFT & 0x7f) as u8)
    }

    /// The group that pays for an allocated block.
    pub(crate) const fn group(self) -> GroupId {
        GroupId::from_bits((self.0 >> GROUP_SHIFT & 0xff) as u8)
    }

    /// A node's level.
    pub(crate) const fn level(self) -> u8 {
        (self.0 >> LEVEL_SHIFT & 0xff) as u8
    }
}

/// The descriptor of one base page: two words, and not a bit more.
#[derive(Debug)]
#[repr(C, align(16))]
pub(crate) struct Page {
    allocator: AtomicU64,
    allocatee: AtomicPtr<()>,
}

#[cfg(not(loom))]
const _: () = assert!(size_of::<Page>() == 16 && align_of::<Page>() == 16);
#[cfg(not(loom))]
const _: () = assert!(core::mem::offset_of!(Page, allocator) == 0 && core::mem::offset_of!(Page, allocatee) == 8);

/// The end of a chain of blocks in flight: no frame's number.
const NO_NEXT: u64 = 1 << 32;

impl Page {
    /// A descriptor of a page that heads nothing.
    pub(crate) fn new(word: AllocatorWord) -> Self {
        Self { allocator: AtomicU64::new(word.0), allocatee: AtomicPtr::new(OwnerWord::PLAIN.bits()) }
    }

    /// The first word. Acquire pairs with the release in [`Page::publish`]: who sees a state sees the second word
    /// that belongs to it, or a later one.
    pub(crate) fn word(&self) -> AllocatorWord {
        AllocatorWord(self.allocator.load(Ordering::Acquire))
    }

    /// Makes the page a free block's head at `position` of `list`.
    pub(crate) fn set_free(&self, list: ListId, zone: ZoneId, position: Position) {
        self.set_position(position);
        self.publish(AllocatorWord::free(list, zone));
    }

    /// Makes the page a node of `list`.
    pub(crate) fn set_node(&self, list: ListId, zone: ZoneId, place: NodePlace) {
        self.set_position(place.first);
        self.publish(AllocatorWord::node(list, place.level, zone));
    }

    /// Makes the page the head of an allocated block without an owner.
    pub(crate) fn set_allocated(&self, order: Order, zone: ZoneId) {
        self.set_allocatee(OwnerWord::PLAIN);
        self.publish(AllocatorWord::allocated(order, zone));
    }

    /// Makes the page the head of an allocated block without an owner, that a group pays for.
    pub(crate) fn set_charged(&self, order: Order, zone: ZoneId, group: GroupId) {
        self.set_allocatee(OwnerWord::PLAIN);
        self.publish(AllocatorWord::allocated(order, zone).charged_to(group));
    }

    /// Lets a group pay for the allocated block that this heads. Only the block's owner calls this, so that nobody
    /// else writes the word meanwhile.
    pub(crate) fn set_group(&self, group: GroupId) {
        self.publish(self.word().charged_to(group));
    }

    /// Makes the page the head of a block in flight, in front of `next`.
    pub(crate) fn set_isolated(&self, order: Order, zone: ZoneId, next: Option<Pfn>) {
        self.set_allocatee(OwnerWord::number(next.map_or(NO_NEXT, |pfn| u64::from(pfn.number()))));
        self.publish(AllocatorWord::isolated(order, zone));
    }

    /// Puts the page behind its block's head.
    pub(crate) fn set_tail(&self) {
        self.publish(AllocatorWord::TAIL);
    }

    /// Takes the page out of the allocator's reach.
    pub(crate) fn set_reserved(&self) {
        self.publish(AllocatorWord::RESERVED);
    }

    /// Gives a free block that stays on its list its new position there (FREE-1).
    pub(crate) fn set_position(&self, position: Position) {
        self.set_allocatee(OwnerWord::number(u64::from(position.0)));
    }

    /// A free block's position, or the first position under a node.
    #[expect(clippy::cast_possible_truncation, reason = "only a position is ever stored while the page is free")]
    pub(crate) fn position(&self) -> Position {
        Position(self.allocatee().as_number() as u32)
    }

    /// A node's place in its list.
    pub(crate) fn place(&self) -> NodePlace {
        NodePlace { level: self.word().level(), first: self.position() }
    }

    /// The block in flight behind this one.
    pub(crate) fn next(&self) -> Option<Pfn> {
        u32::try_from(self.allocatee().as_number()).ok().map(Pfn::new)
    }

    /// Gives an allocated page its owner, or takes it away (`PLAIN`). Release: who sees the owner sees its descriptor
    /// as it was when it was made known; pairs with the acquire in [`Page::owner`].
    pub(crate) fn set_owner(&self, owner: OwnerWord) {
        self.allocatee.store(owner.bits(), Ordering::Release);
    }

    /// The owner, of a page in whatever state: one that is not allocated has none.
    #[inline(always)]
    pub(crate) fn owner(&self) -> OwnerWord {
        OwnerWord::from_bits(self.allocatee.load(Ordering::Acquire))
    }

    #[inline(always)]
    fn set_allocatee(&self, word: OwnerWord) {
        self.allocatee.store(word.bits(), Ordering::Relaxed);
    }

    #[inline(always)]
    fn allocatee(&self) -> OwnerWord {
        OwnerWord::from_bits(self.allocatee.load(Ordering::Relaxed))
    }

    /// What the words say, without what nobody reads: the second word of a page that is neither free nor a node.
    #[cfg(test)]
    pub(crate) fn fingerprint(&self) -> [u64; 2] {
        let word = self.word();
        let placed = word.is(PageState::Free) || word.is(PageState::Node);
        [word.0, if placed { u64::from(self.position().0) } else { 0 }]
    }

    /// The state is written last, so that no one reads a new state with the old second word. Pairs with the acquire
    /// in [`Page::word`].
    fn publish(&self, word: AllocatorWord) {
        self.allocator.store(word.0, Ordering::Release);
    }
}

#[cfg(test)]
mod tests;
