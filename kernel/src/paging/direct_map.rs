//! Takes free pages out of the direct map, and puts them back when they are used: Linux's `debug_pagealloc`.
//!
//! The direct map consists of the smallest pages then (`build`), so there is an entry for each frame. One that is taken out
//! keeps what it leads to and loses only the bit that says so: so nothing is allocated here, and no lock is taken.
//!
//! Invariants: an entry changes in the hands of whoever has the frame, of whom there is one at a time; nobody else looks at
//! it but the processor. Cost: three tables are looked up for each page; to take pages out, an interrupt for each other CPU
//! that is not idle.

use core::sync::atomic::{AtomicU64, Ordering};

use kernel_core::layout::{DIRECT_MAP, TABLE_ENTRIES};
use mm::owner::TableLevel;
use mm::units::{PAGE_SHIFT, Pfn, PfnRange};
use x86_64::VirtAddr;
use x86_64::instructions::tlb;
use x86_64::structures::paging::PageTableFlags;

use super::entry::{Entry, Target};
use super::tables::{self, ROOT};
use crate::nmi::{self, Errand};
use crate::platform::Platform;

/// With more pages than that, all translations are forgotten at once.
const ONE_BY_ONE: u32 = 32;

/// Takes pages out, so that they are out of reach of every CPU.
pub(crate) fn take_out(platform: &Platform, pages: PfnRange) {
    for pfn in pages.frames() {
        entry_of(platform, pfn).fetch_and(!PageTableFlags::PRESENT.bits(), Ordering::AcqRel);
    }
    if pages.pages() > ONE_BY_ONE {
        tlb::flush_all();
    } else {
        for pfn in pages.frames() {
            tlb::flush(VirtAddr::new_truncate(DIRECT_MAP + pfn.address().0));
        }
    }
    nmi::send_others(Errand::Flush, |_| true);
}

/// Puts pages back. No CPU remembers that there was none.
pub(crate) fn put_back(platform: &Platform, pages: PfnRange) {
    for pfn in pages.frames() {
        entry_of(platform, pfn).fetch_or(PageTableFlags::PRESENT.bits(), Ordering::AcqRel);
    }
}

/// The entry of the smallest page that shows a frame.
///
/// # Panics
/// There is none: the frame is not in the direct map, or part of a larger page.
fn entry_of(platform: &Platform, pfn: Pfn) -> &AtomicU64 {
    let (mut table, mut level) = (tables::root(), ROOT);
    loop {
        let shift = TABLE_ENTRIES.trailing_zeros() * (u32::from(level.0) - 1);
        let page = (DIRECT_MAP + pfn.address().0) >> PAGE_SHIFT;
        let index = (page >> shift) as usize % TABLE_ENTRIES;
        // SAFETY: tables of the kernel's half are in the direct map, and those of the direct map itself are never given up.
        let slot = &unsafe { tables::entries(platform, table) }[index];
        if level == TableLevel::LEAF {
            return slot;
        }
        match (Entry::from_bits(slot.load(Ordering::Acquire)).target(level), level.below()) {
            (Target::Table(next), Some(below)) => (table, level) = (next, below),
            (other, _) => panic!("invariant MACHINE-MEMORY broken: {pfn:?} has no page of its own, but {other:?}"),
        }
    }
}
