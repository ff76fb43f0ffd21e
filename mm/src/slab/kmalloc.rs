//! Memory by size alone: classes of sizes, each a cache; above the largest, blocks of pages with an owner word that says
//! so. The way back needs nothing but the address.
//!
//! Cost: finding the class is a table look-up, and nothing at all for a size known at compile time.
//! Source: Linux's `kmalloc_caches`, which has the same classes.
#![expect(unsafe_code, reason = "lends bare memory")]

use core::alloc::Layout;
use core::ptr::{self, NonNull};

use super::cache::Cache;
use super::caches::{KmemCaches, NoMemory, live};
use super::free::{Address, FreeObjectError};
use super::sides::Sides;
use super::spec::{CacheSpec, CreateError};
use crate::OwnerKind;
use crate::desc::owner_word::OwnerWord;
use crate::machine::Machine;
use crate::page::Request;
use crate::sync::{AtomicU32, Ordering};
use crate::units::{Bytes, Count, Order, PAGE_SHIFT, Pfn, PfnRange};

const SIZES: [(u32, &str); CLASSES] = [
    (8, "kmalloc-8"),
    (16, "kmalloc-16"),
    (32, "kmalloc-32"),
    (64, "kmalloc-64"),
    (96, "kmalloc-96"),
    (128, "kmalloc-128"),
    (192, "kmalloc-192"),
    (256, "kmalloc-256"),
    (512, "kmalloc-512"),
    (1024, "kmalloc-1k"),
    (2048, "kmalloc-2k"),
    (4096, "kmalloc-4k"),
    (8192, "kmalloc-8k"),
];
pub(super) const CLASSES: usize = 13;
const LARGEST: usize = 8192;

/// log2 of the step in which classes are told apart up to [`SMALL`] bytes.
const STEP: u32 = 3;
const SMALL: usize = 192;
/// The class of sizes up to each multiple of eight.
const SMALL_CLASSES: [u8; (SMALL >> STEP) + 1] = {
    let mut classes = [0; (SMALL >> STEP) + 1];
    let mut eighth = 1;
    let mut class = 0;
    while eighth < classes.len() {
        if (SIZES[class as usize].0 as usize) < eighth << STEP {
            class += 1;
        }
        classes[eighth] = class;
        eighth += 1;
    }
    classes
};
/// The class of 256 bytes.
const FIRST_POWER: usize = 7;

/// The class for a size; `None` if it is too large for one.
#[inline(always)]
const fn class(size: usize) -> Option<usize> {
    if size <= SMALL {
        Some(SMALL_CLASSES[(size + (1 << STEP) - 1) >> STEP] as usize)
    } else if size <= LARGEST {
        Some(FIRST_POWER + (usize::BITS - ((size - 1) >> 8).leading_zeros()) as usize)
    } else {
        None
    }
}

/// The size to ask [`kmalloc`](KmemCaches::kmalloc) for so that what comes is as large and as aligned as `layout` says.
/// Alignments above a block's are refused as sizes above a block's are.
#[inline]
pub const fn size_for(layout: Layout) -> Bytes {
    let (size, align) = (layout.size(), layout.align());
    let size = if size < align { align } else { size };
    match class(size) {
        Some(class) if alignment(class) >= align => Bytes(size),
        // The next class is the next power of two.
        Some(_) => Bytes(size.next_power_of_two()),
        // Blocks are aligned to their size.
        None => Bytes(size),
    }
}

/// What every object of a class is aligned to.
const fn alignment(class: usize) -> usize {
    1 << SIZES[class].0.trailing_zeros()
}

/// The cache of a class, and its sides at hand.
#[derive(Clone, Copy, Debug)]
pub(super) struct Class {
    cache: NonNull<Cache>,
    sides: Sides,
}

impl Class {
    /// Stands where there is none yet.
    pub(super) const NONE: Self = Self { cache: NonNull::dangling(), sides: Sides::NONE };
}

