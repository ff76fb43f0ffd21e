//! The first word of a page's descriptor, `allocator`: the one file that encodes and decodes it. It belongs to the page
//! allocator alone:
//!
//! ```text
//!   63        32 31     24 23    16   15   14 13  12  11 10   9 8     5  4  3     0
//!  +------------+---------+--------+------+-----+---+---+------+-------+---+-------+
//!  |  resized   |level or |  zone  |parity|state|has|hw | type | order |end| state |
//!  |            |  group  |        |      |     |hw |poi|      |       |   |       |
//!  +------------+---------+--------+------+-----+---+---+------+-------+---+-------+
//! ```
//!
//! `type` is the migratetype of the freelist that a free block stands on or a node serves, or that an allocated block was
//! allocated for, `end` that list's end, and `level` a node's height above the list's entries; `group` is the charge group
//! that pays for an allocated block. `resized` grows whenever an allocated block is halved or joined, so that who reads the
//! same word twice knows that it was the same block all the time, or free in between. Only a block's head says more than
//! "tail": merging and splitting each write one word, and allocating writes one whatever the block's size. A tail's head is
//! found by rounding down.
//!
//! `hw poi` stands in any page, of a block in use or that nobody is to use, whose memory lies; `has hw` in the head of an
//! allocated block that may have such a page. So no block at hand or on a list has one, and what is freed with one differs
//! from all that goes the fast way.
//!
//! Memory flips bits. Any two states differ in two bits at least, and `parity` makes the number of bits that are set even, the
//! two marks of failed memory left out, which are set while others change the rest: so no word with one bit flipped is the word
//! of anything else, and one that is compared as a whole, as the fast paths do, is checked by that. A mark that flips costs
//! pages: what is marked is not handed out. Who reads only a part of a word asks whether it
//! [is intact](AllocatorWord::is_intact) before anything rests on it. What is changed in a word is changed by a difference that
//! is even itself: so none that is flipped becomes right.
//!
//! Invariants: ZONE-1 (a block's zone stands in its head), WORD-1 (a word that was written here has an even number of bits set).
//! Source: K. Overstreet, "Struct page proposal", linux-mm, 2021-09-23.

use core::fmt;

use crate::charge::GroupId;
use crate::migratetype::Migratetype;
use crate::units::{Order, ZoneId};

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
    /// The head of a free block that a CPU has at hand.
    Cached,
    /// The head of a section that was taken out of use, and may be taken in again.
    Offline,
}

impl PageState {
    const fn bits(self) -> u64 {
        match self {
            Self::Hole => 0,
            Self::Tail => TAIL,
            Self::Reserved => RESERVED,
            Self::Allocated => ALLOCATED,
            Self::Isolated => ISOLATED,
            Self::Cached => CACHED,
            Self::Offline => OFFLINE,
            Self::Free => FREE_PAGES,
            Self::Node => NODE,
        }
    }

    const fn decode(bits: u64) -> Option<Self> {
        match bits {
            0 => Some(Self::Hole),
            TAIL => Some(Self::Tail),
            RESERVED => Some(Self::Reserved),
            ALLOCATED => Some(Self::Allocated),
            ISOLATED => Some(Self::Isolated),
            CACHED => Some(Self::Cached),
            OFFLINE => Some(Self::Offline),
            FREE_PAGES => Some(Self::Free),
            NODE => Some(Self::Node),
            _ => None,
        }
    }
}

/// An end of a freelist.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum End {
    /// Where allocation takes from.
    Near,
    /// Where blocks are left alone for as long as can be.
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

    /// The list's bit among those of a zone that are not empty at its end.
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

/// The decoded first word.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(transparent)]
pub(crate) struct AllocatorWord(pub(super) u64);

