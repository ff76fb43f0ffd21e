//! What plays physical memory in an interpreter, which maps no files: heap memory. Lowmem is one allocation, each frame
//! of highmem one of its own, made when it is first looked at.
//!
//! A pointer is good for what its place in the kernel's address space would be good for: one into the direct map for all of it,
//! one into a slot for the slot's page and not a byte beyond (HIGH-1). That a slot that was given up is out of reach, only a
//! machine with mappings can say; there is one address to a byte here, so a frame in two slots stands at the same.
//!
//! Invariant MEMORY-1: the allocations are this value's alone until it drops, and all addresses are derived from theirs.

use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicPtr, Ordering};
use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::boxed::Box;
use std::io;
use std::vec::Vec;

use crate::units::{Order, PAGE_SIZE, Pfn, PfnRange, PhysAddr};

/// What frame 0 is aligned to: a block is aligned to its size then.
const ALIGN: usize = PAGE_SIZE << Order::LIMIT.index();

pub(super) struct Memory {
    lowmem: NonNull<u8>,
    /// Null where nobody has looked yet.
    highmem: Box<[AtomicPtr<u8>]>,
    /// What each slot shows; null if nothing.
    slots: Box<[AtomicPtr<u8>]>,
    lowmem_end: Pfn,
    end: Pfn,
}

// SAFETY: `lowmem` is only an address (MEMORY-1); the value hands out addresses, and whoever uses them answers for it.
unsafe impl Send for Memory {}
// SAFETY: as above; frames are made and shown with atomics.
unsafe impl Sync for Memory {}

/// What may be done to a page. There is no protection here: a free page stays within reach.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Access {
    None,
    All,
}

/// So many pages, or one if there are none, aligned to so many bytes.
fn layout(pages: usize, align: usize) -> Layout {
    Layout::from_size_align(pages.max(1) * PAGE_SIZE, align).expect("a test's memory is small")
}

fn zeroed(pages: usize, align: usize) -> io::Result<NonNull<u8>> {
    // SAFETY: the layout is not empty.
    NonNull::new(unsafe { alloc_zeroed(layout(pages, align)) }).ok_or(io::ErrorKind::OutOfMemory.into())
}

fn no_frames(count: usize) -> Box<[AtomicPtr<u8>]> {
    // SAFETY: a null pointer is all zeroes, and one of these may be null.
    unsafe { Box::new_zeroed_slice(count).assume_init() }
}

impl Memory {
    /// Zeroed frames up to `end`, of which those below `lowmem_end` are in the direct map, and `slots` slots.
    pub(super) fn new(end: Pfn, lowmem_end: Pfn, slots: usize) -> io::Result<Self> {
        let lowmem_end = lowmem_end.min(end);
        let lowmem = zeroed(lowmem_end.index(), ALIGN)?;
        let highmem = no_frames(end.index() - lowmem_end.index());
        Ok(Self { lowmem, highmem, slots: no_frames(slots), lowmem_end, end })
    }

    pub(super) fn end(&self) -> Pfn {
        self.end
    }

    pub(super) fn lowmem_end(&self) -> Pfn {
        self.lowmem_end
    }

    /// Where a frame of lowmem is.
    #[inline]
    pub(super) fn lowmem(&self, frame: Pfn) -> NonNull<u8> {
        assert!(frame < self.lowmem_end, "{frame:?} is outside the direct map, which ends at {:?}", self.lowmem_end);
        // SAFETY: MEMORY-1, the allocation has a page for each frame of lowmem.
        unsafe { self.lowmem.add(frame.index() * PAGE_SIZE) }
    }

    /// The address of what is at `address`, if that is lowmem.
    #[inline]
    pub(super) fn physical(&self, address: NonNull<u8>) -> PhysAddr {
        PhysAddr(address.addr().get().wrapping_sub(self.lowmem.addr().get()) as u64)
    }

    /// What the slot with this number shows.
    pub(super) fn slot(&self, slot: usize) -> NonNull<u8> {
        NonNull::new(self.slots[slot].load(Ordering::Relaxed)).unwrap_or(NonNull::dangling())
    }

    /// Makes a frame readable and writable in a slot.
    ///
    /// # Safety
    /// Nothing borrows from what shows there now.
    pub(super) unsafe fn show_in_slot(&self, frame: Pfn, slot: usize) -> io::Result<()> {
        // No more than a mapping would be: whoever looks at a frame after another CPU has to be told so by that CPU.
        self.slots[slot].store(self.frame(frame)?.as_ptr(), Ordering::Relaxed);
        Ok(())
    }

