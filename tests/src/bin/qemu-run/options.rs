//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, ValueEnum};
use harness::accel::{Accel, Shift, Virtualization};
use harness::faults::Faults;
use harness::interleaving::Interleaving;
use harness::machine::Machine;
use harness::size::Size;
use harness::topology::{Cpus, NodeCount, Topology};
use harness::word::Word;

/// Builds the kernel, boots it in QEMU and tells how it went.
///
/// Without a command: every in-kernel test, the benchmarks and one trace on one machine.
#[derive(Debug, Parser)]
#[command(
    name = "./qemu-run.sh",
    bin_name = "./qemu-run.sh",
    args_conflicts_with_subcommands = true,
    disable_help_subcommand = true
)]
pub(crate) struct Options {
    #[command(subcommand)]
    pub(crate) subcommand: Option<Subcommand>,
    #[command(flatten)]
    pub(crate) turns: Turns,
    #[command(flatten)]
    pub(crate) machine: MachineOptions,
}

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Subcommand {
    /// All tests: the host's, then the kernel's on every machine.
    Test {
        /// Only tests whose name (MACHINE::TEST in the kernel) contains this.
        filter: Option<String>,
        /// Where the kernel's random numbers start.
        #[arg(long, value_name = "N")]
        seed: Option<u64>,
        #[command(flatten)]
        turns: Turns,
        #[command(flatten)]
        faults: Faults,
    },
    /// The benchmarks, in instructions per operation.
    Bench {
        /// Only benchmarks whose name contains this.
        filter: Option<Word>,
        /// Write the figures here, one JSON object a line.
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
        #[command(flatten)]
        machine: MachineOptions,
    },
    /// Replays a recorded trace.
    Replay {
        /// The trace, packed.
        #[arg(value_name = "TRACE.gz")]
        trace: PathBuf,
        #[command(flatten)]
        machine: MachineOptions,
    },
    /// Checks an image of the machine's memory: every invariant of the allocator outside held locks.
    Fsck {
        /// The image: an ELF core file, as `--image` writes.
        image: PathBuf,
    },
    /// Starts the kernel's tests, stopped before the first instruction, with gdb attached.
    Gdb {
        #[command(flatten)]
        turns: Turns,
        #[command(flatten)]
        machine: MachineOptions,
    },
}

/// How CPUs take turns.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Turns {
    /// Run tests on a clock that counts instructions, 2^S ns each: CPUs take turns alike on every run.
    #[arg(long, value_name = "S")]
    pub(crate) shift: Option<Shift>,
}

impl Turns {
    /// With the seed that tests start from.
    pub(crate) fn seeded(self, seed: Option<u64>) -> Interleaving {
        Interleaving { seed: seed.unwrap_or_default(), shift: self.shift }
    }
}

#[derive(Clone, Debug, Args)]
pub(crate) struct MachineOptions {
    /// The machine's memory.
    #[arg(long, value_name = "SIZE", default_value = "2G")]
    pub(crate) mem: Size,
    /// The machine's CPUs.
    #[arg(long, value_name = "N", default_value = "1")]
    pub(crate) smp: Cpus,
    /// Spread its memory and CPUs over so many nodes, of which firmware tells the kernel [default: it tells of none]
    #[arg(long, value_name = "N")]
    pub(crate) nodes: Option<NodeCount>,
    /// Where the direct map ends and highmem starts [default: no highmem; benchmarks run without and with 64M]
    #[arg(long, value_name = "SIZE")]
    pub(crate) lowmem: Option<Size>,
    /// Where random numbers start.
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,
    /// Show these reports on memory in the end: names of files in Linux's /proc, or 'all'.
    #[arg(long, value_name = "NAME[,NAME…]")]
    pub(crate) dump: Option<Word>,
    /// Save the machine's memory here in the end, for `fsck`: of the first boot that goes wrong, or else of the last.
    #[arg(long, value_name = "FILE")]
    pub(crate) image: Option<PathBuf>,
    /// Give up on a kernel that has been silent for so long.
    #[arg(long, value_name = "SECONDS", default_value = "300", value_parser = seconds)]
    pub(crate) timeout: Duration,
    /// Who executes the instructions; they are counted under tcg only.
    #[arg(long, value_enum, default_value = "tcg")]
    accel: AccelOption,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum AccelOption {
    Tcg,
    Kvm,
}

impl MachineOptions {
    pub(crate) fn machine(&self) -> Machine {
        let topology = self.nodes.map_or(Topology::Flat, Topology::Even);
        Machine { cpus: self.smp, topology, lowmem: self.lowmem, ..Machine::with_memory(self.mem) }
    }

