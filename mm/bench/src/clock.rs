//! A clock for single operations: the processor's own counter, fenced on both sides, so that nothing of an operation runs
//! outside of it, and nothing else inside. What reading it takes is measured first, and is no part of what it says.
//!
//! On some machines it goes in steps of many nanoseconds. Where a step falls is up to chance, so the mean of several times
//! knows more than each of them.
#![expect(unsafe_code, reason = "reads the processor's counter")]

use std::arch::x86_64::{_mm_lfence, _rdtsc};
use std::time::{Duration, Instant};

/// The clock of this machine.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    nanoseconds_per_tick: f64,
    own: f64,
}

/// A number of the clock's ticks, with those that it takes itself.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Ticks(u32);

/// Times by so many nanoseconds longer than the quickest are not of the work, but of what came in between.
const DISTURBED: f64 = 50.0;

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

impl Clock {
    /// Finds out how fast it ticks, and how long it takes to look at it.
    pub(crate) fn calibrate() -> Self {
        let (start, first) = (Instant::now(), now());
        while start.elapsed() < Duration::from_millis(100) {}
        let (spent, ticks) = (start.elapsed(), now() - first);
        let silent = Self { nanoseconds_per_tick: spent.as_secs_f64() * 1e9 / ticks as f64, own: 0.0 };
        let nothing: Vec<_> = (0..1 << 14).map(|_| silent.time(|| ()).0).collect();
        let own = silent.nanoseconds(nothing.into_iter()).unwrap_or_default();
        Self { own, ..silent }
    }

    /// Does it, and says how long it took.
    #[inline(always)]
    pub(crate) fn time<R>(self, work: impl FnOnce() -> R) -> (Ticks, R) {
        let start = now();
        let result = work();
        let ticks = now().saturating_sub(start);
        (Ticks(u32::try_from(ticks).unwrap_or(u32::MAX)), result)
    }

    /// What the same work takes that took these times: the mean of those that nothing came between. `None` if there are none.
    pub(crate) fn nanoseconds(self, times: impl Iterator<Item = Ticks> + Clone) -> Option<f64> {
        let times = times.map(|Ticks(ticks)| f64::from(ticks) * self.nanoseconds_per_tick);
        let quickest = times.clone().reduce(f64::min)?;
        let undisturbed = times.filter(|time| *time <= quickest + DISTURBED);
        let (sum, count) = undisturbed.fold((0.0, 0.0), |(sum, count), time| (sum + time, count + 1.0));
        Some(f64::max(sum / count - self.own, 0.0))
    }
}
