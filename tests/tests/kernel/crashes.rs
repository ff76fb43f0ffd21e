//! Kernel tests that are made to die: each is reported as failed, with the kernel's report and names for its
//! addresses. The kernel runs them only if they are asked for by name.

use libtest_mimic::Trial;
use tests::ktap::Verdict;
use tests::launch::{Launch, Select};
use tests::machine::Machine;
use tests::size::Size;
use tests::symbols::Symbols;

use crate::{PATIENCE, checked, trial};

/// The kernel's test, what its report begins with, and what else must stand in it.
const CRASHES: &[(&str, &str, &[&str])] =
    &[("crash/panic", "PANIC: ", &[]), ("crash/page_fault", "EXCEPTION: ", &["page fault"])];

pub(crate) fn trials() -> Vec<Trial> {
    let reported = |(name, beginning, parts): &'static (&str, &str, &[&str])| {
        trial(&format!("{name}_is_reported_with_names"), || reported(name, beginning, parts))
    };
    CRASHES.iter().map(reported).collect()
}

fn reported(name: &str, beginning: &str, parts: &[&str]) -> anyhow::Result<()> {
    let guest = checked()?;
    let symbols = Symbols::load(&guest.kernel)?;
    let tests = (&Select::Exact(name.parse()?), &[name.to_owned()][..]);
    let launch = Launch::new(guest, Machine::with_memory(Size::mib(64)));
    let verdicts = launch.run_tests(tests, &symbols, PATIENCE, |_| ());
    let Some((_, Verdict::Failed(report))) = verdicts.first() else { anyhow::bail!("is not a failure: {verdicts:?}") };
    anyhow::ensure!(
        report.lines().any(|line| line.starts_with(beginning)),
        "no line begins with '{beginning}':\n{report}"
    );
    for part in parts {
        anyhow::ensure!(report.contains(part), "says nothing of '{part}':\n{report}");
    }
    let named = |line: &str| line.starts_with("  at ") && line.contains("kernel::") && line.contains(".rs:");
    anyhow::ensure!(report.lines().any(named), "no line names a function of the kernel:\n{report}");
    Ok(())
}
