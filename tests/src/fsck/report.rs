//! What a check came to.

use std::collections::BTreeMap;
use std::fmt;

use super::words::State;

/// Findings that are told; of more, how many there are.
const TOLD: usize = 200;

/// An invariant that does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Its name in the design.
    pub invariant: &'static str,
    /// The frame that it was found at, if it is about one.
    pub frame: Option<u64>,
    /// What was expected and what was found.
    pub what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.invariant)?;
        if let Some(frame) = self.frame {
            write!(f, " at pfn {frame:#x}")?;
        }
        write!(f, ": {}", self.what)
    }
}

/// A zone as it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ZoneSummary {
    pub(super) number: usize,
    pub(super) span: [u64; 2],
    pub(super) held: bool,
    pub(super) managed: u64,
    pub(super) free: u64,
    pub(super) at_hand: u64,
    pub(super) nodes: u64,
    /// Free blocks by order.
    pub(super) blocks: Vec<u64>,
}

/// What a check came to.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// What does not hold; the first of it.
    pub findings: Vec<Finding>,
    /// Findings beyond those.
    pub untold: usize,
    /// What was left out since somebody was at work on it, and how often.
    pub skipped: BTreeMap<&'static str, u64>,
    /// What was on its way from one state to another without a lock, and how often.
    pub under_way: BTreeMap<&'static str, u64>,
    /// What was looked at, and how much of it.
    pub looked_at: BTreeMap<&'static str, u64>,
    /// Pages by what they are: those of blocks as their heads.
    pub(super) pages: BTreeMap<State, u64>,
    pub(super) zones: Vec<ZoneSummary>,
}

impl Report {
    /// Whether everything that could be checked holds.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.findings.is_empty()
    }

    pub(super) fn find(&mut self, invariant: &'static str, frame: Option<u64>, what: String) {
        if self.findings.len() < TOLD {
            self.findings.push(Finding { invariant, frame, what });
        } else {
            self.untold += 1;
        }
    }

    pub(super) fn skip(&mut self, what: &'static str) {
        *self.skipped.entry(what).or_default() += 1;
    }

    pub(super) fn meet(&mut self, what: &'static str) {
        *self.under_way.entry(what).or_default() += 1;
    }

    pub(super) fn look(&mut self, what: &'static str, count: u64) {
        *self.looked_at.entry(what).or_default() += count;
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |entries: Vec<String>| if entries.is_empty() { "none".to_owned() } else { entries.join(", ") };
        let pages = self.pages.iter().map(|(state, pages)| format!("{pages} {state}")).collect();
        writeln!(f, "pages: {}", list(pages))?;
        for zone in &self.zones {
            let ZoneSummary { number, span: [start, end], managed, free, at_hand, nodes, .. } = zone;
            write!(f, "zone {number}: pfn {start:#x} to {end:#x}, {managed} pages, {free} free ({nodes} nodes), ")?;
            let lock = if zone.held { "; LOCKED" } else { "" };
            writeln!(f, "{at_hand} at hand{lock}\n  free blocks by order: {:?}", zone.blocks)?;
        }
        let counted = |counts: &BTreeMap<&str, u64>| list(counts.iter().map(|(w, n)| format!("{n} {w}")).collect());
        writeln!(f, "looked at: {}", counted(&self.looked_at))?;
        writeln!(f, "left out, since somebody was at work: {}", counted(&self.skipped))?;
        writeln!(f, "under way without a lock: {}", counted(&self.under_way))?;
        for finding in &self.findings {
            writeln!(f, "FOUND  {finding}")?;
        }
        if self.untold > 0 {
            writeln!(f, "FOUND  {} more", self.untold)?;
        }
        match self.findings.len() + self.untold {
            0 => writeln!(f, "CLEAN"),
            count => writeln!(f, "{count} FOUND"),
        }
    }
}
