//! Which allocations are to fail in the kernel's tests that are about that, and how the kernel is told.

use std::env;

use anyhow::Context as _;
use clap::Args;
use mm::faults::{FaultAttr, FaultPoint};

/// What is to fail; where neither kind is given, what those tests like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Args)]
pub struct Faults {
    /// Which allocations of pages fail in the kernel's tests of faults/, as on Linux's command line: one of so many calls is
    /// asked, so many of a hundred of those fail, once so many pages were had, so many times (-1: without end).
    #[arg(long, value_name = "INTERVAL,PROBABILITY,SPACE,TIMES")]
    pub fail_page_alloc: Option<FaultAttr>,
    /// Which allocations of objects, likewise, with space in bytes.
    #[arg(long, value_name = "INTERVAL,PROBABILITY,SPACE,TIMES")]
    pub failslab: Option<FaultAttr>,
}

/// The environment variables that take one to `cargo test`, whose words are the test harness's own.
const FAIL_PAGE_ALLOC: &str = "QEMU_RUN_FAIL_PAGE_ALLOC";
const FAILSLAB: &str = "QEMU_RUN_FAILSLAB";

impl Faults {
    /// The environment variables that [`from_environment`](Self::from_environment) reads.
    pub fn variables(self) -> impl Iterator<Item = (&'static str, String)> {
        let Faults { fail_page_alloc, failslab } = self;
        let both = [(FAIL_PAGE_ALLOC, fail_page_alloc), (FAILSLAB, failslab)];
        both.into_iter().filter_map(|(name, attr)| Some((name, attr?.to_string())))
    }

    /// What the environment asks for.
    ///
    /// # Errors
    /// It asks for what does not say which allocations fail.
    pub fn from_environment() -> anyhow::Result<Faults> {
        Self::from_variables(|name| env::var(name).ok())
    }

    fn from_variables(value: impl Fn(&str) -> Option<String>) -> anyhow::Result<Faults> {
        let attr = |name| value(name).map(|text| text.parse().with_context(|| format!("{name}={text}"))).transpose();
        Ok(Faults { fail_page_alloc: attr(FAIL_PAGE_ALLOC)?, failslab: attr(FAILSLAB)? })
    }

    /// The words of the kernel's command line.
    pub fn words(self) -> impl Iterator<Item = String> {
        let Faults { fail_page_alloc, failslab } = self;
        let both = [(FaultPoint::PageAlloc, fail_page_alloc), (FaultPoint::Slab, failslab)];
        both.into_iter().filter_map(|(point, attr)| Some(format!("{}={}", point.name(), attr?)))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn the_environment_carries_what_is_to_fail_and_the_command_line_says_it() {
        let attr = |text: &str| text.parse().ok();
        for fail_page_alloc in [None, attr("1,2,0,-1")] {
            for failslab in [None, attr("7,30,4096,3")] {
                let faults = Faults { fail_page_alloc, failslab };
                let variables: HashMap<_, _> = faults.variables().collect();
                assert_eq!(Faults::from_variables(|name| variables.get(name).cloned()).unwrap(), faults);
            }
        }
        let both = Faults { fail_page_alloc: attr("1,2,0,-1"), failslab: attr("7,30,4096,3") };
        assert_eq!(both.words().collect::<Vec<_>>(), ["fail_page_alloc=1,2,0,-1", "failslab=7,30,4096,3"]);
        for wrong in [FAIL_PAGE_ALLOC, FAILSLAB] {
            let error = Faults::from_variables(|name| (name == wrong).then(|| "1,2,0".to_owned())).unwrap_err();
            assert!(error.to_string().contains(wrong), "{error}");
        }
    }
}
