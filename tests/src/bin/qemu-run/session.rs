//! The parts of a run: each builds what it needs, boots, shows the serial line as it comes, and gives its outcome.

use std::fs;
use std::path::Path;

use anyhow::Context as _;
use harness::accel::{Accel, Shift};
use harness::bench::{self, Bench};
use harness::guest::{Guest, Profile};
use harness::interleaving::Interleaving;
use harness::keeper::Keeper;
use harness::ktap::Verdict;
use harness::launch::{Launch, Select, Task};
use harness::limits::{self, HIGHMEM_FACTOR};
use harness::machine::Machine;
use harness::run::{End, Run};
use harness::size::Size;
use harness::symbols::Symbols;
use harness::topology::Cpus;
use harness::trace::Trace;
use harness::word::Word;

use crate::echo::{Echo, Ended, Reports};
use crate::options::{MachineOptions, Turns};
use crate::summary::{Column, Outcome};

/// Where benchmarks put highmem's beginning if nobody says otherwise.
const LOWMEM: Size = Size::mib(64);

/// One invocation's machine.
pub(crate) struct Session<'o> {
    options: &'o MachineOptions,
    machine: Machine,
    accel: Accel,
    interleaving: Interleaving,
    keeper: Option<Keeper>,
}

impl<'o> Session<'o> {
    pub(crate) fn new(options: &'o MachineOptions, turns: Turns) -> anyhow::Result<Session<'o>> {
        let interleaving = turns.seeded(options.seed);
        let keeper = options.image.as_deref().map(Keeper::new).transpose()?;
        Ok(Session { options, machine: options.machine(), accel: options.accel(turns)?, interleaving, keeper })
    }

    /// Every test of the kernel.
    pub(crate) fn tests(&self) -> anyhow::Result<Outcome> {
        let guest = build(Profile::Dev)?;
        let launch = Launch { accel: self.accel, ..self.launch(&guest, self.machine) };
        // Nobody wants an image of that.
        let list = Launch { keeper: None, ..launch }.list(self.options.timeout)?;
        let symbols = Symbols::load(&guest.symbols)?;
        heading("tests", self.machine);
        let mut echo = self.echo();
        let selected = (&Select::All, &list.tests[..]);
        let mut verdicts = launch.run_tests(selected, &symbols, self.options.timeout, |serial| echo.watch(serial));
        if self.machine.cpus > Cpus::ONE {
            let command = format!("./qemu-run.sh {}", self.options.words());
            let replay = self.interleaving.replay(&command, &command);
            verdicts.iter_mut().for_each(|(_, verdict)| verdict.remark(&replay));
        }
        let failed = verdicts.iter().any(|(_, verdict)| matches!(verdict, Verdict::Failed(_)));
        echo.end(if failed { Ended::Badly } else { Ended::Well });
        Ok(Outcome::Tests { machine: self.machine, verdicts })
    }

    /// The benchmarks, without highmem and with it if the options do not say which.
    pub(crate) fn benchmarks(&self, filter: Option<&Word>, json: Option<&Path>) -> anyhow::Result<Outcome> {
        let guest = build(Profile::Release)?;
        let machines = match self.machine.lowmem {
            Some(_) => vec![self.machine],
            None => vec![self.machine, self.machine.with_lowmem(LOWMEM)],
        };
        let mut columns = Vec::new();
        let mut objects = String::new();
        for machine in machines {
            heading("benchmarks", machine);
            let run = self.measure(&guest, machine, &Task::Bench(filter.cloned()))?;
            objects.extend(bench::objects(&run.serial).flat_map(|object| [object, "\n"]));
            let figures = bench::read(&run.serial)?;
            anyhow::ensure!(!figures.is_empty(), "the kernel has no such benchmark");
            let broken = self.broken(&figures, machine, filter);
            columns.push(Column { machine, figures, broken });
        }
        if let Some(file) = json {
            fs::write(file, objects).with_context(|| format!("cannot write {}", file.display()))?;
        }
        Ok(Outcome::Benchmarks(columns))
    }

    /// A recorded trace.
    pub(crate) fn replay(&self, packed: &Path) -> anyhow::Result<Outcome> {
        let trace = Trace::unpack(packed)?;
        let guest = build(Profile::Release)?;
        heading("replay", self.machine);
        let run = self.measure(&guest, self.machine, &Task::Replay { trace: trace.path(), check: None })?;
        let name = packed.file_name().unwrap_or(packed.as_os_str()).to_string_lossy().into_owned();
        Ok(Outcome::Replay { machine: self.machine, trace: name, figures: bench::read(&run.serial)? })
    }

    /// Limits hold for counted instructions of everything; a selection is for looking at.
    fn broken(&self, figures: &[Bench], machine: Machine, filter: Option<&Word>) -> Vec<String> {
        match (self.accel, filter) {
            (Accel::Tcg | Accel::Icount(_), None) => {
                limits::broken(figures, if machine.lowmem.is_some() { HIGHMEM_FACTOR } else { 1 })
            }
            _ => Vec::new(),
        }
    }

    /// Boots the measured kernel, which has to succeed.
    fn measure(&self, guest: &Guest, machine: Machine, task: &Task<'_>) -> anyhow::Result<Run> {
        let accel = match self.accel {
            // What tests run on says nothing of what a figure counts: ticks of one instruction.
            Accel::Tcg | Accel::Icount(_) => Accel::Icount(Shift::ZERO),
            Accel::Kvm(_) => self.accel,
        };
        let mut echo = self.echo();
        let launch = Launch { accel, ..self.launch(guest, machine) };
        let run = launch.run(task, self.options.timeout, |serial| echo.watch(serial))?;
        echo.end(if run.end == End::Success { Ended::Well } else { Ended::Badly });
        if run.end != End::Success {
            let symbols = Symbols::load(&guest.symbols)?;
            anyhow::bail!("{}", run.story(&|address| symbols.describe(address)));
        }
        Ok(run)
    }

    fn launch<'g>(&'g self, guest: &'g Guest, machine: Machine) -> Launch<'g> {
        let (seed, dump, keeper) = (self.options.seed, self.options.dump.as_ref(), self.keeper.as_ref());
        Launch { seed, dump, keeper, ..Launch::new(guest, machine) }
    }

    fn echo(&self) -> Echo {
        Echo::new(if self.options.dump.is_some() { Reports::Wanted } else { Reports::Unasked })
    }
}

pub(crate) fn build(profile: Profile) -> anyhow::Result<Guest> {
    eprintln!("building the kernel and its loader ({profile:?}) ...");
    Guest::build(profile)
}

fn heading(what: &str, machine: Machine) {
    println!("\n=== {what}: {machine}\n");
}
