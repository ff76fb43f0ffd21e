//! The figures as github-action-benchmark reads them.

use serde::Serialize;

use crate::figures::Figure;

/// A figure as `customSmallerIsBetter` and `customBiggerIsBetter` want it.
#[derive(Serialize)]
struct Entry {
    name: String,
    unit: &'static str,
    value: f64,
    range: String,
}

/// The figures as an array of entries.
pub(crate) fn json(figures: &[Figure]) -> anyhow::Result<String> {
    let entry = |figure: &Figure| Entry {
        name: format!("{}/{}", figure.row.name, figure.contender),
        unit: figure.row.unit.name(),
        value: figure.value,
        range: format!("{:.2} to {:.2}", figure.range[0], figure.range[1]),
    };
    Ok(serde_json::to_string_pretty(&figures.iter().map(entry).collect::<Vec<_>>())?)
}
