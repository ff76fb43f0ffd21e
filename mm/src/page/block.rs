//! Allocated memory as values: whoever holds one owns its pages, and dropping it frees them.

use core::fmt;
use core::mem::ManuallyDrop;

use super::allocator::PageAllocator;
use crate::charge::{ChargeError, GroupId};
use crate::desc::owner_word::OwnerWord;
use crate::desc::word::Page;
use crate::machine::Machine;
use crate::units::{Order, Pfn, PfnRange};

/// An allocated block of `1 << order` pages.
///
/// ```text
///   alloc ──> Block ──drop──> free
///               │ ▲
///      into_raw ▼ │ from_raw
///              a bare Pfn, whose holder must free it
/// ```
///
/// It cannot be freed twice, nor used once it is freed; that does not compile:
///
/// ```compile_fail,E0382
/// # fn twice<M: mm::machine::Machine>(block: mm::page::Block<'_, M>) {
/// drop(block);
/// drop(block);
/// # }
/// ```
///
/// # Invariants
/// `head` heads an allocated block of the allocator, which nobody else frees (DESC-1).
#[must_use = "dropping a block frees it"]
pub struct Block<'a, M: Machine> {
    allocator: &'a PageAllocator<'a, M>,
    /// The head's descriptor: at hand, so that freeing need not look for it.
    page: &'a Page,
    head: Pfn,
    order: Order,
}

impl<'a, M: Machine> Block<'a, M> {
    pub(super) fn own(allocator: &'a PageAllocator<'a, M>, head: Pfn, order: Order) -> Self {
        Self::own_found(allocator, allocator.map.page(head), head, order)
    }

    /// The same, where the head's descriptor is known.
    #[inline(always)]
    pub(super) const fn own_found(
        allocator: &'a PageAllocator<'a, M>,
        page: &'a Page,
        head: Pfn,
        order: Order,
    ) -> Self {
        Self { allocator, page, head, order }
    }

    /// The first frame.
    pub const fn head(&self) -> Pfn {
        self.head
    }

    /// The size.
    pub const fn order(&self) -> Order {
        self.order
    }

    /// The frames of the block.
    pub const fn range(&self) -> PfnRange {
        PfnRange::new(self.head, self.head.plus(self.order.pages()))
    }

    /// The group that pays for the block.
    pub fn group(&self) -> GroupId {
        self.allocator.group_of(self.head)
    }

    /// Lets another group pay for the block; the [root](GroupId::ROOT) always can.
    ///
    /// # Errors
    /// The group cannot, and all is as before.
    pub fn recharge(&mut self, group: GroupId) -> Result<(), ChargeError> {
        self.allocator.recharge(self.head, self.order, group)
    }

    /// Gives up ownership: the block stays allocated until its head is given to
    /// [`free_raw`](PageAllocator::free_raw) or [`from_raw`](PageAllocator::from_raw).
    #[must_use = "nobody else frees the block"]
    pub fn into_raw(self) -> Pfn {
        ManuallyDrop::new(self).head
    }

    /// Halves the block in place; the lower half comes first. Costs two descriptor writes.
    ///
    /// # Errors
    /// Gives the block back if it is a single page.
    pub fn split(self) -> Result<(Self, Self), Self> {
        let Some(order) = self.order.down() else { return Err(self) };
        let allocator = self.allocator;
        let low = self.into_raw();
        let high = low.buddy(order);
        allocator.halve(low, order, OwnerWord::PLAIN);
        Ok((Self::own(allocator, low, order), Self::own(allocator, high, order)))
    }

    /// Joins two halves of a block, in whatever order they come. Costs three descriptor writes.
    ///
    /// # Errors
    /// Gives both back if they are not of one size, buddies, in one zone, and paid for by one group.
    pub fn merge(self, other: Self) -> Result<Self, (Self, Self)> {
        let allocator = self.allocator;
        let alike = self.order == other.order && core::ptr::eq(allocator, other.allocator);
        let (low, upper) = (self.head.min(other.head), self.head.max(other.head));
        match alike.then(|| allocator.join(low, upper, self.order)).flatten() {
            None => Err((self, other)),
            Some(order) => {
                let _ = (self.into_raw(), other.into_raw());
                Ok(Self::own(allocator, low, order))
            }
        }
    }

    /// Whether a page of the block is known to fail.
    pub(crate) fn has_hwpoisoned(&self) -> bool {
        self.allocator.has_hwpoisoned(self.head)
    }

    pub(crate) const fn allocator(&self) -> &'a PageAllocator<'a, M> {
        self.allocator
    }
}

impl<M: Machine> Drop for Block<'_, M> {
    #[inline(always)]
    fn drop(&mut self) {
        if self.allocator.free_at_hand(self.page, self.head).is_none() {
            self.allocator.free_owned_slowly(self.head);
        }
    }
}

impl<M: Machine> fmt::Debug for Block<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Block({:?}, {:?})", self.head, self.order)
    }
}

/// An allocated run of frames of any length, made by [`alloc_contig`](PageAllocator::alloc_contig).
///
/// # Invariants
/// The range is a row of allocated blocks, which nobody else frees (DESC-1).
#[must_use = "dropping a range frees it"]
pub struct ContigRange<'a, M: Machine> {
    allocator: &'a PageAllocator<'a, M>,
    range: PfnRange,
}

impl<'a, M: Machine> ContigRange<'a, M> {
    /// The range was just allocated.
    pub(super) fn own(allocator: &'a PageAllocator<'a, M>, range: PfnRange) -> Self {
        allocator.all_allocated(range);
        Self { allocator, range }
    }

    pub(super) const fn allocator(&self) -> &'a PageAllocator<'a, M> {
        self.allocator
    }

    /// The frames.
    pub const fn range(&self) -> PfnRange {
        self.range
    }

    /// Gives up the range as what it is made of: one owned block after the other, in ascending order. Those that are
    /// not taken are freed. All of them are the root group's, until they are [recharged](Block::recharge).
    pub fn into_blocks(self) -> impl Iterator<Item = Block<'a, M>> {
        Blocks { allocator: self.allocator, left: ManuallyDrop::new(self).range }
    }
}

impl<M: Machine> Drop for ContigRange<'_, M> {
    fn drop(&mut self) {
        drop(Blocks { allocator: self.allocator, left: self.range });
    }
}

impl<M: Machine> fmt::Debug for ContigRange<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ContigRange({:?})", self.range)
    }
}

/// The blocks of a range that was given up.
struct Blocks<'a, M: Machine> {
    allocator: &'a PageAllocator<'a, M>,
    left: PfnRange,
}

impl<'a, M: Machine> Iterator for Blocks<'a, M> {
    type Item = Block<'a, M>;

    fn next(&mut self) -> Option<Block<'a, M>> {
        if self.left.is_empty() {
            return None;
        }
        let head = self.left.start;
        let Some(order) = self.allocator.allocated_order(head) else {
            panic!("invariant DESC-1 broken: {head:?}, of a range that is held, heads no allocated block");
        };
        self.left = PfnRange::new(head.plus(order.pages()), self.left.end);
        Some(Block::own(self.allocator, head, order))
    }
}

impl<M: Machine> Drop for Blocks<'_, M> {
    fn drop(&mut self) {
        for block in self {
            drop(block);
        }
    }
}
