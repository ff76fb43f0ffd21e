//! The figures as text: a line a row, a column a contender.

use std::fmt::Write as _;

use crate::OURS;
use crate::figures::{BARS, Figure};

/// The rows in the order in which they were measured.
fn rows(figures: &[Figure]) -> Vec<&str> {
    let mut rows: Vec<&str> = Vec::new();
    for figure in figures {
        if !rows.contains(&figure.row.as_str()) {
            rows.push(&figure.row);
        }
    }
    rows
}

/// The contenders, ours first.
fn contenders(figures: &[Figure]) -> Vec<&str> {
    let mut contenders = vec![OURS];
    for figure in figures {
        if !contenders.contains(&figure.contender.as_str()) {
            contenders.push(&figure.contender);
        }
    }
    contenders
}

/// All figures, and for each row our bar, whether we clear it, and how many times better than the best other we are.
pub(crate) fn table(figures: &[Figure]) -> String {
    let (rows, contenders) = (rows(figures), contenders(figures));
    let find = |row: &str, contender: &str| figures.iter().find(|f| f.row == row && f.contender == contender);
    let mut text = format!("{:<22}{:<9}", "row", "unit");
    for contender in &contenders {
        write!(text, "{contender:>15}").expect("a string grows");
    }
    writeln!(text, "{:>9}{:>8}", "bar", "ahead").expect("a string grows");
    for row in rows {
        let unit = figures.iter().find(|figure| figure.row == row).map_or("", |figure| figure.unit.name());
        write!(text, "{row:<22}{unit:<9}").expect("a string grows");
        for contender in &contenders {
            match find(row, contender) {
                Some(figure) => write!(text, "{:>15}", number(figure.value)),
                None => write!(text, "{:>15}", "-"),
            }
            .expect("a string grows");
        }
        let ours = find(row, OURS);
        let bar = BARS.iter().find(|bar| bar.row == row).zip(ours);
        let verdict = bar.map_or(String::new(), |(bar, ours)| {
            format!("{}{}", number(bar.value), if bar.is_cleared_by(ours) { " ok" } else { " !!" })
        });
        let ahead = ours.and_then(|ours| ahead(figures, ours)).map_or(String::new(), |times| format!("{times:.1}x"));
        writeln!(text, "{verdict:>9}{ahead:>8}").expect("a string grows");
    }
    text
}

/// How many times better our figure is than the best of the others; the floor does no allocator's work.
fn ahead(figures: &[Figure], ours: &Figure) -> Option<f64> {
    let others = figures.iter().filter(|f| f.row == ours.row && f.contender != OURS && f.contender != crate::FLOOR);
    let values = others.map(|figure| figure.value);
    if ours.unit.more_is_better() {
        values.reduce(f64::max).filter(|&best| best > 0.0).map(|best| ours.value / best)
    } else {
        values.reduce(f64::min).map(|best| best / ours.value)
    }
}

fn number(value: f64) -> String {
    if value < 10.0 { format!("{value:.1}") } else { format!("{value:.0}") }
}
