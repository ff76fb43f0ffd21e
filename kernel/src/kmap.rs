//! The window of `kmap_local` slots: one page table, in the image, so that it is reachable whatever the direct map
//! covers.
//!
//! Mapping writes one entry; unmapping clears it and then flushes the page on this CPU, so that a stale touch faults
//! at once. A slot is unmapped before it is mapped again, and the processor keeps no entry that is not present, so
//! mapping has nothing to flush; other CPUs never touch this one's slots (HIGH-1). An interrupt handler maps above what it
//! has interrupted, and is done before that goes on.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};

use kernel_core::layout::{KMAP_LOCAL, TABLE_ENTRIES, kmap_address};
use mm::units::{PAGE_SHIFT, Pfn};
use x86_64::VirtAddr;
use x86_64::instructions::tlb;
use x86_64::structures::paging::PageTableFlags;

const MAPPED: PageTableFlags =
    PageTableFlags::PRESENT.union(PageTableFlags::WRITABLE).union(PageTableFlags::NO_EXECUTE);

/// The page table of the window, as the processor reads it.
#[derive(Debug)]
#[repr(C, align(4096))]
pub(crate) struct Window([AtomicU64; TABLE_ENTRIES]);

/// The one window; the kernel's page tables point to it.
pub(crate) static WINDOW: Window = Window([const { AtomicU64::new(0) }; TABLE_ENTRIES]);

impl Window {
    /// Maps `frame` at page `entry`, which is unmapped.
    pub(crate) fn map(&self, entry: usize, frame: Pfn) -> NonNull<u8> {
        // The access through the address is ordered behind this store: the processor walks the tables only then.
        self.0[entry].store(frame.address().0 | MAPPED.bits(), Ordering::Release);
        let page = VirtAddr::new_truncate(KMAP_LOCAL).as_mut_ptr::<u8>().wrapping_add(entry << PAGE_SHIFT);
        // SAFETY: the window lies in the upper half, and its 512 pages do not reach the end of the address space.
        unsafe { NonNull::new_unchecked(page) }
    }

    /// Unmaps page `entry` on this CPU.
    pub(crate) fn unmap(&self, entry: usize) {
        self.0[entry].store(0, Ordering::Release);
        tlb::flush(VirtAddr::new_truncate(kmap_address(entry)));
    }

    /// The pages that are mapped.
    pub(crate) fn mapped(&self) -> impl Iterator<Item = usize> {
        let is_mapped = |entry: &usize| self.0[*entry].load(Ordering::Acquire) != 0;
        (0..TABLE_ENTRIES).filter(is_mapped)
    }
}
