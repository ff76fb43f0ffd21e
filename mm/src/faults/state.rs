//! How far the calls of one kind have come on the way to those that fail.
//!
//! Cost: a few words that all CPUs write, but only while something is to fail.
//!
//! Source: Linux's `should_fail_ex`.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::attr::{ALWAYS, CERTAIN, FaultAttr};
use super::{FaultReport, InjectedFault};
use crate::random::{self, RandomSeed};

/// What is to fail of the calls of one kind, and what has.
#[derive(Debug)]
pub(super) struct FaultState {
    interval: AtomicU64,
    probability: AtomicU32,
    seed: AtomicU64,
    /// What is still to be had before anything fails.
    space: AtomicU64,
    /// Failures that are left.
    times: AtomicU32,
    /// Calls since the space is used up.
    counted: AtomicU64,
    /// Random numbers since the seed.
    drawn: AtomicU64,
    calls: AtomicU64,
    injected: AtomicU64,
}

impl FaultState {
    pub(super) const fn none() -> Self {
        Self {
            interval: AtomicU64::new(0),
            probability: AtomicU32::new(0),
            seed: AtomicU64::new(0),
            space: AtomicU64::new(0),
            times: AtomicU32::new(0),
            counted: AtomicU64::new(0),
            drawn: AtomicU64::new(0),
            calls: AtomicU64::new(0),
            injected: AtomicU64::new(0),
        }
    }

    /// Begins anew with these, while nobody asks.
    pub(super) fn set(&self, attr: FaultAttr, RandomSeed(seed): RandomSeed) {
        let FaultAttr { interval, probability, space, times } = attr;
        self.interval.store(interval, Ordering::Relaxed);
        self.probability.store(probability, Ordering::Relaxed);
        self.seed.store(seed, Ordering::Relaxed);
        self.space.store(space, Ordering::Relaxed);
        self.times.store(times, Ordering::Relaxed);
        for count in [&self.counted, &self.drawn, &self.calls, &self.injected] {
            count.store(0, Ordering::Relaxed);
        }
    }

    pub(super) fn report(&self) -> FaultReport {
        FaultReport { calls: self.calls.load(Ordering::Relaxed), injected: self.injected.load(Ordering::Relaxed) }
    }

    /// Counts a call that is about so much, and says whether it fails. The questions come in Linux's order.
    pub(super) fn should_fail(&self, size: u64) -> Option<InjectedFault> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let probability = self.probability.load(Ordering::Relaxed);
        if probability == 0 || self.times.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let within_space = |left: u64| (left > size).then(|| left - size);
        if self.space.fetch_update(Ordering::Relaxed, Ordering::Relaxed, within_space).is_ok() {
            return None;
        }
        let interval = self.interval.load(Ordering::Relaxed);
        if interval > 1 && !(self.counted.fetch_add(1, Ordering::Relaxed) + 1).is_multiple_of(interval) {
            return None;
        }
        if probability < CERTAIN && self.draw() % u64::from(CERTAIN) >= u64::from(probability) {
            return None;
        }
        let one_less = |left| if left == ALWAYS { Some(left) } else { u32::checked_sub(left, 1) };
        // Others may have had the last ones since.
        self.times.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).ok()?;
        self.injected.fetch_add(1, Ordering::Relaxed);
        Some(InjectedFault)
    }

    /// The next number that follows from the seed: each out of its own place in the sequence.
    fn draw(&self) -> u64 {
        let place = self.drawn.fetch_add(1, Ordering::Relaxed);
        random::nth(RandomSeed(self.seed.load(Ordering::Relaxed)), place)
    }
}
