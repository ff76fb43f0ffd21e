//! Owned blocks that no value stands for: the machine itself refers to them, as an entry of one page table to the next.
#![expect(unsafe_code, reason = "the caller vouches for being the only owner")]

use core::mem::ManuallyDrop;

use super::owned::Owned;
use super::owners::{Owner, Owners};
use super::reference::Shared;
use crate::desc::word::Page;
use crate::machine::Machine;
use crate::units::Pfn;

impl<M: Machine, T: Owner> Owned<'_, M, T> {
    /// Gives up ownership: the block stays what it is until its head is given to [`Owners::from_raw`].
    #[must_use = "nobody else frees the block"]
    pub fn into_raw(self) -> Pfn {
        ManuallyDrop::new(self).head()
    }
}

impl<M: Machine> Owners<'_, M> {
    /// Takes back the ownership of a block that was given up.
    ///
    /// # Panics
    /// The frame heads no block that a `T` owns.
    ///
    /// # Safety
    /// The block was given up by [`Owned::into_raw`] of these owners, and is taken back once.
    pub unsafe fn from_raw<T: Owner>(&self, head: Pfn) -> Owned<'_, M, T> {
        let owner = self.pages().page(head).map(Page::owner);
        let Some(descriptor) = owner.and_then(|owner| owner.descriptor(T::KIND)) else {
            panic!("invariant DESC-1 broken: {head:?} heads no {}", T::KIND.name());
        };
        let block = self.pages().own_described(head);
        Owned::new(Shared::new(self, descriptor, head, block.order()), block)
    }
}
