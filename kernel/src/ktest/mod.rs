//! In-kernel tests, registered where they stand and reported as KTAP.
//!
//! A test is `ktest!("group", fn name() { … Ok(()) })`; its name is `group/name`. The allocator's own cases (`mm::cases`)
//! are tests, too. It runs on the booted kernel, with everything up, and leaves everything as it found it: one that
//! leaves anything allocated has failed. A test that faults ends the kernel; whoever started it starts
//! it again behind that test (`after=`).
//!
//! Source: Linux, `Documentation/dev-tools/ktap.rst`.

mod cases;
mod cpus;
mod crash;
mod errands;
mod faults;
mod flips;
mod guards;
mod hardening;
mod paging;
mod protection;
#[cfg(asan)]
mod sanitizer;
mod slab;
mod soak;
mod space;
mod user;
mod window;

use alloc::borrow::Cow;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};

use kernel_core::cmdline::{FaultWords, Seed};
use kernel_core::selection::Selection;
use linkme::distributed_slice;
use mm::cases::Case;
use mm::slab::Census;

use crate::exit::Exit;
use crate::heap;
use crate::platform::Platform;
use crate::serial::println;

/// How a test ends that does not pass.
#[derive(Debug)]
pub(crate) enum NotPassed {
    /// It found something wrong: what.
    Failed(String),
    /// It cannot run on this machine: why.
    Skipped(String),
}

impl<S: ToString> From<S> for NotPassed {
    fn from(message: S) -> Self {
        Self::Failed(message.to_string())
    }
}

/// What a test comes to.
pub(crate) type Outcome = Result<(), NotPassed>;

/// When a test runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Runs {
    /// Whenever the command line chooses it, or everything.
    Always,
    /// Only where the command line says its full name: it is there to crash the kernel.
    WhenNamed,
}

/// A registered test.
#[derive(Debug)]
pub(crate) struct Test {
    pub(crate) name: &'static str,
    pub(crate) runs: Runs,
    pub(crate) body: fn() -> Outcome,
}

/// All registered tests, in no order.
#[distributed_slice]
pub(crate) static TESTS: [Test];

/// Registers a test.
macro_rules! ktest {
    ($group:literal, fn $name:ident() $body:block) => {
        $crate::ktest::ktest!(Always, $group, fn $name() $body);
    };
    ($runs:ident, $group:literal, fn $name:ident() $body:block) => {
        fn $name() -> $crate::ktest::Outcome $body

        const _: () = {
            #[linkme::distributed_slice($crate::ktest::TESTS)]
            static TEST: $crate::ktest::Test = $crate::ktest::Test {
                name: concat!($group, "/", stringify!($name)),
                runs: $crate::ktest::Runs::$runs,
                body: $name,
            };
        };
    };
}

/// Fails the test with a message unless the condition holds.
macro_rules! check {
    ($condition:expr, $($message:tt)+) => {
        if !$condition {
            return Err($crate::ktest::NotPassed::Failed(alloc::format!($($message)+)));
        }
    };
}

/// Prints a line that belongs to the running test.
macro_rules! diagnostic {
    ($($text:tt)*) => { $crate::serial::println!("# {}", format_args!($($text)*)) };
}

pub(crate) use {check, diagnostic, ktest};

/// The outcome of a test that this machine cannot run.
pub(crate) fn skip(why: &str, cause: impl fmt::Display) -> Outcome {
    Err(NotPassed::Skipped(alloc::format!("{why}: {cause}")))
}

/// A test that is to run.
#[derive(Debug)]
pub(crate) struct Chosen {
    pub(crate) name: Cow<'static, str>,
    body: Body,
}

