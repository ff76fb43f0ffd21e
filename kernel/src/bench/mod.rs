//! Benchmarks, registered where they stand: what an operation costs, in instructions where QEMU counts them.
//!
//! Under `-icount shift=0` the time stamp counter counts guest instructions, the same on every run. Whether it does is
//! measured, not assumed: a loop of known length must take exactly its length.

use alloc::string::String;
use alloc::vec::Vec;
use core::arch::asm;

use kernel_core::selection::Selection;
use kernel_core::statistics::Summary;
use linkme::distributed_slice;

use crate::exit::Exit;
use crate::ktest::{NotPassed, Outcome, check, ktest, skip};
use crate::serial::println;

/// A registered benchmark.
#[derive(Debug)]
pub(crate) struct Benchmark {
    pub(crate) name: &'static str,
    pub(crate) body: fn(&mut Sampler) -> Outcome,
}

/// All registered benchmarks, in no order.
#[distributed_slice]
pub(crate) static BENCHMARKS: [Benchmark];

/// Registers a benchmark: `benchmark!("group", fn name(sampler) { … Ok(()) })`.
macro_rules! benchmark {
    ($group:literal, fn $name:ident($sampler:ident) $body:block) => {
        fn $name($sampler: &mut $crate::bench::Sampler) -> $crate::ktest::Outcome $body

        const _: () = {
            #[linkme::distributed_slice($crate::bench::BENCHMARKS)]
            static BENCHMARK: $crate::bench::Benchmark =
                $crate::bench::Benchmark { name: concat!($group, "/", stringify!($name)), body: $name };
        };
    };
}

/// Operations that one sample covers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Operations(pub(crate) u32);

/// Takes samples of one benchmark.
#[derive(Debug)]
pub(crate) struct Sampler {
    overhead: u64,
    samples: Vec<u64>,
    operations: u64,
}

impl Sampler {
    /// Measures one run of `work`, which does so many `operations`. The sample is the cost of one of them, rounded to
    /// the nearest; what measuring costs is taken off.
    pub(crate) fn sample<T>(&mut self, operations: Operations, work: impl FnOnce() -> T) -> T {
        let start = ticks();
        let result = work();
        let spent = (ticks() - start).saturating_sub(self.overhead);
        let count = u64::from(operations.0.max(1));
        self.samples.push((spent + count / 2) / count);
        self.operations += count;
        result
    }

    /// A sampler that knows what measuring nothing costs.
    fn calibrated() -> Self {
        let mut sampler = Self { overhead: 0, samples: Vec::with_capacity(CALIBRATION), operations: 0 };
        for _ in 0..CALIBRATION {
            sampler.sample(Operations(1), || ());
        }
        let overhead = sampler.samples.iter().copied().min().unwrap_or(0);
        Self { overhead, samples: Vec::new(), operations: 0 }
    }
}

const CALIBRATION: usize = 64;

/// The time stamp counter. No memory access moves across it.
#[inline(always)]
fn ticks() -> u64 {
    let (low, high): (u64, u64);
    // SAFETY: reading the counter changes nothing.
    unsafe { asm!("lfence", "rdtsc", "lfence", out("rax") low, out("rdx") high, options(nostack, preserves_flags)) };
    high << 32 | low
}

/// Two instructions for each of `rounds`, and one or two before.
#[inline(always)]
fn count_down(rounds: u64) {
    // SAFETY: counts a register down.
    unsafe { asm!("2:", "dec {0}", "jnz 2b", inout(reg) rounds => _, options(nomem, nostack)) };
}

/// What the time stamp counter counts on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Clock {
    /// Guest instructions.
    Icount,
    /// Something that passes with time.
    TimeStampCounter,
}

