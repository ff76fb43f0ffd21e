//! Mutants that no test notices, and why they stay: `kept.txt`. A reason stands on lines that begin with `#`, what it is the
//! reason for on those below it, each as [`key`] says.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::list::Mutant;

/// A mutant's name that stays when lines above it come and go: its file, what is changed, where in its line, and the line.
pub(crate) fn key(root: &Path, mutant: &Mutant) -> Result<String> {
    let source = fs::read_to_string(root.join(&mutant.file))?;
    let line = source.lines().nth(mutant.span.start.line - 1).context("a mutant's line is there")?;
    let (place, change) = mutant.name.split_once(": ").context("a mutant's name is place and change")?;
    let file = place.trim_start_matches("mm/src/").split(':').next().unwrap_or_default();
    let column = mutant.span.start.column - (line.len() - line.trim_start().len());
    Ok(format!("{file}: {change} | {column} | {}", line.trim()))
}

/// All that are listed.
pub(crate) fn all(root: &Path) -> Result<BTreeMap<String, String>> {
    let text = fs::read_to_string(root.join("tests/mutants/kept.txt"))?;
    let (mut kept, mut why, mut listed) = (BTreeMap::new(), String::new(), true);
    for line in text.lines().filter(|line| !line.is_empty()) {
        match line.strip_prefix('#') {
            Some(more) if listed => (why, listed) = (more.trim().to_string(), false),
            Some(more) => why = format!("{why} {}", more.trim()),
            None => {
                ensure!(!why.is_empty(), "{line}: no reason");
                listed = true;
                kept.insert(line.to_string(), why.clone());
            }
        }
    }
    Ok(kept)
}
