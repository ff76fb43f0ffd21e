//! Images of memory: the kernel is stopped at points at random, and its memory saved and checked each time; and the check is
//! checked, on images that are damaged, cut off or made up.
//!
//! `IMAGES` in the environment is how many points there are to be on each machine. A point at which something is found leaves
//! its image behind, for `./qemu-run.sh fsck`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, mpsc};
use std::thread;
use std::time::Duration;

use anyhow::Context as _;
use harness::crash;
use harness::fsck::{self, Image, NotAnImage, Report};
use harness::launch::{Launch, Select, Task};
use harness::machine::Machine;
use harness::monitor::{Monitor, Steps};
use harness::size::Size;
use harness::symbols::Symbols;
use harness::topology::Cpus;
use libtest_mimic::Trial;
use tempfile::TempDir;

use crate::{PATIENCE, checked, trial};

/// Points on each machine, if nobody says how many.
const POINTS: usize = 10;
/// The most points more, if the first show less than they should.
const MORE: usize = 50;
/// Points of one boot: then another begins, with other random numbers.
const OF_A_BOOT: usize = 50;
/// The most that a machine goes on between two points, at first: half as long after each boot that came to its end before.
const BETWEEN: Duration = Duration::from_millis(60);

/// What is stopped: a name, a machine, and the tests that it runs.
type Stopped = (&'static str, Machine, &'static str);

const STOPPED: &[Stopped] = &[
    ("16M", Machine::with_memory(Size::mib(16)), "mm/exhaustion"),
    ("64M_lowmem16M", Machine::with_memory(Size::mib(64)).with_lowmem(Size::mib(16)), "mm/node_pages"),
    ("32M_2cpus", Machine::with_memory(Size::mib(32)).with_cpus(Cpus::of(2)), "soak/"),
    ("64M_users", Machine::with_memory(Size::mib(64)), "spaces/"),
];

pub(crate) fn trials() -> Vec<Trial> {
    let stopped = STOPPED.iter().map(|&stopped| {
        trial(&format!("images::all_holds_wherever_the_machine_is_stopped::{}", stopped.0), move || holds(stopped))
    });
    let damaged = [
        trial("images::every_damage_to_one_is_found_and_named", damages_are_found),
        trial("images::one_that_is_cut_off_or_made_up_is_refused_or_found_out", made_up_ones_do_no_harm),
    ];
    stopped.chain(damaged).collect()
}

/// What came of one point.
type Seen<'s> = &'s mut dyn FnMut(&Path) -> anyhow::Result<Next>;

/// Whether there is to be another point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Point,
    Enough,
}

/// Boots a machine and stops it up to so many times once it runs its tests. Each time `see` gets an image.
fn stop_at_random(
    stopped: Stopped,
    seed: u64,
    (most, between): (usize, Duration),
    see: Seen<'_>,
) -> anyhow::Result<()> {
    let (_, machine, filter) = stopped;
    let guest = checked()?;
    let directory = TempDir::new()?;
    let (socket, image) = (directory.path().join("monitor"), directory.path().join("image"));
    let launch = Launch { monitor: Some(&socket), seed: Some(seed), ..Launch::new(guest, machine) };
    let task = Task::Test { select: Select::Containing(filter.parse()?), after: None };
    thread::scope(|scope| {
        let (started, starts) = mpsc::channel();
        let running = scope.spawn(move || {
            let mut serial = Vec::<u8>::new();
            launch.run(&task, PATIENCE, |bytes| {
                serial.extend(bytes);
                if serial.windows(5).any(|word| word == b"# run") {
                    serial.clear();
                    // Who has had enough does not listen.
                    let _ = started.send(());
                }
            })
        });
        let mut random = Random(seed);
        let points = Monitor::connect(&socket, PATIENCE).and_then(|mut monitor| {
            let seen = (|| {
                starts.recv_timeout(PATIENCE).context("the kernel has not come to its tests")?;
                for _ in 0..most {
                    // The tests may have come to their end.
                    let Ok(()) = stop_at_any_instruction(&mut monitor, &mut random, between) else { break };
                    monitor.save(&image)?;
                    let next = see(&image)?;
                    fs::remove_file(&image)?;
                    if next == Next::Enough || monitor.go_on().is_err() {
                        break;
                    }
                }
                Ok(())
            })();
            // A machine that stands still ends by this alone; it may have ended.
            let _ = monitor.quit();
            seen
        });
        let run = running.join().map_err(|_| anyhow::anyhow!("the thread that runs QEMU has panicked"))?;
        points.and_then(|()| {
            let (run, symbols) = (run?, Symbols::load(&guest.symbols)?);
            match crash::report(&run.serial, &|address| symbols.describe(address)) {
                Some(report) => anyhow::bail!("seed {seed}: {report}"),
                None => Ok(()),
            }
        })
    })
}

