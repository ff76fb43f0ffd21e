//! The sampler, and what it has found so far.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use criterion::Criterion;
use serde::Serialize;

use crate::OURS;
use crate::contenders::{Ours, Pages};
use crate::figures::{Figure, Unit, sampled};
use crate::memory::Memory;
use crate::rows;

/// Rows, measured one after the other.
pub(crate) struct Suite {
    criterion: Criterion,
    output: PathBuf,
    bytes: usize,
    only: Option<String>,
    figures: Vec<Figure>,
}

impl Suite {
    /// A suite that gives each contender so many bytes of memory.
    pub(crate) fn new(bytes: usize, only: Option<String>) -> anyhow::Result<Self> {
        let output =
            PathBuf::from(std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into())).join("mm-bench");
        let criterion = Criterion::default()
            .without_plots()
            .output_directory(&output)
            .sample_size(20)
            .warm_up_time(Duration::from_millis(200))
            .measurement_time(Duration::from_millis(800));
        Ok(Self { criterion, output, bytes, only, figures: Vec::new() })
    }

    /// Whether a row was asked for.
    pub(crate) fn wants(&self, row: &str) -> bool {
        self.only.as_deref().is_none_or(|only| row.contains(only))
    }

    /// Frames of a contender's memory.
    pub(crate) const fn frames(&self) -> usize {
        rows::frames(self.bytes)
    }

    /// Measures one contender in one row: `work` does so many operations and says how long they took.
    pub(crate) fn time<P: Pages>(
        &mut self,
        row: &str,
        contender: &str,
        unit: Unit,
        mut work: impl FnMut(&mut P, u64) -> Duration,
    ) -> anyhow::Result<()> {
        let mut pages = P::new(&Arc::new(Memory::new(self.bytes)?))?;
        self.sample(row, contender, unit, |operations| work(&mut pages, operations))
    }

    fn sample(
        &mut self,
        row: &str,
        contender: &str,
        unit: Unit,
        mut work: impl FnMut(u64) -> Duration,
    ) -> anyhow::Result<()> {
        let mut group = self.criterion.benchmark_group(row);
        group.bench_function(contender, |bencher| bencher.iter_custom(&mut work));
        group.finish();
        let directory = contender.replace(['/', '+', '(', ')', ' '], "_");
        let places = [self.output.join(row).join(contender), self.output.join(row).join(directory)];
        let place = places.iter().find(|place| place.is_dir()).unwrap_or(&places[0]);
        self.figures.push(sampled(&place.join("new/sample.json"), row, contender, unit)?);
        Ok(())
    }

    /// How much of free memory one contender has left whole after churn.
    pub(crate) fn share<P: Pages>(
        &mut self,
        row: &str,
        contender: &str,
        percent: usize,
        turns: usize,
    ) -> anyhow::Result<()> {
        if self.wants(row) {
            let mut pages = P::new(&Arc::new(Memory::new(self.bytes)?))?;
            if let Some(share) = rows::recoverable(&mut pages, percent, turns) {
                self.record(row, contender, Unit::Percent, share * 100.0);
            }
        }
        Ok(())
    }

    /// How long one contender takes to take memory over.
    pub(crate) fn set_up<P: Pages>(&mut self, contender: &str) -> anyhow::Result<()> {
        if self.wants("set_up") {
            let gibibytes = self.bytes as f64 / f64::from(1 << 30);
            let memory = Arc::new(Memory::new(self.bytes)?);
            drop(P::new(&memory)?);
            let work = |times| rows::set_up::<P>(&memory, times).div_f64(gibibytes);
            self.sample("set_up", contender, Unit::MicrosecondsPerGib, work)?;
        }
        Ok(())
    }

    /// What ours spends on itself.
    pub(crate) fn metadata(&mut self) {
        if self.wants("metadata")
            && let Ok(memory) = Memory::new(self.bytes)
            && let Ok(ours) = Ours::new(&Arc::new(memory))
        {
            let kib = ours.metadata().total() as f64 / 1024.0;
            self.record("metadata", OURS, Unit::KibPerGib, kib / (self.bytes as f64 / f64::from(1 << 30)));
        }
    }

    fn record(&mut self, row: &str, contender: &str, unit: Unit, value: f64) {
        self.figures.push(Figure { row: row.into(), contender: contender.into(), unit, value, range: [value; 2] });
    }

    /// All figures.
    pub(crate) fn finish(self) -> Vec<Figure> {
        self.figures
    }
}

/// A figure as github-action-benchmark's `customSmallerIsBetter` and `customBiggerIsBetter` want it.
#[derive(Serialize)]
struct Entry<'f> {
    name: String,
    unit: &'f str,
    value: f64,
    range: String,
}

/// The figures as an array of entries.
pub(crate) fn json(figures: &[Figure]) -> anyhow::Result<String> {
    let entry = |figure: &Figure| Entry {
        name: format!("{}/{}", figure.row, figure.contender),
        unit: figure.unit.name(),
        value: figure.value,
        range: format!("{:.2} to {:.2}", figure.range[0], figure.range[1]),
    };
    Ok(serde_json::to_string_pretty(&figures.iter().map(entry).collect::<Vec<_>>())?)
}
