//! The report of a kernel that died: `PANIC:` or `EXCEPTION:`, then lines `  backtrace: 0x…`.

use crate::report::before;
use crate::run::{End, Run};

/// The names of the functions around an address, innermost first; empty if nobody knows.
pub type Describe<'a> = &'a dyn Fn(u64) -> Vec<String>;

/// How many of a transcript's last lines to show if the kernel did not tell why.
const LAST_LINES: usize = 15;

impl Run {
    /// What to tell of a boot that did not go well: how it ended, and the kernel's report or else its last lines.
    #[must_use]
    pub fn story(&self, describe: Describe<'_>) -> String {
        match (report(&self.serial, describe), &self.end) {
            // Whoever reports its death also exits with failure.
            (Some(report), End::Failure) => report,
            (Some(report), end) => format!("{end}\n{report}"),
            (None, end) => {
                let lines: Vec<_> = before(&self.serial).lines().collect();
                format!("{end}; its last lines:\n{}", lines[lines.len().saturating_sub(LAST_LINES)..].join("\n"))
            }
        }
    }
}

const BEGINNINGS: [&str; 2] = ["PANIC:", "EXCEPTION:"];

/// The report in the transcript of a kernel that died, its addresses turned into names.
///
/// It ends where the transcript ends: a kernel that dies says nothing else, and if it dies once more while
/// reporting, that is part of the story.
#[must_use]
pub fn report(serial: &str, describe: Describe<'_>) -> Option<String> {
    let serial = &serial[beginning(serial)?..];
    let mut report = Vec::new();
    // An exception's backtrace begins with the instruction itself. A return address is behind its call, which may be
    // the last instruction of its line, or of its function.
    let mut behind_call = u64::from(!serial.starts_with("EXCEPTION:"));
    for line in serial.lines() {
        let Some(address) = address(line) else {
            report.push(line.trim_end().to_owned());
            continue;
        };
        match describe(address.saturating_sub(behind_call)) {
            names if names.is_empty() => report.push(format!("  at {address:#x}")),
            names => report.extend(names.iter().map(|name| format!("  at {name}"))),
        }
        behind_call = 1;
    }
    Some(report.join("\n"))
}

/// Where the report begins: at the beginning of a line, or else, the dying kernel having been in the middle of a
/// line, anywhere.
fn beginning(serial: &str) -> Option<usize> {
    let at_line = |start: &usize| *start == 0 || serial.as_bytes()[start - 1] == b'\n';
    let all = || BEGINNINGS.iter().flat_map(|word| serial.match_indices(word)).map(|(start, _)| start);
    all().filter(at_line).min().or(all().min())
}

fn address(line: &str) -> Option<u64> {
    let digits = line.trim().strip_prefix("backtrace:")?.trim().strip_prefix("0x")?;
    u64::from_str_radix(digits, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(address: u64) -> Vec<String> {
        match address {
            0xffff_ffff_8000_0fff => vec!["inner (a.rs:1)".into(), "outer (a.rs:9)".into()],
            _ => Vec::new(),
        }
    }

    #[test]
    fn addresses_become_the_names_of_the_calls_before_them() {
        let serial = "# run a\nPANIC: left != right\n  left: 1\n right: 2\r\n  backtrace: 0xffffffff80001000\n  backtrace: 0x10\n";
        assert_eq!(
            report(serial, &names).unwrap(),
            "PANIC: left != right\n  left: 1\n right: 2\n  at inner (a.rs:1)\n  at outer (a.rs:9)\n  at 0x10"
        );
    }

    #[test]
    fn an_exceptions_own_address_is_taken_as_it_is() {
        let serial = "EXCEPTION: #UD\n  backtrace: 0xffffffff80000fff\n  backtrace: 0xffffffff80001000\n";
        let names = "  at inner (a.rs:1)\n  at outer (a.rs:9)";
        assert_eq!(report(serial, &self::names).unwrap(), format!("EXCEPTION: #UD\n{names}\n{names}"));
    }

    #[test]
    fn a_diagnostic_that_speaks_of_a_panic_is_not_taken_for_one() {
        let serial = "# the next EXCEPTION: is meant\nEXCEPTION: page fault\n  write to 0x0\n";
        assert_eq!(report(serial, &names).unwrap(), "EXCEPTION: page fault\n  write to 0x0");
    }

    #[test]
    fn a_report_that_begins_inside_a_line_is_found() {
        assert_eq!(report("# half a linePANIC: b", &names).unwrap(), "PANIC: b");
    }

    #[test]
    fn a_report_cut_off_or_garbled_keeps_its_text() {
        let serial = "PANIC: a\n  backtrace: 0x\n  backtrace: 0xfffffffffffffffff\n  backtrace: \u{fffd}\n  backtra";
        assert_eq!(report(serial, &names).unwrap(), serial);
        assert_eq!(report("PANIC:", &names).unwrap(), "PANIC:");
        assert_eq!(report("PANIC: zero\n  backtrace: 0x0", &names).unwrap(), "PANIC: zero\n  at 0x0");
    }

    #[test]
    fn a_kernel_that_died_while_reporting_shows_both_reports() {
        let serial = "EXCEPTION: page fault\nPANIC: in the handler\n";
        assert_eq!(report(serial, &names).unwrap(), serial.trim_end());
    }

    #[test]
    fn the_story_of_a_boot_is_its_report_or_else_its_last_lines() {
        let story = |serial: &str, end| Run { serial: serial.into(), end }.story(&names);
        assert_eq!(story("a\nPANIC: b\n", End::Failure), "PANIC: b");
        assert_eq!(story("a\nPANIC: b\n", End::Flood), format!("{}\nPANIC: b", End::Flood));
        let lines: String = (0..100).map(|line| format!("{line}\n")).collect();
        let told = story(&lines, End::Failure);
        assert!(told.starts_with("the kernel exited with failure; its last lines:\n85\n86\n"), "{told}");
        assert!(told.ends_with("\n99"), "{told}");
        assert!(story("", End::Success).ends_with(":\n"));
        let told = story("replay: FAILED: why\n# /proc/buddyinfo\nNode 0\n", End::Failure);
        assert!(told.ends_with(":\nreplay: FAILED: why"), "{told}");
    }

    #[test]
    fn a_kernel_that_did_not_die_has_no_report() {
        assert_eq!(report("", &names), None);
        assert_eq!(report("# run a\nok 1 a\n1 passed, 0 failed\n", &names), None);
    }
}
