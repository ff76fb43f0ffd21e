//! Bits of the running kernel's memory flip, as a debugger sees to: whatever follows, nothing is given to two owners, nothing goes
//! on for ever, and the machine does not fall over. The kernel says where what stands, and uses it all afterwards, beside its
//! specification (`kernel/src/ktest/flips.rs`).
//!
//! Each flip has a boot of its own, and is chosen by its number: `FLIPS=N` has so many instead of a few.

use std::collections::BTreeMap;
use std::env;
use std::fmt;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use harness::crash;
use harness::debugger::Debugger;
use harness::launch::{Launch, Select, Task};
use harness::machine::Machine;
use harness::run::{End, Run};
use harness::size::Size;
use libtest_mimic::Trial;

use crate::{checked, trial};

const TEST: &str = "flips/somebody_flips_a_bit_and_everything_is_used";

/// Flips in a run that nobody asks to be longer, in so many trials, which run beside each other.
const FEW: u64 = 60;
const TRIALS: usize = 2;

/// How long a kernel may say nothing while it computes: it takes a second.
const PATIENCE: Duration = Duration::from_secs(60);

/// A memory in which bits flip.
#[derive(Clone, Debug)]
struct Place {
    start: u64,
    bytes: u64,
    kind: String,
}

/// How a flip ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    /// A broken invariant ended the kernel, by its name, or something was refused with an error.
    Named,
    /// The processor faulted, or something else that is reported ended the kernel.
    Reported,
    /// The checker found it afterwards.
    Found,
    /// Nothing came of it.
    Nothing,
}

pub(crate) fn trials() -> Vec<Trial> {
    let name = |part| format!("flips::a_flipped_bit_is_reported_or_harmless_{part}");
    (0..TRIALS).map(|part| trial(&name(part), move || flip_some(part))).collect()
}

fn flip_some(part: usize) -> anyhow::Result<()> {
    let all = env::var("FLIPS").ok().map_or(Ok(FEW), |flips| flips.parse()).context("FLIPS is a number")?;
    let mut outcomes: BTreeMap<(Outcome, String), u32> = BTreeMap::new();
    for number in (0..all).skip(part).step_by(TRIALS) {
        let (outcome, kind) = flip(number)?;
        *outcomes.entry((outcome, kind)).or_default() += 1;
    }
    for ((outcome, kind), times) in &outcomes {
        println!("{times:6} {outcome:?}: {kind}");
    }
    // Of so many, some are of what the kernel rests on.
    let noticed = outcomes.keys().any(|(outcome, _)| *outcome == Outcome::Named);
    anyhow::ensure!(noticed || all < FEW, "of {all} flips none was refused by its name");
    Ok(())
}

/// Boots and has one bit flip. Says what of, and how that ended.
fn flip(number: u64) -> anyhow::Result<(Outcome, String)> {
    let directory = tempfile::tempdir()?;
    let socket = directory.path().join("debugger");
    let machine = Machine::with_memory(Size::mib(16)).specified();
    let launch = Launch { debugger: Some(&socket), ..Launch::new(checked()?, machine) };
    let task = Task::Test { select: Select::Exact(TEST.parse()?), after: None };
    let mut heard = String::new();
    let mut flipped = None;
    let run = launch.run(&task, PATIENCE, |bytes| {
        heard.push_str(&String::from_utf8_lossy(bytes));
        if flipped.is_none()
            && let Some(bell) = bell(&heard)
        {
            flipped = Some(write_flip(&socket, bell, &places(&heard), number));
        }
    })?;
    let place = flipped.with_context(|| format!("the kernel waits for no flip: {}", run.story(&|_| Vec::new())))??;
    let outcome = judge(&run).map_err(|what| anyhow::anyhow!("flip {number}, of {}: {what}", place.kind))?;
    Ok((outcome, place.kind))
}

/// The word that the kernel waits for.
fn bell(serial: &str) -> Option<u64> {
    let (_, behind) = serial.split_once("# flip now 0x")?;
    let (address, _) = behind.split_once('\n')?;
    u64::from_str_radix(address.trim(), 16).ok()
}

/// The memories that the kernel names.
fn places(serial: &str) -> Vec<Place> {
    let place = |line: &str| {
        let mut words = line.strip_prefix("# flip at 0x")?.splitn(3, ' ');
        let start = u64::from_str_radix(words.next()?, 16).ok()?;
        Some(Place { start, bytes: words.next()?.parse().ok()?, kind: words.next()?.trim().to_owned() })
    };
    serial.lines().filter_map(place).collect()
}

/// Flips the bit that goes with a number: of each place one in turn, of its bits one that the number scatters.
fn write_flip(socket: &Path, bell: u64, places: &[Place], number: u64) -> anyhow::Result<Place> {
    let count = places.len() as u64;
    anyhow::ensure!(count > 0, "the kernel names no memory");
    let place = &places[usize::try_from(number % count)?];
    let bit = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(17) % (place.bytes * 8);
    let (address, mask) = (place.start + bit / 8, 1 << (bit % 8));
    let mut debugger = Debugger::attach(socket)?;
    let byte = debugger.read(address)?;
    debugger.write(address, byte ^ mask)?;
    debugger.write(bell, 1)?;
    debugger.detach()?;
    Ok(Place { kind: format!("{} (bit {bit})", place.kind), ..place.clone() })
}

/// What must not be.
#[derive(Debug)]
struct Wrong(String);

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How a run ended, or why it must not have ended so.
fn judge(run: &Run) -> Result<Outcome, Wrong> {
    let story = run.story(&|_| Vec::new());
    if run.serial.contains("SPEC-1") {
        return Err(Wrong(format!("something has two owners, and only the specification knows:\n{story}")));
    }
    match run.end {
        End::Success | End::Failure => {}
        _ => return Err(Wrong(story)),
    }
    match run.serial.split_once("# flip over: ") {
        Some((_, end)) if end.starts_with("refused") => return Ok(Outcome::Named),
        Some((_, end)) if end.starts_with("found") => return Ok(Outcome::Found),
        // Whatever it fails of behind that came of it.
        Some((_, end)) if end.starts_with("nothing") && run.end == End::Success => return Ok(Outcome::Nothing),
        _ => {}
    }
    match crash::report(&run.serial, &|_| Vec::new()) {
        Some(report) if report.contains("invariant ") => Ok(Outcome::Named),
        Some(_) => Ok(Outcome::Reported),
        None => Err(Wrong(story)),
    }
}
