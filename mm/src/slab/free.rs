//! Freeing by address, and every way in which that can be wrong.
//!
//! Who stores the mark's own value in an object has it searched for when it is freed, and all CPUs of the cache closed for
//! that. An interrupt handler cannot close any (SHEAF-2), so of a handler such an object is turned away as freed twice,
//! unless there is only one CPU, and stays allocated: an object lost does less harm than one that two have.
//!
//! Cost: the look-up of the page's owner, two dependent loads of tables and two of descriptors; one mask for an object of a
//! power of two, one multiplication for any other.
#![expect(unsafe_code, reason = "follows an address to its slab")]

use core::fmt;
use core::panic::Location;
use core::ptr::NonNull;

use thiserror::Error;

use super::cache::{Cache, CacheName, is_marked};
use super::caches::{KmemCaches, live};
use super::debug::{Corruption, History};
use super::descriptor::{Slab, SlabPointer};
use crate::OwnerKind;
use crate::machine::Machine;

/// An address, as reports name it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Address(pub(super) usize);

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// Why an object was not freed; everything is as before.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum FreeObjectError {
    /// Nothing there belongs to any cache.
    #[error("foreign pointer: {0:?} is no object's, of any cache")]
    Foreign(Address),
    /// The object is of another cache.
    #[error("wrong cache: {address:?} is of cache {found}, not of {expected}")]
    WrongCache {
        /// What was to be freed.
        address: Address,
        /// The cache that was to take it.
        expected: CacheName,
        /// The cache that it is of.
        found: CacheName,
    },
    /// The address is in a slab, but no object starts there.
    #[error("misaligned pointer: no object of cache {cache} starts at {address:?}")]
    Misaligned {
        /// What was to be freed.
        address: Address,
        /// The cache whose slab it is in.
        cache: CacheName,
    },
    /// The object is free.
    #[error("double free: {address:?} of cache {cache} is free already{history}")]
    DoubleFree {
        /// What was to be freed.
        address: Address,
        /// Its cache.
        cache: CacheName,
        /// Who had it, if that was recorded.
        history: History,
    },
    /// The object is allocated, but somebody wrote where he may not; that is put right.
    #[error(transparent)]
    Corrupt(#[from] Corruption),
}

impl Address {
    #[inline(always)]
    pub(super) fn of(address: NonNull<u8>) -> Self {
        Self(address.addr().get())
    }
}

impl<M: Machine> KmemCaches<'_, M> {
    /// Takes back whatever stands at `address`, of any cache.
    ///
    /// # Safety
    /// Nobody uses the object any more; if it is none, what is in its memory need only be readable.
    #[inline(always)]
    #[track_caller]
    pub(super) unsafe fn free_at(&self, address: NonNull<u8>) -> Result<(), FreeObjectError> {
        let foreign = FreeObjectError::Foreign(Address::of(address));
        let owner = self.pages.page_at(self.pages.machine().physical(address)).ok_or(foreign)?.owner();
        if !owner.is(OwnerKind::Slab) {
            return Err(foreign);
        }
        // SAFETY: just looked.
        let slab: SlabPointer = unsafe { owner.descriptor_of(OwnerKind::Slab) };
        debug_assert!(
            self.is_slab_of(slab, address),
            "invariant DESC-1 broken: what is at {slab:p} is no slab, or not that of {address:p}"
        );
        // SAFETY: the caller's promise: an object of the slab is its own, so the slab stays.
        let slab = unsafe { slab.as_ref() };
        // SAFETY: as above.
        let slab = unsafe { slab.owner() };
        let sides = slab.sides();
        let cpu = sides.of(self.pages.machine().cpu());
        let exact = address.addr().get() & cpu.address_mask == 0;
        // With its last object the slab may go, and what a function is given by reference has to outlive it.
        let slab = NonNull::from(slab);
        if !exact || is_marked(self.pages.machine(), address) {
            // SAFETY: the caller's promise, and it is the address's slab.
            return unsafe { self.free_checked(slab, address) };
        }
        self.free_slot(address, cpu, || {
            // SAFETY: the object is in no other hands yet, so the slab stays.
            let slab = unsafe { slab.as_ref() };
            // SAFETY: a cache with a slab is alive.
            unsafe { live(slab.cache()) }
        });
        Ok(())
    }

    /// Takes back what stands at `address`, of this cache.
    ///
    /// # Safety
    /// As for [`free_at`](Self::free_at).
    #[track_caller]
    pub(super) unsafe fn free_of(&self, address: NonNull<u8>, expected: &Cache) -> Result<(), FreeObjectError> {
        let slab = self.slab_of(address).ok_or(FreeObjectError::Foreign(Address::of(address)))?;
        // SAFETY: the caller's promise: an object of the slab is its own, so the slab stays.
        let slab = unsafe { slab.as_ref() };
        // SAFETY: as above.
        let slab = unsafe { slab.owner() };
        // SAFETY: a cache with a slab is alive.
        let found = unsafe { live(slab.cache()) };
        if !core::ptr::eq(expected, found) {
            let (expected, found) = (expected.name, found.name);
            return Err(FreeObjectError::WrongCache { address: Address::of(address), expected, found });
        }
        // SAFETY: the caller's promise, and it is the address's slab.
        unsafe { self.free_checked(NonNull::from(slab), address) }
    }

    /// Takes back what stands at `address` in a slab, once it is sure that it is an object, and not free.
    ///
    /// # Safety
    /// As for [`free_at`](Self::free_at), and the address lies in the slab.
    #[inline(never)]
    #[track_caller]
    unsafe fn free_checked(&self, slab: NonNull<Slab>, address: NonNull<u8>) -> Result<(), FreeObjectError> {
        // SAFETY: the caller's promise: an object of the slab is its own, so the slab stays until that is back.
        let slab = unsafe { slab.as_ref() };
        // SAFETY: a cache with a slab is alive.
        let cache = unsafe { live(slab.cache()) };
        let slot = address.map_addr(|address| address.saturating_add(cache.layout.mark as usize));
        let address = Address::of(address);
        if cache.layout.slot_at(slab.offset(slot)).is_none() {
            return Err(FreeObjectError::Misaligned { address, cache: cache.name });
        }
        if let Some(watch) = &cache.watch {
            return self.free_debugged(cache, watch, slot, Location::caller());
        }
        let machine = self.pages.machine();
        if is_marked(machine, slot) && self.is_free(cache, slot) {
            cache.fence_free(machine, slot);
            return Err(FreeObjectError::DoubleFree { address, cache: cache.name, history: History::default() });
        }
        self.free_slot(slot, cache.sides.of(machine.cpu()), || cache);
        Ok(())
    }
}
