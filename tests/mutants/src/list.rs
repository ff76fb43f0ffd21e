//! Which mutants there are, as `cargo mutants` lists them.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

/// The parts of `mm` that are mutated: freelists, buddy, the words of descriptors, CPUs' lists, slabs, folios.
const FILES: [&str; 16] = [
    "mm/src/freelist.rs",
    "mm/src/freelist/**",
    "mm/src/buddy.rs",
    "mm/src/buddy/**",
    "mm/src/desc.rs",
    "mm/src/desc/**",
    "mm/src/pcp.rs",
    "mm/src/pcp/**",
    "mm/src/slab.rs",
    "mm/src/slab/**",
    "mm/src/folio.rs",
    "mm/src/folio/**",
    "mm/src/owner/folio.rs",
    "mm/src/owner/frozen.rs",
    "mm/src/owner/mapcount.rs",
    "mm/src/owner/reference.rs",
];

/// Tests of these, which are files of their own.
const TESTS: [&str; 3] = ["**/tests.rs", "**/tests/**", "**/loom.rs"];

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Deserialize)]
pub(crate) struct Place {
    /// From 1.
    pub(crate) line: usize,
    /// Of characters, from 1.
    pub(crate) column: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
pub(crate) struct Span {
    pub(crate) start: Place,
    pub(crate) end: Place,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
pub(crate) enum Genre {
    FnValue,
    BinaryOperator,
    UnaryOperator,
    MatchArm,
    MatchArmGuard,
    StructField,
}

/// A small change of the source.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Mutant {
    pub(crate) file: PathBuf,
    pub(crate) genre: Genre,
    /// File, line, column and what is changed, for people.
    pub(crate) name: String,
    pub(crate) replacement: String,
    pub(crate) span: Span,
}

/// All mutants of the allocator below a directory.
pub(crate) fn mutants(root: &Path) -> Result<Vec<Mutant>> {
    let mut command = Command::new("cargo");
    command.args(["mutants", "--list", "--json", "--package", "mm"]).current_dir(root);
    command.args(FILES.iter().flat_map(|file| ["--file", file]));
    command.args(TESTS.iter().flat_map(|file| ["--exclude", file]));
    let output = command.output().context("cargo mutants")?;
    ensure!(output.status.success(), "cargo mutants: {}", String::from_utf8_lossy(&output.stderr));
    Ok(serde_json::from_slice(&output.stdout)?)
}