impl Clock {
    fn measure() -> Self {
        const ROUNDS: u64 = 1000;
        const INSTRUCTIONS: u64 = 2 * ROUNDS;
        let mut sampler = Sampler::calibrated();
        for _ in 0..3 {
            sampler.sample(Operations(1), || count_down(ROUNDS));
        }
        // The register's load is an instruction, too.
        let counts = sampler.samples.iter().all(|&ticks| (INSTRUCTIONS..INSTRUCTIONS + 4).contains(&ticks));
        if counts { Self::Icount } else { Self::TimeStampCounter }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Icount => "icount",
            Self::TimeStampCounter => "tsc",
        }
    }

    const fn unit(self) -> &'static str {
        match self {
            Self::Icount => "instructions",
            Self::TimeStampCounter => "ticks",
        }
    }
}

/// The benchmarks that `selection` chooses, in the order of their names.
pub(crate) fn selected(selection: &Selection) -> Vec<&'static Benchmark> {
    let mut benchmarks: Vec<_> = BENCHMARKS.iter().filter(|benchmark| selection.admits(benchmark.name)).collect();
    benchmarks.sort_by_key(|benchmark| benchmark.name);
    benchmarks
}

/// A finished benchmark.
struct Row {
    name: &'static str,
    result: Result<(Summary, u64), String>,
}

/// Runs the benchmarks that `selection` chooses and prints what they come to; `machine` says on what.
pub(crate) fn run(selection: &Selection, machine: &str) -> Exit {
    let clock = Clock::measure();
    let (unit, clock_name) = (clock.unit(), clock.name());
    let mut rows = Vec::new();
    for benchmark in selected(selection) {
        let row = measure(benchmark);
        if let Ok((Summary { min, median, p99 }, operations)) = &row.result {
            println!(
                "BENCH {{\"name\":\"{}\",\"unit\":\"{unit}\",\"clock\":\"{clock_name}\",\"min\":{min},\
                 \"median\":{median},\"p99\":{p99},\"operations\":{operations},\"machine\":\"{machine}\"}}",
                row.name
            );
        }
        rows.push(row);
    }
    print_table(&rows, unit, machine);
    if rows.is_empty() || rows.iter().any(|row| row.result.is_err()) { Exit::Failure } else { Exit::Success }
}

fn measure(benchmark: &'static Benchmark) -> Row {
    let mut sampler = Sampler::calibrated();
    let outcome = (benchmark.body)(&mut sampler);
    let result = match (outcome, Summary::of(&mut sampler.samples)) {
        (Ok(()), Some(summary)) => Ok((summary, sampler.operations)),
        (Ok(()), None) => Err(String::from("took no sample")),
        (Err(NotPassed::Failed(why) | NotPassed::Skipped(why)), _) => Err(why),
    };
    Row { name: benchmark.name, result }
}

fn print_table(rows: &[Row], unit: &str, machine: &str) {
    println!("{unit} per operation, {machine}");
    println!("{:<32} {:>10} {:>10} {:>10} {:>12}", "benchmark", "min", "median", "p99", "operations");
    for row in rows {
        match &row.result {
            Ok((Summary { min, median, p99 }, operations)) => {
                println!("{:<32} {min:>10} {median:>10} {p99:>10} {operations:>12}", row.name);
            }
            Err(why) => println!("{:<32} {why}", row.name),
        }
    }
}

benchmark!("harness", fn empty(sampler) {
    for _ in 0..1000 {
        sampler.sample(Operations(1), || ());
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
        let mut sampler = Sampler::calibrated();
        for _ in 0..10 {
            sampler.sample(Operations(500), || count_down(1000));
            sampler.sample(Operations(1), || ());
        }
        let samples = sampler.samples;
        check!(samples.iter().step_by(2).all(|&sample| sample == 4), "a turn of two instructions, twice: {samples:?}");
        check!(samples.iter().skip(1).step_by(2).all(|&sample| sample == 0), "nothing: {samples:?}");
        check!(sampler.operations == 10 * 501, "{} operations", sampler.operations);
        Ok(())
    }
);
