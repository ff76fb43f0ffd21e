//! Reports on memory: the end of a kernel's output, each behind a line `# /proc/NAME`.
//!
//! In between stands what Linux shows under that name, to be given to whatever reads Linux's file.

/// What the line before a report begins with.
pub const HEADING: &str = "# /proc/";

/// One report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The file's name on Linux.
    pub name: String,
    /// What would stand in it.
    pub text: String,
}

/// Reads the serial line; a last line that is cut off is left out.
#[must_use]
pub fn read(serial: &str) -> Vec<Report> {
    let mut reports: Vec<Report> = Vec::new();
    for line in serial.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')) {
        let line = line.strip_suffix('\r').unwrap_or(line);
        if let Some(name) = line.strip_prefix(HEADING) {
            reports.push(Report { name: name.to_owned(), text: String::new() });
        } else if let Some(report) = reports.last_mut() {
            report.text.extend([line, "\n"]);
        }
    }
    reports
}

/// What the kernel said before its reports.
#[must_use]
pub fn before(serial: &str) -> &str {
    let mut lines = serial.split_inclusive('\n');
    let length = lines.by_ref().take_while(|line| !line.starts_with(HEADING)).map(str::len).sum();
    &serial[..length]
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERIAL: &str = "memory: 1 KiB\r\nok 1 a # /proc/b\r\n1 passed, 0 failed\r\n# /proc/buddyinfo\r\nNode 0 \r\n\
        # /proc/pagetypeinfo\r\nPage\r\n\r\nFree\r\n# /proc/empty\r\n# /proc/meminfo\r\nMemTotal: 1 kB\r\nMemFr";

    #[test]
    fn a_report_keeps_its_spaces_and_empty_lines_and_ends_where_the_next_begins() {
        let report = |name: &str, text: &str| Report { name: name.into(), text: text.into() };
        let reports = [
            report("buddyinfo", "Node 0 \n"),
            report("pagetypeinfo", "Page\n\nFree\n"),
            report("empty", ""),
            report("meminfo", "MemTotal: 1 kB\n"),
        ];
        assert_eq!(read(SERIAL), reports);
        assert_eq!(read("# run a\nok 1 a\n"), []);
    }

    #[test]
    fn what_was_said_before_is_all_up_to_the_first_heading() {
        assert_eq!(before(SERIAL), "memory: 1 KiB\r\nok 1 a # /proc/b\r\n1 passed, 0 failed\r\n");
        for all in ["", "a", "a\n", "a\n# /pro"] {
            assert_eq!(before(all), all);
        }
        assert_eq!(before("# /proc/a\nb\n"), "");
    }
}
