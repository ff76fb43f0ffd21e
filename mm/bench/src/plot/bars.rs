//! Bars by contender for each row.

use std::path::Path;

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::{Colors, LEGEND, SIZE};
use crate::figures::{Figure, Unit, distinct};

/// Lines of a row's name, a word each.
const NAME_LINES: i32 = 5;
const LINE: i32 = 12;

/// Draws figures, on a logarithmic scale if they are nanoseconds.
///
/// # Errors
/// The file cannot be written.
pub(super) fn plot(file: &Path, title: &str, figures: &[&Figure], colors: &Colors<'_>) -> anyhow::Result<()> {
    let rows = distinct(figures.iter().map(|figure| figure.row.name.as_str()));
    let contenders = distinct(figures.iter().map(|figure| figure.contender.as_str()));
    let logarithmic = figures.iter().any(|figure| figure.row.unit == Unit::Nanoseconds);
    let scale = |value: f64| if logarithmic { value.max(1.0).log10() } else { value };
    let top = figures.iter().map(|figure| scale(figure.value)).fold(0.0, f64::max) * 1.1;

    let area = SVGBackend::new(file, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .caption(title, ("sans-serif", 18))
        .margin(10)
        .margin_right(LEGEND)
        .x_label_area_size(LINE * NAME_LINES)
        .y_label_area_size(50)
        .build_cartesian_2d(0.0..rows.len() as f64, 0.0..top)?;
    let amount = |y: &f64| if logarithmic { format!("{:.0}", 10_f64.powf(*y)) } else { format!("{y:.0}") };
    chart
        .configure_mesh()
        .disable_x_mesh()
        .x_labels(0)
        .light_line_style(TRANSPARENT)
        .y_label_formatter(&amount)
        .draw()?;
    let centered = ("sans-serif", 12).into_font().color(&BLACK).pos(Pos::new(HPos::Center, VPos::Top));
    for (nth, row) in rows.iter().enumerate() {
        let (x, y) = chart.backend_coord(&(nth as f64 + 0.5, 0.0));
        for (line, word) in (0..).zip(row.split('_')) {
            area.draw(&Text::new(word, (x, y + 4 + line * LINE), &centered))?;
        }
    }
    let width = 0.9 / contenders.len() as f64;
    for (nth, contender) in contenders.iter().enumerate() {
        let color = colors.of(contender);
        let bars = figures.iter().filter(|figure| figure.contender == *contender).filter_map(|figure| {
            let row = rows.iter().position(|row| *row == figure.row.name)? as f64;
            let left = row + 0.05 + width * nth as f64;
            Some(Rectangle::new([(left, 0.0), (left + width * 0.9, scale(figure.value))], color.filled()))
        });
        chart.draw_series(bars)?;
    }
    super::legend(&area, &contenders, colors)?;
    area.present()?;
    Ok(())
}
