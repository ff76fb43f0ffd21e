//! Lines by contender along an axis.

use std::ops::Range;
use std::path::Path;

use plotters::prelude::*;

use super::{Colors, LEGEND, SIZE};
use crate::figures::{Chart, Curve};

/// How a kind of chart is drawn.
struct Axes {
    title: String,
    x: Range<f64>,
    y: Range<f64>,
    x_scale: Scale,
    y_scale: Scale,
}

/// What is drawn for an amount.
#[derive(Clone, Copy)]
enum Scale {
    Linear,
    /// Its binary logarithm, for amounts of memory in GiB.
    Binary,
    /// Its decimal logarithm.
    Decimal,
}

impl Scale {
    fn position(self, amount: f64) -> f64 {
        match self {
            Self::Linear => amount,
            Self::Binary => amount.log2(),
            Self::Decimal => amount.max(1.0).log10(),
        }
    }

    fn label(self, position: f64) -> String {
        match self {
            Self::Linear => format!("{position:.0}"),
            Self::Binary if position < 0.0 => format!("{:.0} MiB", position.exp2() * 1024.0),
            Self::Binary => format!("{:.0} GiB", position.exp2()),
            Self::Decimal => format!("{:.0}", 10_f64.powf(position)),
        }
    }
}

impl Axes {
    fn of(chart: &Chart, curves: &[&Curve]) -> Self {
        let amounts = curves.iter().flat_map(|curve| &curve.points);
        let (first, last) =
            amounts.clone().fold((f64::MAX, 0.0), |(first, last), &(x, _)| (f64::min(first, x), f64::max(last, x)));
        match chart {
            Chart::CostBySize(work) => Self {
                title: format!("{work}: nanoseconds by amount of memory (both logarithmic)"),
                x: first.log2()..last.log2().max(first.log2() + 1.0),
                y: 0.0..amounts.map(|&(_, y)| Scale::Decimal.position(y)).fold(1.0, f64::max) * 1.1,
                x_scale: Scale::Binary,
                y_scale: Scale::Decimal,
            },
            Chart::WholeOverTime(trace) => Self {
                title: format!("{trace}: percent of free memory that is whole 2 MiB blocks, by percent of the trace"),
                x: 0.0..100.0,
                y: 0.0..100.0,
                x_scale: Scale::Linear,
                y_scale: Scale::Linear,
            },
        }
    }
}

/// The file that a chart is drawn in.
pub(super) fn file_name(chart: &Chart) -> String {
    match chart {
        Chart::CostBySize(work) => format!("size-{work}.svg"),
        Chart::WholeOverTime(trace) => format!("whole-{trace}.svg"),
    }
}

/// Draws the curves of one chart.
///
/// # Errors
/// The file cannot be written.
pub(super) fn plot(file: &Path, chart: &Chart, curves: &[&Curve], colors: &Colors<'_>) -> anyhow::Result<()> {
    let Axes { title, x, y, x_scale, y_scale } = Axes::of(chart, curves);
    let area = SVGBackend::new(file, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .caption(title, ("sans-serif", 18))
        .margin(10)
        .margin_right(LEGEND)
        .x_label_area_size(30)
        .y_label_area_size(50)
        .build_cartesian_2d(x, y)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .x_label_formatter(&|x| x_scale.label(*x))
        .y_label_formatter(&|y| y_scale.label(*y))
        .draw()?;
    for curve in curves {
        let color = colors.of(&curve.contender);
        let points = curve.points.iter().map(|&(x, y)| (x_scale.position(x), y_scale.position(y)));
        chart.draw_series(LineSeries::new(points, color.stroke_width(2)).point_size(2))?;
    }
    super::legend(&area, &curves.iter().map(|curve| curve.contender.as_str()).collect::<Vec<_>>(), colors)?;
    area.present()?;
    Ok(())
}
