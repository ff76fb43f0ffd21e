//! Every mutant of the allocator that `cargo mutants` knows, built into one program and tried: `./qemu-run.sh prove mutants`.
//!
//! A mutant is noticed if a test fails or does not end. Each that is not must be listed in `kept.txt`, with the reason why
//! nobody can notice, or need not; one that is listed and is noticed is out of date.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Parser;

use crate::kept::Kept;
use crate::list::Mutant;
use crate::schema::Number;
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
    std::fs::create_dir_all(&work)?;
    let listed = list::mutants(root)?;
    let mutants: BTreeMap<Number, &Mutant> = (1..).zip(&listed).collect();
    let wanted: Vec<Number> = mutants.iter().filter(|(_, mutant)| line(mutant).contains(&arguments.only)).map(|(&number, _)| number).collect();

    let began = Instant::now();
    let built = tree::build(root, &work, &mutants)?;
    eprintln!("{} mutants, built in {} s", mutants.len(), began.elapsed().as_secs());
    let trials = trials::survey(&built.programs, &work, u32::try_from(mutants.len())?)?;
    eprintln!("{} tests, surveyed after {} s", trials.len(), began.elapsed().as_secs());

    let tried: Vec<_> =
        wanted.iter().filter(|number| !built.unviable.contains(number) && !built.constant.contains(number)).collect();
    let (patience, notices) = (Duration::from_secs(arguments.seconds), Mutex::default());
    let outcomes = trials::each(&tried, |&&number| {
        let mutant = mutants[&number];
        let outcome = trials::attempt(&trials, (number, &mutant.file), patience, &notices)?;
        println!("{:>6} s  {outcome:?}  {}", began.elapsed().as_secs(), line(mutant));
        Ok((number, outcome))
    })?;
    let outcomes: BTreeMap<Number, Outcome> = outcomes.into_iter().collect();
    let constant = wanted.iter().filter(|number| built.constant.contains(number)).count();
    Ok(report(root, &mutants, &outcomes, constant, &arguments)?)
}

/// Prints how many were noticed, file by file; fails if one was not and is not listed, or is listed and was.
fn report(
    root: &Path,
    mutants: &BTreeMap<Number, &Mutant>,
    outcomes: &BTreeMap<Number, Outcome>,
    constant: usize,
    arguments: &Arguments,
) -> Result<ExitCode> {
    let mut files: BTreeMap<&PathBuf, (usize, usize)> = BTreeMap::new();
    let mut missed = BTreeSet::new();
    for (number, outcome) in outcomes {
        let mutant = mutants[number];
        let (noticed, all) = files.entry(&mutant.file).or_default();
        *all += 1;
        match outcome {
            Outcome::Noticed(_) | Outcome::Hangs(_) => *noticed += 1,
            Outcome::Missed | Outcome::Unreached => drop(missed.insert(kept::key(root, mutant)?)),
        }
    }
    for (file, (noticed, all)) in &files {
        println!("{noticed:>5} of {all:>5}  {}", file.display());
    }
    let all = outcomes.len();
    let hang = outcomes.values().filter(|outcome| matches!(outcome, Outcome::Hangs(_))).count();
    let noticed: usize = files.values().map(|(noticed, _)| noticed).sum();
    println!("{noticed} of {all} are noticed ({hang} of them do not end); {constant} in constants were not tried");
    let kept: BTreeMap<String, Kept> = kept::all(root)?;
    let tried = outcomes.keys().map(|number| kept::key(root, mutants[number])).collect::<Result<BTreeSet<_>>>()?;
    let unsaid: Vec<_> = missed.iter().filter(|key| !kept.contains_key(*key)).collect();
    let outdated: Vec<_> = kept.keys().filter(|key| !missed.contains(*key) && (tried.contains(*key) || arguments.only.is_empty())).collect();
    for key in &unsaid {
        println!("missed, and nobody says why: {key}");
    }
    for key in &outdated {
        println!("noticed, or not there, but listed: {key}");
    }
    for (key, kept) in &kept {
        if missed.contains(key) {
            println!("stays: {key}: {}", kept.why);
        }
    }
    Ok(if unsaid.is_empty() && outdated.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
