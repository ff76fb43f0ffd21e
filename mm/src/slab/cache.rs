//! A cache of objects of one size: what never changes about it, its CPUs' sheaves, and its slabs behind their lock.
//!
//! Every cache, the first ones too, is itself an object of the cache of caches.
//!
//! A *mark* in a free object makes a double free show on the spot: it is written when the object is freed and cleared
//! when it is allocated. An object that is freed with the mark on is looked for wherever free objects can be, so an
//! owner that happens to store the mark's value loses time and nothing else.
//!
//! Where a machine [fences](Machine::fence_object) memory off, so much of an object is open as its owner asked for; of a free
//! one nothing, but what walkers look at, and nothing of what is between objects and behind the last one. In a debugged cache,
//! all.
//!
//! A cache's lock is a leaf (`lock_order`): under it nothing is allocated, no other cache is touched, and the page allocator
//! is not entered.
#![expect(unsafe_code, reason = "objects are bare memory until somebody owns them")]

use core::mem::MaybeUninit;
use core::num::NonZeroU16;
use core::ptr::NonNull;
use core::slice;
use core::sync::atomic::AtomicPtr;

use arrayvec::ArrayString;

use super::cpu::{CpuSheaf, Slot};
use super::debug::Watch;
use super::layout::{MARK, SlabLayout, order_bytes};
use super::lists::Slabs;
use crate::image::{self, Note, NoteFull, layout};
use crate::lock::Mutex;
use crate::lock_order::class;
use crate::machine::Machine;
use crate::page::Request;
use crate::units::{Bytes, CpuId};

/// A cache's name: as much of it as fits.
pub type CacheName = ArrayString<32>;

/// Makes a fresh object what it is to be whenever it is free. Runs once, when the object's slab is made.
pub type Constructor = fn(&mut [MaybeUninit<u8>]);

/// Whether memory that once held an object of the cache may become anything else.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stability {
    /// It may.
    Ordinary,
    /// Only while nobody walks: the objects are descriptors.
    TypeStable,
}

/// A cache.
#[derive(Debug)]
pub(super) struct Cache {
    /// One for each CPU.
    pub(super) cpus: NonNull<CpuSheaf>,
    pub(super) layout: SlabLayout,
    pub(super) name: CacheName,
    pub(super) constructor: Option<Constructor>,
    pub(super) stability: Stability,
    /// How slabs are allocated.
    pub(super) request: Request,
    /// Objects in a sheaf; none if no CPU has one, since objects are checked one by one.
    pub(super) sheaf_objects: u32,
    /// How it is debugged, if it is: then it has no sheaves.
    pub(super) watch: Option<Watch>,
    pub(super) slabs: Mutex<class::Slabs, Slabs>,
    /// Held by whoever closes the CPUs: one at a time does.
    pub(super) closing: Mutex<class::Closing, ()>,
    /// The next of all caches, guarded by the lock of their list.
    pub(super) next: AtomicPtr<Cache>,
}

// SAFETY: what is behind the pointers is either guarded by the lock or `Sync` itself (`CpuSheaf`).
unsafe impl Sync for Cache {}
// SAFETY: as above.
unsafe impl Send for Cache {}

impl Cache {
    /// For who reads an image of memory.
    pub(super) fn write_note(note: &mut Note) -> Result<(), NoteFull> {
        let name = CacheName::new_const();
        note.place("Cache.name.bytes", image::distance(&name, name.as_bytes().as_ptr()))?;
        layout!(note, Self as "Cache": cpus, layout, name, sheaf_objects, slabs, closing, next)?;
        let slabs = Mutex::<class::Slabs, _>::new(Slabs::new(0)).places();
        note.place("Cache.slabs.value", slabs.value)?;
        note.place("Cache.slabs.held", slabs.held)?;
        SlabLayout::write_note(note)?;
        Slabs::write_note(note)?;
        CpuSheaf::write_note(note)
    }

    /// This CPU's side.
    #[inline(always)]
    pub(super) fn cpu(&self, CpuId(cpu): CpuId) -> &CpuSheaf {
        // SAFETY: there is one for each CPU, and MACHINE-CPU says that this is one.
        let place = unsafe { self.cpus.add(usize::from(cpu)) };
        // SAFETY: it was written when the cache was made, and is shared.
        unsafe { place.as_ref() }
    }

    /// The lowest slot of a slab whose object is in it, or the first.
    #[cfg(all(test, not(loom), not(miri)))]
    pub(super) fn slot_in(&self, slab: &super::descriptor::Slab) -> Slot {
        // SAFETY: nobody changes it meanwhile.
        let state = unsafe { slab.state() };
        let slot = (0..self.layout.objects).find(|&slot| state.has(slot)).unwrap_or(0);
        // SAFETY: the slot is below the slab's objects.
        unsafe { slab.first().add((slot * self.layout.stride) as usize) }
    }

