//! All caches of a machine, and the way from an address to its cache.
//!
//! Cost: allocating and freeing is what `cpu` costs.
#![expect(unsafe_code, reason = "caches live in objects of the cache of caches")]

use core::fmt;
use core::num::NonZeroU16;
use core::ptr::NonNull;

use thiserror::Error;

use super::cache::{Cache, mark, unmark};
use super::cpu::{CpuSheaf, Slot};
use super::debug::SlabDebug;
use super::descriptor::{Slab, SlabPointer};
use super::kmalloc::{CLASSES, Class, LargeBlocks};
use super::refill::Patience;
use super::roster::AllCaches;
use super::sheaf::Sheaf;
use super::spec::{CacheSpec, CreateError};
use crate::OwnerKind;
use crate::desc::word::Page;
use crate::descriptor::{Described, Descriptor, Keeper};
use crate::lock::Mutex;
use crate::lock_order::class;
use crate::machine::Machine;
use crate::page::PageAllocator;
use crate::undo::Undo;
use crate::units::{Bytes, Pfn, PfnRange};

/// There is no memory for an object.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error("no memory for an object")]
pub struct NoMemory;

/// All caches of a machine.
///
/// Dropping it gives every page back, whatever is still allocated; nothing can refer to that any more.
pub struct KmemCaches<'a, M: Machine> {
    pub(crate) pages: &'a PageAllocator<'a, M>,
    /// Whose slabs' descriptors are.
    pub(crate) keeper: Keeper,
    pub(super) cpus: NonZeroU16,
    pub(super) first: First,
    pub(super) kmalloc: [Class; CLASSES],
    pub(super) large: LargeBlocks,
    pub(super) all: Mutex<class::AllCaches, AllCaches>,
    /// Which caches are debugged.
    pub(super) debug: SlabDebug,
}

// SAFETY: caches are `Sync`, and live as long as this.
unsafe impl<M: Machine> Sync for KmemCaches<'_, M> {}
// SAFETY: as above.
unsafe impl<M: Machine> Send for KmemCaches<'_, M> {}

/// The caches that the others are made of.
#[derive(Clone, Copy, Debug)]
pub(super) struct First {
    /// Of caches.
    pub(super) caches: NonNull<Cache>,
    /// Of slabs' descriptors.
    pub(super) slabs: NonNull<Cache>,
    /// Of sheaves.
    pub(super) sheaves: NonNull<Cache>,
    /// Of caches' sides for all CPUs.
    pub(super) cpus: NonNull<Cache>,
}

impl<M: Machine> fmt::Debug for KmemCaches<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KmemCaches").field("cpus", &self.cpus).finish_non_exhaustive()
    }
}

/// A cache that is alive: the first ones and those of `kmalloc` as long as all are, others as long as their handles.
///
/// # Safety
/// The cache is one of those, for as long as `'c`.
#[inline(always)]
pub(super) const unsafe fn live<'c>(cache: NonNull<Cache>) -> &'c Cache {
    // SAFETY: the caller's promise.
    unsafe { cache.as_ref() }
}

