//! What the address sanitizer must catch, on the running kernel.

use core::hint::black_box;
use core::ptr::NonNull;

use kernel_core::layout::DIRECT_MAP;
use mm::PageState;
use mm::machine::Machine;
use mm::page::Request;
use mm::slab::CacheSpec;
use mm::units::{Bytes, Order, PAGE_SIZE, Pfn};

use super::crash::{read, write};
use super::space::live;
use super::{NotPassed, Outcome, check, diagnostic, ktest, skip};
use crate::cpu;
use crate::memory::{self, Caches};
use crate::platform::Platform;
use crate::sanitizer::is_open;

fn caches() -> Result<&'static Caches, NotPassed> {
    memory::caches().ok_or_else(|| "the caches are not up".into())
}

/// Passes over a test of what is open of general objects where their caches watch them: those stay open.
fn with_unwatched(test: impl FnOnce(&Caches) -> Outcome) -> Outcome {
    let caches = caches()?;
    let mut watched = None;
    caches.for_each_report(|report| {
        if report.name.as_str().starts_with("kmalloc-") && report.stride > report.size {
            watched = Some(report.stride);
        }
    });
    match watched {
        Some(Bytes(stride)) => skip("objects are watched by their caches", stride),
        None => test(caches),
    }
}

fn address(object: NonNull<u8>) -> u64 {
    object.addr().get() as u64
}

ktest!(
    "sanitizer",
    fn so_much_of_an_object_is_open_as_was_asked_for_and_nothing_once_it_is_free() {
        with_unwatched(|caches| {
            for size in [1, 7, 8, 9, 60, 64, 100, 8000, 8192, 8193, 20_000] {
                let object = caches.kmalloc(Bytes(size))?;
                // SAFETY: it is the test's.
                let Bytes(room) = unsafe { caches.ksize(object) }?;
                let open = |byte: usize| is_open(object.addr().get() + byte, 1);
                let wrong = (0..room).find(|&byte| open(byte) != (byte < size));
                let whole = is_open(object.addr().get(), size);
                // SAFETY: nobody uses it any more.
                unsafe { caches.kfree(object) }?;
                check!(
                    wrong.is_none() && whole,
                    "byte {wrong:?} of an object of {size} bytes, of which the whole is {whole}"
                );
                let left = (0..room).find(|&byte| open(byte));
                check!(left.is_none(), "byte {left:?} of a freed object of {size} bytes is open");
            }
            Ok(())
        })
    }
);

ktest!(
    "sanitizer",
    fn an_object_that_gets_another_size_is_open_to_that() {
        with_unwatched(|caches| {
            let mut object = caches.kmalloc(Bytes(33))?;
            for size in [64, 40, 65, 5000, 20_000, 30_000, 17_000, 9] {
                // SAFETY: the object is the test's, and so is the one that takes its place.
                object = unsafe { caches.krealloc(object, Bytes(size)) }?;
                let place = object.addr().get();
                let right = is_open(place, size) && (size.is_multiple_of(64) || !is_open(place + size, 1));
                check!(right, "an object of {size} bytes is not open to its end, or further");
            }
            // SAFETY: nobody uses it any more.
            Ok(unsafe { caches.kfree(object) }?)
        })
    }
);

ktest!(
    "sanitizer",
    fn free_pages_are_closed_and_those_that_serve_as_nodes_open() {
        let platform = Platform::get().ok_or("the platform is not up")?;
        let allocator = live()?.allocator;
        let (mut at, mut free, mut nodes) = (Pfn::new(0), 0, 0);
        while at < platform.direct_map_end() {
            let (state, order) = allocator.page_state(at);
            let place = platform.direct_map(at).addr().get();
            if matches!(state, PageState::Free | PageState::Cached) {
                let open = (0..order.pages() as usize * PAGE_SIZE)
                    .step_by(PAGE_SIZE / 2)
                    .find(|&byte| is_open(place + byte, 1));
                check!(open.is_none(), "byte {open:?} of the free block at {at:?} is open");
                free += order.pages();
                at = at.plus(order.pages());
                continue;
            }
            if state == PageState::Node {
                check!(is_open(place, PAGE_SIZE), "{at:?} is a node, and closed");
                nodes += 1;
            }
            at = at.plus(1);
        }
        check!(free > 0, "no page is free, so there was nothing to see");
        diagnostic!("{free} free pages are closed, {nodes} nodes are open");
        Ok(())
    }
);

/// Where a page is that was just freed.
fn freed_page() -> Result<u64, NotPassed> {
    let block = live()?.allocator.alloc(Request::new(Order::ZERO))?;
    Ok(DIRECT_MAP + block.head().address().0)
}

/// Where a block is that nobody has had yet: of the largest ones, the last.
fn fresh_block() -> Result<u64, NotPassed> {
    let platform = Platform::get().ok_or("the platform is not up")?;
    let (allocator, largest) = (live()?.allocator, Order::of(10));
    let blocks = (0..platform.direct_map_end().number()).step_by(largest.pages() as usize).map(Pfn::new);
    let fresh = blocks.rev().find(|&pfn| allocator.page_state(pfn) == (PageState::Free, largest));
    Ok(DIRECT_MAP + fresh.ok_or("no largest block is free")?.address().0)
}

ktest!(
    WhenNamed,
    "crash",
    fn closed_freed_page() {
        read(freed_page()? + 0x123)
    }
);

ktest!(
    WhenNamed,
    "crash",
    fn closed_page_that_nobody_had() {
        write(fresh_block()? + 0x3f_f123)
    }
);

ktest!(
    WhenNamed,
    "crash",
    fn closed_behind_what_was_asked_for() {
        write(address(caches()?.kmalloc(Bytes(60))?) + 60)
    }
);

ktest!(
    WhenNamed,
    "crash",
    fn closed_behind_a_large_allocation() {
        read(address(caches()?.kmalloc(Bytes(20_000))?) + 20_000)
    }
);

ktest!(
    WhenNamed,
    "crash",
    fn closed_freed_object() {
        let object = caches()?.kmalloc(Bytes(100))?;
        // SAFETY: that somebody uses it once more is what the sanitizer is to say.
        unsafe { caches()?.kfree(object) }?;
        read(address(object) + 99)
    }
);

ktest!(
    WhenNamed,
    "crash",
    fn closed_object_that_nobody_had() {
        let cache = caches()?.create(CacheSpec::new("fresh", 64))?;
        let object = cache.alloc()?;
        // The one behind it or in front.
        write(address(object.address()) ^ 64)
    }
);

ktest!(
    WhenNamed,
    "crash",
    fn closed_end_of_a_copy() {
        let to = caches()?.kmalloc(Bytes(200))?;
        let from = [0x41_u8; 201];
        // SAFETY: that it is longer than what it is copied to is what the sanitizer is to say.
        unsafe { to.as_ptr().copy_from_nonoverlapping(black_box(from.as_ptr()), black_box(201)) };
        Err("the kernel goes on".into())
    }
);

ktest!(
    WhenNamed,
    "crash",
    fn closed_to_the_last_cpu() {
        let address = freed_page()?;
        let last = cpu::online().last().ok_or("no CPU is online")?;
        cpu::run_on(last, &move || _ = write(address))?;
        Err("the kernel goes on".into())
    }
);