    /// Every CPU's side.
    pub(super) const fn all_cpus(&self, cpus: NonZeroU16) -> &[CpuSheaf] {
        // SAFETY: there is one for each CPU, written when the cache was made.
        unsafe { slice::from_raw_parts(self.cpus.as_ptr(), cpus.get() as usize) }
    }

    /// The object of a slot.
    #[inline(always)]
    pub(super) fn object(&self, slot: Slot) -> NonNull<u8> {
        // SAFETY: the object stands in front of its mark, in the same slab.
        unsafe { slot.sub(self.layout.mark as usize) }
    }

    /// The slot of an object of this cache.
    #[inline(always)]
    pub(super) fn slot(&self, object: NonNull<u8>) -> Slot {
        // SAFETY: as above.
        unsafe { object.add(self.layout.mark as usize) }
    }

    /// Opens so many bytes of an object to whoever has it, and nothing up to the next object.
    #[inline(always)]
    pub(super) fn fence<M: Machine>(&self, machine: &M, slot: Slot, open: Bytes) {
        if self.watch.is_none() {
            let place = NonNull::slice_from_raw_parts(self.object(slot), self.layout.stride as usize);
            machine.fence_object(place, open);
        }
    }

    /// Closes what is behind the last object of a slab that starts with this slot.
    pub(super) fn fence_end<M: Machine>(&self, machine: &M, first: Slot) {
        let SlabLayout { stride, objects, order, .. } = self.layout;
        if self.watch.is_none() {
            let used = objects * stride;
            // SAFETY: the objects lie in the slab's block.
            let end = unsafe { self.object(first).add(used as usize) };
            let place = NonNull::slice_from_raw_parts(end, (order_bytes(order) - used) as usize);
            machine.fence_object(place, Bytes(0));
        }
    }

    /// Opens an object to whoever it was just allocated for.
    #[inline(always)]
    pub(super) fn fence_allocated<M: Machine>(&self, machine: &M, slot: Slot) {
        self.fence(machine, slot, Bytes(self.layout.size as usize));
    }

    /// Closes a free object, but for what walkers look at.
    #[inline(always)]
    pub(super) fn fence_free<M: Machine>(&self, machine: &M, slot: Slot) {
        let open = if self.stability == Stability::TypeStable { self.layout.mark } else { 0 };
        self.fence(machine, slot, Bytes(open as usize));
    }

    /// Runs the constructor, if there is one, on the object of a slot, which is nobody's.
    pub(super) fn construct(&self, slot: Slot) {
        let object = self.object(slot);
        if let Some(constructor) = self.constructor {
            // SAFETY: the object is that large, and nobody's.
            let bytes = unsafe { slice::from_raw_parts_mut(object.as_ptr().cast(), self.layout.size as usize) };
            constructor(bytes);
        }
    }
}

/// What stands in the slot of a free object: nothing that an owner is likely to store there.
#[inline(always)]
fn mark_of(slot: Slot) -> u64 {
    slot.addr().get() as u64 + 1
}

/// Opens the mark of a slot to whoever is about to look at it or change it, and fences the object next.
#[inline(always)]
fn open_mark<M: Machine>(machine: &M, slot: Slot) {
    machine.fence_object(NonNull::slice_from_raw_parts(slot, MARK as usize), Bytes(MARK as usize));
}

/// Marks the slot of an object that nobody owns as free.
#[inline(always)]
pub(super) fn mark<M: Machine>(machine: &M, slot: Slot) {
    open_mark(machine, slot);
    // SAFETY: a slot has room for its mark, is aligned to it, and the object is nobody's.
    unsafe { slot.cast::<u64>().write(mark_of(slot)) };
}

/// Makes an object of nobody one that can be given away.
#[inline(always)]
pub(super) fn unmark<M: Machine>(machine: &M, slot: Slot) {
    open_mark(machine, slot);
    // SAFETY: as above.
    unsafe { slot.cast::<u64>().write(0) };
}

/// Whether a slot bears the mark: its object is free, or its owner stored that very value.
#[inline(always)]
pub(super) fn is_marked<M: Machine>(machine: &M, slot: Slot) -> bool {
    open_mark(machine, slot);
    // SAFETY: as above, but that the object may be somebody's: then it is whoever's is freeing it, and says that this much of it
    // is initialised.
    let found = unsafe { slot.cast::<u64>().read() };
    found == mark_of(slot)
}
