//! Every allocation of a script fails once, and nothing is lost.

use std::fmt;

use super::{HostMachine, scaled};
use crate::faults::Fired;
use crate::page::PageAllocator;

/// What a sweep came to.
#[derive(Debug)]
pub(crate) struct Swept {
    /// Allocations that the script makes, or some more where not each of them has failed.
    pub(crate) allocations: u64,
    /// Failures that the script did without: a free may ask for an empty sheaf, and goes on without.
    pub(crate) absorbed: u64,
}

/// Runs `script` again and again, lets its first, second, … allocation fail, until it has no more of them, and checks
/// that each time all pages come back.
pub(crate) fn fail_each_once<E: fmt::Debug>(
    pages: &PageAllocator<'_, HostMachine>,
    mut script: impl FnMut() -> Result<(), E>,
) -> Swept {
    let faults = pages.machine().faults();
    let free = pages.free_pages();
    let mut absorbed = 0;
    for n in (1..).step_by(scaled(1, 97)) {
        faults.fail_nth(n);
        let outcome = script();
        let fired = faults.stop();
        assert_eq!(pages.free_pages(), free, "{n}: pages were lost");
        pages.verify().expect("the page allocator is sound");
        match fired {
            Fired::Yes => absorbed += u64::from(outcome.is_ok()),
            Fired::No => {
                outcome.expect("nothing failed");
                return Swept { allocations: n - 1, absorbed };
            }
        }
    }
    unreachable!("no script allocates for ever")
}
