//! A copy of the tree with every mutant in it, or with one, and the test programs that come of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use crate::list::Mutant;
use crate::schema::{Number, around, mutated, schema};

/// Of the copy, its crate's beginning: where the switches come in.
const LIBRARY: &str = "mm/src/lib.rs";

/// The test programs, and which mutants none of them has.
pub(crate) struct Built {
    pub(crate) programs: Vec<PathBuf>,
    pub(crate) constant: BTreeSet<Number>,
    pub(crate) unviable: BTreeSet<Number>,
}

/// What cargo says of a program, or the compiler of a source.
#[derive(Deserialize)]
struct Message {
    reason: String,
    message: Option<Diagnostic>,
    executable: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Diagnostic {
    level: String,
    code: Option<Code>,
    rendered: Option<String>,
    spans: Vec<At>,
}

#[derive(Deserialize)]
struct Code {
    code: String,
}

#[derive(Deserialize)]
struct At {
    file_name: String,
    byte_start: usize,
    byte_end: usize,
}

/// Writes a file unless it says that already: what keeps its time is not compiled again.
fn write(file: &Path, text: &[u8]) -> Result<()> {
    if fs::read(file).ok().as_deref() != Some(text) {
        fs::create_dir_all(file.parent().context("a file is in a directory")?)?;
        fs::write(file, text)?;
    }
    Ok(())
}

/// Copies what git knows of, as it stands, but what is to be written otherwise.
fn copy(root: &Path, tree: &Path, but: &BTreeSet<&Path>) -> Result<()> {
    let listed = Command::new("git").args(["ls-files", "-z"]).current_dir(root).output()?;
    ensure!(listed.status.success(), "git ls-files: {}", String::from_utf8_lossy(&listed.stderr));
    for file in String::from_utf8(listed.stdout)?.split_terminator('\0').map(Path::new) {
        if !but.contains(file) {
            write(&tree.join(file), &fs::read(root.join(file))?)?;
        }
    }
    Ok(())
}

/// Writes what the switches are, and that they are there.
fn add_switches(root: &Path, tree: &Path) -> Result<()> {
    let library = fs::read_to_string(root.join(LIBRARY))?;
    // Two features of the compiler's own tell constants from what runs.
    let features = "#![feature(core_intrinsics, const_eval_select)]\n#![allow(internal_features)]\n#![no_std]";
    let library = library.replacen("#![no_std]", features, 1) + "\n#[doc(hidden)]\npub mod mutants;\n";
    write(&tree.join(LIBRARY), library.as_bytes())?;
    write(&tree.join("mm/src/mutants.rs"), include_bytes!("switch.rs"))
}

/// Writes the mutants into the copy; gives those in constants, and those that have no place.
fn mutate(root: &Path, tree: &Path, mutants: &BTreeMap<Number, &Mutant>) -> Result<[BTreeSet<Number>; 2]> {
    let mut files: BTreeMap<&Path, Vec<(Number, &Mutant)>> = BTreeMap::new();
    for (&number, mutant) in mutants {
        files.entry(&mutant.file).or_default().push((number, mutant));
    }
    let mut aside = [BTreeSet::new(), BTreeSet::new()];
    for (file, mutants) in files {
        let schema = schema(&fs::read_to_string(root.join(file))?, &mutants)?;
        write(&tree.join(file), schema.text.as_bytes())?;
        aside[0].extend(schema.constant);
        aside[1].extend(schema.unplaced);
    }
    Ok(aside)
}

/// What comes of compiling.
struct Compiled {
    programs: Vec<PathBuf>,
    errors: Vec<Diagnostic>,
    has_succeeded: bool,
    said: String,
}

fn compile(tree: &Path, target: &Path) -> Result<Compiled> {
    let mut command = Command::new("cargo");
    command.args(["test", "--package", "mm", "--lib", "--test", "hosted", "--no-run", "--message-format=json"]);
    command.current_dir(tree).env("CARGO_TARGET_DIR", target);
    command.env("RUSTC_BOOTSTRAP", "1").env("RUSTFLAGS", "-Awarnings");
    // Compiled much sooner; most tests that notice something take no time anyhow.
    command.env("CARGO_PROFILE_DEV_OPT_LEVEL", "0").env("CARGO_PROFILE_DEV_DEBUG", "0");
    let output = command.output().context("cargo test")?;
    let (mut programs, mut errors) = (Vec::new(), Vec::new());
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let Ok(message) = serde_json::from_str::<Message>(line) else { continue };
        programs.extend(message.executable);
        errors.extend(message.message.filter(|said| message.reason == "compiler-message" && said.level == "error"));
    }
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    Ok(Compiled { programs, errors, has_succeeded: output.status.success(), said })
}