    /// Makes a slot show nothing.
    ///
    /// # Safety
    /// Nothing borrows from what shows there now.
    #[expect(clippy::unnecessary_wraps, reason = "a machine with mappings may fail")]
    pub(super) unsafe fn hide_slot(&self, slot: usize) -> io::Result<()> {
        self.slots[slot].store(ptr::null_mut(), Ordering::Relaxed);
        Ok(())
    }

    /// Says what may be done to frames of lowmem.
    ///
    /// # Safety
    /// Nothing borrows from them.
    #[expect(clippy::unnecessary_wraps, reason = "a machine with mappings may fail")]
    pub(super) unsafe fn set_access(&self, frames: PfnRange, _access: Access) -> io::Result<()> {
        assert!(frames.end <= self.lowmem_end, "{frames:?} is outside the direct map");
        Ok(())
    }

    /// What stands in `range`.
    pub(super) fn read(&self, range: PfnRange) -> Vec<u8> {
        assert!(range.end <= self.end);
        let mut bytes = std::vec![0; range.pages() as usize * PAGE_SIZE];
        for (frame, page) in range.frames().zip(bytes.chunks_exact_mut(PAGE_SIZE)) {
            self.read_at(frame, 0, page);
        }
        bytes
    }

    /// Makes `bytes` stand in `range`.
    pub(super) fn write(&self, range: PfnRange, bytes: &[u8]) {
        assert!(range.end <= self.end);
        assert!(bytes.len() == range.pages() as usize * PAGE_SIZE);
        for (frame, page) in range.frames().zip(bytes.chunks_exact(PAGE_SIZE)) {
            self.write_at(frame, 0, page);
        }
    }

    /// Copies out of one frame.
    pub(super) fn read_at(&self, frame: Pfn, offset: usize, bytes: &mut [u8]) {
        let place = self.place(frame, offset, bytes.len());
        // SAFETY: the place lies in the frame, and `bytes` in no allocation of memory's. Nobody writes there meanwhile: a
        // device is told when it may.
        unsafe { place.as_ptr().copy_to_nonoverlapping(bytes.as_mut_ptr(), bytes.len()) };
    }

    /// Copies into one frame.
    pub(super) fn write_at(&self, frame: Pfn, offset: usize, bytes: &[u8]) {
        let place = self.place(frame, offset, bytes.len());
        // SAFETY: as in `read_at`; nobody reads there either.
        unsafe { place.as_ptr().copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
    }

    fn place(&self, frame: Pfn, offset: usize, len: usize) -> NonNull<u8> {
        assert!(frame < self.end && offset + len <= PAGE_SIZE);
        let page = self.frame(frame).expect("the host has memory for what it lends");
        // SAFETY: MEMORY-1, the offset lies in the frame.
        unsafe { page.add(offset) }
    }

    /// Where a frame is, which is made if nobody has looked at it yet.
    fn frame(&self, frame: Pfn) -> io::Result<NonNull<u8>> {
        let Some(index) = frame.index().checked_sub(self.lowmem_end.index()) else { return Ok(self.lowmem(frame)) };
        let place = &self.highmem[index];
        // Acquire pairs with the release below: the frame has been made.
        if let Some(page) = NonNull::new(place.load(Ordering::Acquire)) {
            return Ok(page);
        }
        let page = zeroed(1, PAGE_SIZE)?;
        match place.compare_exchange(ptr::null_mut(), page.as_ptr(), Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => Ok(page),
            Err(other) => {
                // SAFETY: allocated above with this layout, and shown to nobody.
                unsafe { dealloc(page.as_ptr(), layout(1, PAGE_SIZE)) };
                Ok(NonNull::new(other).unwrap_or(page))
            }
        }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: MEMORY-1, allocated in `new` with this layout, and addresses in it end with the machine.
        unsafe { dealloc(self.lowmem.as_ptr(), layout(self.lowmem_end.index(), ALIGN)) };
        for frame in self.highmem.iter_mut().filter_map(|frame| NonNull::new(*frame.get_mut())) {
            // SAFETY: MEMORY-1, allocated in `frame` with this layout; as above.
            unsafe { dealloc(frame.as_ptr(), layout(1, PAGE_SIZE)) };
        }
    }
}