impl<M: Machine> KmemCaches<'_, M> {
    /// Makes a cache.
    ///
    /// # Errors
    /// No slab holds such an object, or there is no memory.
    pub(super) fn new_cache(&self, spec: &CacheSpec<'_>) -> Result<NonNull<Cache>, CreateError> {
        let mut cache = self.hardened(self.plan_debugged(spec)?);
        let place = self.alloc_for(self.first.caches, Patience::Waits)?.cast::<Cache>();
        let unused = Undo::new(|| self.free_for(self.first.caches, place.cast()));
        cache.sides = self.new_sides(&cache)?;
        unused.forget();
        // SAFETY: the place is an object of the cache of caches, just allocated, and as large and aligned as a cache.
        unsafe { place.write(cache) };
        self.all.lock(self.pages.machine()).push(place);
        Ok(place)
    }

    /// An empty sheaf that is nobody's.
    pub(super) fn new_sheaf(&self, patience: Patience) -> Result<NonNull<Sheaf>, NoMemory> {
        let sheaf = self.alloc_for(self.first.sheaves, patience)?.cast::<Sheaf>();
        // SAFETY: the object is as large and aligned as a sheaf, and was just allocated.
        unsafe { sheaf.write(Sheaf::new()) };
        Ok(sheaf)
    }

    /// An object of one of the first caches.
    pub(super) fn alloc_for(&self, cache: NonNull<Cache>, patience: Patience) -> Result<NonNull<u8>, NoMemory> {
        // SAFETY: the first caches live as long as `self`.
        let cache = unsafe { live(cache) };
        match patience {
            Patience::Waits => self.alloc_from(cache),
            Patience::Never => Ok(cache.object(self.alloc_slowly(cache, patience)?)),
        }
    }

    /// Takes back an object of one of the first caches.
    pub(super) fn free_for(&self, cache: NonNull<Cache>, object: NonNull<u8>) {
        // SAFETY: as above.
        self.free_to(unsafe { live(cache) }, object);
    }

    /// Allocates an object of a cache.
    #[inline(always)]
    #[track_caller]
    pub(super) fn alloc_from(&self, cache: &Cache) -> Result<NonNull<u8>, NoMemory> {
        Ok(cache.object(self.alloc_slot(cache.sides.of(self.pages.machine().cpu()), || cache)?))
    }

    /// Allocates an object of the cache that this is a side of, and gives its slot.
    #[inline(always)]
    #[track_caller]
    pub(super) fn alloc_slot<'c>(&self, cpu: &CpuSheaf, cache: impl Fn() -> &'c Cache) -> Result<Slot, NoMemory> {
        let machine = self.pages.machine();
        if let Some(faults) = machine.injected_faults()
            && faults.should_failslab(Bytes(cache().layout.size as usize)).is_some()
        {
            return Err(NoMemory);
        }
        match cpu.take(machine) {
            Some(slot) => {
                unmark(machine, slot);
                cache().fence_allocated(machine, slot);
                Ok(slot)
            }
            None => self.alloc_slowly(cache(), Patience::Waits),
        }
    }

    /// Takes back an object that is known to be the cache's, and allocated.
    #[inline(always)]
    #[track_caller]
    pub(super) fn free_to(&self, cache: &Cache, object: NonNull<u8>) {
        self.free_slot(cache.slot(object), cache.sides.of(self.pages.machine().cpu()), || cache);
    }

    /// Takes back a slot of the cache that this is a side of.
    #[inline(always)]
    #[track_caller]
    pub(super) fn free_slot<'c>(&self, slot: Slot, cpu: &CpuSheaf, cache: impl Fn() -> &'c Cache) {
        let machine = self.pages.machine();
        mark(machine, slot);
        cache().fence_free(machine, slot);
        if let Err(slot) = cpu.put(machine, slot) {
            self.free_slowly(cache(), slot);
        }
    }

    /// The slab that an address lies in, if it is in one.
    ///
    /// It stays one while the caller owns an object in it, or holds its cache's lock and it is on a list of that.
    #[inline(always)]
    pub(super) fn slab_of(&self, address: NonNull<u8>) -> Option<SlabPointer> {
        let page = self.pages.page_at(self.pages.machine().physical(address))?;
        page.owner().descriptor(OwnerKind::Slab)
    }

    /// DESC-1: whether what a page's word leads to is the descriptor of a slab, of a cache, and names the page. For who has time to
    /// ask.
    pub(super) fn is_slab_of(&self, slab: SlabPointer, address: NonNull<u8>) -> bool {
        // Descriptors and caches are objects, so their pages are slabs'.
        let is_object = |address| {
            let owner = self.pages.page_at(self.pages.machine().physical(address)).map(Page::owner);
            owner.is_some_and(|owner| owner.is(OwnerKind::Slab))
        };
        if !is_object(slab.cast()) {
            return false;
        }
        // SAFETY: it is in an object, which is readable, and is a descriptor, or will not name the page.
        let descriptor = unsafe { slab.as_ref() };
        let pfn = Pfn::containing(self.pages.machine().physical(address));
        let names = |described: Described| pfn.is_some_and(|pfn| described.range().contains(pfn));
        if !descriptor.life().look().is_some_and(names) {
            return false;
        }
        // SAFETY: it has the reference of its cache.
        let slab = unsafe { descriptor.owner() };
        // SAFETY: as above: it is in an object.
        is_object(slab.cache().cast()) && unsafe { live(slab.cache()) }.sides == slab.sides()
    }

    /// The pages of the slab that an address lies in, at this moment; `None` if it is in none.
    #[inline]
    pub fn slab_pages(&self, address: NonNull<u8>) -> Option<PfnRange> {
        let _walking = self.pages.gate().enter();
        let slab = self.slab_of(address)?;
        // SAFETY: descriptors are type-stable while somebody walks.
        let described = unsafe { slab.as_ref() }.life().look()?;
        Some(described.range())
    }
}

/// A slab's descriptor in its place, unborn: what the cache of slabs' descriptors constructs.
pub(super) fn unborn<T>(bytes: &mut [core::mem::MaybeUninit<u8>]) {
    debug_assert!(bytes.len() >= size_of::<Descriptor<T>>());
    // SAFETY: the cache of these descriptors makes objects of their size and alignment.
    unsafe { bytes.as_mut_ptr().cast::<Descriptor<T>>().write(Descriptor::unborn()) };
}

const _: () = assert!(align_of::<Descriptor<Slab>>() == 16);

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::units::Order;

    /// Pages come with whatever their last owner left there, and a walker may look at a descriptor that nobody has begun.
    #[test]
    fn a_descriptor_that_was_constructed_is_nobodys_whatever_stood_there() {
        let mut place = core::mem::MaybeUninit::new(Descriptor::<u32>::unborn());
        // SAFETY: it is there.
        let descriptor = unsafe { place.assume_init_ref() };
        // SAFETY: nobody else knows it.
        unsafe { descriptor.begin(Pfn::new(16), Order::ZERO, Keeper::NOBODY, 7) };
        assert!(descriptor.life().look().is_some());
        let start = place.as_mut_ptr().cast();
        // SAFETY: so many bytes are the place's.
        unborn::<u32>(unsafe { core::slice::from_raw_parts_mut(start, size_of::<Descriptor<u32>>()) });
        // SAFETY: it was just constructed.
        assert_eq!(unsafe { place.assume_init_ref() }.life().look(), None);
    }
}
