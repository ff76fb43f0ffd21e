//! A cache of objects of one size: what never changes about it, its CPUs' sheaves, and its slabs behind their lock.
//!
//! Every cache, the first ones too, is itself an object of the cache of caches.
//!
//! A *mark* in a free object is written when the object is freed and cleared when it is allocated. What does not bear it is never
//! handed out, whatever a sheaf or a slab says: so a bit that flips there, or a write to what is free, gives nothing to two
//! owners. An object that is freed with the mark on is looked for wherever free objects can be: so a double free shows on the
//! spot, and an owner that happens to store the mark's value loses time and nothing else.
//!
//! Where a machine [fences](Machine::fence_object) memory off, so much of an object is open as its owner asked for; of a free
//! one nothing, but what walkers look at, and nothing of what is between objects and behind the last one. In a debugged cache,
//! all.
//!
//! A cache's lock is a leaf (`lock_order`): under it nothing is allocated, no other cache is touched, and the page allocator
//! is not entered.
#![expect(unsafe_code, reason = "objects are bare memory until somebody owns them")]

use core::mem::MaybeUninit;
use core::ptr::NonNull;
use core::slice;
use core::sync::atomic::AtomicPtr;

use arrayvec::ArrayString;

use super::cpu::{CpuSheaf, Slot};
use super::debug::Watch;
use super::layout::{MARK, SlabLayout, order_bytes};
use super::lists::Slabs;
use super::sides::Sides;
use crate::image::{self, Note, NoteFull, layout};
use crate::lock::Mutex;
use crate::lock_order::class;
use crate::machine::Machine;
use crate::page::Request;
use crate::units::Bytes;

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
    pub(super) sides: Sides,
    pub(super) layout: SlabLayout,
    pub(super) name: CacheName,
    pub(super) constructor: Option<Constructor>,
    pub(super) stability: Stability,
    /// How slabs are allocated: in the direct map.
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
        layout!(note, Self as "Cache": sides, layout, name, sheaf_objects, slabs, closing, next)?;
        let slabs = Mutex::<class::Slabs, _>::new(Slabs::new(0)).places();
        note.place("Cache.slabs.value", slabs.value)?;
        note.place("Cache.slabs.held", slabs.held)?;
        SlabLayout::write_note(note)?;
        Slabs::write_note(note)?;
        CpuSheaf::write_note(note)
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

/// Opens the mark of a slot to whoever is about to look at it or change it, and fences the object next.
#[inline(always)]
fn open_mark<M: Machine>(machine: &M, slot: Slot) {
    machine.fence_object(NonNull::slice_from_raw_parts(slot, MARK as usize), Bytes(MARK as usize));
}

/// What stands in the upper half of a free object's mark: the lower half of its address, which no owner is likely to store there,
/// and which is at hand without being computed. It is never zero, which many store (`alloc_slab_block`).
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "the lower half")]
pub(super) fn mark_of(slot: Slot) -> u32 {
    slot.addr().get() as u32
}

/// Where that stands.
#[inline(always)]
fn place_of_mark(slot: Slot) -> NonNull<u32> {
    // SAFETY: a slot has room for its mark, and is aligned to it.
    unsafe { slot.cast::<u32>().add(1) }
}

/// Marks the slot of an object that nobody owns as free.
#[inline(always)]
pub(super) fn mark<M: Machine>(machine: &M, slot: Slot) {
    open_mark(machine, slot);
    // SAFETY: the object is nobody's.
    unsafe { place_of_mark(slot).write(mark_of(slot)) };
}

/// Makes an object of nobody one that can be given away.
///
/// # Panics
/// SLAB-1 is broken: it does not bear the mark, so it is somebody's, or was written to since it was freed.
#[inline(always)]
pub(super) fn unmark<M: Machine>(machine: &M, slot: Slot) {
    check_free(machine, slot);
    // SAFETY: a slot has room for its mark, is aligned to it, and the object is nobody's.
    unsafe { slot.cast::<u64>().write(0) };
}

/// Whether a slot bears the mark: its object is free, or its owner stored that very value.
#[inline(always)]
pub(super) fn is_marked<M: Machine>(machine: &M, slot: Slot) -> bool {
    open_mark(machine, slot);
    // SAFETY: the object is nobody's, or whoever's is freeing it, and says that this much of it is initialised.
    let found = unsafe { place_of_mark(slot).read() };
    found == mark_of(slot)
}

/// Looks whether an object that is about to be handed out is free.
///
/// # Panics
/// SLAB-1 is broken.
#[inline(always)]
pub(super) fn check_free<M: Machine>(machine: &M, slot: Slot) {
    if !is_marked(machine, slot) {
        panic_not_free(slot);
    }
}

#[cold]
#[inline(never)]
fn panic_not_free(slot: Slot) -> ! {
    panic!("invariant SLAB-1 broken: {slot:p} is to be handed out, and does not bear the mark of what is free");
}
