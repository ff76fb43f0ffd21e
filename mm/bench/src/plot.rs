//! The results as pictures: figures as bars, what goes along an axis as lines.

mod bars;
mod lines;

use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;

use crate::figures::{Figure, Results, Row, Section, Unit, distinct};

const SIZE: (u32, u32) = (1100, 420);
/// Beside what is drawn, for the names of contenders.
const LEGEND: i32 = 150;

/// A colour for each contender, the same in all pictures.
struct Colors<'r>(Vec<&'r str>);

impl Colors<'_> {
    fn of(&self, contender: &str) -> RGBAColor {
        let nth = self.0.iter().position(|known| *known == contender).unwrap_or_default();
        Palette99::pick(nth).mix(0.9)
    }
}

/// What is in a picture of bars.
struct Picture {
    file: &'static str,
    title: &'static str,
    shows: fn(&Row) -> bool,
}

const PICTURES: [Picture; 7] = [
    Picture {
        file: "nanoseconds.svg",
        title: "nanoseconds an operation, one thread (less is better, logarithmic)",
        shows: |row| row.section == Section::Pages && row.unit == Unit::Nanoseconds,
    },
    Picture {
        file: "two-threads.svg",
        title: "million operations a second, two threads (more is better)",
        shows: |row| row.unit == Unit::MillionsPerSecond,
    },
    Picture {
        file: "recoverable.svg",
        title: "percent of free memory that is whole 2 MiB blocks, after churn and in traces",
        shows: |row| row.unit == Unit::Percent,
    },
    Picture {
        file: "single-median.svg",
        title: "nanoseconds of single operations, median (less is better, logarithmic)",
        shows: |row| row.section == Section::Single && row.name.ends_with("median"),
    },
    Picture {
        file: "single-p99.svg",
        title: "nanoseconds that 99 % of single operations take at most (less is better, logarithmic)",
        shows: |row| row.section == Section::Single && row.name.ends_with("p99"),
    },
    Picture {
        file: "single-worst.svg",
        title: "nanoseconds of the worst single operation (less is better, logarithmic)",
        shows: |row| row.section == Section::Single && row.name.ends_with("worst"),
    },
    Picture {
        file: "slab.svg",
        title: "nanoseconds of objects of 64 bytes (less is better, logarithmic)",
        shows: |row| row.section == Section::Slab,
    },
];

/// Writes a picture of each kind of result into a directory.
///
/// # Errors
/// The directory cannot be written.
pub(crate) fn plots(directory: &Path, results: &Results) -> anyhow::Result<()> {
    std::fs::create_dir_all(directory)?;
    let colors = Colors(distinct(results.figures.iter().map(|figure| figure.contender.as_str())));
    for Picture { file, title, shows } in PICTURES {
        let shown: Vec<&Figure> = results.figures.iter().filter(|figure| shows(&figure.row)).collect();
        if !shown.is_empty() {
            bars::plot(&directory.join(file), title, &shown, &colors)?;
        }
    }
    for chart in distinct(results.curves.iter().map(|curve| &curve.chart)) {
        let curves: Vec<_> = results.curves.iter().filter(|curve| curve.chart == *chart).collect();
        lines::plot(&directory.join(lines::file_name(chart)), chart, &curves, &colors)?;
    }
    Ok(())
}

/// Writes contenders' names in their colours beside what is drawn.
fn legend(area: &DrawingArea<SVGBackend<'_>, Shift>, contenders: &[&str], colors: &Colors<'_>) -> anyhow::Result<()> {
    let (width, _) = SIZE;
    let left = i32::try_from(width)? - LEGEND + 30;
    for (nth, contender) in (0..).zip(contenders) {
        let top = 60 + nth * 18;
        area.draw(&Rectangle::new([(left, top), (left + 10, top + 10)], colors.of(contender).filled()))?;
        area.draw(&Text::new(*contender, (left + 16, top), ("sans-serif", 12)))?;
    }
    Ok(())
}