/// Lets the machine run for a while, and stops it: in the end between any two instructions.
fn stop_at_any_instruction(monitor: &mut Monitor, random: &mut Random, between: Duration) -> anyhow::Result<()> {
    thread::sleep(between.mul_f64(random.next_share()));
    monitor.set_steps(Steps::Single)?;
    thread::sleep(between.mul_f64(random.next_share() / 20.0));
    monitor.stop()?;
    monitor.set_steps(Steps::Blocks)
}

fn holds(stopped: Stopped) -> anyhow::Result<()> {
    let (name, ..) = stopped;
    let wanted = match std::env::var("IMAGES") {
        Ok(points) => points.parse().context("IMAGES is the number of points")?,
        Err(_) => POINTS,
    };
    let (mut points, mut boots, mut between) = (0, 0, BETWEEN);
    let (mut looked_at, mut skipped, mut under_way) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    // A lock may be held at all points of a boot, and what is behind it left out: more of another one show that, too.
    while points < wanted || (unseen(&looked_at).is_some() && points < wanted + MORE) {
        let before = points;
        let most = OF_A_BOOT.min(if points < wanted { wanted - points } else { POINTS });
        stop_at_random(stopped, boots + 1, (most, between), &mut |image| {
            let report = fsck::check(image)?;
            if !report.is_clean() {
                let kept = keep(image, &format!("{name}-{}-{points}", boots + 1))?;
                anyhow::bail!("of the point kept as {}:\n{report}", kept.display());
            }
            points += 1;
            sum(&mut looked_at, report.looked_at);
            sum(&mut skipped, report.skipped);
            sum(&mut under_way, report.under_way);
            Ok(Next::Point)
        })?;
        boots += 1;
        if points == before {
            // This machine is faster than was thought.
            anyhow::ensure!(!between.is_zero(), "a boot with seed {boots} came to its end before it was stopped");
            between /= 2;
        }
    }
    println!("images of {name}: {points} points of {boots} boots, looked at {looked_at:?}");
    println!("images of {name}: left out {skipped:?}, under way {under_way:?}");
    unseen(&looked_at).map_or(Ok(()), |what| Err(anyhow::anyhow!("no {what} in all {points} images")))
}

/// What no image of a machine should have been without, and all were.
fn unseen(looked_at: &BTreeMap<&'static str, u64>) -> Option<&'static str> {
    ["descriptors", "zones", "list entries", "caches", "slabs", "owned blocks", "page tables"]
        .into_iter()
        .find(|what| looked_at.get(what).is_none_or(|count| *count == 0))
}

fn sum(sums: &mut BTreeMap<&'static str, u64>, counts: BTreeMap<&'static str, u64>) {
    counts.into_iter().for_each(|(what, count)| *sums.entry(what).or_default() += count);
}

/// Keeps an image for somebody to look at.
fn keep(image: &Path, name: &str) -> anyhow::Result<PathBuf> {
    let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("image-{name}"));
    fs::copy(image, &kept)?;
    Ok(kept)
}

/// Random numbers, of which the quality matters little: Marsaglia's xorshift.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// From 0 to 1.
    fn next_share(&mut self) -> f64 {
        f64::from(u32::try_from(self.next() >> 32).unwrap_or(0)) / f64::from(u32::MAX)
    }
}

/// An image in which there is all that can be damaged, and all is as it should be.
fn sample() -> anyhow::Result<PathBuf> {
    static SAMPLE: LazyLock<Result<TempDir, String>> =
        LazyLock::new(|| find_sample().map_err(|error| format!("{error:#}")));
    SAMPLE.as_ref().map(|directory| directory.path().join("image")).map_err(anyhow::Error::msg)
}

fn find_sample() -> anyhow::Result<TempDir> {
    let directory = TempDir::new()?;
    let place = directory.path().join("image");
    for seed in 1..20_u32 {
        let mut found = false;
        let stopped = ("32M", Machine::with_memory(Size::mib(32)), "mm/node_pages");
        stop_at_random(stopped, seed.into(), (OF_A_BOOT, BETWEEN / seed), &mut |image| {
            let report = fsck::check(image)?;
            let has = |what| report.looked_at.get(what).is_some_and(|count| *count > 0);
            found = report.skipped.is_empty() && ["list nodes", "blocks at hand", "zones"].into_iter().all(has);
            if !found {
                return Ok(Next::Point);
            }
            fs::copy(image, &place)?;
            Ok(Next::Enough)
        })?;
        if found {
            return Ok(directory);
        }
    }
    anyhow::bail!("no point had nodes, blocks at hand, and nobody at work")
}