const STATE: u64 = 0xf | MORE_STATE;
/// For a state that is rare: more than these few words have two bits set among four.
const MORE_STATE: u64 = 3 << 13;
// INVARIANT: WORD-1, each state has an even number of bits.
const TAIL: u64 = 0b0011;
const RESERVED: u64 = 0b0101;
const ALLOCATED: u64 = 0b0110;
const ISOLATED: u64 = 0b1001;
const CACHED: u64 = 0b1010;
const OFFLINE: u64 = RESERVED | MORE_STATE;
/// The bits in the state that free blocks' heads and nodes have both of, and no other page.
const FREE_PAGES: u64 = 0b1100;
const NODE: u64 = FREE_PAGES | 0b0011;
const LIST_SHIFT: u32 = 4;
const ORDER_SHIFT: u32 = 5;
const TYPE: u64 = 3 << 9;
/// The page's memory lies.
pub(super) const HWPOISON: u64 = 1 << 11;
/// A page of the allocated block that this heads may be such a one.
pub(super) const HAS_HWPOISONED: u64 = 1 << 12;
const HWPOISON_MARKS: u64 = HWPOISON | HAS_HWPOISONED;
const PARITY_SHIFT: u32 = 15;
const PARITY: u64 = 1 << PARITY_SHIFT;
const ZONE_SHIFT: u32 = 16;
const LEVEL_SHIFT: u32 = 24;
/// Only nodes have a level and only allocated blocks a group: in one place, all that freeing asks fits into 32 bits.
const GROUP_SHIFT: u32 = LEVEL_SHIFT;
const RESIZED_SHIFT: u32 = 32;
/// State, order and zone: all that a merge asks of a buddy.
const MERGE: u64 = STATE | 0xf << ORDER_SHIFT | 0xff << ZONE_SHIFT;

/// The parity bit of a word of which all else that is odd is folded into `bits`.
const fn parity(bits: u8) -> u64 {
    (bits.count_ones() as u64 & 1) << PARITY_SHIFT
}

/// What the word of a block's buddy must say for the two to merge.
#[derive(Clone, Copy)]
pub(crate) struct Mergeable(u64);

impl Mergeable {
    #[inline(always)]
    pub(crate) const fn new(order: Order, zone: ZoneId) -> Self {
        Self(AllocatorWord::head(PageState::Free, order, zone).0 & MERGE)
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
        let fields = (order.number() as u64) << ORDER_SHIFT | (zone.0 as u64) << ZONE_SHIFT;
        Self(state.bits() | fields | parity(order.number() ^ zone.0))
    }

    const fn on_list(state: PageState, list: ListId, zone: ZoneId) -> Self {
        let fields = (list.0 as u64) << LIST_SHIFT | (zone.0 as u64) << ZONE_SHIFT;
        Self(state.bits() | fields | parity(list.0 ^ zone.0))
    }

    /// Whether this is a word that was written, with no bit flipped since (WORD-1), or with several.
    #[inline(always)]
    pub(crate) const fn is_intact(self) -> bool {
        (self.0 & !HWPOISON_MARKS).count_ones().is_multiple_of(2)
    }

    /// The head of a block that was allocated for pages of a migratetype.
    pub(crate) const fn allocated(migratetype: Migratetype, order: Order, zone: ZoneId) -> Self {
        Self::on_list(PageState::Allocated, ListId::new(migratetype, order, End::Near), zone)
    }

    /// The same word, of a block that the group pays for.
    pub(super) const fn charged_to(self, group: GroupId) -> Self {
        let other = self.group().number() ^ group.number();
        Self(self.0 ^ ((other as u64) << GROUP_SHIFT | parity(other)))
    }

    /// The word of an allocated block that this one's becomes, or becomes a part of.
    pub(super) const fn resized(self, order: Order) -> Self {
        let other = (self.list().order().number() ^ order.number()) as u64;
        let counted = self.0 ^ self.0.wrapping_add(1 << RESIZED_SHIFT);
        let changed = counted ^ other << ORDER_SHIFT;
        Self(self.0 ^ changed ^ (changed.count_ones() as u64 & 1) << PARITY_SHIFT)
    }

    /// Which of two words was resized more often.
    pub(super) const fn newer(self, other: Self) -> Self {
        if self.0 >> RESIZED_SHIFT < other.0 >> RESIZED_SHIFT { other } else { self }
    }

    /// Whether both head blocks of one state, size, zone and group.
    pub(super) const fn is_like(self, other: Self) -> bool {
        ((self.0 ^ other.0) & !(TYPE | HWPOISON_MARKS | PARITY)) << RESIZED_SHIFT == 0
    }

