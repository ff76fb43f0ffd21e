//! Kernel tests that are made to die: each is reported as failed, with the kernel's report and names for its
//! addresses. The kernel runs them only if they are asked for by name.

use harness::ktap::Verdict;
use harness::launch::{Launch, Select};
use harness::machine::Machine;
use harness::size::Size;
use harness::symbols::Symbols;
use libtest_mimic::Trial;

use crate::{PATIENCE, checked, trial};

/// The kernel's test, and what its report must say.
const CRASHES: &[(&str, &[&str])] = &[
    ("crash/panic", &["PANIC: ", "as asked"]),
    ("crash/pagefault", &["EXCEPTION: ", "page fault", "write"]),
    ("crash/highmem", &["EXCEPTION: ", "page fault", "read", "highmem"]),
    ("crash/text_write", &["EXCEPTION: ", "page fault", "write"]),
    ("crash/data_execute", &["EXCEPTION: ", "page fault", "execute"]),
    ("crash/stack", &["EXCEPTION: "]),
    ("crash/doublefault", &["EXCEPTION: ", "double fault"]),
    ("crash/invalid_opcode", &["EXCEPTION: ", "invalid opcode"]),
];

pub(crate) fn trials() -> Vec<Trial> {
    let reported = |(name, parts): &'static (&str, &[&str])| {
        trial(&format!("{name}_is_reported_with_names"), || reported(name, parts))
    };
    CRASHES.iter().map(reported).collect()
}

fn reported(name: &str, parts: &[&str]) -> anyhow::Result<()> {
    let guest = checked()?;
    let symbols = Symbols::load(&guest.kernel)?;
    let tests = (&Select::Exact(name.parse()?), &[name.to_owned()][..]);
    let machine = Machine::with_memory(Size::mib(128)).with_lowmem(Size::mib(64));
    let verdicts = Launch::new(guest, machine).run_tests(tests, &symbols, PATIENCE, |_| ());
    let Some((_, Verdict::Failed(report))) = verdicts.first() else { anyhow::bail!("is not a failure: {verdicts:?}") };
    for part in parts {
        anyhow::ensure!(report.contains(part), "says nothing of '{part}':\n{report}");
    }
    let named = |line: &str| line.starts_with("  at ") && line.contains("kernel::") && line.contains(".rs:");
    anyhow::ensure!(report.lines().any(named), "no line names a function of the kernel:\n{report}");
    Ok(())
}
