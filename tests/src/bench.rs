//! Figures: the kernel's `BENCH {json}` lines.

use anyhow::Context as _;
use serde::Deserialize;

/// One measured figure.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Bench {
    /// What was measured.
    pub name: String,
    /// What it is counted in.
    pub unit: String,
    /// What counted.
    pub clock: String,
    /// The smallest sample.
    pub min: u64,
    /// The sample in the middle.
    pub median: u64,
    /// 99 of 100 samples are no larger.
    pub p99: u64,
    /// The sum of all samples by their number.
    pub mean: u64,
    /// How often it was done.
    pub operations: u64,
    /// The machine that it was done on.
    pub machine: String,
}

/// The JSON objects on the serial line, one a line, as the kernel wrote them.
pub fn objects(serial: &str) -> impl Iterator<Item = &str> {
    serial.lines().filter_map(|line| line.strip_prefix("BENCH ")).map(str::trim_end)
}

/// Reads the serial line.
///
/// # Errors
/// An object is cut off or lacks something; the error has its text.
pub fn read(serial: &str) -> anyhow::Result<Vec<Bench>> {
    objects(serial)
        .map(|object| serde_json::from_str(object).with_context(|| format!("malformed figure: BENCH {object}")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = r#"BENCH {"name":"page/order0_pair","unit":"instructions","clock":"icount","min":1,"median":2,"p99":3,"mean":4,"operations":1000,"machine":"2G"}"#;

    #[test]
    fn figures_are_found_between_other_lines() {
        let serial = format!("boot: x\n{LINE}\r\nname   median\nBENCHMARK\n{LINE}\n");
        let figures = read(&serial).unwrap();
        assert_eq!(figures.len(), 2);
        assert_eq!((figures[0].name.as_str(), figures[0].median, figures[0].p99), ("page/order0_pair", 2, 3));
        assert_eq!(objects(&serial).next(), LINE.strip_prefix("BENCH "));
    }

    #[test]
    fn a_figure_cut_off_anywhere_is_an_error_and_never_another_figure() {
        for end in "BENCH ".len()..LINE.len() {
            let error = read(&LINE[..end]).unwrap_err().to_string();
            assert!(error.contains(&LINE[..end]), "{error}");
        }
    }

    #[test]
    fn a_number_that_is_none_is_refused() {
        for wrong in ["-1", "1.5", "\"1\"", "null", "18446744073709551616"] {
            assert!(read(&LINE.replace(":2,", &format!(":{wrong},"))).is_err(), "{wrong}");
        }
    }
}
