//! A file that plays physical memory, and the address space in which parts of it show.
//!
//! The address space is one reservation that faults everywhere until something is shown in it: a home for each
//! frame, in order, then the slots, each between two pages that always fault.
//!
//! Invariant MEMORY-1: the reservation is this value's alone until it drops (showing and hiding replace pages, they
//! never give them back), all addresses are derived from its base, and lowmem shows from the beginning.

use core::ffi::c_void;
use core::ptr::{self, NonNull};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::vec::Vec;

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap, mmap_anonymous, mprotect, munmap};
use rustix::param::page_size;

use crate::units::{Order, PAGE_SIZE, Pfn, PfnRange, PhysAddr};

/// What frame 0 is aligned to: a block is aligned to its size then.
const ALIGN: usize = PAGE_SIZE << Order::LIMIT.index();

pub(super) struct Memory {
    file: File,
    /// Where the reservation starts; `base` is the first place in it that is aligned.
    reservation: NonNull<u8>,
    base: NonNull<u8>,
    lowmem_end: Pfn,
    end: Pfn,
    slots: usize,
}

// SAFETY: `base` is only an address (MEMORY-1); the value hands out addresses, and whoever uses them answers for it.
unsafe impl Send for Memory {}
// SAFETY: as above; the file is read and written at given offsets, which needs no exclusive access.
unsafe impl Sync for Memory {}

/// What may be done to a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Access {
    None,
    All,
}