/// What a test does.
#[derive(Clone, Copy, Debug)]
enum Body {
    /// A test of the kernel's own.
    Kernel(fn() -> Outcome),
    /// A case of the allocator's, which the hosted machine runs too.
    Case(&'static Case<Platform>),
}

/// The tests that `selection` chooses, in the order of their names.
pub(crate) fn selected(selection: &Selection) -> Vec<Chosen> {
    let chosen = |test: &&Test| match test.runs {
        Runs::Always => selection.admits(test.name),
        Runs::WhenNamed => selection.names(test.name),
    };
    let own = |test: &Test| Chosen { name: Cow::Borrowed(test.name), body: Body::Kernel(test.body) };
    let mut tests: Vec<_> = TESTS.iter().filter(chosen).map(own).collect();
    let cases = Case::ALL.iter().map(|case| Chosen { name: Cow::Owned(cases::name(case)), body: Body::Case(case) });
    tests.extend(cases.filter(|case| selection.admits(&case.name)));
    tests.sort_by(|a, b| a.name.cmp(&b.name));
    tests
}

/// Where tests' random choices start.
static SEED: AtomicU64 = AtomicU64::new(0);

/// Where a test's random choices start.
pub(crate) fn seed() -> Seed {
    Seed(SEED.load(Ordering::Relaxed))
}

/// Runs the tests that `selection` chooses, where allocations fail as `words` say in those that are about that. It is a failure
/// to choose none by name.
pub(crate) fn run(selection: &Selection, seed: Seed, words: FaultWords) -> Exit {
    SEED.store(seed.0, Ordering::Relaxed);
    faults::set(words);
    let at_start = heap::census();
    let tests = selected(selection);
    println!("KTAP version 1");
    println!("1..{}", tests.len());
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    for (number, test) in (1_usize..).zip(&tests) {
        println!("# run {}", test.name);
        let before = heap::census();
        let outcome = match test.body {
            Body::Kernel(body) => body(),
            Body::Case(case) => cases::run(case, seed),
        };
        match outcome.and_then(|()| nothing_leaked(before)) {
            Ok(()) => {
                passed += 1;
                println!("ok {number} {}", test.name);
            }
            Err(NotPassed::Failed(message)) => {
                failed += 1;
                println!("not ok {number} {} # {}", test.name, OneLine(&message));
            }
            Err(NotPassed::Skipped(reason)) => {
                skipped += 1;
                println!("ok {number} {} # SKIP {}", test.name, OneLine(&reason));
            }
        }
    }
    assert_eq!(passed + failed + skipped, tests.len(), "a test was not counted");
    let chose_by_name = selection.filter.is_some() || selection.exact.is_some();
    let chose_nothing = tests.is_empty() && chose_by_name && selection.after.is_none();
    if chose_nothing {
        diagnostic!("no test has such a name");
    }
    drop(tests);
    let leaked = nothing_leaked(at_start);
    match &leaked {
        Ok(()) => diagnostic!("heap: {at_start} in use, before and after the tests"),
        Err(_) => diagnostic!("heap: {at_start} in use before the tests, and {} after them", heap::census()),
    }
    match skipped {
        0 => println!("{passed} passed, {failed} failed"),
        _ => println!("{passed} passed, {failed} failed, {skipped} skipped"),
    }
    if failed == 0 && leaked.is_ok() && !chose_nothing { Exit::Success } else { Exit::Failure }
}

/// Fails unless exactly as much is allocated as then.
fn nothing_leaked(then: Census) -> Outcome {
    let now = heap::census();
    check!(now == then, "leaked: {then} were in use, and now {now}");
    Ok(())
}

/// Text with its line breaks made spaces: a KTAP line is one line.
struct OneLine<'t>(&'t str);

impl fmt::Display for OneLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, line) in self.0.lines().enumerate() {
            if number > 0 {
                f.write_str(" ")?;
            }
            f.write_str(line)?;
        }
        Ok(())
    }
}

/// Tests in the kernel's source: a linker that drops some shows here.
const REGISTERED: usize = 154 + if cfg!(asan) { 11 } else { 0 };

ktest!(
    "ktest",
    fn every_test_of_the_source_is_registered_under_a_name_of_its_own() {
        check!(TESTS.len() == REGISTERED, "{} tests are registered, the source has {REGISTERED}", TESTS.len());
        let mut names: Vec<_> = TESTS.iter().map(|test| test.name).collect();
        names.sort_unstable();
        let twice = names.windows(2).find(|pair| pair[0] == pair[1]);
        check!(twice.is_none(), "two tests have one name: {twice:?}");
        Ok(())
    }
);
