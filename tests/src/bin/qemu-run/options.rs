//! The command line.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, ValueEnum};
use harness::launch::{Accel, Virtualization};
use harness::machine::Machine;
use harness::size::Size;
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
    pub(crate) machine: MachineOptions,
}

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Subcommand {
    /// All tests: the host's, then the kernel's on every machine.
    Test {
        /// Only tests whose name (MACHINE::TEST in the kernel) contains this.
        filter: Option<String>,
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
    /// Starts the kernel's tests, stopped before the first instruction, with gdb attached.
    Gdb {
        #[command(flatten)]
        machine: MachineOptions,
    },
}

#[derive(Clone, Debug, Args)]
pub(crate) struct MachineOptions {
    /// The machine's memory.
    #[arg(long, value_name = "SIZE", default_value = "2G")]
    pub(crate) mem: Size,
    /// The machine's CPUs.
    #[arg(long, value_name = "N", default_value = "1")]
    pub(crate) smp: NonZeroU32,
    /// Split the memory into so many nodes.
    #[arg(long, value_name = "N")]
    pub(crate) nodes: Option<NonZeroU32>,
    /// Where the direct map ends and highmem starts [default: no highmem; benchmarks run without and with 64M]
    #[arg(long, value_name = "SIZE")]
    pub(crate) lowmem: Option<Size>,
    /// Where random numbers start.
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,
    /// Show these reports on memory in the end: names of files in Linux's /proc, or 'all'.
    #[arg(long, value_name = "NAME[,NAME…]")]
    pub(crate) dump: Option<Word>,
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
        Machine { cpus: self.smp, lowmem: self.lowmem, nodes: self.nodes, ..Machine::with_memory(self.mem) }
    }

    /// How to execute what is only to be right.
    pub(crate) fn accel(&self) -> anyhow::Result<Accel> {
        match self.accel {
            AccelOption::Tcg => Ok(Accel::Tcg),
            AccelOption::Kvm => {
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
        let machine = "--mem 8G --smp 2 --nodes 3 --lowmem 64M --seed 7 --dump all --timeout 60 --accel kvm";
        for command in ["", "bench ", "bench pair --json f ", "replay t.gz ", "gdb "] {
            let options = parse(&format!("qemu-run {command}{machine}")).unwrap();
            let given = match options.subcommand {
                None => options.machine,
                Some(
                    Subcommand::Bench { machine, .. }
                    | Subcommand::Replay { machine, .. }
                    | Subcommand::Gdb { machine },
                ) => machine,
                Some(Subcommand::Test { .. }) => unreachable!(),
            };
            assert_eq!(given.machine().to_string(), "8G smp=2 lowmem=64M numa=fake=3");
            assert_eq!((given.seed, given.timeout), (Some(7), Duration::from_secs(60)));
            assert_eq!(given.dump.as_ref().map(Word::as_str), Some("all"));
            assert!(matches!(given.accel, AccelOption::Kvm));
        }
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
            "--nodes -1",
            "--timeout 0",
            "--timeout 1.5",
            "--accel hvf",
            "--seed x",
            "--dump",
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
