//! Allocations that fail, as the command line says or else as these tests like: what the allocators are asked to do is
//! `mm::cases`', and the same as on the host.

use core::pin::Pin;

use kernel_core::cmdline::{FaultWords, Seed};
use mm::cache::PageCache;
use mm::cases::unwinding::{NotUnwound, Stopped, each_fails_once, some_fail};
use mm::cases::{self, Failure};
use mm::faults::{FaultAttr, FaultPoint};
use mm::page::PageAllocator;
use mm::units::Count;
use spin::Once;

use crate::ktest::{self, NotPassed, check, diagnostic, ktest};
use crate::memory::{self, Allocator};
use crate::platform::Platform;

/// The command line's words.
static WORDS: Once<FaultWords> = Once::new();

/// Notes which allocations are to fail.
pub(super) fn set(words: FaultWords) {
    WORDS.call_once(|| words);
}

/// What fails of each kind. Where one kind is given, nothing else fails.
fn attrs() -> [(FaultPoint, FaultAttr); 2] {
    let of_a_hundred = |calls| FaultAttr::of_a_hundred(Count(calls));
    let (page_alloc, slab) = match WORDS.get().copied().unwrap_or_default() {
        FaultWords { page_alloc: None, slab: None } => (of_a_hundred(2), of_a_hundred(1)),
        FaultWords { page_alloc, slab } => (page_alloc.unwrap_or(FaultAttr::NONE), slab.unwrap_or(FaultAttr::NONE)),
    };
    [(FaultPoint::PageAlloc, page_alloc), (FaultPoint::Slab, slab)]
}

fn allocator() -> Result<&'static Allocator, NotPassed> {
    Ok(memory::allocator().ok_or("the page allocator is not up")?)
}

/// What the machine has in addition: nothing here, `heap`'s sweep has all of it.
fn nothing(_: &PageAllocator<'_, Platform>, _: Pin<&PageCache<'_, Platform>>) -> Result<(), Stopped> {
    Ok(())
}

fn not_passed(error: NotUnwound) -> NotPassed {
    match error.failure {
        Failure::Skipped(why) => NotPassed::Skipped(why.into()),
        _ => error.into(),
    }
}

ktest!(
    "faults",
    fn allocations_fail_as_the_command_line_says_and_all_unwinds() {
        const RUNS: Count = Count(24);
        let Seed(seed) = ktest::seed();
        let attrs = attrs();
        let unwound = some_fail(allocator()?, &attrs, cases::Seed(seed), RUNS, &nothing).map_err(not_passed)?;
        for (point, attr) in attrs {
            diagnostic!("{}={attr}", point.name());
        }
        diagnostic!("seed={seed}: {unwound}");
        Ok(())
    }
);

ktest!(
    "faults",
    fn every_page_allocation_fails_once_and_all_unwinds() {
        let unwound = each_fails_once(allocator()?, FaultPoint::PageAlloc, &nothing).map_err(not_passed)?;
        diagnostic!("{unwound}");
        check!(unwound.reported > 50 && unwound.absorbed < unwound.reported, "{unwound}");
        Ok(())
    }
);

ktest!(
    "faults",
    fn every_object_allocation_fails_once_and_all_unwinds() {
        let unwound = each_fails_once(allocator()?, FaultPoint::Slab, &nothing).map_err(not_passed)?;
        diagnostic!("{unwound}");
        check!(unwound.reported > 200 && unwound.absorbed < unwound.reported, "{unwound}");
        Ok(())
    }
);
