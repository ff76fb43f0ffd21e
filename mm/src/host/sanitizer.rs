//! What the allocator says of memory, to the address sanitizer that the process was built with.

use core::ffi::c_void;
use core::ptr::NonNull;
use std::collections::BTreeSet;

use spin::Mutex;

use crate::machine::Fence;
use crate::units::{Bytes, PAGE_SIZE, Pfn, PfnRange};

// SAFETY: a process that is built with the sanitizer has them.
unsafe extern "C" {
    safe fn __asan_poison_memory_region(start: *const c_void, bytes: usize);
    safe fn __asan_unpoison_memory_region(start: *const c_void, bytes: usize);
}

/// Opens the first `open` of these bytes, and closes the others. What was open and stays so is open all the time: somebody may be
/// looking at it.
pub(super) fn fence_object(place: NonNull<[u8]>, Bytes(open): Bytes) {
    let start: *const c_void = place.cast().as_ptr();
    __asan_unpoison_memory_region(start, open);
    __asan_poison_memory_region(start.wrapping_byte_add(open), place.len().saturating_sub(open));
}

/// log2 of the frames that are opened together when a machine goes.
const SECTION_SHIFT: u32 = 15;

/// Where pages of a machine were ever closed: a terabyte of which little is memory is opened again where it is.
#[derive(Debug, Default)]
pub(super) struct Fenced {
    sections: Mutex<BTreeSet<u32>>,
}

impl Fenced {
    /// Opens or closes pages that stand in a row from `start` on. Interrupts are off.
    pub(super) fn fence(&self, pages: PfnRange, start: NonNull<u8>, fence: Fence) {
        let bytes = pages.pages() as usize * PAGE_SIZE;
        if fence == Fence::Closed {
            let sections = pages.start.number() >> SECTION_SHIFT..=(pages.end.number() - 1) >> SECTION_SHIFT;
            self.sections.lock().extend(sections);
        }
        let open = if fence == Fence::Open { bytes } else { 0 };
        fence_object(NonNull::slice_from_raw_parts(start, bytes), Bytes(open));
    }

    /// Where any may be closed.
    pub(super) fn take(&mut self) -> impl Iterator<Item = PfnRange> + use<> {
        let sections = core::mem::take(self.sections.get_mut()).into_iter();
        sections
            .map(|section| PfnRange::new(Pfn::new(section << SECTION_SHIFT), Pfn::new((section + 1) << SECTION_SHIFT)))
    }
}
