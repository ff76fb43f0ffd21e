//! What parses input that anybody may have made: on all that fuzzing has come up with, as it is and damaged.
//!
//! The damage is the same on every run, and little of it: to look for more is what the programs in `tests/fuzz` are for.

use std::collections::BTreeSet;
use std::fs;
use std::panic;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use hostile::{TARGETS, Target};

/// Changes to each of them at the most.
const CHANGES: usize = 6;
/// What parsers like to get wrong.
const NUMBERS: [u64; 9] = [0, 1, 0xff, 0x1000, 1 << 31, u32::MAX as u64, 1 << 47, 1 << 63, u64::MAX];

fn corpus_directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus")
}

/// The inputs that are kept for a target, in the order of their names.
fn corpus(name: &str) -> anyhow::Result<Vec<Vec<u8>>> {
    let directory = corpus_directory().join(name);
    let entries = fs::read_dir(&directory).with_context(|| format!("no corpus at {}", directory.display()))?;
    let paths = entries.map(|entry| Ok(entry?.path())).collect::<anyhow::Result<BTreeSet<_>>>()?;
    anyhow::ensure!(!paths.is_empty(), "the corpus of {name} is empty");
    paths.iter().map(|path| Ok(fs::read(path)?)).collect()
}

fn holds(Target { name, check, .. }: Target, input: &[u8]) {
    if panic::catch_unwind(|| check(input)).is_err() {
        panic!("{name} breaks a promise (see above) on these bytes: {input:?}");
    }
}

#[test]
fn all_parsers_keep_their_promises_on_what_fuzzing_has_come_up_with() -> anyhow::Result<()> {
    for target in TARGETS {
        corpus(target.name)?.iter().for_each(|input| holds(target, input));
        holds(target, &[]);
    }
    let directories = fs::read_dir(corpus_directory())?.map(|entry| Ok(entry?.file_name()));
    let directories = directories.collect::<anyhow::Result<BTreeSet<_>>>()?;
    anyhow::ensure!(
        directories == TARGETS.map(|target| target.name.into()).into(),
        "these have a corpus: {directories:?}"
    );
    Ok(())
}

#[test]
fn all_parsers_keep_their_promises_on_damaged_input() -> anyhow::Result<()> {
    let mut random = fastrand::Rng::with_seed(1);
    for target in TARGETS {
        let corpus = corpus(target.name)?;
        for _ in 0..target.rounds {
            let mut input = random.choice(&corpus).context("a corpus is not empty")?.clone();
            for _ in 0..random.usize(1..=CHANGES) {
                damage(&mut input, &corpus, &mut random);
            }
            holds(target, &input);
        }
    }
    Ok(())
}

/// Changes something somewhere.
fn damage(input: &mut Vec<u8>, corpus: &[Vec<u8>], random: &mut fastrand::Rng) {
    let at = random.usize(..=input.len());
    match random.u8(..6) {
        0 => input.truncate(at),
        1 => input.insert(at, random.u8(..)),
        2 => _ = input.splice(at..(at + random.usize(..16)).min(input.len()), []),
        3 => {
            // The rest of another one.
            let other = &corpus[random.usize(..corpus.len())];
            input.splice(at.., other[random.usize(..=other.len())..].iter().copied());
        }
        4 => {
            let number = NUMBERS[random.usize(..NUMBERS.len())].to_le_bytes();
            input[at..].iter_mut().zip(&number[..1 << random.u8(..4)]).for_each(|(byte, new)| *byte = *new);
        }
        _ => input[at..].iter_mut().take(1).for_each(|byte| *byte ^= 1 << random.u8(..8)),
    }
}
