//! What was measured, and the bars that it is measured against.

use std::path::Path;

use anyhow::Context as _;

/// What a figure counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Unit {
    /// Nanoseconds an operation.
    Nanoseconds,
    /// Microseconds for each gibibyte.
    MicrosecondsPerGib,
    /// Million operations a second.
    MillionsPerSecond,
    /// Percent.
    Percent,
    /// KiB for each gibibyte.
    KibPerGib,
    /// KiB.
    Kib,
    /// Things that the processor counts, an operation.
    Events,
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
            Self::Kib => "KiB",
            Self::Events => "events",
        }
    }

    /// Whether more is better.
    pub(crate) const fn more_is_better(self) -> bool {
        matches!(self, Self::MillionsPerSecond | Self::Percent)
    }
}

/// Rows that are read together: a table each.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Section {
    /// What pages cost, by the mean of many operations; what is left whole; what is spent.
    Pages,
    /// What one operation costs.
    Single,
    /// What an operation costs in how much memory.
    Size,
    /// What objects smaller than a page cost.
    Slab,
}

impl Section {
    /// Every section, in the order in which they are shown.
    pub(crate) const ALL: [Self; 4] = [Self::Pages, Self::Single, Self::Size, Self::Slab];
}

/// What is measured.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Row {
    pub(crate) section: Section,
    pub(crate) name: String,
    pub(crate) unit: Unit,
}

impl Row {
    /// A row of that name.
    pub(crate) fn new(section: Section, name: impl Into<String>, unit: Unit) -> Self {
        Self { section, name: name.into(), unit }
    }
}

/// One contender's figure in one row.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Figure {
    pub(crate) row: Row,
    pub(crate) contender: String,
    /// The median of all samples.
    pub(crate) value: f64,
    /// The smallest and the largest sample.
    pub(crate) range: [f64; 2],
    /// How [slow](crate::speed::slowness) the machine was meanwhile.
    pub(crate) slowness: f64,
}

/// What is drawn as lines, a picture each.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Chart {
    /// Nanoseconds of that operation, by GiB of memory.
    CostBySize(&'static str),
    /// Percent of free memory that can be had in blocks of 2 MiB, by percent of that trace.
    WholeOverTime(String),
}

/// One contender's line in a chart.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Curve {
    pub(crate) chart: Chart,
    pub(crate) contender: String,
    pub(crate) points: Vec<(f64, f64)>,
}

/// A contender that is not in a row, or a row that has none.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct LeftOut {
    pub(crate) row: String,
    pub(crate) contender: Option<&'static str>,
    pub(crate) why: String,
}

/// All that a run has shown.
#[derive(Default, Debug)]
pub(crate) struct Results {
    pub(crate) figures: Vec<Figure>,
    pub(crate) curves: Vec<Curve>,
    pub(crate) left_out: Vec<LeftOut>,
}

/// Each once, in the order in which they came.
pub(crate) fn distinct<T: PartialEq>(all: impl Iterator<Item = T>) -> Vec<T> {
    let mut known = Vec::new();
    for one in all {
        if !known.contains(&one) {
            known.push(one);
        }
    }
    known
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
    bar("recoverable_mix_50", 92.0),
    bar("recoverable_mix_90", 54.0),
    bar("set_up", 200.0),
    bar("order0_pair_instructions", 90.0),
    // As large as memory is, a pair is a pair.
    bar("size_order0_512M", 6.0),
    bar("size_order0_8G", 6.0),
    bar("size_order0_64G", 6.0),
    bar("size_order0_1T", 6.0),
    bar("size_order9_512M", 10.0),
    bar("size_order9_8G", 10.0),
    bar("size_order9_64G", 10.0),
    bar("size_order9_1T", 10.0),
    bar("slab_pair", 5.0),
    bar("slab_alloc", 4.0),
    bar("slab_free", 3.0),
];

impl Bar {
    /// Where it is for the machine that a figure is from.
    pub(crate) fn beside(&self, figure: &Figure) -> f64 {
        match figure.row.unit {
            Unit::Nanoseconds | Unit::MicrosecondsPerGib => self.value * figure.slowness,
            Unit::MillionsPerSecond => self.value / figure.slowness,
            _ => self.value,
        }
    }

    /// Whether a figure clears it.
    pub(crate) fn is_cleared_by(&self, figure: &Figure) -> bool {
        let bar = self.beside(figure);
        if figure.row.unit.more_is_better() { figure.value >= bar } else { figure.value <= bar }
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
pub(crate) fn sampled(file: &Path, row: &Row, contender: &str, slowness: f64) -> anyhow::Result<Figure> {
    let text = std::fs::read(file).with_context(|| format!("no samples in {}", file.display()))?;
    let Samples { iters, times } = serde_json::from_slice(&text)?;
    let in_unit = |nanoseconds: f64| match row.unit {
        Unit::MillionsPerSecond => 1000.0 / nanoseconds,
        Unit::MicrosecondsPerGib => nanoseconds / 1000.0,
        _ => nanoseconds,
    };
    let mut each: Vec<_> = times.iter().zip(&iters).map(|(time, iterations)| in_unit(time / iterations)).collect();
    each.sort_by(f64::total_cmp);
    let (Some(&first), Some(&last)) = (each.first(), each.last()) else { anyhow::bail!("no samples") };
    let value = each[each.len() / 2];
    Ok(Figure { row: row.clone(), contender: contender.into(), value, range: [first, last], slowness })
}
