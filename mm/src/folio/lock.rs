//! The lock of a folio, as a value: a reference whose holder alone changes the contents and the place of the folio.
//!
//! A bit in the folio's flags, so it spins. Whoever holds one does not allocate what reclaim could have to find, and
//! reclaim itself only tries. It stays locked while it is [frozen](FrozenFolio).
#![expect(unsafe_code, reason = "passes on what freezing asks for")]

use core::mem::ManuallyDrop;
use core::ops::Deref;

use crate::lock::may_wait;
use crate::lock_order::class;
use crate::machine::Machine;
use crate::owner::{Folio, FolioFlags, FolioRef, Frozen};
use crate::units::Count;

/// A folio to which nobody refers, and that is locked.
pub(crate) type FrozenFolio<'a, M> = Frozen<'a, M, Folio>;

/// A folio that is locked until this drops.
#[derive(Debug)]
#[must_use = "the folio is unlocked when this drops"]
pub struct LockedFolio<'a, M: Machine>(FolioRef<'a, M>);

impl<'a, M: Machine> FolioRef<'a, M> {
    /// Locks the folio.
    ///
    /// # Errors
    /// Somebody holds the lock.
    pub fn try_lock(self) -> Result<LockedFolio<'a, M>, Self> {
        let before = self.set(FolioFlags::LOCKED);
        if before.contains(FolioFlags::LOCKED) { Err(self) } else { Ok(LockedFolio(self)) }
    }

    /// Locks the folio. Spins.
    pub fn lock(self) -> LockedFolio<'a, M> {
        may_wait::<class::Folio>(self.owners().machine());
        let mut this = self;
        loop {
            match this.try_lock() {
                Ok(locked) => return locked,
                Err(busy) => this = busy,
            }
            while this.flags().contains(FolioFlags::LOCKED) {
                crate::sync::spin_loop();
            }
        }
    }
}

impl<'a, M: Machine> LockedFolio<'a, M> {
    /// Takes over a lock that is held: of a folio that was frozen, or is a part of one that was.
    pub(crate) const fn held(folio: FolioRef<'a, M>) -> Self {
        Self(folio)
    }

    /// Unlocks it.
    pub fn unlock(self) -> FolioRef<'a, M> {
        self.0.clear(FolioFlags::LOCKED);
        self.into_held()
    }

    /// The reference, with the lock still held: for [`held`](Self::held).
    fn into_held(self) -> FolioRef<'a, M> {
        let this = ManuallyDrop::new(self);
        let folio = core::ptr::from_ref(&this.0);
        // SAFETY: the value is not used any more.
        unsafe { folio.read() }
    }

    /// Freezes the folio if this reference and `others` are all there are.
    ///
    /// # Errors
    /// Somebody else refers to it; it comes back.
    ///
    /// # Safety
    /// As for freezing any owner: the others are references that no value stands for, and the caller answers for them.
    pub(crate) unsafe fn freeze(self, others: Count) -> Result<FrozenFolio<'a, M>, Self> {
        // SAFETY: the caller's promise.
        unsafe { self.into_held().freeze(others) }.map_err(Self::held)
    }
}

impl<'a, M: Machine> Deref for LockedFolio<'a, M> {
    type Target = FolioRef<'a, M>;

    fn deref(&self) -> &FolioRef<'a, M> {
        &self.0
    }
}

impl<M: Machine> Drop for LockedFolio<'_, M> {
    fn drop(&mut self) {
        self.0.clear(FolioFlags::LOCKED);
    }
}