/// How many large blocks are allocated by size.
#[derive(Debug)]
pub(super) struct LargeBlocks {
    blocks: AtomicU32,
    pages: AtomicU32,
}

impl LargeBlocks {
    pub(super) fn none() -> Self {
        Self { blocks: AtomicU32::new(0), pages: AtomicU32::new(0) }
    }

    // Relaxed: counts, which guard nothing.
    fn count_in(&self, order: Order) {
        self.blocks.fetch_add(1, Ordering::Relaxed);
        self.pages.fetch_add(order.pages(), Ordering::Relaxed);
    }

    fn count_out(&self, pages: u32) {
        self.blocks.fetch_sub(1, Ordering::Relaxed);
        self.pages.fetch_sub(pages, Ordering::Relaxed);
    }

    pub(super) fn blocks(&self) -> Count {
        Count(self.blocks.load(Ordering::Relaxed))
    }

    pub(super) fn pages(&self) -> Count {
        Count(self.pages.load(Ordering::Relaxed))
    }
}

/// Makes the classes.
pub(super) fn create<M: Machine>(caches: &KmemCaches<'_, M>) -> Result<[Class; CLASSES], CreateError> {
    let mut made = [Class::NONE; CLASSES];
    for ((size, name), class) in SIZES.iter().zip(&mut made) {
        // Aligned to the largest power of two in the size.
        let cache = caches.new_cache(&CacheSpec::new(name, *size).aligned(1 << size.trailing_zeros()))?;
        // SAFETY: it was just made, and lives as long as `caches`.
        *class = Class { cache, sides: unsafe { live(cache) }.sides };
    }
    Ok(made)
}

