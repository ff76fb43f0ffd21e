//! The time stamp counter, and what it counts on this machine.
//!
//! Under QEMU's `-icount shift=0` it counts guest instructions, the same on every run. Whether it does is measured,
//! not assumed: a loop of known length must take exactly its length.

use core::arch::asm;

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
pub(crate) fn count_down(rounds: u64) {
    // SAFETY: counts a register down.
    unsafe { asm!("2:", "dec {0}", "jnz 2b", inout(reg) rounds => _, options(nomem, nostack)) };
}

/// Times pieces of work; knows what timing itself costs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stopwatch {
    overhead: u64,
}

const CALIBRATION: usize = 64;

impl Stopwatch {
    /// A stopwatch that takes off what timing nothing costs.
    pub(crate) fn calibrated() -> Self {
        let raw = Self { overhead: 0 };
        let overhead = (0..CALIBRATION).map(|_| raw.time(|| ()).1).min().unwrap_or(0);
        Self { overhead }
    }

    /// What `work` gives, and the ticks it took.
    #[inline(always)]
    pub(crate) fn time<T>(self, work: impl FnOnce() -> T) -> (T, u64) {
        let start = ticks();
        let result = work();
        let end = ticks();
        (result, (end - start).saturating_sub(self.overhead))
    }
}

/// What the time stamp counter counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Clock {
    /// Guest instructions.
    Icount,
    /// Something that passes with time.
    TimeStampCounter,
}

impl Clock {
    /// Finds out.
    pub(crate) fn measure() -> Self {
        const ROUNDS: u64 = 1000;
        const INSTRUCTIONS: u64 = 2 * ROUNDS;
        let stopwatch = Stopwatch::calibrated();
        // The register's load is an instruction, too.
        let counts = |ticks| (INSTRUCTIONS..INSTRUCTIONS + 4).contains(&ticks);
        let always = (0..3).all(|_| counts(stopwatch.time(|| count_down(ROUNDS)).1));
        if always { Self::Icount } else { Self::TimeStampCounter }
    }

    /// Its name.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Icount => "icount",
            Self::TimeStampCounter => "tsc",
        }
    }

    /// What a tick is.
    pub(crate) const fn unit(self) -> &'static str {
        match self {
            Self::Icount => "instructions",
            Self::TimeStampCounter => "ticks",
        }
    }
}
