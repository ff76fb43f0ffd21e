//! What `kmap_local` slots must do.

use alloc::vec::Vec;
use core::ptr::NonNull;

use kernel_core::layout::{KMAP_SLOTS, kmap_address, kmap_entry};
use mm::machine::Machine;
use mm::page::Request;
use mm::units::{Order, PAGE_SIZE, Pfn};

use super::{Outcome, check, ktest, skip};
use crate::kmap::WINDOW;
use crate::memory;
use crate::platform::Platform;

const WORDS: usize = PAGE_SIZE / size_of::<u64>();

/// The platform, and a frame for each slot; skips the test on a machine that needs no slots for it.
fn with_frames(test: impl FnOnce(&Platform, [Pfn; KMAP_SLOTS]) -> Outcome) -> Outcome {
    let platform = Platform::get().ok_or("the platform is not up")?;
    let allocator = memory::allocator().ok_or("the page allocator is not up")?;
    let request = Request::movable(Order::ZERO);
    let pages: Vec<_> = (0..KMAP_SLOTS).map(|_| allocator.alloc(request)).collect::<Result<_, _>>()?;
    let frames: [Pfn; KMAP_SLOTS] = core::array::from_fn(|slot| pages[slot].range().start);
    match frames.into_iter().find(|&frame| frame < platform.kmap_start()) {
        Some(direct) => skip("no page that needs a slot is free", format_args!("a movable page is {direct:?}")),
        None => test(platform, frames),
    }
}

fn fill(page: NonNull<u8>, frame: Pfn) {
    for word in 0..WORDS {
        // SAFETY: a page holds that many words.
        let place = unsafe { page.cast::<u64>().add(word) };
        // SAFETY: the page is mapped for writing, and the frame is nobody else's.
        unsafe { place.write_volatile(pattern(frame, word)) };
    }
}

fn holds(page: NonNull<u8>, frame: Pfn) -> bool {
    (0..WORDS).all(|word| {
        // SAFETY: a page holds that many words.
        let place = unsafe { page.cast::<u64>().add(word) };
        // SAFETY: the page is mapped, and the frame is nobody else's.
        let found = unsafe { place.read_volatile() };
        found == pattern(frame, word)
    })
}

fn pattern(frame: Pfn, word: usize) -> u64 {
    (u64::from(frame.number()) << 32 | word as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

ktest!(
    "kmap",
    fn nested_slots_see_each_their_own_frame_and_the_frames_keep_it() {
        with_frames(|platform, frames| {
            let slots = frames.map(|frame| platform.kmap_local(frame));
            for (slot, frame) in slots.into_iter().zip(frames) {
                fill(slot, frame);
            }
            let own = slots.into_iter().zip(frames).all(|(slot, frame)| holds(slot, frame));
            for slot in slots.into_iter().rev() {
                // SAFETY: the youngest first, and nothing refers to them any more.
                unsafe { platform.kunmap_local(slot) };
            }
            check!(own, "two slots share memory");

            // The other way round: every frame now stands in another slot.
            for frame in frames.into_iter().rev() {
                let slot = platform.kmap_local(frame);
                let kept = holds(slot, frame);
                // SAFETY: it is the only slot, and nothing refers to it any more.
                unsafe { platform.kunmap_local(slot) };
                check!(kept, "{frame:?} does not hold what was written through another slot");
            }
            Ok(())
        })
    }
);

ktest!(
    "kmap",
    fn one_slot_used_again_and_again_shows_no_stale_frame() {
        with_frames(|platform, frames| {
            for round in 0..100 {
                let frame = frames[round % frames.len()];
                let slot = platform.kmap_local(frame);
                check!(slot.addr().get() as u64 == kmap_address(kmap_entry(platform.cpu(), 0)), "not the first slot");
                if round < frames.len() {
                    fill(slot, frame);
                }
                let own = holds(slot, frame);
                // SAFETY: it is the only slot, and nothing refers to it any more.
                unsafe { platform.kunmap_local(slot) };
                check!(own, "round {round}: the slot shows something else than {frame:?}");
            }
            Ok(())
        })
    }
);

ktest!(
    "kmap",
    fn after_unmapping_no_page_of_the_window_is_mapped() {
        check!(WINDOW.mapped().next().is_none(), "page {:?} is mapped before", WINDOW.mapped().next());
        with_frames(|platform, frames| {
            let mut live = Vec::new();
            for (slot, frame) in frames.into_iter().enumerate() {
                live.push(platform.kmap_local(frame));
                let wanted: Vec<_> = (0..=slot).map(|slot| kmap_entry(platform.cpu(), slot)).collect();
                let found: Vec<_> = WINDOW.mapped().collect();
                check!(found == wanted, "pages {found:?} are mapped in place of {wanted:?}");
            }
            while let Some(slot) = live.pop() {
                // SAFETY: the youngest first, and nothing refers to it.
                unsafe { platform.kunmap_local(slot) };
                check!(WINDOW.mapped().count() == live.len(), "a slot that was given up is still mapped");
            }
            Ok(())
        })
    }
);
