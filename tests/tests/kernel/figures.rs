//! Instruction counts: alike on every run, and below their limits.

use harness::accel::{Accel, Shift};
use harness::bench;
use harness::launch::{Launch, Task};
use harness::limits::{HIGHMEM_FACTOR, broken};
use harness::machine::Machine;
use harness::run::{End, Run};
use harness::size::Size;
use harness::symbols::Symbols;
use libtest_mimic::Trial;

use crate::{PATIENCE, measured, trial};

const PLAIN: Machine = Machine::with_memory(Size::mib(512));
const HIGHMEM: Machine = PLAIN.with_lowmem(Size::mib(64));

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("figures::stay_below_their_limits", || within_limits(PLAIN, 1)),
        trial("figures::stay_below_their_limits_with_highmem", || within_limits(HIGHMEM, HIGHMEM_FACTOR)),
        trial("figures::are_alike_on_every_run", || alike_on_every_run(PLAIN)),
        trial("figures::are_alike_on_every_run_with_highmem", || alike_on_every_run(HIGHMEM)),
    ]
}

fn within_limits(machine: Machine, factor: u64) -> anyhow::Result<()> {
    let broken = broken(&bench::read(&run(machine, None)?.serial)?, factor);
    anyhow::ensure!(broken.is_empty(), "on {machine}:\n{}", broken.join("\n"));
    Ok(())
}

fn alike_on_every_run(machine: Machine) -> anyhow::Result<()> {
    const FILTER: &str = "_pair";
    let [first, second] = [run(machine, Some(FILTER))?, run(machine, Some(FILTER))?];
    anyhow::ensure!(bench::objects(&first.serial).next().is_some(), "no figures:\n{}", first.serial);
    for (first, second) in bench::objects(&first.serial).zip(bench::objects(&second.serial)) {
        anyhow::ensure!(first == second, "first {first}\nthen  {second}");
    }
    let count = |run: &Run| bench::objects(&run.serial).count();
    anyhow::ensure!(count(&first) == count(&second), "{} figures, then {}", count(&first), count(&second));
    Ok(())
}

fn run(machine: Machine, filter: Option<&str>) -> anyhow::Result<Run> {
    let guest = measured()?;
    let launch = Launch { accel: Accel::Icount(Shift::ZERO), ..Launch::new(guest, machine) };
    let run = launch.run(&Task::Bench(filter.map(str::parse).transpose()?), PATIENCE, |_| ())?;
    if run.end == End::Success {
        return Ok(run);
    }
    let symbols = Symbols::load(&guest.symbols)?;
    anyhow::bail!("on {machine}: {}", run.story(&|address| symbols.describe(address)))
}
