//! Pages that boot needed and nobody needs any more, of the image, of the loader's, or carved out of the memory map: handed to
//! the page allocator as free memory.

use core::ops::Range;

use arrayvec::ArrayVec;
use mm::page::PageAllocator;
use mm::units::{Count, PAGE_SIZE, PfnRange};
use spin::Mutex;

use super::space::{Space, page_at};
use crate::platform::Platform;

/// What is gone.
struct Retired {
    parts: ArrayVec<Range<u64>, 8>,
    given: Count,
}

static RETIRED: Mutex<Retired> = Mutex::new(Retired { parts: ArrayVec::new_const(), given: Count(0) });

/// Gives what is mapped at these pages to the page allocator, and counts the pages that it got. What the
/// machine has no zone for stays reserved; pages that are not mapped are passed by.
///
/// # Panics
/// After as many parts as there is room to remember.
///
/// # Safety
/// The pages are variables of the image, or the loader's, and nobody uses them any more.
pub(crate) unsafe fn give_back(
    space: &Space,
    allocator: &PageAllocator<'static, Platform>,
    addresses: Range<u64>,
) -> Count {
    let (mut given, whole) = (Count(0), addresses.clone());
    for address in addresses.step_by(PAGE_SIZE) {
        // SAFETY: the caller's promise.
        let Ok(frame) = (unsafe { space.unmap(page_at(address)) }) else { continue };
        // SAFETY: the frame was the page's, which has just lost it; no table of the allocator is in the image or the loader's.
        let taken_in = unsafe { allocator.adopt(PfnRange::new(frame, frame.plus(1))) };
        // Dropping what was taken in frees it.
        given.0 += u32::from(taken_in.is_ok());
    }
    let mut retired = RETIRED.lock();
    retired.given.0 += given.0;
    retired.parts.push(whole);
    given
}

/// Gives frames to the page allocator that were carved out of the map which it then got, and counts those that it took.
///
/// # Safety
/// Nobody uses them any more, and only the direct map maps them.
pub(crate) unsafe fn give_back_frames(allocator: &PageAllocator<'static, Platform>, frames: PfnRange) -> Count {
    // SAFETY: the caller's promise.
    let taken_in = unsafe { allocator.adopt(frames) };
    // Dropping what was taken in frees it.
    let given = Count(if taken_in.is_ok() { frames.pages() } else { 0 });
    RETIRED.lock().given.0 += given.0;
    given
}

/// Whether the page at `address` was given back.
pub(crate) fn is_retired(address: u64) -> bool {
    RETIRED.lock().parts.iter().any(|range| range.contains(&address))
}

/// Pages that the page allocator got.
pub(crate) fn given_back() -> Count {
    RETIRED.lock().given
}
