//! Allocations that are to fail: the n-th from now, once. What a machine asks in `Machine::allocation_fault`.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::machine::InjectedFault;

/// Counts allocations of pages and objects down to the one that fails.
#[derive(Debug)]
pub struct Faults {
    /// Allocations up to the one that fails, that one included; none fails at 0.
    countdown: AtomicU64,
}

/// What came of a fault that was asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fired {
    /// An allocation was told to fail.
    Yes,
    /// There were not that many.
    No,
}

impl Faults {
    /// Nothing is to fail.
    pub const fn none() -> Self {
        Self { countdown: AtomicU64::new(0) }
    }

    /// Lets the `n`-th allocation from now fail, counted from 1.
    pub fn fail_nth(&self, n: u64) {
        self.countdown.store(n, Ordering::Relaxed);
    }

    /// Lets no allocation fail any more. Says whether the last one that was to did.
    pub fn stop(&self) -> Fired {
        if self.countdown.swap(0, Ordering::Relaxed) == 0 { Fired::Yes } else { Fired::No }
    }

    /// Counts one allocation, and says whether it is the one.
    #[inline]
    pub fn next(&self) -> Option<InjectedFault> {
        if self.countdown.load(Ordering::Relaxed) == 0 {
            return None;
        }
        // Other threads count, too: only who counts the last one fails.
        let count = |left: u64| left.checked_sub(1);
        (self.countdown.fetch_update(Ordering::Relaxed, Ordering::Relaxed, count) == Ok(1)).then_some(InjectedFault)
    }
}
