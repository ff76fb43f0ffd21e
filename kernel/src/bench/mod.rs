//! Benchmarks, registered where they stand: what an operation costs, in instructions where QEMU counts them.
//!
//! A benchmark is `benchmark!("group", fn name(sampler) { … Ok(()) })`. It arranges what it needs, takes one sample an
//! operation where it can, and leaves all memory as it found it.

mod figure;

mod bulk;
mod cache;
mod compact;
mod fault;
mod folio;
mod footprint;
mod mix;
mod pair;
mod slab;

use alloc::string::String;
use alloc::vec::Vec;

use kernel_core::cmdline::Seed;
use kernel_core::selection::Selection;
use kernel_core::statistics::Distribution;
use linkme::distributed_slice;
use mm::page::{Block, Request};

pub(crate) use self::figure::{Figure, NoFigure, Row, Source, print_table};
use crate::clock::{Clock, Stopwatch, count_down};
use crate::exit::Exit;
use crate::ktest::{NotPassed, Outcome, check, ktest, skip};
use crate::memory::{self, Allocator};
use crate::platform::Platform;

/// A registered benchmark.
#[derive(Debug)]
pub(crate) struct Benchmark {
    pub(crate) name: &'static str,
    pub(crate) unit: Unit,
    pub(crate) body: fn(&mut Sampler) -> Outcome,
}

/// What a benchmark counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    /// Of the clock: instructions, if it counts them.
    Ticks,
    /// Memory in bytes.
    Bytes,
    /// Memory in thousandths of a byte, for each page.
    Millibytes,
    /// Memory in pages.
    Pages,
}

/// All registered benchmarks, in no order.
#[distributed_slice]
pub(crate) static BENCHMARKS: [Benchmark];

/// Registers a benchmark.
macro_rules! benchmark {
    ($group:literal, fn $name:ident($sampler:ident) $body:block) => {
        $crate::bench::benchmark!(Ticks, $group, fn $name($sampler) $body);
    };
    ($unit:ident, $group:literal, fn $name:ident($sampler:ident) $body:block) => {
        fn $name($sampler: &mut $crate::bench::Sampler) -> $crate::ktest::Outcome $body

        const _: () = {
            #[linkme::distributed_slice($crate::bench::BENCHMARKS)]
            static BENCHMARK: $crate::bench::Benchmark = $crate::bench::Benchmark {
                name: concat!($group, "/", stringify!($name)),
                unit: $crate::bench::Unit::$unit,
                body: $name,
            };
        };
    };
}

use benchmark;

/// Takes the samples of one benchmark.
#[derive(Debug)]
pub(crate) struct Sampler {
    stopwatch: Stopwatch,
    seed: Seed,
    samples: Distribution,
    known: Option<u64>,
    note: String,
}

impl Sampler {
    fn calibrated(seed: Seed) -> Self {
        Self {
            stopwatch: Stopwatch::calibrated(),
            seed,
            samples: Distribution::new(),
            known: None,
            note: String::new(),
        }
    }

    /// Measures `operation`, once.
    #[inline(always)]
    pub(crate) fn sample<T>(&mut self, operation: impl FnOnce() -> T) -> T {
        let (result, ticks) = self.stopwatch.time(operation);
        self.record(ticks);
        result
    }

    /// What an operation gives and what it costs, to be recorded by its parts.
    #[inline(always)]
    pub(crate) fn time<T>(&self, operation: impl FnOnce() -> T) -> (T, u64) {
        self.stopwatch.time(operation)
    }

    /// Adds a sample that was taken elsewhere.
    #[inline(never)]
    pub(crate) fn record(&mut self, sample: u64) {
        self.samples.record(sample);
    }

    /// Says the figure outright: it is known, so there is nothing to sample.
    pub(crate) fn know(&mut self, value: u64) {
        self.known = Some(value);
    }

    /// Says something beside the figures.
    pub(crate) fn note(&mut self, note: String) {
        self.note = note;
    }

    /// Randomness that is the same on every run with one seed.
    pub(crate) fn random(&self) -> fastrand::Rng {
        fastrand::Rng::with_seed(self.seed.0)
    }
}

/// The allocator that is measured: the machine's own.
fn allocator() -> Result<&'static Allocator, NotPassed> {
    memory::allocator().ok_or_else(|| "the page allocator is not up".into())
}

/// A block that the benchmark needs; a machine that does not have it skips the benchmark.
fn needed(request: Request) -> Result<Block<'static, Platform>, NotPassed> {
    let skipped = |error| NotPassed::Skipped(alloc::format!("too little memory: {error}"));
    allocator()?.alloc(request).map_err(skipped)
}

/// The benchmarks that `selection` chooses, in the order of their names.
pub(crate) fn selected(selection: &Selection) -> Vec<&'static Benchmark> {
    let mut benchmarks: Vec<_> = BENCHMARKS.iter().filter(|benchmark| selection.admits(benchmark.name)).collect();
    benchmarks.sort_by_key(|benchmark| benchmark.name);
    benchmarks
}

/// Runs the benchmarks that `selection` chooses and prints what they come to; `machine` says on what.
pub(crate) fn run(selection: &Selection, seed: Seed, machine: &str) -> Exit {
    let source = Source { clock: Clock::measure(), machine };
    let measured = |benchmark| {
        let row = measure(benchmark, seed);
        row.print_json(source);
        row
    };
    let rows: Vec<_> = selected(selection).into_iter().map(measured).collect();
    print_table(&rows, source);
    let failed = |row: &Row| matches!(row.result, Err(NoFigure::Failed(_)));
    if rows.is_empty() || rows.iter().any(failed) { Exit::Failure } else { Exit::Success }
}

fn measure(benchmark: &'static Benchmark, seed: Seed) -> Row {
    let mut sampler = Sampler::calibrated(seed);
    let result = match (benchmark.body)(&mut sampler) {
        Ok(()) => match sampler.known.map(Figure::known).or_else(|| Figure::of(&sampler.samples)) {
            Some(figure) => Ok(Figure { note: sampler.note, ..figure }),
            None => Err(NoFigure::Failed(String::from("took no sample"))),
        },
        Err(NotPassed::Skipped(why)) => Err(NoFigure::Skipped(why)),
        Err(NotPassed::Failed(why)) => Err(NoFigure::Failed(why)),
    };
    Row { name: benchmark.name, unit: benchmark.unit, result }
}

benchmark!("harness", fn empty(sampler) {
    for _ in 0..1000 {
        sampler.sample(|| ());
    }
    Ok(())
});

ktest!(
    "bench",
    fn a_loop_of_known_length_costs_its_length_on_every_sample() {
        let clock = Clock::measure();
        if clock != Clock::Icount {
            return skip("the clock does not count instructions", clock.name());
        }
        let mut sampler = Sampler::calibrated(Seed::default());
        for turn in 0..10 {
            let ((), looped) = sampler.stopwatch.time(|| count_down(1000));
            check!((2000..2004).contains(&looped), "turn {turn}: a thousand rounds of two cost {looped}");
            let ((), nothing) = sampler.stopwatch.time(|| ());
            check!(nothing == 0, "turn {turn}: nothing costs {nothing}");
            sampler.sample(|| ());
        }
        let figure = Figure::of(&sampler.samples).ok_or("no figure")?;
        check!(figure.operations == 10, "{} operations", figure.operations);
        check!(figure.summary.p99 == 0, "{:?}", figure.summary);
        Ok(())
    }
);
