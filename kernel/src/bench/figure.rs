//! Figures as they are printed: a line of JSON for programs, a row of a table for people.

use alloc::string::String;

use kernel_core::statistics::{Distribution, Summary};

use super::Unit;
use crate::clock::Clock;
use crate::serial::println;

/// Where the figures of one run come from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Source<'a> {
    pub(crate) clock: Clock,
    /// The machine, in words that fit into JSON as they are.
    pub(crate) machine: &'a str,
}

impl Source<'_> {
    const fn unit(self, unit: Unit) -> &'static str {
        match unit {
            Unit::Ticks => self.clock.unit(),
            Unit::Bytes => "bytes",
            Unit::Millibytes => "millibytes",
            Unit::Pages => "pages",
        }
    }
}

/// What is known about one benchmark.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) unit: Unit,
    pub(crate) result: Result<Figure, NoFigure>,
}

/// Its figures.
#[derive(Debug)]
pub(crate) struct Figure {
    pub(crate) summary: Summary,
    pub(crate) operations: u64,
    /// What else a reader may want to know.
    pub(crate) note: String,
}

impl Figure {
    /// The figures of samples of single operations; `None` if there are none.
    pub(crate) fn of(samples: &Distribution) -> Option<Self> {
        Some(Self { summary: samples.summary()?, operations: samples.samples(), note: String::new() })
    }

    /// A figure that needs no sampling.
    pub(crate) const fn known(value: u64) -> Self {
        Self { summary: Summary::of_one(value), operations: 1, note: String::new() }
    }
}

/// Why it has none.
#[derive(Debug)]
pub(crate) enum NoFigure {
    /// It cannot run on this machine: why.
    Skipped(String),
    /// Something went wrong: what.
    Failed(String),
}

impl Row {
    /// Prints the row as JSON, if it has a figure.
    pub(crate) fn print_json(&self, source: Source<'_>) {
        let Ok(Figure { summary: Summary { min, median, p99, mean }, operations, .. }) = &self.result else { return };
        println!(
            "BENCH {{\"name\":\"{}\",\"unit\":\"{}\",\"clock\":\"{}\",\"min\":{min},\"median\":{median},\"p99\":{p99},\
             \"mean\":{mean},\"operations\":{operations},\"machine\":\"{}\"}}",
            self.name,
            source.unit(self.unit),
            source.clock.name(),
            source.machine,
        );
    }
}

/// Prints rows for people.
pub(crate) fn print_table(rows: &[Row], source: Source<'_>) {
    let columns = ("benchmark", "unit", "min", "median", "p99", "mean", "operations");
    let (name, unit, min, median, p99, mean, operations) = columns;
    println!("per operation, {}", source.machine);
    println!("{name:<28} {unit:<12} {min:>10} {median:>10} {p99:>10} {mean:>10} {operations:>10}");
    for row in rows {
        let unit = source.unit(row.unit);
        match &row.result {
            Ok(Figure { summary: Summary { min, median, p99, mean }, operations, note }) => println!(
                "{:<28} {unit:<12} {min:>10} {median:>10} {p99:>10} {mean:>10} {operations:>10}  {note}",
                row.name
            ),
            Err(NoFigure::Skipped(why)) => println!("{:<28} skipped: {why}", row.name),
            Err(NoFigure::Failed(why)) => println!("{:<28} FAILED: {why}", row.name),
        }
    }
}
