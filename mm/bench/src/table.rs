//! The figures as text: a table each section, a line a row, a column a contender; and what was left out.

use std::fmt::Write as _;

use crate::OURS;
use crate::figures::{BARS, Figure, LeftOut, Results, Section, distinct};

/// All that a run has shown.
pub(crate) fn tables(results: &Results) -> String {
    let mut text = String::new();
    for section in Section::ALL {
        let figures: Vec<_> = results.figures.iter().filter(|figure| figure.row.section == section).collect();
        if !figures.is_empty() {
            writeln!(text, "{}", table(&figures)).expect("a string grows");
        }
    }
    let reason = |left_out: &LeftOut| (left_out.contender, left_out.why.clone());
    for (contender, why) in distinct(results.left_out.iter().map(reason)) {
        let alike = results.left_out.iter().filter(|left_out| reason(left_out) == (contender, why.clone()));
        let rows = alike.map(|left_out| left_out.row.as_str()).collect::<Vec<_>>().join(", ");
        let contender = contender.map_or(String::new(), |contender| format!("{contender} from "));
        writeln!(text, "left out: {contender}{rows}: {why}").expect("a string grows");
    }
    text
}

/// Figures, and for each row our bar, where that is on this machine, whether we clear it there, and how many times better than the best other we are.
fn table(figures: &[&Figure]) -> String {
    let rows = distinct(figures.iter().map(|figure| figure.row.name.as_str()));
    let contenders = distinct(std::iter::once(OURS).chain(figures.iter().map(|figure| figure.contender.as_str())));
    let find = |row: &str, contender: &str| figures.iter().find(|f| f.row.name == row && f.contender == contender);
    let width = rows.iter().map(|row| row.len()).max().unwrap_or(0).max(20) + 2;
    let mut text = format!("{:<width$}{:<9}", "row", "unit");
    for contender in &contenders {
        write!(text, "{contender:>17}").expect("a string grows");
    }
    writeln!(text, "{:>7}{:>10}{:>8}", "bar", "here", "ahead").expect("a string grows");
    for row in rows {
        let unit = figures.iter().find(|figure| figure.row.name == row).map_or("", |figure| figure.row.unit.name());
        write!(text, "{row:<width$}{unit:<9}").expect("a string grows");
        for contender in &contenders {
            match find(row, contender) {
                Some(figure) => write!(text, "{:>17}", number(figure.value)),
                None => write!(text, "{:>17}", "-"),
            }
            .expect("a string grows");
        }
        let ours = find(row, OURS);
        let bar = BARS.iter().find(|bar| bar.row == row).zip(ours);
        let verdict = bar.map_or(String::new(), |(bar, ours)| {
            let verdict = if bar.is_cleared_by(ours) { "ok" } else { "!!" };
            format!("{:>7}{:>7} {verdict}", number(bar.value), number(bar.beside(ours)))
        });
        let ahead = ours.and_then(|ours| ahead(figures, ours)).map_or(String::new(), |times| format!("{times:.1}x"));
        writeln!(text, "{verdict:>17}{ahead:>8}").expect("a string grows");
    }
    text
}

/// How many times better our figure is than the best of the others; the floor does no allocator's work.
fn ahead(figures: &[&Figure], ours: &Figure) -> Option<f64> {
    let is_other = |name: &str| ![OURS, crate::OUR_KMALLOC, crate::FLOOR].contains(&name);
    let values = figures.iter().filter(|f| f.row == ours.row && is_other(&f.contender)).map(|figure| figure.value);
    let (best, times) = if ours.row.unit.more_is_better() {
        let best = values.reduce(f64::max)?;
        (best, ours.value / best)
    } else {
        let best = values.reduce(f64::min)?;
        (best, best / ours.value)
    };
    (best > 0.0 && ours.value > 0.0).then_some(times)
}

fn number(value: f64) -> String {
    if value < 10.0 { format!("{value:.1}") } else { format!("{value:.0}") }
}
