//! Every mutant of the allocator that `cargo mutants` knows, built into one program and tried: `./qemu-run.sh prove mutants`.
//! Those in constants, which are worked out before anything is switched, are built one by one.
//!
//! A mutant is noticed if a test fails or does not end. Each that is not must be listed in `kept.txt`, with the reason why
//! nobody can notice, or need not; one that is listed and is noticed is out of date.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Parser;

use crate::list::Mutant;
use crate::schema::Number;
use crate::tree::Alone;
use crate::trials::Outcome;

mod kept;
mod list;
mod schema;
mod tree;
mod trials;

#[derive(Parser)]
struct Arguments {
    /// Only mutants in whose line, as it is printed, this stands
    #[arg(default_value = "")]
    only: String,
    /// Only mutants that were missed the last time
    #[arg(long)]
    missed: bool,
    /// Only tests in whose name this stands
    #[arg(long, default_value = "")]
    tests: String,
    /// How long the tests of one mutant take at most, in seconds; what has not failed then is missed
    #[arg(long, default_value_t = 3600)]
    seconds: u64,
}

/// What is printed of a mutant.
fn line(mutant: &Mutant) -> &str {
    mutant.name.trim_start_matches("mm/src/")
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).context("the tree's root")?;
    let work = root.join("target/mutants");
    fs::create_dir_all(&work)?;
    let listed = list::mutants(root)?;
    let mutants: BTreeMap<Number, &Mutant> = (1..).zip(&listed).collect();
    let keys = mutants.iter().map(|(&number, mutant)| Ok((number, kept::key(root, mutant)?)));
    let keys = keys.collect::<Result<BTreeMap<Number, String>>>()?;
    let last = fs::read_to_string(work.join("missed")).unwrap_or_default();
    let last: BTreeSet<&str> = last.lines().collect();
    let is_wanted = |number: &Number| {
        line(mutants[number]).contains(&arguments.only) && (!arguments.missed || last.contains(keys[number].as_str()))
    };

    let began = Instant::now();
    let built = tree::build(root, &work, &mutants, &keys)?;
    eprintln!("{} mutants, built in {} s", mutants.len(), began.elapsed().as_secs());
    let trials = trials::survey(&built.programs, &arguments.tests, &work, u32::try_from(mutants.len())?)?;
    eprintln!("{} tests, surveyed after {} s", trials.len(), began.elapsed().as_secs());

    let (constant, viable): (Vec<_>, Vec<_>) = mutants
        .keys()
        .filter(|number| is_wanted(number) && !built.unviable.contains(number))
        .partition(|number| built.constant.contains(number));
    let (patience, notices) = (Duration::from_secs(arguments.seconds), Mutex::default());
    let outcomes = trials::each(&viable, |&&number| {
        let mutant = mutants[&number];
        let outcome = trials::attempt(&trials, (number, &mutant.file), patience, &notices)?;
        println!("{:>6} s  {outcome:?}  {}", began.elapsed().as_secs(), line(mutant));
        Ok((number, outcome))
    })?;
    let mut outcomes: BTreeMap<Number, Outcome> = outcomes.into_iter().collect();
    for &number in constant {
        let mutant = mutants[&number];
        let outcome = match tree::build_alone(root, &work, mutant)? {
            Alone::Programs(programs) => trials::attempt_alone(&trials, &programs, patience)?,
            Alone::Refused => Outcome::Refused,
            Alone::Unviable => continue,
        };
        println!("{:>6} s  {outcome:?}  {}", began.elapsed().as_secs(), line(mutant));
        outcomes.insert(number, outcome);
    }
    let mut files: BTreeMap<&Path, (usize, usize)> = BTreeMap::new();
    for (number, outcome) in &outcomes {
        let (noticed, all) = files.entry(&mutants[number].file).or_default();
        *noticed += usize::from(outcome.is_noticed());
        *all += 1;
    }
    for (file, (noticed, all)) in &files {
        println!("{noticed:>5} of {all:>5}  {}", file.display());
    }
    let noticed: usize = files.values().map(|(noticed, _)| noticed).sum();
    println!("{noticed} of {} are noticed", outcomes.len());

    let of = |noticed: bool| {
        let these = outcomes.iter().filter(move |(_, outcome)| outcome.is_noticed() == noticed);
        these.map(|(number, _)| keys[number].as_str()).collect::<BTreeSet<&str>>()
    };
    anyhow::ensure!(!outcomes.is_empty(), "no mutant fits");
    let missed = of(false);
    fs::write(work.join("missed"), missed.iter().fold(String::new(), |lines, key| lines + key + "\n"))?;
    let listed = keys.values().map(String::as_str).collect();
    judge(&kept::all(root)?, &missed, &of(true), &listed)
}

/// Fails if a mutant was missed and nothing is said of it, or something is said of one that was noticed, or of none of all.
fn judge(
    kept: &BTreeMap<String, String>,
    missed: &BTreeSet<&str>,
    noticed: &BTreeSet<&str>,
    all: &BTreeSet<&str>,
) -> Result<ExitCode> {
    let mut all_said = true;
    for key in missed {
        match kept.get(*key) {
            Some(why) => println!("stays: {key}: {why}"),
            None => {
                println!("missed, and nobody says why: {key}");
                all_said = false;
            }
        }
    }
    for key in kept.keys().map(String::as_str) {
        let wrong = if noticed.contains(key) {
            "noticed, but listed"
        } else if !all.contains(key) {
            "listed, but there is none"
        } else {
            continue;
        };
        println!("{wrong}: {key}");
        all_said = false;
    }
    Ok(if all_said { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
