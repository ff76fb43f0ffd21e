//! What a running Linux asked of its page allocator, asked of ours.

use harness::accel::{Accel, Shift};
use harness::launch::{Launch, Task};
use harness::machine::Machine;
use harness::run::End;
use harness::size::Size;
use harness::symbols::Symbols;
use harness::trace::{Trace, bundled};
use libtest_mimic::Trial;

use crate::{PATIENCE, measured, trial};

/// A third of the trace, which is a minute's worth: all of it is what `./qemu-run.sh` replays.
const RECORDS: u32 = 30_000;

const PLAIN: Machine = Machine::with_memory(Size::mib(512));

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("replay::keeps_every_pattern_intact", || intact(PLAIN)),
        trial("replay::keeps_every_pattern_intact_with_highmem", || intact(PLAIN.with_lowmem(Size::mib(64)))),
    ]
}

fn intact(machine: Machine) -> anyhow::Result<()> {
    let guest = measured()?;
    let trace = Trace::unpack(&bundled("server-thp.mmtrace.gz"))?.beginning(RECORDS)?;
    let launch = Launch { accel: Accel::Icount(Shift::ZERO), ..Launch::new(guest, machine) };
    let run = launch.run(&Task::Replay { trace: trace.path(), check: None }, PATIENCE, |_| ())?;
    if run.end == End::Success {
        return Ok(());
    }
    let symbols = Symbols::load(&guest.symbols)?;
    anyhow::bail!("on {machine}: {}", run.story(&|address| symbols.describe(address)))
}
