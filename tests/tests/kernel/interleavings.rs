//! Eight CPUs on a clock that counts instructions: under each shift they take turns in an order of its own, which comes
//! again bit for bit, down to the last page that any of them got and the last byte on the serial line.

use std::sync::OnceLock;

use anyhow::Context as _;
use harness::accel::Shift;
use harness::interleaving::Interleaving;
use harness::launch::{Launch, Select, Task};
use harness::machines::MACHINES;
use harness::run::{End, Run};
use harness::symbols::Symbols;
use libtest_mimic::Trial;

use crate::{PATIENCE, checked, trial};

const MACHINE: &str = "1G-2nodes-8cpus";
const SOAK: &str = "soak/what_a_short_one_does_follows_from_how_cpus_take_turns";

/// What the first run under each shift had to say, or why there is none.
static FIRST: [OnceLock<Result<String, String>>; Shift::MOST as usize + 1] = [const { OnceLock::new() }; _];

pub(crate) fn trials() -> Vec<Trial> {
    let repeats = |shift| trial(&format!("interleavings::shift_{shift}_repeats_its_own"), move || repeats(shift));
    let mut trials: Vec<_> = Shift::all().map(repeats).collect();
    trials.push(trial("interleavings::no_two_shifts_have_the_same", differ));
    trials
}

fn repeats(shift: Shift) -> anyhow::Result<()> {
    let (first, second) = (first(shift)?, run(shift)?);
    anyhow::ensure!(digest(first)? == digest(&second)?, "two runs differ:\n{first}\n{second}");
    anyhow::ensure!(first == second, "the digest is the same, and something else is not:\n{first}\n{second}");
    Ok(())
}

fn differ() -> anyhow::Result<()> {
    let digests = Shift::all().map(|shift| digest(first(shift)?)).collect::<anyhow::Result<Vec<_>>>()?;
    for (index, digest) in digests.iter().enumerate() {
        anyhow::ensure!(!digests[..index].contains(digest), "two shifts have the same interleaving: {digests:?}");
    }
    Ok(())
}

/// What follows from all that was done, and when.
fn digest(serial: &str) -> anyhow::Result<&str> {
    let line = serial.lines().find_map(|line| line.split_once(", digest "));
    line.map(|(_, digest)| digest).with_context(|| format!("no digest in\n{serial}"))
}

fn first(shift: Shift) -> anyhow::Result<&'static str> {
    let place = Shift::all().position(|other| other == shift).context("a shift is one of all")?;
    let run = FIRST[place].get_or_init(|| run(shift).map_err(|error| format!("{error:#}")));
    run.as_deref().map_err(|error| anyhow::anyhow!("{error}"))
}

/// What the kernel says in a run that goes well.
fn run(shift: Shift) -> anyhow::Result<String> {
    let guest = checked()?;
    let named = MACHINES.iter().find(|named| named.name == MACHINE).context("there is no such machine")?;
    let interleaving = Interleaving { shift: Some(shift), ..Interleaving::from_environment()? };
    let (accel, seed) = (interleaving.accel(), Some(interleaving.seed));
    let launch = Launch { accel, seed, ..Launch::new(guest, named.machine) };
    let task = Task::Test { select: Select::Exact(SOAK.parse()?), after: None };
    let run = launch.run(&task, PATIENCE, |_| ())?;
    if run.end == End::Success {
        return Ok(run.serial);
    }
    let command = format!("./qemu-run.sh test {MACHINE}::{SOAK}");
    anyhow::bail!("{}\n{}", story(&run, &Symbols::load(&guest.symbols)?), interleaving.replay(&command, &command))
}

fn story(run: &Run, symbols: &Symbols) -> String {
    run.story(&|address| symbols.describe(address))
}
