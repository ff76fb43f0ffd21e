//! What `qemu-run.sh` calls once everything is there: builds, boots, and tells how it went.
//!
//! Exit status: 0 if all passed, 1 if not, 2 if the arguments make no sense.

use std::process::{Command, ExitCode};

use anyhow::Context as _;
use clap::Parser as _;

mod debugger;
mod echo;
mod options;
mod session;
mod summary;

use harness::guest::workspace;
use harness::trace::bundled;
use options::{Options, Subcommand};
use session::Session;
use summary::Summary;

/// The trace of a run that names none: the short one.
const TRACE: &str = "server-thp.mmtrace.gz";

fn main() -> ExitCode {
    let options = Options::parse();
    match run(&options) {
        Ok(status) => status,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let mut summary = Summary::default();
    match &options.subcommand {
        None => {
            let session = Session::new(&options.machine)?;
            // Each by itself: what comes later is worth seeing even if what came before failed.
            summary.add("tests", session.tests());
            summary.add("benchmarks", session.benchmarks(None, None));
            summary.add("replay", session.replay(&bundled(TRACE)));
        }
        Some(Subcommand::Test { filter }) => return tests(filter.as_deref()),
        Some(Subcommand::Bench { filter, json, machine }) => {
            let session = Session::new(machine)?;
            summary.add("benchmarks", session.benchmarks(filter.as_ref(), json.as_deref()));
        }
        Some(Subcommand::Replay { trace, machine }) => {
            summary.add("replay", Session::new(machine)?.replay(trace));
        }
        Some(Subcommand::Gdb { machine }) => return debugger::attach(machine),
    }
    print!("{summary}");
    Ok(summary.status())
}

/// Everything: the tests that run here, then those that run in the kernel on every machine.
fn tests(filter: Option<&str>) -> anyhow::Result<ExitCode> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(workspace()).args(["test", "--workspace", "--no-fail-fast"]);
    if let Some(filter) = filter {
        command.args(["--", filter]);
    }
    let status = command.status().context("cannot run cargo")?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