impl Memory {
    /// Zeroed frames up to `end`, of which those below `lowmem_end` show, and `slots` slots.
    pub(super) fn new(end: Pfn, lowmem_end: Pfn, slots: usize) -> io::Result<Self> {
        if page_size() != PAGE_SIZE {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "the host's pages are not 4 KiB"));
        }
        let lowmem_end = lowmem_end.min(end);
        let file = File::from(memfd_create("mm-host", MemfdFlags::CLOEXEC)?);
        file.set_len(end.address().0)?;
        let (inaccessible, unbacked) = (ProtFlags::empty(), MapFlags::PRIVATE | MapFlags::NORESERVE);
        // SAFETY: without MAP_FIXED, a new mapping touches no memory that exists.
        let start = unsafe { mmap_anonymous(ptr::null_mut(), Self::bytes(end, slots), inaccessible, unbacked)? };
        let reservation = NonNull::new(start.cast::<u8>()).ok_or(io::ErrorKind::AddrNotAvailable)?;
        // SAFETY: the reservation is longer by as much as may be skipped here.
        let base = unsafe { reservation.add(reservation.align_offset(ALIGN)) };
        let memory = Self { file, reservation, base, lowmem_end, end, slots };
        if lowmem_end > Pfn::new(0) {
            // SAFETY: the reservation is new and has a page for each frame; nothing borrows from it yet.
            unsafe { memory.show(PfnRange::new(Pfn::new(0), lowmem_end), base)? };
        }
        Ok(memory)
    }

    pub(super) fn end(&self) -> Pfn {
        self.end
    }

    pub(super) fn lowmem_end(&self) -> Pfn {
        self.lowmem_end
    }

    /// Where a frame of lowmem shows.
    #[inline]
    pub(super) fn lowmem(&self, frame: Pfn) -> NonNull<u8> {
        assert!(frame < self.lowmem_end, "{frame:?} is outside the direct map, which ends at {:?}", self.lowmem_end);
        // SAFETY: MEMORY-1, the reservation has a page for each frame.
        unsafe { self.base.add(frame.index() * PAGE_SIZE) }
    }

    /// The address of what shows at `address`, if that is lowmem.
    #[inline]
    pub(super) fn physical(&self, address: NonNull<u8>) -> PhysAddr {
        PhysAddr(address.addr().get().wrapping_sub(self.base.addr().get()) as u64)
    }

    /// Where the slot with this number is.
    pub(super) fn slot(&self, slot: usize) -> NonNull<u8> {
        assert!(slot < self.slots);
        // SAFETY: MEMORY-1, behind the frames the reservation has a fault page and a page for each slot.
        unsafe { self.base.add((self.end.index() + 2 * slot + 1) * PAGE_SIZE) }
    }

    /// Makes a frame readable and writable in a slot.
    ///
    /// # Safety
    /// Nothing borrows from what shows there now.
    pub(super) unsafe fn show_in_slot(&self, frame: Pfn, slot: usize) -> io::Result<()> {
        let frames = PfnRange::new(frame, frame.plus(1));
        // SAFETY: MEMORY-1, the slot is a page of the reservation, and nothing borrows from it.
        unsafe { self.show(frames, self.slot(slot)) }
    }

    /// Makes a slot fault again.
    ///
    /// # Safety
    /// Nothing borrows from what shows there now.
    pub(super) unsafe fn hide_slot(&self, slot: usize) -> io::Result<()> {
        // SAFETY: MEMORY-1, the page is a slot of this reservation, and nothing borrows from it.
        unsafe { mprotect(self.slot(slot).as_ptr().cast::<c_void>(), PAGE_SIZE, MprotectFlags::empty())? };
        Ok(())
    }

    /// Says what may be done to frames of lowmem where they show.
    ///
    /// # Safety
    /// Nothing borrows from them.
    pub(super) unsafe fn set_access(&self, frames: PfnRange, access: Access) -> io::Result<()> {
        assert!(frames.end <= self.lowmem_end, "{frames:?} is outside the direct map");
        let flags = match access {
            Access::None => MprotectFlags::empty(),
            Access::All => MprotectFlags::READ | MprotectFlags::WRITE,
        };
        let (start, len) = (self.lowmem(frames.start).as_ptr().cast::<c_void>(), frames.pages() as usize * PAGE_SIZE);
        // SAFETY: MEMORY-1, the pages are of this reservation, and nothing borrows from them.
        unsafe { mprotect(start, len, flags)? };
        Ok(())
    }

    /// Makes frames readable and writable from `address` on.
    ///
    /// # Safety
    /// The reservation has all those pages, and nothing borrows from them.
    unsafe fn show(&self, frames: PfnRange, address: NonNull<u8>) -> io::Result<()> {
        let len = frames.pages() as usize * PAGE_SIZE;
        let (access, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED | MapFlags::FIXED);
        let offset = frames.start.address().0;
        // SAFETY: the caller's promise: what is replaced is this reservation's and not borrowed.
        unsafe { mmap(address.as_ptr().cast::<c_void>(), len, access, flags, &self.file, offset)? };
        Ok(())
    }

    /// What stands in `range`.
    pub(super) fn read(&self, range: PfnRange) -> Vec<u8> {
        assert!(range.end <= self.end);
        let mut bytes = std::vec![0; range.pages() as usize * PAGE_SIZE];
        self.file.read_exact_at(&mut bytes, range.start.address().0).expect("the file is as long as memory");
        bytes
    }

    /// Makes `bytes` stand in `range`.
    pub(super) fn write(&self, range: PfnRange, bytes: &[u8]) {
        assert!(range.end <= self.end);
        assert!(bytes.len() == range.pages() as usize * PAGE_SIZE);
        self.file.write_all_at(bytes, range.start.address().0).expect("the host has memory for what was there before");
    }

    /// Copies out of one frame.
    pub(super) fn read_at(&self, frame: Pfn, offset: usize, bytes: &mut [u8]) {
        assert!(frame < self.end && offset + bytes.len() <= PAGE_SIZE);
        let place = frame.address().0 + offset as u64;
        self.file.read_exact_at(bytes, place).expect("the file is as long as memory");
    }

    /// Copies into one frame.
    pub(super) fn write_at(&self, frame: Pfn, offset: usize, bytes: &[u8]) {
        assert!(frame < self.end && offset + bytes.len() <= PAGE_SIZE);
        let place = frame.address().0 + offset as u64;
        self.file.write_all_at(bytes, place).expect("the host has memory for what it lends");
    }

    /// The size of the reservation: frames, then slots with a fault page before each and one behind the last.
    fn bytes(end: Pfn, slots: usize) -> usize {
        ALIGN + (end.index() + 2 * slots + 1) * PAGE_SIZE
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let len = Self::bytes(self.end, self.slots);
        // SAFETY: MEMORY-1, the reservation is this value's alone, and addresses in it end with the machine.
        let unmapped = unsafe { munmap(self.reservation.as_ptr().cast::<c_void>(), len) };
        debug_assert!(unmapped.is_ok());
    }
}
