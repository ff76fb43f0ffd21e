//! What becomes of the allocator when a bit of its memory flips: every bit of both words of a page in each state, of nodes and
//! pointers to them, of lists, of what CPUs have at hand, of slabs and sheaves.
//!
//! A machine is brought into a state that holds one of everything (`scene`). For each bit a process is forked that flips it,
//! has the checker look, and another that uses all that there is (`work`): everything that is held is freed, all there is is
//! allocated, and a shadow knows what is whose. The fork is judged by how it ends (`fork`): so a wild address, a loop without
//! end and a broken invariant are outcomes like any other.
//!
//! What must not be, ever, is that a page or an object has two owners and nothing says so.
//!
//! `FLIPPED_PAGES=all` takes every bit of every page, instead of one bit in eleven of a page of each kind.
#![expect(unsafe_code, reason = "forks, frees bare frames, and flips bits of whatever memory")]

mod fork;
mod scene;
mod work;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::process::Command;
use std::string::{String, ToString};
use std::vec::Vec;
use std::{env, format, println};

use fork::End;
use scene::Scene;

/// The name of the test that does the work, in a process that has no other thread: who forks has only one.
const ALONE: &str = "corruption::every_bit_in_one_thread";

/// One bit in so many is flipped in a run that is to be short; no power of two, so that it is another one in each word.
const SHARE: usize = 11;

/// Of a thousand flips that come to anything, so many are noticed at least.
const NOTICED: u32 = 990;

/// How a flip ended.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Outcome {
    /// Whoever came by it first said which invariant is broken, or gave an error that says so.
    Named,
    /// The processor faulted, or a check of the language failed.
    Faulted,
    /// Nobody came by it, but the checker names it.
    Checked,
    /// Nothing came of it.
    Harmless,
    /// Memory was lost, or the checker finds something afterwards.
    Escaped,
    /// It was turned around and around.
    Hung,
    /// Something has two owners, and nothing said so.
    Double,
}

impl Outcome {
    const ALL: [Self; 7] =
        [Self::Named, Self::Faulted, Self::Checked, Self::Harmless, Self::Escaped, Self::Hung, Self::Double];

    fn of(used: &End) -> Self {
        match used {
            End::Double(_) => Self::Double,
            End::Hung => Self::Hung,
            End::Named(_) => Self::Named,
            End::Panicked(_) | End::Killed(_) => Self::Faulted,
            End::Lost(_) => Self::Escaped,
            End::Quiet => Self::Harmless,
        }
    }
}

/// Flips of one kind of memory.
#[derive(Default)]
struct Row {
    counts: BTreeMap<Outcome, u32>,
    /// What was said of those that were not named, and how often.
    stories: BTreeMap<(Outcome, String), u32>,
}

impl Row {
    fn count(&self, outcome: Outcome) -> u32 {
        self.counts.get(&outcome).copied().unwrap_or(0)
    }

    fn all(&self) -> u32 {
        self.counts.values().sum()
    }
}

/// Flips bits of the scene's places: all of all pages', or a few of those of one page of each kind.
fn flip_all(every_bit: bool) -> BTreeMap<String, Row> {
    let mut rows: BTreeMap<String, Row> = BTreeMap::new();
    Scene::with(|scene| {
        let before = scene.save();
        for (number, (kind, place)) in scene.places(every_bit).into_iter().enumerate() {
            // Other bits in each place, so that all of them are tried somewhere.
            let (first, step) = if every_bit { (0, 1) } else { (number % SHARE, SHARE) };
            for bit in (first..place.bytes * 8).step_by(step) {
                let mut run = |work: fn(&mut Scene<'_, '_>)| {
                    let end = fork::run(|| {
                        scene.flip(place, bit);
                        work(scene);
                    });
                    scene.restore(&before);
                    end
                };
                let used = run(work::everything);
                let outcome = match Outcome::of(&used) {
                    Outcome::Harmless | Outcome::Escaped if run(work::check) != End::Quiet => Outcome::Checked,
                    outcome => outcome,
                };
                let row = rows.entry(kind.clone()).or_default();
                *row.counts.entry(outcome).or_default() += 1;
                if !matches!(outcome, Outcome::Named | Outcome::Checked | Outcome::Harmless) {
                    *row.stories.entry((outcome, format!("{used:?}"))).or_default() += 1;
                }
            }
        }
    });
    rows
}

fn table(rows: &BTreeMap<String, Row>) -> String {
    let mut table = format!("{:58}", "flips of one bit");
    for outcome in Outcome::ALL {
        let _ = write!(table, "{:>10}", format!("{outcome:?}").to_lowercase());
    }
    for (kind, row) in rows {
        let _ = write!(table, "\n{kind:58}");
        for outcome in Outcome::ALL {
            let _ = write!(table, "{:>10}", row.count(outcome));
        }
    }
    for (kind, row) in rows {
        for ((outcome, story), times) in &row.stories {
            let _ = write!(table, "\n  {kind}: {outcome:?} {times} times: {story}");
        }
    }
    table
}

/// The share of flips that come to anything and are noticed, in thousandths.
fn noticed(rows: &BTreeMap<String, Row>) -> u32 {
    let sum = |outcomes: &[Outcome]| -> u32 {
        rows.values().map(|row| outcomes.iter().map(|&outcome| row.count(outcome)).sum::<u32>()).sum()
    };
    let all: u32 = rows.values().map(Row::all).sum();
    sum(&[Outcome::Named, Outcome::Faulted, Outcome::Checked]) * 1000 / (all - sum(&[Outcome::Harmless])).max(1)
}

#[test]
#[ignore = "`a_flipped_bit_gives_nothing_to_two_owners` runs it in a process of its own"]
fn every_bit_in_one_thread() {
    let rows = flip_all(env::var("FLIPPED_PAGES").is_ok_and(|pages| pages == "all"));
    let flips: u32 = rows.values().map(Row::all).sum();
    println!("{}", table(&rows));
    println!("{flips} flips, {} of 1000 that come to anything are noticed", noticed(&rows));
    let of = |outcome| -> Vec<&String> {
        rows.iter().filter(|(_, row)| row.count(outcome) > 0).map(|(kind, _)| kind).collect()
    };
    assert_eq!(of(Outcome::Double), [""; 0], "something has two owners");
    assert_eq!(of(Outcome::Hung), [""; 0], "something never ends");
    assert!(flips > 1000 && noticed(&rows) >= NOTICED, "too little of what flips is noticed");
}

#[test]
fn a_flipped_bit_gives_nothing_to_two_owners() {
    let arguments = [ALONE, "--exact", "--ignored", "--nocapture", "--test-threads=1"];
    let program = env::current_exe().expect("this is a program");
    let output = Command::new(program).args(arguments).output().expect("it starts");
    let said = [output.stdout, output.stderr].map(|said| String::from_utf8_lossy(&said).to_string());
    println!("{}", said.join("\n"));
    assert!(output.status.success() && said[0].contains("1 passed"), "see above");
}
