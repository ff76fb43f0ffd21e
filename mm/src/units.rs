//! The quantities a page allocator speaks in, each its own type.
//!
//! A frame number is 32 bits wide: it reaches 16 TiB, a freelist leaf holds 1024 of them, and no conversion inside
//! the allocator can truncate one. What does not fit is turned away where addresses come in (`boot_map`).

use core::fmt;
use core::num::NonZeroU16;

/// log2 of the base page's size in bytes.
pub const PAGE_SHIFT: u32 = 12;

/// Bytes in a base page.
pub const PAGE_SIZE: usize = 1 << PAGE_SHIFT;

/// A number of bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(transparent)]
pub struct Bytes(pub usize);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0)
    }
}

/// A number of things of one kind: pages, objects, slabs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(transparent)]
pub struct Count(pub u32);

/// A physical address, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct PhysAddr(pub u64);

impl fmt::Debug for PhysAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// A page frame number: a physical address divided by the page size.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Pfn(u32);

impl Pfn {
    /// One past the last frame that a number can name: frame `0xffff_ffff` is never used, so that an end fits too.
    pub const LIMIT: Self = Self(u32::MAX);

    /// The frame with this number.
    pub const fn new(number: u32) -> Self {
        Self(number)
    }

    /// The frame that holds `address`; `None` above 16 TiB.
    pub fn containing(address: PhysAddr) -> Option<Self> {
        u32::try_from(address.0 >> PAGE_SHIFT).ok().map(Self).filter(|&pfn| pfn < Self::LIMIT)
    }

    /// The number itself.
    pub const fn number(self) -> u32 {
        self.0
    }

    /// The number as an index.
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// The frame's first byte.
    pub const fn address(self) -> PhysAddr {
        PhysAddr((self.0 as u64) << PAGE_SHIFT)
    }

    /// The frame `count` after this one, or the limit.
    #[must_use]
    pub const fn plus(self, count: u32) -> Self {
        Self(self.0.saturating_add(count))
    }

    /// The head of the naturally aligned block of `order` around this frame.
    #[must_use]
    pub const fn align_down(self, order: Order) -> Self {
        Self(self.0 & !(order.pages() - 1))
    }

    /// The first multiple of the block size at or above this frame, or the limit.
    #[must_use]
    pub const fn align_up(self, order: Order) -> Self {
        match self.0.checked_add(order.pages() - 1) {
            Some(number) => Self(number & !(order.pages() - 1)),
            None => Self::LIMIT,
        }
    }

    /// The other half of the block of the next order.
    #[must_use]
    pub const fn buddy(self, order: Order) -> Self {
        Self(self.0 ^ order.pages())
    }

    /// Whether a block of `order` may start here.
    pub const fn is_aligned(self, order: Order) -> bool {
        self.0 & (order.pages() - 1) == 0
    }
}

impl fmt::Debug for Pfn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pfn {:#x}", self.0)
    }
}

/// A page's place in a mapping, in base pages from its start.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(transparent)]
pub struct PageIndex(pub u64);

/// A page's place in a store of what was written out.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(transparent)]
pub struct StoreSlot(pub u32);

/// log2 of a block's size in pages: 0 is one page, 10 is 4 MiB.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Order(u8);

impl Order {
    /// The largest order any geometry may have.
    pub const LIMIT: Self = Self(10);
    /// One page.
    pub const ZERO: Self = Self(0);

    /// This order; `None` above [`Order::LIMIT`].
    pub const fn new(order: u8) -> Option<Self> {
        if order <= Self::LIMIT.0 { Some(Self(order)) } else { None }
    }

    /// The order that `number` names, for tables indexed by order.
    ///
    /// # Panics
    /// Above [`Order::LIMIT`]: for constants and loop counters, never for what a caller passes in.
    pub const fn of(number: usize) -> Self {
        assert!(number <= Self::LIMIT.0 as usize);
        #[expect(clippy::cast_possible_truncation, reason = "bounded by the assertion")]
        Self(number as u8)
    }

    /// The number itself.
    pub const fn number(self) -> u8 {
        self.0
    }

    /// The number as an index.
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// Pages in a block of this order.
    pub const fn pages(self) -> u32 {
        1 << self.0
    }

    /// The next larger order, if any geometry has it.
    #[must_use]
    pub const fn up(self) -> Option<Self> {
        Self::new(self.0 + 1)
    }