impl<M: Machine> KmemCaches<'_, M> {
    /// Allocates `size` bytes, aligned to eight, and to the size if that is a power of two (up to a block's). What they
    /// hold is whatever their last owner left there.
    ///
    /// # Errors
    /// There is no memory, or no block is that large.
    #[inline]
    #[track_caller]
    pub fn kmalloc(&self, Bytes(size): Bytes) -> Result<NonNull<u8>, NoMemory> {
        match class(size) {
            Some(class) => {
                let class = &self.kmalloc[class];
                // SAFETY: the classes live as long as `self`.
                let cache = || unsafe { live(class.cache) };
                // Their objects have no constructor, so a slot is an object.
                let slot = self.alloc_slot(class.sides.of(self.pages.machine().cpu()), cache)?;
                cache().fence(self.pages.machine(), slot, Bytes(size));
                Ok(slot)
            }
            None => self.alloc_large(size),
        }
    }

    /// Frees what [`kmalloc`](Self::kmalloc) or [`krealloc`](Self::krealloc) gave, or any object of any cache.
    ///
    /// # Errors
    /// Says what stands there instead; nothing has changed.
    ///
    /// # Safety
    /// Nobody uses the memory any more, and its first eight bytes are initialised: there the mark of what is free would be.
    #[inline]
    #[track_caller]
    pub unsafe fn kfree(&self, address: NonNull<u8>) -> Result<(), FreeObjectError> {
        // SAFETY: the caller's promise.
        match unsafe { self.free_at(address) } {
            Err(FreeObjectError::Foreign(_)) => self.free_large(address),
            freed => freed,
        }
    }

    /// The bytes that the allocation at `address` really has.
    ///
    /// # Errors
    /// Nothing that can be freed starts there.
    ///
    /// # Safety
    /// If that is in a slab, an object of the slab is the caller's: the one at `address`, if one starts there.
    pub unsafe fn ksize(&self, address: NonNull<u8>) -> Result<Bytes, FreeObjectError> {
        // SAFETY: the caller's promise.
        Ok(unsafe { self.room_at(address) }?.0)
    }

    /// The same, and the cache that it is of, if it is no block by itself.
    ///
    /// # Safety
    /// As for [`ksize`](Self::ksize), for as long as the cache is used.
    unsafe fn room_at(&self, address: NonNull<u8>) -> Result<(Bytes, Option<&Cache>), FreeObjectError> {
        if let Some(range) = self.large_at(address) {
            return Ok((Bytes((range.pages() as usize) << PAGE_SHIFT), None));
        }
        let slab = self.slab_of(address).ok_or(FreeObjectError::Foreign(Address::of(address)))?;
        // SAFETY: the caller's promise: an object of the slab is its own, so the slab stays.
        let slab = unsafe { slab.as_ref() };
        // SAFETY: as above.
        let slab = unsafe { slab.owner() };
        // SAFETY: a cache with a slab is alive.
        let cache = unsafe { live(slab.cache()) };
        match cache.layout.slot_at(slab.offset(cache.slot(address))) {
            Some(_) => Ok((Bytes(cache.layout.size as usize), Some(cache))),
            None => Err(FreeObjectError::Misaligned { address: Address::of(address), cache: cache.name }),
        }
    }

    /// Gives an allocation another size, in place if that is in its class. What fits of the contents is kept.
    ///
    /// # Errors
    /// There is no memory, or nothing was allocated there: the allocation is as before.
    ///
    /// # Safety
    /// The memory at `address` is the caller's, its first eight bytes are initialised, and if it moves, nobody uses the old place
    /// any more.
    #[track_caller]
    pub unsafe fn krealloc(&self, address: NonNull<u8>, size: Bytes) -> Result<NonNull<u8>, ReallocError> {
        // SAFETY: the caller's promise.
        let (old, cache) = unsafe { self.room_at(address) }?;
        let open = |bytes| match cache {
            Some(cache) => cache.fence(self.pages.machine(), cache.slot(address), bytes),
            None => self.fence_large(address, old, bytes),
        };
        if fits_as_it_is(old, size) {
            open(size);
            return Ok(address);
        }
        let new = self.kmalloc(size)?;
        open(old);
        // SAFETY: both are that long at least, and the new one was just allocated, so they do not overlap.
        unsafe { ptr::copy_nonoverlapping(address.as_ptr(), new.as_ptr(), old.0.min(size.0)) };
        // SAFETY: the caller's promise.
        if let Err(error) = unsafe { self.kfree(address) } {
            // What was copied may be uninitialised, or look like a free object's mark.
            // SAFETY: it was just allocated for as many bytes.
            unsafe { new.as_ptr().write_bytes(0, size.0.min(size_of::<u64>())) };
            // SAFETY: nobody has been told of it.
            let freed = unsafe { self.kfree(new) };
            debug_assert_eq!(freed, Ok(()), "it was just allocated");
            return Err(error.into());
        }
        Ok(new)
    }

    #[cold]
    fn alloc_large(&self, size: usize) -> Result<NonNull<u8>, NoMemory> {
        let pages = size.div_ceil(1 << PAGE_SHIFT).checked_next_power_of_two().ok_or(NoMemory)?;
        let order = u8::try_from(pages.trailing_zeros()).ok().and_then(Order::new).ok_or(NoMemory)?;
        let head = self.pages.alloc_raw(Request::new(order)).map_err(|_| NoMemory)?;
        self.pages.set_owner(PfnRange::new(head, head.plus(1)), OwnerWord::bare(OwnerKind::LargeKmalloc, order));
        self.large.count_in(order);
        let start = self.pages.machine().direct_map(head);
        self.fence_large(start, Bytes((order.pages() as usize) << PAGE_SHIFT), Bytes(size));
        Ok(start)
    }

    /// Opens so many bytes of a block to whoever has it.
    #[inline(always)]
    fn fence_large(&self, start: NonNull<u8>, Bytes(room): Bytes, open: Bytes) {
        self.pages.machine().fence_object(NonNull::slice_from_raw_parts(start, room), open);
    }

    /// The block that starts at `address`, if it was allocated by size.
    fn large_at(&self, address: NonNull<u8>) -> Option<PfnRange> {
        let head = Pfn::containing(self.pages.machine().physical(address))?;
        let starts = address.addr().get().is_multiple_of(1 << PAGE_SHIFT);
        let large = self.pages.page(head)?.owner().is(OwnerKind::LargeKmalloc);
        let (_, order) = self.pages.page_state(head);
        (starts && large).then(|| PfnRange::new(head, head.plus(order.pages())))
    }

    #[cold]
    fn free_large(&self, address: NonNull<u8>) -> Result<(), FreeObjectError> {
        let foreign = FreeObjectError::Foreign(Address::of(address));
        let range = self.large_at(address).ok_or(foreign)?;
        self.pages.set_owner(PfnRange::new(range.start, range.start.plus(1)), OwnerWord::PLAIN);
        // SAFETY: the caller of `kfree` promises that nobody uses it.
        unsafe { self.pages.free_raw(range.start) }.map_err(|_| foreign)?;
        self.large.count_out(range.pages());
        Ok(())
    }
}

