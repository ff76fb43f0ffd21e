//! A block with an owner to which nobody refers for a while, so that it can change: move to other pages, be halved, be
//! joined with its buddy, or go.
//!
//! ```text
//!   Shared, Owned ──freeze, if nobody else refers──> Frozen ──thaw──> Shared, Owned
//!                                                     │  ▲ └──into_block──> Block, owner
//!                                 relocate, halve, join └──┘
//! ```
//!
//! Whoever walks meanwhile finds a descriptor that is dead and looks again; who has seen it before gets no reference,
//! since it thaws as its next generation.
//!
//! Invariants: DESC-1, DESC-2 (frozen, the owner is the holder's alone).
//! Cost: a compare-and-swap, and a handful of stores for what changes.
#![expect(unsafe_code, reason = "answers for references that no value stands for")]

use core::fmt;
use core::marker::PhantomData;
use core::mem::ManuallyDrop;
use core::ops::Deref;
use core::ptr::NonNull;

use super::owned::Owned;
use super::owners::{Owner, Owners};
use super::reference::Shared;
use crate::desc::owner_word::OwnerWord;
use crate::descriptor::Descriptor;
use crate::machine::Machine;
use crate::page::Block;
use crate::slab::{NoMemory, Prefilled};
use crate::units::{Count, Order, Pfn, PfnRange};

/// A block that a `T` owns, and to which nobody refers.
///
/// Dropping it lets it be referred to again as before.
#[must_use = "dropping it thaws it"]
pub(crate) struct Frozen<'a, M: Machine, T: Owner> {
    owners: &'a Owners<'a, M>,
    descriptor: NonNull<Descriptor<T>>,
    head: Pfn,
    order: Order,
    /// References there are to be once it thaws, the holder's included.
    references: u32,
}

/// Descriptors of `T`s set aside, so that blocks can be halved whatever memory there is.
#[derive(Debug)]
pub(crate) struct Descriptors<'s, 'a, M: Machine, T: Owner> {
    owners: &'s Owners<'a, M>,
    unborn: Prefilled<'s, 'a, M>,
    kind: PhantomData<fn() -> T>,
}

impl<M: Machine, T: Owner> Descriptors<'_, '_, M, T> {
    /// Descriptors left.
    pub(crate) const fn left(&self) -> Count {
        self.unborn.left()
    }

    fn take(&mut self) -> Option<NonNull<Descriptor<T>>> {
        Some(self.unborn.alloc()?.into_raw().cast())
    }
}

impl<'a, M: Machine, T: Owner> Shared<'a, M, T> {
    /// Freezes the block if this reference and `others` are all there are.
    ///
    /// # Errors
    /// Somebody else refers to it; the reference comes back.
    ///
    /// # Safety
    /// The others are references that no value stands for, and the caller answers for them: they were
    /// [kept](Shared::keep), and are given up by nobody else as long as this is frozen.
    pub(crate) unsafe fn freeze(self, Count(others): Count) -> Result<Frozen<'a, M, T>, Self> {
        let references = others + 1;
        match self.life().freeze(references) {
            None => Err(self),
            Some(()) => {
                let this = ManuallyDrop::new(self);
                let (owners, descriptor) = (this.owners(), this.descriptor());
                Ok(Frozen { owners, descriptor, head: this.head(), order: this.order(), references })
            }
        }
    }
}

impl<'a, M: Machine, T: Owner> Owned<'a, M, T> {
    /// Freezes the block if nobody else refers to it.
    ///
    /// # Errors
    /// Somebody does; it comes back.
    pub(crate) fn freeze(self) -> Result<Frozen<'a, M, T>, Self> {
        // SAFETY: there are no others.
        let frozen = unsafe { self.into_shared().freeze(Count(0)) };
        // SAFETY: it was just shared.
        frozen.map_err(|shared| unsafe { Self::from_shared(shared) })
    }
}

impl<'a, M: Machine, T: Owner> Frozen<'a, M, T> {
    pub(crate) const fn owners(&self) -> &'a Owners<'a, M> {
        self.owners
    }

    /// The first frame.
    pub(crate) const fn head(&self) -> Pfn {
        self.head
    }

    /// The size.
    pub(crate) const fn order(&self) -> Order {
        self.order
    }

    /// The frames of the block.
    pub(crate) const fn range(&self) -> PfnRange {
        PfnRange::new(self.head, self.head.plus(self.order.pages()))
    }

    pub(crate) const fn descriptor(&self) -> NonNull<Descriptor<T>> {
        self.descriptor
    }

    fn described(&self) -> &Descriptor<T> {
        // SAFETY: DESC-2, it is frozen, and not given back before it thaws.
        unsafe { self.descriptor.as_ref() }
    }

