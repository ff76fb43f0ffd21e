//! What a slot says: nothing, an entry, or where the node below is and at which level.
//!
//! ```text
//!   63                         6 5     2 1 0
//!   |            0                        0 |   nothing
//!   |       address of an item       | 0000 |   an item
//!   |       address of a node  | level | 01 |   a node of the level below
//!   |            | place in a store    | 10 |   stored
//!   |                   0              | 11 |   lost
//! ```
//!
//! The level stands in the word, so that who walks down reads no line of a node but the one with its slot.

use core::fmt;
use core::marker::PhantomData;
use core::ptr::{self, NonNull};

use super::node::{NODE_ALIGN, Node};
use crate::units::{Order, PageIndex, StoreSlot};

/// What stands at an index.
pub(crate) enum Entry<T> {
    /// Something in memory. Whether it is still that is for the caller to find out.
    Item(NonNull<T>),
    /// Something written out.
    Stored(StoreSlot),
    /// Something that was in memory which lies, and nowhere else.
    Lost,
}

impl<T> Clone for Entry<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Entry<T> {}

impl<T> PartialEq for Entry<T> {
    fn eq(&self, other: &Self) -> bool {
        Word::<T>::of(*self) == Word::of(*other)
    }
}

impl<T> Eq for Entry<T> {}

impl<T> fmt::Debug for Entry<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Item(item) => write!(f, "Item({:p})", item.as_ptr()),
            Self::Stored(StoreSlot(slot)) => write!(f, "Stored({slot})"),
            Self::Lost => f.write_str("Lost"),
        }
    }
}

/// log2 of a node's slots.
const SLOT_ORDER: u8 = 6;
pub(super) const SLOT_BITS: u32 = SLOT_ORDER as u32;
/// Slots of a node.
pub(super) const SLOTS: usize = 1 << SLOT_BITS;

/// How far a node is above the leaves.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Level(u8);

/// Levels that reach every index.
pub(super) const LEVELS: usize = (u64::BITS as usize).div_ceil(SLOT_BITS as usize);

impl Level {
    /// A slot of a leaf covers one index.
    pub(super) const LEAF: Self = Self(0);

    /// The level at which entries of an order stand: the highest whose slots are not larger than they.
    pub(super) const fn of(order: Order) -> Self {
        Self(order.number() / SLOT_ORDER)
    }

    /// Where the largest entries stand.
    pub(super) const LARGEST_ENTRY: Self = Self::of(Order::LIMIT);

    /// The lowest level whose single node reaches an index.
    pub(super) fn reaching(PageIndex(index): PageIndex) -> Self {
        let bits = u64::BITS - (index | 1).leading_zeros();
        #[expect(clippy::cast_possible_truncation, reason = "at most ten")]
        Self(((bits - 1) / SLOT_BITS) as u8)
    }

    pub(super) const fn number(self) -> usize {
        self.0 as usize
    }

    pub(super) const fn up(self) -> Self {
        Self(self.0 + 1)
    }

    pub(super) const fn down(self) -> Option<Self> {
        match self.0.checked_sub(1) {
            Some(level) => Some(Self(level)),
            None => None,
        }
    }

    const fn shift(self) -> u32 {
        self.0 as u32 * SLOT_BITS
    }

    /// The slot that leads to an index.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "six bits")]
    pub(super) const fn slot(self, PageIndex(index): PageIndex) -> usize {
        (index >> self.shift() & (SLOTS as u64 - 1)) as usize
    }

    /// The first index under a slot of the node that covers an index.
    pub(super) const fn first(self, PageIndex(index): PageIndex, slot: usize) -> PageIndex {
        PageIndex(index & !self.node_mask() | (slot as u64) << self.shift())
    }

    /// Indexes that a slot covers, less one.
    pub(super) const fn slot_mask(self) -> u64 {
        (1 << self.shift()) - 1
    }

    /// Indexes that a node covers, less one.
    pub(super) const fn node_mask(self) -> u64 {
        match 1_u64.checked_shl(self.shift() + SLOT_BITS) {
            Some(covered) => covered - 1,
            None => u64::MAX,
        }
    }
}

/// Where a node is, and its level.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct NodePointer {
    pub(super) node: NonNull<Node>,
    pub(super) level: Level,
}

/// A slot's word, in a tree whose items are `T`.
pub(super) struct Word<T>(*mut (), PhantomData<fn() -> NonNull<T>>);

impl<T> Clone for Word<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Word<T> {}

impl<T> PartialEq for Word<T> {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

const TAG: usize = 0b11;
const NODE: usize = 0b01;
const STORED: usize = 0b10;
const LOST: usize = 0b11;
const TAG_BITS: u32 = 2;
const LEVEL_SHIFT: u32 = TAG_BITS;

const _: () = assert!(LEVELS << LEVEL_SHIFT < NODE_ALIGN as usize);

impl<T> Word<T> {
    const ALIGNED: () = assert!(align_of::<T>() > TAG);

    pub(super) const EMPTY: Self = Self::raw(ptr::null_mut());

    pub(super) const fn raw(word: *mut ()) -> Self {
        let () = Self::ALIGNED;
        Self(word, PhantomData)
    }

    pub(super) const fn bits(self) -> *mut () {
        self.0
    }

    pub(super) fn of(entry: Entry<T>) -> Self {
        Self::raw(match entry {
            Entry::Item(item) => item.as_ptr().cast(),
            Entry::Stored(StoreSlot(slot)) => ptr::without_provenance_mut((slot as usize) << TAG_BITS | STORED),
            Entry::Lost => ptr::without_provenance_mut(LOST),
        })
    }

    pub(super) fn node(NodePointer { node, level }: NodePointer) -> Self {
        Self::raw(node.as_ptr().cast::<()>().map_addr(|address| address | level.number() << LEVEL_SHIFT | NODE))
    }

    pub(super) fn is_empty(self) -> bool {
        self.0.is_null()
    }

    /// The node that this leads to, if it leads to one.
    #[inline(always)]
    pub(super) fn to_node(self) -> Option<NodePointer> {
        if self.0.addr() & TAG != NODE {
            return None;
        }
        #[expect(clippy::cast_possible_truncation, reason = "four bits")]
        let level = Level(((self.0.addr() % NODE_ALIGN as usize) >> LEVEL_SHIFT) as u8);
        let node = self.0.map_addr(|address| address & !(NODE_ALIGN as usize - 1));
        Some(NodePointer { node: NonNull::new(node.cast())?, level })
    }

    /// The entry that this is, if it is one.
    #[inline(always)]
    pub(super) fn entry(self) -> Option<Entry<T>> {
        match self.0.addr() & TAG {
            0 => NonNull::new(self.0.cast()).map(Entry::Item),
            #[expect(clippy::cast_possible_truncation, reason = "made of 32 bits, by `of`")]
            STORED => Some(Entry::Stored(StoreSlot((self.0.addr() >> TAG_BITS) as u32))),
            LOST => Some(Entry::Lost),
            _ => None,
        }
    }
}
