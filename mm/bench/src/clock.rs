//! A clock for single operations: the processor's own counter, fenced on both sides, so that nothing of an operation runs
//! outside of it, and nothing else inside. What reading it takes is measured first, and is no part of what it says.
#![expect(unsafe_code, reason = "reads the processor's counter")]

use std::arch::x86_64::{_mm_lfence, _rdtsc};
use std::time::{Duration, Instant};

/// The clock of this machine.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    nanoseconds_per_tick: f64,
    own: u32,
}

/// A number of the clock's ticks.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Ticks(u32);

impl Ticks {
    /// More than anything takes.
    pub(crate) const MAX: Self = Self(u32::MAX);
}

#[inline(always)]
fn now() -> u64 {
    // SAFETY: every x86-64 has the instruction.
    unsafe { _mm_lfence() };
    // SAFETY: as above.
    let ticks = unsafe { _rdtsc() };
    // SAFETY: as above.
    unsafe { _mm_lfence() };
    ticks
}

#[inline(always)]
fn ticks<R>(work: impl FnOnce() -> R) -> (Ticks, R) {
    let start = now();
    let result = work();
    let ticks = now().saturating_sub(start);
    (Ticks(u32::try_from(ticks).unwrap_or(u32::MAX)), result)
}

impl Clock {
    /// Finds out how fast it ticks, and how long it takes to look at it.
    pub(crate) fn calibrate() -> Self {
        let (start, first) = (Instant::now(), now());
        while start.elapsed() < Duration::from_millis(100) {}
        let (spent, ticks_spent) = (start.elapsed(), now() - first);
        let mut nothing: Vec<_> = (0..1 << 14).map(|_| ticks(|| ()).0).collect();
        nothing.sort_unstable();
        let Ticks(own) = nothing[nothing.len() / 2];
        Self { nanoseconds_per_tick: spent.as_secs_f64() * 1e9 / ticks_spent as f64, own }
    }

    /// Does it, and says how long it took.
    #[inline(always)]
    pub(crate) fn time<R>(self, work: impl FnOnce() -> R) -> (Ticks, R) {
        let (Ticks(ticks), result) = ticks(work);
        (Ticks(ticks.saturating_sub(self.own)), result)
    }

    /// Ticks in nanoseconds.
    pub(crate) fn nanoseconds(self, Ticks(ticks): Ticks) -> f64 {
        f64::from(ticks) * self.nanoseconds_per_tick
    }
}
