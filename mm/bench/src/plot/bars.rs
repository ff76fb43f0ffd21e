//! Bars by contender for each row.

use std::path::Path;

use plotters::prelude::*;

use super::SIZE;
use crate::figures::{Figure, Unit, distinct};

/// Draws figures on a logarithmic scale if they are nanoseconds.
///
/// # Errors
/// The file cannot be written.
pub(super) fn plot(file: &Path, title: &str, figures: &[&Figure]) -> anyhow::Result<()> {
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
        .x_label_area_size(30)
        .y_label_area_size(50)
        .build_cartesian_2d(0.0..rows.len() as f64, 0.0..top)?;
    let row_at = |x: f64| (0_i32..).zip(&rows).take_while(|&(nth, _)| f64::from(nth) <= x).last();
    let row_name = |x: &f64| row_at(*x).map_or_else(String::new, |(_, name)| (*name).to_owned());
    let amount = |y: &f64| if logarithmic { format!("{:.0}", 10_f64.powf(*y)) } else { format!("{y:.0}") };
    chart
        .configure_mesh()
        .disable_x_mesh()
        .x_labels(rows.len())
        .x_label_offset(i32::try_from(SIZE.0 as usize / (2 * rows.len()))?)
        .x_label_formatter(&row_name)
        .y_label_formatter(&amount)
        .draw()?;
    let width = 0.9 / contenders.len() as f64;
    for (nth, contender) in contenders.iter().enumerate() {
        let color = Palette99::pick(nth).mix(0.9);
        let bars = figures.iter().filter(|figure| figure.contender == *contender).filter_map(|figure| {
            let row = rows.iter().position(|row| *row == figure.row.name)? as f64;
            let left = row + 0.05 + width * nth as f64;
            Some(Rectangle::new([(left, 0.0), (left + width * 0.9, scale(figure.value))], color.filled()))
        });
        chart
            .draw_series(bars)?
            .label(*contender)
            .legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 10, y + 5)], color.filled()));
    }
    chart.configure_series_labels().background_style(WHITE.mix(0.8)).border_style(BLACK).draw()?;
    area.present()?;
    Ok(())
}