    /// Lets it be referred to again.
    pub(crate) fn thaw(self) -> Shared<'a, M, T> {
        let this = ManuallyDrop::new(self);
        this.begin();
        Shared::new(this.owners, this.descriptor, this.head, this.order)
    }

    /// Lets it be referred to again, and owned by whoever has the result.
    ///
    /// # Safety
    /// The caller owns it: it was frozen from what is [owned](Owned::freeze), or is a part of that.
    pub(crate) unsafe fn thaw_owned(self) -> Owned<'a, M, T> {
        let block = self.owners.pages().own_described(self.head);
        Owned::new(self.thaw(), block)
    }

    /// Leaves it frozen: its head stands for it, for [`Owners::frozen_from_raw`].
    #[must_use = "nobody else thaws the block"]
    pub(crate) fn into_raw(self) -> Pfn {
        ManuallyDrop::new(self).head
    }

    fn begin(&self) {
        self.described().life().begin(self.head, self.order, self.owners.keeper, self.references);
    }

    /// Says how many references without values there are to be besides the holder's, once it thaws.
    pub(crate) const fn keep(&mut self, Count(others): Count) {
        self.references = others + 1;
    }

    /// Moves to another plain block of the same size, which is charged as the old one was. Gives the old block.
    ///
    /// # Errors
    /// Gives the new block back if it is of another size.
    pub(crate) fn relocate(&mut self, block: Block<'a, M>) -> Result<Block<'a, M>, Block<'a, M>> {
        if block.order() != self.order || !core::ptr::eq(block.allocator(), self.owners.pages()) {
            return Err(block);
        }
        let pages = self.owners.pages();
        let new = block.into_raw();
        pages.swap_groups(self.head, new);
        let old = pages.give_block_to(new, self.head, T::KIND, self.descriptor);
        self.head = new;
        Ok(old)
    }

    /// Halves the block in place. The upper half gets one of `descriptors` and what `part` makes of the owner, and is to
    /// have the holder's reference alone.
    ///
    /// # Errors
    /// Gives it back if it is a single page, or no descriptor is left, or those are others' than the block's.
    pub(crate) fn halve(
        mut self,
        descriptors: &mut Descriptors<'_, 'a, M, T>,
        part: impl FnOnce(&T) -> T,
    ) -> Result<(Self, Self), Self> {
        let Some(order) = self.order.down() else { return Err(self) };
        let ours = core::ptr::eq(descriptors.owners, self.owners);
        let Some(descriptor) = ours.then(|| descriptors.take()).flatten() else { return Err(self) };
        // SAFETY: the memory of descriptors is never anything else (`Descriptor`).
        let described = unsafe { descriptor.as_ref() };
        // SAFETY: the descriptor was just had.
        unsafe { described.prepare(part(&self)) };
        let head = self.head.buddy(order);
        self.owners.pages().halve(self.head, order, OwnerWord::described(T::KIND, descriptor));
        self.owners.count_halved::<T>();
        self.order = order;
        let upper = Self { owners: self.owners, descriptor, head, order, references: 1 };
        Ok((self, upper))
    }

    /// Joins two buddies, the lower one first, which stays. Gives what owned the other.
    ///
    /// # Errors
    /// Gives both back if they are not two halves of one block, paid for by one group.
    pub(crate) fn join(mut self, upper: Self) -> Result<(Self, T), (Self, Self)> {
        let alike = upper.order == self.order && core::ptr::eq(upper.owners, self.owners);
        let join = || self.owners.pages().join(self.head, upper.head, self.order);
        let Some(order) = alike.then(join).flatten() else { return Err((self, upper)) };
        let upper = ManuallyDrop::new(upper);
        // SAFETY: it is frozen, and never thaws.
        let owner = unsafe { upper.described().take() };
        self.owners.count_joined::<T>(upper.descriptor);
        self.order = order;
        Ok((self, owner))
    }

    /// Makes the block plain, and hands out its owner. Of the references that it was frozen with none is left.
    pub(crate) fn into_block(self) -> (Block<'a, M>, T) {
        let this = ManuallyDrop::new(self);
        let last = ManuallyDrop::new(Shared::new(this.owners, this.descriptor, this.head, this.order));
        // SAFETY: it is frozen, so there is no other reference, and it never thaws.
        let owner = unsafe { this.owners.retire(&last) };
        (this.owners.pages().own_described(this.head), owner)
    }
}

impl<M: Machine, T: Owner> Deref for Frozen<'_, M, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: DESC-2, it is frozen: the owner is there, and the holder's alone.
        unsafe { self.described().owner() }
    }
}

impl<M: Machine, T: Owner> Drop for Frozen<'_, M, T> {
    fn drop(&mut self) {
        self.begin();
        drop(Shared::new(self.owners, self.descriptor, self.head, self.order));
    }
}

impl<M: Machine, T: Owner> fmt::Debug for Frozen<'_, M, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Frozen({}, {:?}, {:?})", T::KIND.name(), self.head, self.order)
    }
}

impl<'a, M: Machine> Owners<'a, M> {
    /// Sets descriptors aside.
    ///
    /// # Errors
    /// There is no memory for all of them; none is set aside.
    pub(crate) fn descriptors<T: Owner>(&self, count: Count) -> Result<Descriptors<'_, 'a, M, T>, NoMemory> {
        Ok(Descriptors { owners: self, unborn: self.cache_of::<T>().prefill(count)?, kind: PhantomData })
    }

    /// Takes back a block that was left frozen, to be referred to by its holder alone once it thaws.
    ///
    /// # Panics
    /// The frame heads no block that a `T` owns.
    ///
    /// # Safety
    /// It was left frozen by [`Frozen::into_raw`], of these owners, and is taken back once.
    pub(crate) unsafe fn frozen_from_raw<T: Owner>(&'a self, head: Pfn) -> Frozen<'a, M, T> {
        let (descriptor, order) = self.descriptor_at(head);
        Frozen { owners: self, descriptor, head, order, references: 1 }
    }
}
