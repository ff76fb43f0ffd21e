//! The kernel's reports on memory: all that were asked for, where they belong, and right.

use std::num::NonZeroU8;

use anyhow::Context as _;
use harness::ktap;
use harness::launch::{Launch, Select, Task};
use harness::machine::Machine;
use harness::report::{self, Report};
use harness::run::{End, Run};
use harness::size::Size;
use libtest_mimic::Trial;
use procfs_core::{FromBufRead as _, Meminfo};

use crate::{PATIENCE, checked, trial};

/// Two nodes, the second and most of the first in highmem.
const MACHINE: Machine =
    Machine { fake_nodes: NonZeroU8::new(2), ..Machine::with_memory(Size::mib(512)).with_lowmem(Size::mib(64)) };

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("reports::agree_with_each_other_and_are_what_procfs_reads", agree),
        trial("reports::come_in_the_order_they_are_asked_for_in", in_order),
        trial("reports::stand_behind_the_summary_of_tests_and_two_come_unasked", behind_the_summary),
    ]
}

fn run(dump: Option<&str>, task: &Task<'_>) -> anyhow::Result<Run> {
    let dump = dump.map(str::parse).transpose()?;
    let run = Launch { dump: dump.as_ref(), ..Launch::new(checked()?, MACHINE) }.run(task, PATIENCE, |_| ())?;
    anyhow::ensure!(run.end == End::Success, "{}\n{}", run.end, run.serial);
    Ok(run)
}

fn names(reports: &[Report]) -> Vec<&str> {
    reports.iter().map(|report| report.name.as_str()).collect()
}

fn agree() -> anyhow::Result<()> {
    let serial = run(Some("all"), &Task::Dump)?.serial;
    let reports = report::read(&serial);
    let text = |name| {
        let report = reports.iter().find(|report| report.name == name);
        report.map(|report| report.text.as_str()).with_context(|| format!("no {name} in\n{serial}"))
    };
    // The sum of the numbers behind `key` in all lines that have one.
    let sum = |text: &str, key: &str| -> anyhow::Result<u64> {
        let values = text.lines().filter_map(|line| line.trim().strip_prefix(key)?.split_whitespace().next());
        Ok(values.map(str::parse::<u64>).sum::<Result<_, _>>()?)
    };
    let meminfo = Meminfo::from_buf_read(text("meminfo")?.as_bytes())?;
    let zoneinfo = text("zoneinfo")?;
    let vmstat = text("vmstat")?;
    let managed = sum(zoneinfo, "managed ")?;
    let free = sum(zoneinfo, "pages free ")?;
    let nodes = sum(zoneinfo, "nr_freelist_nodes ")?;
    // What CPUs have at hand is free, though on no list of a zone.
    let all_free = free + sum(zoneinfo, "nr_cpu_list_pages ")?;
    let in_blocks = text("buddyinfo")?
        .lines()
        .flat_map(|line| line.split_whitespace().skip(4).zip(0..))
        .map(|(count, order)| Ok(count.parse::<u64>()? << order))
        .sum::<anyhow::Result<u64>>()?;
    anyhow::ensure!(managed > 100_000 && meminfo.mem_total == managed << 12, "of {managed} pages\n{serial}");
    anyhow::ensure!(meminfo.mem_free == all_free << 12 && in_blocks + nodes == free, "{free} pages free\n{serial}");
    anyhow::ensure!(sum(vmstat, "nr_free_pages ")? == all_free, "{free} pages free\n{serial}");
    anyhow::ensure!(meminfo.low_total.zip(meminfo.high_total).map(|(low, high)| low + high) == Some(managed << 12));
    anyhow::ensure!(meminfo.low_total.is_some_and(|low| low < 64 << 20), "the direct map ends at 64 MiB\n{serial}");
    let blocks = |kind| text("pagetypeinfo").map(|text| text.matches(kind).count());
    anyhow::ensure!(blocks("Page block order: 9\n")? == 2, "one table a node\n{serial}");
    anyhow::ensure!(blocks(", type ")? == 4 * zoneinfo.matches("zone ").count(), "a line a type and zone\n{serial}");
    Ok(())
}

fn in_order() -> anyhow::Result<()> {
    let serial = run(Some("vmstat,none,buddyinfo,vmstat"), &Task::Dump)?.serial;
    anyhow::ensure!(names(&report::read(&serial)) == ["vmstat", "buddyinfo"], "{serial}");
    anyhow::ensure!(serial.contains("cmdline: ignored: none (no such report)"), "{serial}");
    Ok(())
}

fn behind_the_summary() -> anyhow::Result<()> {
    let select = Select::Containing("ktest/".parse()?);
    for (asked, printed) in [(None, &["buddyinfo", "meminfo"][..]), (Some("zoneinfo"), &["zoneinfo"])] {
        let serial = run(asked, &Task::Test { select: select.clone(), after: None })?.serial;
        anyhow::ensure!(names(&report::read(&serial)) == printed, "{serial}");
        let last = report::before(&serial).lines().last();
        anyhow::ensure!(last.is_some_and(|line| line.ends_with(" passed, 0 failed")), "{serial}");
        let ktap = ktap::read(&serial);
        anyhow::ensure!(ktap.summary == Some(ktap.count()) && !ktap.finished.is_empty(), "{serial}");
    }
    anyhow::ensure!(report::read(&run(Some("all"), &Task::List)?.serial).is_empty(), "a list has no reports");
    Ok(())
}
