//! The serial line as it comes, but for reports that nobody asked for: those are shown only if the run fails.

use std::io::Write as _;

use harness::report::HEADING;

/// What becomes of the reports at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reports {
    /// They are what the run is for.
    Wanted,
    /// They are the kernel's own choice.
    Unasked,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    Well,
    Badly,
}

/// Shows one run.
#[derive(Debug)]
pub(crate) struct Echo {
    reports: Reports,
    /// The beginning of a line that is not complete.
    line: Vec<u8>,
    /// From the first heading on.
    held: Vec<u8>,
}

impl Echo {
    pub(crate) const fn new(reports: Reports) -> Echo {
        Echo { reports, line: Vec::new(), held: Vec::new() }
    }

    /// The next bytes of the serial line.
    pub(crate) fn watch(&mut self, serial: &[u8]) {
        show(&self.take(serial));
    }

    /// Shows what is left.
    pub(crate) fn end(mut self, ended: Ended) {
        show(&self.take_rest(ended));
    }

    /// What of the next bytes is to be shown at once: whole lines, so that a heading is seen before it is shown.
    fn take(&mut self, serial: &[u8]) -> Vec<u8> {
        if self.reports == Reports::Wanted {
            return serial.to_vec();
        }
        let mut shown = Vec::new();
        for piece in serial.split_inclusive(|byte| *byte == b'\n') {
            self.line.extend(piece);
            if !self.line.ends_with(b"\n") {
                continue;
            }
            if !self.held.is_empty() || self.line.starts_with(HEADING.as_bytes()) {
                self.held.append(&mut self.line);
            } else {
                shown.append(&mut self.line);
            }
        }
        shown
    }

    fn take_rest(&mut self, ended: Ended) -> Vec<u8> {
        let mut rest = match ended {
            Ended::Well => Vec::new(),
            Ended::Badly => std::mem::take(&mut self.held),
        };
        rest.append(&mut self.line);
        rest
    }
}

/// A reader who has gone away is no reason to stop.
fn show(serial: &[u8]) {
    let mut stdout = std::io::stdout();
    let _ = stdout.write_all(serial);
    let _ = stdout.flush();
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERIAL: &str = "# run a\nok 1 a\n1 passed, 0 failed\n# /proc/meminfo\nMemTotal: 1 kB\n# /proc/x\n";

    /// What is shown at once and what at the end, the bytes coming in pieces of this length.
    fn shown(reports: Reports, ended: Ended, serial: &str, length: usize) -> (String, String) {
        let mut echo = Echo::new(reports);
        let at_once = serial.as_bytes().chunks(length).flat_map(|piece| echo.take(piece)).collect();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (text(at_once), text(echo.take_rest(ended)))
    }

    #[test]
    fn reports_nobody_asked_for_are_shown_only_if_the_run_fails_however_the_bytes_come() {
        let (said, reports) = SERIAL.split_at(SERIAL.find("# /proc").unwrap());
        for length in 1..SERIAL.len() {
            assert_eq!(shown(Reports::Unasked, Ended::Well, SERIAL, length), (said.into(), String::new()));
            assert_eq!(shown(Reports::Unasked, Ended::Badly, SERIAL, length), (said.into(), reports.into()));
            assert_eq!(shown(Reports::Wanted, Ended::Well, SERIAL, length), (SERIAL.into(), String::new()));
        }
    }

    #[test]
    fn the_half_line_of_a_kernel_that_hangs_is_shown_in_the_end() {
        assert_eq!(shown(Reports::Unasked, Ended::Badly, "a\n# ru", 2), ("a\n".into(), "# ru".into()));
        assert_eq!(shown(Reports::Wanted, Ended::Badly, "a\n# ru", 2), ("a\n# ru".into(), String::new()));
    }
}
