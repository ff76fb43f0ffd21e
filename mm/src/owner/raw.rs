//! Owned blocks that no value stands for: the machine itself refers to them, as an entry of one page table to the next.
#![expect(unsafe_code, reason = "the caller vouches for being the only owner")]

use core::mem::ManuallyDrop;
use core::ptr::NonNull;

use super::owned::Owned;
use super::owners::{Owner, Owners};
use super::reference::Shared;
use crate::descriptor::Descriptor;
use crate::machine::Machine;
use crate::units::{Order, Pfn};

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
        let (descriptor, order) = self.descriptor_at(head);
        let block = self.pages().own_described(head);
        Owned::new(Shared::new(self, descriptor, head, order), block)
    }

    /// The descriptor and the size of the block at `head`, which the caller owns or has frozen.
    ///
    /// # Panics
    /// The frame heads no block that a `T` owns.
    pub(super) fn descriptor_at<T: Owner>(&self, head: Pfn) -> (NonNull<Descriptor<T>>, Order) {
        let page = self.pages().page(head);
        match page.and_then(|page| page.owner().descriptor(T::KIND).zip(Some(page.word().order()))) {
            Some(found) => found,
            None => panic!("invariant DESC-1 broken: {head:?} heads no {}", T::KIND.name()),
        }
    }
}
