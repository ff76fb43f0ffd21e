//! Who executes the guest's instructions.

use std::fmt;
use std::str::FromStr;

use anyhow::Context as _;

/// Who executes the guest's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accel {
    /// QEMU translates them, on a thread for each CPU.
    Tcg,
    /// QEMU translates and counts them, on one thread for all CPUs. The clock is the count, so CPUs take turns at the
    /// same instructions on every run.
    Icount(Shift),
    /// The processor itself.
    Kvm(Virtualization),
}

/// How long an instruction takes: 2^shift nanoseconds on the guest's clock.
///
/// Timers come so much earlier, in instructions, and CPUs take turns elsewhere: each shift is another interleaving of
/// the same instructions.
///
/// # Invariants
/// From 0 to [`MOST`](Self::MOST).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shift(u8);

impl Shift {
    /// One instruction is one nanosecond, and one tick of the time-stamp counter.
    pub const ZERO: Shift = Shift(0);

    /// A timer of 1 ms comes every 7812 instructions.
    pub const MOST: u8 = 7;

    /// Every one.
    pub fn all() -> impl Iterator<Item = Shift> {
        (0..=Self::MOST).map(Shift)
    }
}

impl fmt::Display for Shift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Shift {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Shift, anyhow::Error> {
        match text.parse() {
            Ok(shift @ 0..=Self::MOST) => Ok(Shift(shift)),
            _ => anyhow::bail!("a shift is from 0 to {}", Self::MOST),
        }
    }
}

/// Proof that this machine's processor runs guests by itself.
///
/// `/dev/kvm` proves nothing: it may exist and emulate everything, many times slower than QEMU does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Virtualization(());

impl Virtualization {
    /// Looks for the processor's feature in the text of `/proc/cpuinfo`.
    ///
    /// # Errors
    /// The processor has neither `vmx` nor `svm`.
    pub fn find(cpuinfo: &str) -> anyhow::Result<Virtualization> {
        cpuinfo
            .lines()
            .filter_map(|line| line.split_once(':').filter(|(key, _)| key.trim() == "flags"))
            .any(|(_, flags)| flags.split_whitespace().any(|flag| flag == "vmx" || flag == "svm"))
            .then_some(Virtualization(()))
            .context("kvm would be slower than tcg here: /proc/cpuinfo lists neither vmx nor svm")
    }
}

impl Accel {
    /// The options, each with its value, that tell QEMU.
    #[must_use]
    pub fn arguments(self) -> Vec<(&'static str, String)> {
        match self {
            Accel::Tcg => vec![("-accel", "tcg,thread=multi".to_owned())],
            Accel::Icount(shift) => {
                vec![("-accel", "tcg".to_owned()), ("-icount", format!("shift={shift},sleep=off"))]
            }
            Accel::Kvm(_) => vec![("-accel", "kvm".to_owned())],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_counting_asks_for_icount_and_only_what_does_not_count_for_threads() {
        assert_eq!(Accel::Tcg.arguments(), [("-accel", "tcg,thread=multi".to_owned())]);
        let counted: Vec<_> = Shift::all().map(|shift| Accel::Icount(shift).arguments()).collect();
        assert_eq!(counted.len(), 8);
        assert_eq!(counted[0], [("-accel", "tcg".to_owned()), ("-icount", "shift=0,sleep=off".to_owned())]);
        assert_eq!(counted[7][1].1, "shift=7,sleep=off");
    }

    #[test]
    fn a_shift_has_bounds() {
        assert_eq!(["0", "7"].map(|text| text.parse::<Shift>().unwrap()), [Shift::ZERO, Shift(7)]);
        for text in ["-1", "8", "auto", "", "0.5"] {
            assert!(text.parse::<Shift>().is_err(), "{text}");
        }
    }

    #[test]
    fn kvm_needs_the_processors_word_for_it() {
        assert!(Virtualization::find("model name: x\nflags\t\t: fpu vmx sse\n").is_ok());
        assert!(Virtualization::find("flags : svm").is_ok());
        for without in ["", "flags", "flags : fpu vmxon svm_lock", "bugs : vmx", "vmx flags : fpu", "model name : svm"]
        {
            assert!(Virtualization::find(without).is_err(), "{without}");
        }
    }
}
