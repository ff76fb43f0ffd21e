//! The sampler, and what it has found so far.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use criterion::Criterion;

use crate::contenders::Contender;
use crate::figures::{Chart, Curve, Figure, LeftOut, Results, Row, sampled};
use crate::memory::Memory;
use crate::speed::slowness;

/// Rows, measured one after the other.
pub(crate) struct Suite {
    criterion: Criterion,
    output: PathBuf,
    bytes: usize,
    only: Option<String>,
    results: Results,
}

impl Suite {
    /// A suite that gives each contender so many bytes of memory.
    pub(crate) fn new(bytes: usize, only: Option<String>) -> Self {
        let output =
            PathBuf::from(std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into())).join("mm-bench");
        let criterion = Criterion::default()
            .without_plots()
            .output_directory(&output)
            .sample_size(20)
            .warm_up_time(Duration::from_millis(200))
            .measurement_time(Duration::from_millis(800));
        Self { criterion, output, bytes, only, results: Results::default() }
    }

    /// Whether a row was asked for.
    pub(crate) fn wants(&self, row: &str) -> bool {
        self.only.as_deref().is_none_or(|only| row.contains(only))
    }

    /// Bytes of a contender's memory.
    pub(crate) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// A contender's memory.
    pub(crate) fn memory(&self) -> anyhow::Result<Arc<Memory>> {
        Ok(Arc::new(Memory::present(self.bytes)?))
    }

    /// Measures one contender in one row: `work` does so many operations and says how long they took.
    pub(crate) fn time<C: Contender>(
        &mut self,
        row: &Row,
        contender: &str,
        mut work: impl FnMut(&mut C, u64) -> Duration,
    ) -> anyhow::Result<()> {
        let mut pages = C::new(&self.memory()?)?;
        self.sample(row, contender, |operations| work(&mut pages, operations)).map(drop)
    }

    /// Measures whatever does so many operations and says how long they took. Gives the figure.
    pub(crate) fn sample(
        &mut self,
        row: &Row,
        contender: &str,
        mut work: impl FnMut(u64) -> Duration,
    ) -> anyhow::Result<f64> {
        let before = slowness()?;
        let mut group = self.criterion.benchmark_group(&row.name);
        group.bench_function(contender, |bencher| bencher.iter_custom(&mut work));
        group.finish();
        let slowness = before.midpoint(slowness()?);
        let directory = contender.replace(['/', '+', '(', ')', ' '], "_");
        let row_output = self.output.join(&row.name);
        let places = [row_output.join(contender), row_output.join(directory)];
        let place = places.iter().find(|place| place.is_dir()).unwrap_or(&places[0]);
        let figure = sampled(&place.join("new/sample.json"), row, contender, slowness)?;
        let value = figure.value;
        self.results.figures.push(figure);
        Ok(value)
    }

    /// Takes a figure that was found otherwise.
    pub(crate) fn record(&mut self, row: &Row, contender: &str, value: f64) {
        let figure = Figure { row: row.clone(), contender: contender.into(), value, range: [value; 2], slowness: 1.0 };
        self.results.figures.push(figure);
    }

    /// Adds a point to a contender's line in a chart.
    pub(crate) fn point(&mut self, chart: &Chart, contender: &str, point: (f64, f64)) {
        let mut curves = self.results.curves.iter_mut();
        match curves.find(|curve| curve.chart == *chart && curve.contender == contender) {
            Some(curve) => curve.points.push(point),
            None => {
                let (chart, contender) = (chart.clone(), contender.into());
                self.results.curves.push(Curve { chart, contender, points: vec![point] });
            }
        }
    }

    /// Leaves a contender, or the whole row, out.
    pub(crate) fn leave_out(&mut self, row: &str, contender: Option<&'static str>, why: &str) {
        self.results.left_out.push(LeftOut { row: row.into(), contender, why: why.into() });
    }

    /// All that was found.
    pub(crate) fn finish(self) -> Results {
        self.results
    }
}
