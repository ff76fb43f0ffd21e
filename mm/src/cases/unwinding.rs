//! What happens when memory runs out, anywhere: a script allocates in every way there is, and some of its allocations are
//! told to fail. Each time that is reported, everything unwinds, every checker passes, and the census is as before.
//!
//! On a machine that has faults ([`Machine::injected_faults`]). `script` is the script, `stopped` how it ends early, `census`
//! what must be as before.
//!
//! Cost: a run of the script allocates some hundred times; the checker looks at all descriptors only so often.

mod census;
mod script;
mod stopped;

use core::fmt;

use thiserror::Error;

use self::census::Census;
pub use self::script::Inner;
pub use self::stopped::Stopped;
use super::{Failure, Seed};
use crate::faults::{FaultAttr, FaultPoint, Faults};
use crate::machine::Machine;
use crate::page::PageAllocator;
use crate::random::RandomSeed;
use crate::shrinker::Shortage;
use crate::units::Count;

/// Descriptors that the page checkers may look at, but for the last time.
const BUDGET: u64 = 1 << 22;

/// What came of a script that was run again and again.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Unwound {
    /// Times that it ran.
    pub runs: u32,
    /// Runs that ended early, and said that there is no memory.
    pub reported: u32,
    /// Runs that went on without what they did not get.
    pub absorbed: u32,
    /// Allocations that were told to fail.
    pub injected: u64,
}

impl fmt::Display for Unwound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { runs, reported, absorbed, injected } = self;
        write!(f, "of {runs} runs {reported} ended early and {absorbed} did without, {injected} allocations failed")
    }
}

/// A run that did not unwind.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error("run {run}: {failure}")]
pub struct NotUnwound {
    /// Which run, from 1; none while there are no faults yet.
    pub run: u32,
    /// What was wrong.
    pub failure: Failure,
}

impl From<Failure> for NotUnwound {
    fn from(failure: Failure) -> Self {
        Self { run: 0, failure }
    }
}

/// Lets the first, the second, … allocation of a kind that the script makes fail, until it makes no more of them. Nobody else
/// may use the allocator meanwhile.
///
/// # Errors
/// Says which run did not unwind, and why; or that the machine has no faults, or not enough memory ([`Failure::Skipped`]).
pub fn each_fails_once<M: Machine>(
    allocator: &PageAllocator<'_, M>,
    point: FaultPoint,
    inner: Inner<'_, M>,
) -> Result<Unwound, NotUnwound> {
    let sweep = Sweep::begin(allocator, inner)?;
    let mut unwound = Unwound::default();
    loop {
        let run = unwound.runs + 1;
        let injected = sweep
            .run(inner, &[(point, FaultAttr::nth(Count(run)))], Seed(0), &mut unwound)
            .map_err(|failure| NotUnwound { run, failure })?;
        if injected == 0 {
            // All descriptors, whatever was looked at before.
            allocator.verify().map_err(|violation| NotUnwound { run, failure: violation.into() })?;
            return Ok(unwound);
        }
    }
}

/// Runs the script so often while allocations fail as these say, each time from another place in what follows from the seed.
/// Nobody else may use the allocator meanwhile.
///
/// # Errors
/// As [`each_fails_once`].
pub fn some_fail<M: Machine>(
    allocator: &PageAllocator<'_, M>,
    attrs: &[(FaultPoint, FaultAttr)],
    Seed(seed): Seed,
    Count(runs): Count,
    inner: Inner<'_, M>,
) -> Result<Unwound, NotUnwound> {
    let sweep = Sweep::begin(allocator, inner)?;
    let mut unwound = Unwound::default();
    for run in 1..=runs {
        let from = Seed(seed.wrapping_add(u64::from(run) << u32::BITS));
        sweep.run(inner, attrs, from, &mut unwound).map_err(|failure| NotUnwound { run, failure })?;
    }
    allocator.verify().map_err(|violation| NotUnwound { run: runs, failure: violation.into() })?;
    Ok(unwound)
}

/// What runs are compared with.
struct Sweep<'s, 'm, M: Machine> {
    allocator: &'s PageAllocator<'m, M>,
    faults: &'m Faults,
    before: Census,
}

impl<'s, 'm, M: Machine> Sweep<'s, 'm, M> {
    /// Takes the census after a run in which nothing fails: what it finds first, it may leave divided otherwise.
    fn begin(allocator: &'s PageAllocator<'m, M>, inner: Inner<'_, M>) -> Result<Self, Failure> {
        let faults = allocator.machine().injected_faults();
        let faults = faults.ok_or(Failure::Skipped("nothing is told to fail on this machine"))?;
        // What others would give up in a shortage would count as the script's.
        while allocator.reclaim(Shortage::of(Count(u32::MAX))) > Count(0) {}
        match script::run(allocator, inner) {
            Ok(()) => {}
            Err(Stopped::NoMemory) => return Err(Failure::Skipped("there is too little memory")),
            Err(stopped) => return Err(stopped.failure()),
        }
        Ok(Self { allocator, faults, before: Census::of(allocator) })
    }

    /// Runs the script once, and checks everything. Says how many allocations were told to fail.
    fn run(
        &self,
        inner: Inner<'_, M>,
        attrs: &[(FaultPoint, FaultAttr)],
        Seed(seed): Seed,
        unwound: &mut Unwound,
    ) -> Result<u64, Failure> {
        let Self { allocator, faults, before } = self;
        for &(point, attr) in attrs {
            faults.set(point, attr, RandomSeed(seed));
        }
        let outcome = script::run(allocator, inner);
        let injected = attrs.iter().map(|&(point, _)| faults.clear(point).injected).sum();
        before.check(allocator)?;
        let looked_at = u64::from(before.managed()) * u64::from(unwound.runs);
        if looked_at < BUDGET {
            allocator.verify()?;
            allocator.verify_charges()?;
            allocator.verify_specified()?;
        }
        unwound.runs += 1;
        unwound.injected += injected;
        match outcome {
            Err(Stopped::NoMemory) if injected > 0 => unwound.reported += 1,
            Err(stopped) => return Err(stopped.failure()),
            Ok(()) => unwound.absorbed += u32::from(injected > 0),
        }
        Ok(injected)
    }
}