/// The mutants that the compiler complains about.
fn complained_about(tree: &Path, compiled: &Compiled) -> Result<BTreeSet<Number>> {
    let (mut unviable, mut unknown) = (BTreeSet::new(), String::new());
    for error in &compiled.errors {
        let about = error.spans.iter().filter_map(|at| {
            let text = fs::read_to_string(tree.join(&at.file_name)).ok()?;
            around(&text, at.byte_start..at.byte_end)
        });
        match about.collect::<Vec<_>>() {
            about if about.is_empty() && !error.spans.is_empty() => {
                unknown += error.rendered.as_deref().unwrap_or_default();
            }
            about => unviable.extend(about),
        }
    }
    if unviable.is_empty() {
        bail!("the mutants do not compile, and none of them is why: {unknown}{}", compiled.said);
    }
    Ok(unviable)
}

/// Builds the tests with all mutants in them that can be. Which cannot is kept, since that takes the compiler a while to say.
pub(crate) fn build(
    root: &Path,
    work: &Path,
    mutants: &BTreeMap<Number, &Mutant>,
    keys: &BTreeMap<Number, String>,
) -> Result<Built> {
    let (tree, known) = (work.join("tree"), work.join("unviable"));
    let mutated = mutants.values().map(|mutant| mutant.file.as_path());
    copy(root, &tree, &mutated.chain([Path::new(LIBRARY)]).collect())?;
    add_switches(root, &tree)?;
    let kept = fs::read_to_string(&known).unwrap_or_default();
    let kept: BTreeSet<&str> = kept.lines().collect();
    let mut unviable: BTreeSet<Number> =
        keys.iter().filter(|(_, key)| kept.contains(key.as_str())).map(|(&number, _)| number).collect();
    loop {
        let mut viable = mutants.clone();
        viable.retain(|number, _| !unviable.contains(number));
        let [constant, unplaced] = mutate(root, &tree, &viable)?;
        let compiled = compile(&tree, &work.join("build"))?;
        if compiled.has_succeeded {
            unviable.extend(unplaced);
            return Ok(Built { programs: compiled.programs, constant, unviable });
        }
        unviable.extend(complained_about(&tree, &compiled)?);
        let lines = unviable.iter().fold(String::new(), |lines, number| lines + &keys[number] + "\n");
        fs::write(&known, lines)?;
    }
}

/// What comes of the tests with one mutant in them.
pub(crate) enum Alone {
    Programs(Vec<PathBuf>),
    /// The compiler says that it breaks what the code asserts of its constants.
    Refused,
    Unviable,
}

/// The code of the compiler's errors about what a constant does while it is worked out.
const IN_CONSTANT: &str = "E0080";

/// Builds the tests with one mutant in them, of which there is no switch.
pub(crate) fn build_alone(root: &Path, work: &Path, mutant: &Mutant) -> Result<Alone> {
    let tree = work.join("alone");
    copy(root, &tree, &BTreeSet::from([mutant.file.as_path()]))?;
    let text = mutated(&fs::read_to_string(root.join(&mutant.file))?, mutant);
    write(&tree.join(&mutant.file), text.as_bytes())?;
    let compiled = compile(&tree, &work.join("build-alone"))?;
    if compiled.has_succeeded {
        return Ok(Alone::Programs(compiled.programs));
    }
    // What says only that compiling ends has no place.
    let mut errors = compiled.errors.iter().filter(|error| !error.spans.is_empty()).peekable();
    ensure!(errors.peek().is_some(), "the compiler does not say why it fails: {}", compiled.said);
    let is_in_constant = |error: &Diagnostic| error.code.as_ref().is_some_and(|code| code.code == IN_CONSTANT);
    Ok(if errors.all(is_in_constant) { Alone::Refused } else { Alone::Unviable })
}
