//! A block and its owner as one value.
#![expect(unsafe_code, reason = "takes an owner out of its descriptor once nobody else refers to it")]

use core::fmt;
use core::mem::ManuallyDrop;
use core::ops::Deref;

use super::owners::{Owner, Owners};
use super::reference::Shared;
use crate::charge::GroupId;
use crate::descriptor::Put;
use crate::machine::Machine;
use crate::page::Block;
use crate::units::{Order, PAGE_SIZE, Pfn, PfnRange};

/// A block owned by a `T`: the reference that it was born with, and the only one that reaches the block's bytes.
///
/// Dropping it gives up that reference; the block and the owner go with the last one.
#[must_use = "dropping an owned block frees it, unless somebody else refers to it"]
pub struct Owned<'a, M: Machine, T: Owner> {
    base: Shared<'a, M, T>,
    /// The block that the owner owns: freed with the last reference, never by itself.
    block: ManuallyDrop<Block<'a, M>>,
}

impl<'a, M: Machine, T: Owner> Owned<'a, M, T> {
    /// Takes over the reference that the block's descriptor was born with.
    pub(super) const fn new(base: Shared<'a, M, T>, block: Block<'a, M>) -> Self {
        Self { base, block: ManuallyDrop::new(block) }
    }

    /// Takes back what was [shared](Self::into_shared).
    ///
    /// # Safety
    /// It was, by the caller, and this is the reference that it was born with.
    pub(crate) unsafe fn from_shared(base: Shared<'a, M, T>) -> Self {
        let block = base.owners().pages().own_described(base.head());
        Self::new(base, block)
    }

    pub(crate) const fn owners(&self) -> &'a Owners<'a, M> {
        self.base.owners()
    }

    /// The first frame.
    pub const fn head(&self) -> Pfn {
        self.base.head()
    }

    /// The size.
    pub const fn order(&self) -> Order {
        self.base.order()
    }

    /// The frames of the block.
    pub const fn range(&self) -> PfnRange {
        self.base.range()
    }

    /// The group that pays for the block.
    pub fn group(&self) -> GroupId {
        self.block.group()
    }

    /// Lets others refer to it, all alike: nobody alone reaches the block's bytes any more.
    pub fn into_shared(self) -> Shared<'a, M, T> {
        self.base
    }

    /// Makes the block plain again, and hands out its owner.
    ///
    /// # Errors
    /// Gives it back if anybody else refers to it.
    pub fn into_block(self) -> Result<(Block<'a, M>, T), Self> {
        match self.base.put_only() {
            Put::Others => Err(self),
            Put::Last => {
                let base = ManuallyDrop::new(self.base);
                // SAFETY: the last reference has just been given up, and is not given up again.
                let owner = unsafe { base.owners().retire(&base) };
                Ok((ManuallyDrop::into_inner(self.block), owner))
            }
        }
    }

    /// Shows the bytes of the page at `pfn`, as [`Block::with_page`] does.
    pub fn with_page<R>(&mut self, pfn: Pfn, look: impl FnOnce(&mut [u8; PAGE_SIZE]) -> R) -> Option<R> {
        self.block.with_page(pfn, look)
    }

    /// All bytes of the block; `None` if it is highmem.
    pub fn bytes_mut(&mut self) -> Option<&mut [u8]> {
        self.block.bytes_mut()
    }
}

impl<M: Machine, T: Owner> Deref for Owned<'_, M, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.base
    }
}

impl<M: Machine, T: Owner> fmt::Debug for Owned<'_, M, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Owned({:?})", self.base)
    }
}