fn damages_are_found() -> anyhow::Result<()> {
    let image = Image::open(&sample()?)?;
    anyhow::ensure!(fsck::check_image(&image)?.is_clean(), "the sample is damaged already");
    let damages = fsck::damages(&image);
    let mut by_name = BTreeMap::<_, usize>::new();
    let mut missed = Vec::new();
    for damage in &damages {
        let before = image.replace(damage.address, damage.word).context("what is damaged is there")?;
        let report = fsck::check_image(&image)?;
        image.restore(&before);
        let names = || report.findings.iter().map(|finding| finding.invariant);
        match names().find(|name| damage.names.contains(name)) {
            Some(name) => *by_name.entry(name).or_default() += 1,
            None => missed.push(format!("{}: {:?}", damage.what, names().collect::<Vec<_>>())),
        }
    }
    anyhow::ensure!(fsck::check_image(&image)?.is_clean(), "the sample is not as it was");
    println!("images: {} damages, found as {by_name:?}", damages.len());
    anyhow::ensure!(missed.is_empty(), "of {} damages {} escape:\n{}", damages.len(), missed.len(), missed.join("\n"));
    for what in [
        "a node: ",
        "a block at hand: ",
        "a plain block that says",
        "an owned block: ",
        "of a leaf",
        "the slab at ",
        "a table's ",
    ] {
        anyhow::ensure!(damages.iter().any(|damage| damage.what.contains(what)), "nothing like '{what}' was damaged");
    }
    Ok(())
}

/// Pieces that an image is cut off to, in bytes.
const CUT: &[usize] = &[0, 1, 6, 63, 64, 100, 191, 192, 247, 300, 0x648, 4096, 1 << 20, 4 << 20, 20 << 20];
/// Images with words at random, and how many.
const ROUNDS: usize = 150;
const WORDS: usize = 40;

fn made_up_ones_do_no_harm() -> anyhow::Result<()> {
    let directory = TempDir::new()?;
    let (whole, other) = (sample()?, directory.path().join("other"));
    let bytes = fs::read(&whole)?;
    for &len in CUT {
        fs::write(&other, &bytes[..len.min(bytes.len())])?;
        is_refused_or_found(fsck::check(&other), &format!("cut off behind {len} bytes"))?;
    }
    let mut random = Random(1);
    let garbage: Vec<u8> = (0..1 << 20).flat_map(|_| random.next().to_le_bytes()).collect();
    fs::write(&other, &garbage)?;
    is_refused_or_found(fsck::check(&other), "garbage")?;
    fs::write(&other, [&bytes[..0x648], &garbage].concat())?;
    is_refused_or_found(fsck::check(&other), "garbage behind headers")?;
    anyhow::ensure!(matches!(fsck::check(directory.path()), Err(NotAnImage::Unreadable(_))), "a directory is no image");
    anyhow::ensure!(fsck::check(&directory.path().join("none")).is_err(), "what is not there is no image");

    let image = Image::open(&whole)?;
    let places: Vec<_> = fsck::damages(&image).iter().map(|damage| damage.address & !7).collect();
    for round in 0..ROUNDS {
        let mut changed = Vec::new();
        for _ in 0..WORDS {
            let place = places[usize::try_from(random.next() >> 33)? % places.len()];
            // Something near what stands there, what stands elsewhere, or anything.
            let word = match random.next() % 4 {
                0 => 1 << (random.next() % 64),
                1 => places[usize::try_from(random.next() >> 33)? % places.len()],
                2 => random.next() % 4096,
                _ => random.next(),
            };
            changed.extend(image.replace(place, word));
        }
        is_refused_or_found(fsck::check_image(&image), &format!("round {round}"))?;
        changed.iter().rev().for_each(|before| image.restore(before));
    }
    anyhow::ensure!(fsck::check_image(&image)?.is_clean(), "the sample is not as it was");
    println!("images: {} cut off, {ROUNDS} with {WORDS} words at random", CUT.len());
    Ok(())
}

fn is_refused_or_found(outcome: Result<Report, NotAnImage>, what: &str) -> anyhow::Result<()> {
    match outcome {
        Ok(report) if report.is_clean() => anyhow::bail!("{what}: nothing was found:\n{report}"),
        Ok(_) | Err(_) => Ok(()),
    }
}