    /// The same word, for the head of another part of the block, whose own memory does not lie.
    pub(super) const fn of_other_part(self) -> Self {
        Self(self.0 & !HWPOISON)
    }

    /// The same word, with what another says of memory that lies.
    pub(super) const fn marked_as(self, other: Self) -> Self {
        Self(self.0 & !HWPOISON_MARKS | other.0 & HWPOISON_MARKS)
    }

    /// What a page says that becomes a tail.
    pub(super) const fn as_tail(self) -> Self {
        Self(Self::TAIL.0 | self.0 & HWPOISON)
    }

    /// Whether a page says that it is a tail, or also that its memory lies, and nothing else.
    pub(crate) const fn is_mere_tail(self) -> bool {
        self.0 & !HWPOISON == Self::TAIL.0
    }

    /// The same word, of a block that might have been allocated for any kind of page.
    #[cfg(all(test, not(loom)))]
    pub(super) const fn of_any_type(self) -> Self {
        if self.is(PageState::Allocated) { Self(self.0 & !(TYPE | PARITY)) } else { self }
    }

    /// The word of an allocated block that nobody is charged for, once a CPU has it at hand.
    #[inline(always)]
    pub(crate) const fn when_cached(self) -> Self {
        Self(self.0 ^ (PageState::Allocated.bits() ^ PageState::Cached.bits()))
    }

    /// The list at hand that an allocated block goes to: below [`ListId::COUNT`] / 2.
    #[inline(always)]
    pub(crate) const fn list_at_hand(self) -> usize {
        (self.0 >> ORDER_SHIFT) as usize % (ListId::COUNT / 2)
    }

    /// The order's four bits, whatever they say.
    #[inline(always)]
    pub(crate) const fn order_bits(self) -> usize {
        (self.0 >> ORDER_SHIFT & 0xf) as usize
    }

    /// No descriptor ever says this.
    pub(crate) const NO_BLOCK: Self = Self(u64::MAX);

    /// A page on its own, in nobody's use for ever, for its memory lies.
    pub(super) const fn hwpoisoned(migratetype: Migratetype, zone: ZoneId) -> Self {
        Self(Self::allocated(migratetype, Order::ZERO, zone).0 | HWPOISON_MARKS)
    }

    pub(super) const fn offline(order: Order, zone: ZoneId) -> Self {
        Self::head(PageState::Offline, order, zone)
    }

    pub(crate) const fn isolated(order: Order, zone: ZoneId) -> Self {
        Self::head(PageState::Isolated, order, zone)
    }

    pub(crate) const fn free(list: ListId, zone: ZoneId) -> Self {
        Self::on_list(PageState::Free, list, zone)
    }

    pub(crate) const fn node(list: ListId, level: u8, zone: ZoneId) -> Self {
        let word = Self::on_list(PageState::Node, list, zone);
        Self(word.0 ^ ((level as u64) << LEVEL_SHIFT | parity(level)))
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

    /// The same, if none of its pages lies: one masked compare, too.
    #[inline(always)]
    pub(crate) const fn is_sound_in(self, zone: ZoneId) -> bool {
        self.0 & (STATE | HAS_HWPOISONED | 0xff << ZONE_SHIFT)
            == PageState::Allocated.bits() | (zone.0 as u64) << ZONE_SHIFT
    }

    /// Whether this heads an allocated block that no group but the root pays for, and of which no page lies: one masked
    /// compare.
    #[inline(always)]
    pub(crate) const fn is_uncharged(self) -> bool {
        self.0 & (STATE | HAS_HWPOISONED | 0xff << GROUP_SHIFT) == PageState::Allocated.bits()
    }

    /// Whether the page's memory lies.
    pub(crate) const fn is_hwpoison(self) -> bool {
        self.0 & HWPOISON != 0
    }

    /// Whether the memory of a page of the block that this heads may lie.
    pub(crate) const fn has_hwpoisoned(self) -> bool {
        self.0 & HAS_HWPOISONED != 0
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
        self.0 & FREE_PAGES == FREE_PAGES
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
