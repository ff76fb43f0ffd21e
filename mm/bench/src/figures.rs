//! What was measured, and the bars that it is measured against.

use std::path::Path;

use anyhow::Context as _;
use serde::Serialize;

/// What a figure counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub(crate) enum Unit {
    /// Nanoseconds an operation.
    #[serde(rename = "ns")]
    Nanoseconds,
    /// Microseconds for each gibibyte.
    #[serde(rename = "us/GiB")]
    MicrosecondsPerGib,
    /// Million operations a second.
    #[serde(rename = "M/s")]
    MillionsPerSecond,
    /// Percent.
    #[serde(rename = "%")]
    Percent,
    /// KiB for each gibibyte.
    #[serde(rename = "KiB/GiB")]
    KibPerGib,
}

impl Unit {
    /// How it is written.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Nanoseconds => "ns",
            Self::MicrosecondsPerGib => "us/GiB",
            Self::MillionsPerSecond => "M/s",
            Self::Percent => "%",
            Self::KibPerGib => "KiB/GiB",
        }
    }

    /// Whether more is better.
    pub(crate) const fn more_is_better(self) -> bool {
        matches!(self, Self::MillionsPerSecond | Self::Percent)
    }
}

/// One contender's figure in one row.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub(crate) struct Figure {
    pub(crate) row: String,
    pub(crate) contender: String,
    pub(crate) unit: Unit,
    /// The median of all samples.
    pub(crate) value: f64,
    /// The smallest and the largest sample.
    pub(crate) range: [f64; 2],
}

/// What our figure in a row is to come to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bar {
    pub(crate) row: &'static str,
    pub(crate) value: f64,
}

const fn bar(row: &'static str, value: f64) -> Bar {
    Bar { row, value }
}

/// The bars that we have set ourselves, in each row's unit.
pub(crate) const BARS: &[Bar] = &[
    bar("order0_pair", 6.0),
    bar("order9_pair", 10.0),
    bar("all_alloc", 9.0),
    bar("all_free_in_order", 10.0),
    bar("all_free_at_random", 20.0),
    bar("mix_50", 12.0),
    bar("mix_90", 12.0),
    bar("two_threads_order0", 250.0),
    bar("two_threads_mix_50", 45.0),
    bar("two_threads_remote", 45.0),
    bar("recoverable_50", 85.0),
    bar("recoverable_90", 62.0),
    bar("set_up", 200.0),
];

impl Bar {
    /// Whether a figure clears it.
    pub(crate) fn is_cleared_by(&self, figure: &Figure) -> bool {
        if figure.unit.more_is_better() { figure.value >= self.value } else { figure.value <= self.value }
    }
}

/// What the sampler keeps of a run: how often each sample did its work, and how long that took, in nanoseconds.
#[derive(serde::Deserialize)]
struct Samples {
    iters: Vec<f64>,
    times: Vec<f64>,
}

/// Reads what the sampler has written, and turns each sample into the unit.
///
/// # Errors
/// There is no such file, or it has other contents.
pub(crate) fn sampled(file: &Path, row: &str, contender: &str, unit: Unit) -> anyhow::Result<Figure> {
    let text = std::fs::read(file).with_context(|| format!("no samples in {}", file.display()))?;
    let Samples { iters, times } = serde_json::from_slice(&text)?;
    let in_unit = |nanoseconds: f64| match unit {
        Unit::MillionsPerSecond => 1000.0 / nanoseconds,
        Unit::MicrosecondsPerGib => nanoseconds / 1000.0,
        _ => nanoseconds,
    };
    let mut each: Vec<_> = times.iter().zip(&iters).map(|(time, iterations)| in_unit(time / iterations)).collect();
    each.sort_by(f64::total_cmp);
    let (Some(&first), Some(&last)) = (each.first(), each.last()) else { anyhow::bail!("no samples") };
    let value = each[each.len() / 2];
    Ok(Figure { row: row.into(), contender: contender.into(), unit, value, range: [first, last] })
}
