//! Allocations that are to fail: what the allocators ask first, on a machine that has some
//! ([`Machine::injected_faults`](crate::machine::Machine::injected_faults)).
//!
//! Where they ask, and what is told to fail, is Linux's: pages (`fail_page_alloc`) and objects (`failslab`), each as its
//! [`FaultAttr`] says, and the n-th call of either kind (`fail-nth`). A request for exactly these frames is not asked
//! about, there as here. No request is spared: there is none that must not fail.
//!
//! Cost: one load for each allocation, on a machine that has this at all.
//!
//! `attr` is what is to fail, `state` how far it has come.

mod attr;
mod state;
#[cfg(all(test, not(loom)))]
mod tests;

use core::fmt;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

pub use attr::{FaultAttr, FaultAttrError, FaultField};

use crate::random::RandomSeed;
use crate::units::{Bytes, Order};
use state::FaultState;

/// Tells an allocation to fail: for tests of what happens then.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InjectedFault;

/// Where a failure can be put in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FaultPoint {
    /// The page allocator: a block, or the first of many.
    PageAlloc,
    /// The allocator of objects, those that it needs itself included.
    Slab,
}

impl FaultPoint {
    /// Every one.
    pub const ALL: [Self; 2] = [Self::PageAlloc, Self::Slab];

    /// Linux's name, which is its word on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::PageAlloc => "fail_page_alloc",
            Self::Slab => "failslab",
        }
    }

    const fn bit(self) -> u32 {
        1 << self as u32
    }
}

/// In `armed`, beside the points' bits.
const NTH: u32 = 1 << FaultPoint::ALL.len();

/// What is to fail of all allocations of pages and objects.
#[derive(Debug)]
pub struct Faults {
    /// A bit for all that may have something fail.
    armed: AtomicU32,
    /// Allocations of any kind up to the one that fails, that one included; none fails at 0.
    countdown: AtomicU64,
    page_alloc: FaultState,
    slab: FaultState,
}

/// What came of a fault that was asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fired {
    /// An allocation was told to fail.
    Yes,
    /// There were not that many.
    No,
}

/// What came of the faults of one point so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FaultReport {
    /// Allocations that asked.
    pub calls: u64,
    /// Those of them that were told to fail.
    pub injected: u64,
}

impl fmt::Display for FaultReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} allocations were told to fail", self.injected, self.calls)
    }
}

impl Faults {
    /// Nothing is to fail.
    pub const fn none() -> Self {
        Self {
            armed: AtomicU32::new(0),
            countdown: AtomicU64::new(0),
            page_alloc: FaultState::none(),
            slab: FaultState::none(),
        }
    }

    /// Lets the `n`-th allocation of any kind from now fail, counted from 1. Linux's `fail-nth`.
    pub fn fail_nth(&self, n: u64) {
        self.countdown.store(n, Ordering::Relaxed);
        self.armed.fetch_or(NTH, Ordering::Relaxed);
    }

    /// Ends what [`fail_nth`](Self::fail_nth) began. Says whether that allocation has failed.
    pub fn stop(&self) -> Fired {
        self.armed.fetch_and(!NTH, Ordering::Relaxed);
        if self.countdown.swap(0, Ordering::Relaxed) == 0 { Fired::Yes } else { Fired::No }
    }

    /// Has allocations of a kind fail from now on. To be called while there are none.
    pub fn set(&self, point: FaultPoint, attr: FaultAttr, seed: RandomSeed) {
        self.state(point).set(attr, seed);
        self.armed.fetch_or(point.bit(), Ordering::Relaxed);
    }

    /// Has no more of a kind fail. Says what came of it.
    pub fn clear(&self, point: FaultPoint) -> FaultReport {
        self.armed.fetch_and(!point.bit(), Ordering::Relaxed);
        self.report(point)
    }

    /// What came of the faults that were set last.
    pub fn report(&self, point: FaultPoint) -> FaultReport {
        self.state(point).report()
    }

    /// Counts an allocation of a block, and says whether it is to fail.
    #[inline]
    pub fn should_fail_alloc_page(&self, order: Order) -> Option<InjectedFault> {
        self.should_fail(FaultPoint::PageAlloc, || u64::from(order.pages()))
    }

    /// Counts an allocation of an object, and says whether it is to fail.
    #[inline]
    pub fn should_failslab(&self, Bytes(size): Bytes) -> Option<InjectedFault> {
        self.should_fail(FaultPoint::Slab, || size as u64)
    }

    /// Counts one call, and says whether it is the one that is to fail.
    pub fn next(&self) -> Option<InjectedFault> {
        if self.countdown.load(Ordering::Relaxed) == 0 {
            return None;
        }
        // Other threads count, too: only who counts the last one fails.
        let count = |left: u64| left.checked_sub(1);
        (self.countdown.fetch_update(Ordering::Relaxed, Ordering::Relaxed, count) == Ok(1)).then_some(InjectedFault)
    }

    #[inline]
    fn should_fail(&self, point: FaultPoint, size: impl FnOnce() -> u64) -> Option<InjectedFault> {
        let armed = self.armed.load(Ordering::Relaxed);
        if armed == 0 { None } else { self.ask(armed, point, size()) }
    }

    #[cold]
    fn ask(&self, armed: u32, point: FaultPoint, size: u64) -> Option<InjectedFault> {
        let nth = if armed & NTH == 0 { None } else { self.next() };
        let own = if armed & point.bit() == 0 { None } else { self.state(point).should_fail(size) };
        nth.or(own)
    }

    const fn state(&self, point: FaultPoint) -> &FaultState {
        match point {
            FaultPoint::PageAlloc => &self.page_alloc,
            FaultPoint::Slab => &self.slab,
        }
    }
}
