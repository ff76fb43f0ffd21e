//! What `qemu-run.sh` calls once everything is there: builds, boots, and tells how it went.
//!
//! Exit status: 0 if all passed, 1 if not, 2 if the arguments make no sense, or what is to be checked is no image.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::Context as _;
use clap::Parser as _;

mod debugger;
mod echo;
mod options;
mod session;
mod summary;

use harness::faults::Faults;
use harness::fsck;
use harness::guest::workspace;
use harness::interleaving::Interleaving;
use harness::trace::bundled;
use options::{Options, Subcommand, Turns};
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
            let session = Session::new(&options.machine, options.turns)?;
            // Each by itself: what comes later is worth seeing even if what came before failed.
            summary.add("tests", session.tests());
            summary.add("benchmarks", session.benchmarks(None, None));
            summary.add("replay", session.replay(&bundled(TRACE)));
        }
        Some(Subcommand::Test { filter, seed, turns, faults }) => {
            return tests(filter.as_deref(), turns.seeded(*seed), *faults);
        }
        Some(Subcommand::Bench { filter, json, machine }) => {
            let session = Session::new(machine, Turns { shift: None })?;
            summary.add("benchmarks", session.benchmarks(filter.as_ref(), json.as_deref()));
        }
        Some(Subcommand::Replay { trace, machine }) => {
            summary.add("replay", Session::new(machine, Turns { shift: None })?.replay(trace));
        }
        Some(Subcommand::Fsck { image }) => return Ok(check(image)),
        Some(Subcommand::Gdb { turns, machine }) => return debugger::attach(machine, *turns),
    }
    print!("{summary}");
    Ok(summary.status())
}

/// Checks an image of memory: 0 if all holds, 1 if not, 2 if it is no image.
fn check(image: &Path) -> ExitCode {
    match fsck::check(image) {
        Ok(report) => {
            print!("{report}");
            if report.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("error: {}: {error}", image.display());
            ExitCode::from(2)
        }
    }
}

/// Everything: the tests that run here, then those that run in the kernel on every machine; last, unless a filter asks
/// for others, the models of what goes without a lock.
fn tests(filter: Option<&str>, interleaving: Interleaving, faults: Faults) -> anyhow::Result<ExitCode> {
    let mut command = cargo_test();
    // The words of `cargo test` are the test harness's own.
    command.envs(interleaving.variables());
    command.envs(faults.variables());
    command.args(["--workspace", "--no-fail-fast"]);
    if let Some(filter) = filter {
        command.args(["--", filter]);
    }
    let passed = tests_something(command)?;
    let modelled = filter.is_some() || succeeds(models())?;
    Ok(if passed && modelled { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The models, in a directory of their own: everything is compiled differently for them.
fn models() -> Command {
    let mut command = cargo_test();
    command.env("RUSTFLAGS", "--cfg loom").args(["--package", "mm", "--lib", "--target-dir"]);
    command.arg(target_directory().join("loom")).arg("loom");
    command
}

fn target_directory() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), PathBuf::from)
}

fn cargo_test() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(workspace()).arg("test");
    command
}

/// Whether tests ran, of which a filter may name none, and all passed. What they say is passed on.
fn tests_something(mut command: Command) -> anyhow::Result<bool> {
    let mut running = command.stdout(Stdio::piped()).spawn().context("cannot run cargo")?;
    let mut ran = false;
    for line in BufReader::new(running.stdout.take().context("it has no output")?).split(b'\n') {
        let line = line?;
        let count = line.strip_prefix(b"test result: ok. ").and_then(<[u8]>::first);
        ran |= count.is_some_and(|&digit| digit != b'0');
        io::stdout().write_all(&[&line[..], b"\n"].concat())?;
    }
    let passed = running.wait()?.success();
    if passed && !ran {
        eprintln!("error: no test has that in its name");
    }
    Ok(passed && ran)
}

fn succeeds(mut command: Command) -> anyhow::Result<bool> {
    Ok(command.status().context("cannot run cargo")?.success())
}
