//! The allocator's test cases, on this machine and the allocator that the kernel lives on.

use alloc::format;
use alloc::string::String;

use kernel_core::cmdline::Seed;
use mm::cases::{self, Case, Failure};

use super::{NotPassed, Outcome};
use crate::memory;
use crate::platform::Platform;

/// The case's name among the kernel's tests.
pub(super) fn name(case: &Case<Platform>) -> String {
    format!("mm/{}", case.name.replace("::", "/"))
}

/// Runs the case.
pub(super) fn run(case: &Case<Platform>, seed: Seed) -> Outcome {
    let allocator = memory::allocator().ok_or("the page allocator is not up")?;
    match case.run(allocator, cases::Seed(seed.0)) {
        Ok(()) => Ok(()),
        Err(Failure::Skipped(why)) => Err(NotPassed::Skipped(String::from(why))),
        Err(failure) => Err(failure.into()),
    }
}