    /// The words that ask for this machine.
    pub(crate) fn words(&self) -> String {
        let mut words = format!("--mem {} --smp {}", self.mem, self.smp);
        if let Some(nodes) = self.nodes {
            words += &format!(" --nodes {nodes}");
        }
        if let Some(end) = self.lowmem {
            words += &format!(" --lowmem {end}");
        }
        words
    }

    /// How to execute what is only to be right.
    pub(crate) fn accel(&self, turns: Turns) -> anyhow::Result<Accel> {
        match (self.accel, turns.shift) {
            (AccelOption::Tcg, None) => Ok(Accel::Tcg),
            (AccelOption::Tcg, Some(shift)) => Ok(Accel::Icount(shift)),
            (AccelOption::Kvm, Some(_)) => anyhow::bail!("kvm counts no instructions: --shift takes tcg"),
            (AccelOption::Kvm, None) => {
                let cpuinfo = std::fs::read_to_string("/proc/cpuinfo")?;
                Ok(Accel::Kvm(Virtualization::find(&cpuinfo)?))
            }
        }
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse() {
        Ok(seconds @ 1..) => Ok(Duration::from_secs(seconds)),
        _ => Err("must be a whole number of seconds, at least 1".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::error::ErrorKind;

    use super::*;

    fn parse(line: &str) -> Result<Options, ErrorKind> {
        Options::try_parse_from(line.split(' ')).map_err(|error| error.kind())
    }

    #[test]
    fn every_command_that_boots_one_machine_takes_the_machines_options() {
        let machine = "--mem 8G --smp 4 --nodes 3 --lowmem 64M --seed 7 --dump all --image i --timeout 60 --accel kvm";
        for command in ["", "bench ", "bench pair --json f ", "replay t.gz ", "gdb "] {
            let options = parse(&format!("qemu-run {command}{machine}")).unwrap();
            let given = match options.subcommand {
                None => options.machine,
                Some(
                    Subcommand::Bench { machine, .. }
                    | Subcommand::Replay { machine, .. }
                    | Subcommand::Gdb { machine, .. },
                ) => machine,
                Some(Subcommand::Test { .. } | Subcommand::Fsck { .. }) => unreachable!(),
            };
            assert_eq!(given.machine().to_string(), "8G smp=4 nodes=3 lowmem=64M");
            assert_eq!((given.seed, given.timeout), (Some(7), Duration::from_secs(60)));
            assert_eq!(given.dump.as_ref().map(Word::as_str), Some("all"));
            assert_eq!(given.image.as_deref(), Some(std::path::Path::new("i")));
            assert!(matches!(given.accel, AccelOption::Kvm));
            assert_eq!(given.words(), "--mem 8G --smp 4 --nodes 3 --lowmem 64M");
        }
    }

    #[test]
    fn what_runs_tests_takes_a_shift_unless_kvm_is_to_run_them() {
        let options = parse("qemu-run test 512M-2cpus::soak/a --seed 7 --shift 3 --failslab 1,5,0,-1").unwrap();
        let Some(Subcommand::Test { filter, seed, turns, faults }) = options.subcommand else { unreachable!() };
        assert_eq!((filter.as_deref(), seed), (Some("512M-2cpus::soak/a"), Some(7)));
        assert_eq!(faults, Faults { fail_page_alloc: None, failslab: "1,5,0,-1".parse().ok() });
        assert_eq!(turns.shift, Shift::all().nth(3));
        let accel = |line| parse(line).map(|options| options.machine.accel(options.turns)).unwrap();
        assert_eq!(accel("qemu-run --shift 0").unwrap(), Accel::Icount(Shift::ZERO));
        assert_eq!(accel("qemu-run --smp 2").unwrap(), Accel::Tcg);
        assert!(accel("qemu-run --shift 0 --accel kvm").is_err());
        assert!(parse("qemu-run gdb --shift 7").is_ok());
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for line in [
            "tset",
            "test a b",
            "test --mem 8G",
            "--mem",
            "--mem 8X",
            "--smp 0",
            "--smp 17",
            "--nodes -1",
            "--nodes 0",
            "--nodes 9",
            "--shift 8",
            "--shift -1",
            "bench --shift 0",
            "replay t.gz --shift 0",
            "test --smp 2",
            "test --seed x",
            "test --failslab 1,2,3",
            "test --fail-page-alloc 1,101,0,-1",
            "--timeout 0",
            "--timeout 1.5",
            "--accel hvf",
            "--seed x",
            "--dump",
            "--image",
            "fsck",
            "fsck a b",
            "fsck a --mem 8G",
            "replay",
            "--json f",
            "--mem 8G bench",
            "bench größe",
            "gdb x",
            "help",
        ] {
            assert!(parse(&format!("qemu-run {line}")).is_err(), "{line}");
        }
    }

    #[test]
    fn the_declaration_of_the_command_line_contradicts_itself_nowhere() {
        use clap::CommandFactory as _;
        Options::command().debug_assert();
    }
}