/// Whether an allocation of `old` bytes is what one of `new` bytes would get.
fn fits_as_it_is(Bytes(old): Bytes, Bytes(new): Bytes) -> bool {
    match (class(old), class(new)) {
        (Some(old_class), Some(new_class)) => old_class == new_class && new <= old,
        (None, None) => {
            let pages = |size: usize| size.div_ceil(1 << PAGE_SHIFT).checked_next_power_of_two();
            // Objects of caches may end before their pages do.
            new <= old && pages(old) == pages(new)
        }
        _ => false,
    }
}

/// Why an allocation has no other size now; it is as before.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ReallocError {
    /// There is no memory for the new one.
    #[error(transparent)]
    NoMemory(#[from] NoMemory),
    /// There is no old one.
    #[error(transparent)]
    NotAllocated(#[from] FreeObjectError),
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::vec::Vec;

    use super::*;
    use crate::host::scaled;

    #[test]
    fn every_size_gets_the_smallest_class_that_holds_it() {
        for size in (0..=LARGEST).step_by(scaled(1, 97)) {
            let smallest = SIZES.iter().position(|&(class, _)| class as usize >= size.max(1)).expect("there is one");
            let found = class(size);
            assert_eq!(found, Some(smallest), "{size} bytes");
        }
        assert_eq!(class(LARGEST + 1), None);
        assert_eq!(class(usize::MAX), None);
    }

    #[test]
    fn an_allocation_stays_where_one_of_the_new_size_would_come_to_as_much() {
        let room = |size: usize| match class(size) {
            Some(class) => SIZES[class].0 as usize,
            None => size.next_power_of_two(),
        };
        let blocks = [14, 15, 16].map(|shift| 1 << shift);
        let rooms: Vec<usize> = SIZES.iter().map(|&(size, _)| size as usize).chain(blocks).collect();
        for &old in &rooms {
            for new in rooms.iter().flat_map(|&size| [size - 1, size, size + 1]) {
                assert_eq!(fits_as_it_is(Bytes(old), Bytes(new)), room(new) == old, "{old} to {new} bytes");
            }
        }
    }

    #[test]
    fn every_layout_gets_a_class_that_is_large_and_aligned_enough_and_no_larger_one_than_it_takes() {
        for align in (0..=13).map(|shift| 1 << shift) {
            for size in (1..=LARGEST).step_by(scaled(1, 997)) {
                let layout = Layout::from_size_align(size, align).expect("a layout");
                let serves = |&class: &usize| SIZES[class].0 as usize >= size && alignment(class) >= align;
                let smallest = (0..CLASSES).find(serves).expect("there is one");
                assert_eq!(class(size_for(layout).0), Some(smallest), "{layout:?}");
            }
        }
        let page_and_more = Layout::from_size_align(LARGEST + 1, 1 << 14).expect("a layout");
        assert_eq!(size_for(page_and_more), Bytes(1 << 14));
        let huge = Layout::from_size_align(1, 1 << 40).expect("a layout");
        assert_eq!(size_for(huge), Bytes(1 << 40));
    }
}
