//! What decides in which order CPUs do things, and how the same order comes again.
//!
//! With a shift, the seed and the shift do, on the same kernel and machine with the same selection of tests. Without,
//! CPUs run freely, on a thread each, and nothing does: then there are as many orders to try as there are shifts.

use std::env;

use anyhow::Context as _;

use crate::accel::{Accel, Shift};

/// The seed and the shift of a run of tests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Interleaving {
    /// Where the kernel's random numbers start.
    pub seed: u64,
    /// How CPUs take turns; `None`: they do not.
    pub shift: Option<Shift>,
}

/// The environment variables that take one to `cargo test`, whose words are the test harness's own.
const SEED: &str = "QEMU_RUN_SEED";
const SHIFT: &str = "QEMU_RUN_SHIFT";

impl Interleaving {
    /// The environment variables that [`from_environment`](Self::from_environment) reads.
    pub fn variables(self) -> impl Iterator<Item = (&'static str, String)> {
        let shift = self.shift.map(|shift| (SHIFT, shift.to_string()));
        [(SEED, self.seed.to_string())].into_iter().chain(shift)
    }

    /// What the environment asks for.
    ///
    /// # Errors
    /// It asks for no number, or for one out of range.
    pub fn from_environment() -> anyhow::Result<Interleaving> {
        Self::from_variables(|name| env::var(name).ok())
    }

    fn from_variables(value: impl Fn(&str) -> Option<String>) -> anyhow::Result<Interleaving> {
        let seed = value(SEED).map(|text| text.parse().with_context(|| format!("{SEED}={text}"))).transpose()?;
        let shift = value(SHIFT).map(|text| text.parse().with_context(|| format!("{SHIFT}={text}"))).transpose()?;
        Ok(Interleaving { seed: seed.unwrap_or_default(), shift })
    }

    /// Who executes the instructions.
    #[must_use]
    pub fn accel(self) -> Accel {
        self.shift.map_or(Accel::Tcg, Accel::Icount)
    }

    /// For whoever sees a test fail on several CPUs: how it is done again by `command`, which made the run, and if
    /// that was free, by `alone`, which runs nothing but the test.
    #[must_use]
    pub fn replay(self, command: &str, alone: &str) -> String {
        let Interleaving { seed, shift } = self;
        match shift {
            Some(shift) => format!("replay, bit for bit: {command} --seed {seed} --shift {shift}"),
            None => format!(
                "CPUs ran freely. To replay it, find a shift that it fails with: \
                 for shift in 0 1 2 3 4 5 6 7; do {alone} --seed {seed} --shift $shift; done"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn the_environment_carries_seed_and_shift_and_neither_has_to_be_there() {
        let shifts = Shift::all().map(Some).chain([None]);
        for interleaving in shifts.map(|shift| Interleaving { seed: u64::MAX - 1, shift }) {
            let variables: HashMap<_, _> = interleaving.variables().collect();
            assert_eq!(Interleaving::from_variables(|name| variables.get(name).cloned()).unwrap(), interleaving);
        }
        assert_eq!(Interleaving::from_variables(|_| None).unwrap(), Interleaving::default());
        for (wrong, text) in [(SEED, "x"), (SEED, "-1"), (SHIFT, "8"), (SHIFT, "")] {
            let error = Interleaving::from_variables(|name| (name == wrong).then(|| text.to_owned())).unwrap_err();
            assert!(error.to_string().contains(wrong), "{error}");
        }
    }

    #[test]
    fn a_failure_says_how_to_have_it_again() {
        let replay = |shift| Interleaving { seed: 7, shift }.replay("run all", "run a/b");
        assert_eq!(replay(Some(Shift::ZERO)), "replay, bit for bit: run all --seed 7 --shift 0");
        assert!(replay(None).ends_with("do run a/b --seed 7 --shift $shift; done"));
    }
}