    /// The next larger order, or the largest there is.
    #[must_use]
    pub(crate) const fn above(self) -> Self {
        if self.0 < Self::LIMIT.0 { Self(self.0 + 1) } else { Self::LIMIT }
    }

    /// The next smaller order.
    #[must_use]
    pub const fn down(self) -> Option<Self> {
        match self.0.checked_sub(1) {
            Some(order) => Some(Self(order)),
            None => None,
        }
    }
}

impl fmt::Debug for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "order {}", self.0)
    }
}

/// A memory node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(transparent)]
pub struct NodeId(pub u8);

/// How far a node's memory is from the CPUs of another, as ACPI's SLIT counts it: 10 is a node's own.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(transparent)]
pub struct Distance(pub u8);

impl Distance {
    /// A node's own memory.
    pub const LOCAL: Self = Self(10);
    /// Another node's, where nobody says more.
    pub const REMOTE: Self = Self(20);
}

/// A zone, by its place in the allocator's table.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(transparent)]
pub struct ZoneId(pub(crate) u8);

impl ZoneId {
    /// The place in the table.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// A CPU.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(transparent)]
pub struct CpuId(pub u16);

impl PageIndex {
    /// The place `pages` behind this one, or the last there is.
    #[must_use]
    pub const fn plus(self, pages: u64) -> Self {
        Self(self.0.saturating_add(pages))
    }

    /// The page's first byte, or the last byte there is.
    pub const fn start(self) -> FileOffset {
        match self.0.checked_mul(PAGE_SIZE as u64) {
            Some(offset) => FileOffset(offset),
            None => FileOffset(u64::MAX),
        }
    }

    /// The place at which a naturally aligned run of `1 << order` pages around this one begins.
    #[must_use]
    pub const fn align_down(self, order: Order) -> Self {
        Self(self.0 & !(order.pages() as u64 - 1))
    }
}

/// A byte's place in a file or another store.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(transparent)]
pub struct FileOffset(pub u64);

impl FileOffset {
    /// The place `bytes` behind this one, or the last there is.
    #[must_use]
    pub const fn plus(self, bytes: u64) -> Self {
        Self(self.0.saturating_add(bytes))
    }

    /// The page that the byte lies in.
    pub const fn page(self) -> PageIndex {
        PageIndex(self.0 >> PAGE_SHIFT)
    }
}

/// An address in a user's address space, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct VirtualAddress(pub u64);

impl VirtualAddress {
    /// The address `bytes` above this one, or the last there is.
    #[must_use]
    pub const fn plus(self, bytes: u64) -> Self {
        Self(self.0.saturating_add(bytes))
    }

    /// The first byte of the page around this address.
    #[must_use]
    pub const fn page(self) -> Self {
        Self(self.0 & !(PAGE_SIZE as u64 - 1))
    }
}

impl fmt::Debug for VirtualAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// An address space. None has number zero.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(transparent)]
pub struct SpaceId(pub NonZeroU16);

/// A run of frames: `start` up to, not including, `end`. None if they are out of order.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PfnRange {
    /// The first frame.
    pub start: Pfn,
    /// One past the last frame.
    pub end: Pfn,
}

impl PfnRange {
    /// The run from `start` up to, not including, `end`; empty if they are out of order.
    pub const fn new(start: Pfn, end: Pfn) -> Self {
        Self { start, end: if end.0 < start.0 { start } else { end } }
    }

    /// Frames in the run.
    pub const fn pages(self) -> u32 {
        self.end.0.saturating_sub(self.start.0)
    }

    /// Whether the run has no frame.
    pub const fn is_empty(self) -> bool {
        self.end.0 <= self.start.0
    }

    /// Whether `pfn` lies in the run.
    pub const fn contains(self, pfn: Pfn) -> bool {
        self.start.0 <= pfn.0 && pfn.0 < self.end.0
    }

    /// The frames both runs have.
    #[must_use]
    pub fn intersection(self, other: Self) -> Self {
        let start = self.start.max(other.start);
        Self::new(start, self.end.min(other.end))
    }

    /// The frames of the run in ascending order.
    pub fn frames(self) -> impl DoubleEndedIterator<Item = Pfn> + ExactSizeIterator {
        (self.start.0..self.end.0).map(Pfn)
    }
}

impl fmt::Debug for PfnRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{:#x}, {:#x})", self.start.address().0, self.end.address().0)
    }
}
