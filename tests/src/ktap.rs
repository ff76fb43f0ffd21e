//! Test results as the kernel prints them: KTAP, each result behind a line that says which test begins.
//!
//! A result counts only if its line is complete and names the test that was begun, so neither a line cut off nor
//! noise in the middle of one turns into a verdict about some test.

/// What became of one test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It held.
    Passed,
    /// It could not run on this machine, and why.
    Skipped(String),
    /// It did not hold, and what the kernel had to say.
    Failed(String),
}

impl Verdict {
    /// Adds a line to what a failure has to say.
    pub fn remark(&mut self, line: &str) {
        if let Verdict::Failed(message) = self {
            *message += "\n";
            *message += line;
        }
    }
}

/// A test without a verdict so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Running {
    /// Its name.
    pub name: String,
    /// Its diagnostic lines.
    pub said: Vec<String>,
}

/// The kernel's own count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Tests that held.
    pub passed: usize,
    /// Tests that did not.
    pub failed: usize,
    /// Tests that could not run.
    pub skipped: usize,
}

/// All that a transcript tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ktap {
    /// How many tests were to run.
    pub planned: Option<usize>,
    /// Tests with a verdict, in the order in which they ran.
    pub finished: Vec<(String, Verdict)>,
    /// The test that was running when the transcript ended.
    pub running: Option<Running>,
    /// The line behind all tests; `None`: the kernel did not come so far.
    pub summary: Option<Summary>,
}

impl Ktap {
    /// The tests with a verdict, counted as the kernel counts them.
    #[must_use]
    pub fn count(&self) -> Summary {
        let mut count = Summary::default();
        for (_, verdict) in &self.finished {
            match verdict {
                Verdict::Passed => count.passed += 1,
                Verdict::Skipped(_) => count.skipped += 1,
                Verdict::Failed(_) => count.failed += 1,
            }
        }
        count
    }
}

/// Reads the serial line.
#[must_use]
pub fn read(serial: &str) -> Ktap {
    let mut ktap = Ktap::default();
    for line in serial.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')) {
        let line = line.trim_end_matches('\r');
        match &mut ktap.running {
            None => {
                if let Some(name) = line.strip_prefix("# run ") {
                    ktap.running = Some(Running { name: name.to_owned(), said: Vec::new() });
                } else if let Some(count) = line.strip_prefix("1..") {
                    ktap.planned = ktap.planned.or(count.parse().ok());
                } else {
                    ktap.summary = ktap.summary.or(summary(line));
                }
            }
            Some(running) => {
                if let Some(verdict) = verdict(line, running) {
                    ktap.finished.push((std::mem::take(&mut running.name), verdict));
                    ktap.running = None;
                } else if let Some(diagnostic) = line.strip_prefix("# ") {
                    running.said.push(diagnostic.to_owned());
                }
            }
        }
    }
    ktap
}

/// `ok 1 NAME`, `ok 1 NAME # SKIP reason` or `not ok 1 NAME # message`, if it is about the running test.
fn verdict(line: &str, running: &Running) -> Option<Verdict> {
    let (held, rest) = match line.strip_prefix("not ") {
        Some(rest) => (false, rest),
        None => (true, line),
    };
    let (number, rest) = rest.strip_prefix("ok ")?.split_once(' ')?;
    number.parse::<usize>().ok()?;
    let remark = match rest.strip_prefix(&running.name)? {
        "" => "",
        remark => remark.strip_prefix(" # ")?,
    };
    Some(if !held {
        let lines = std::iter::once(remark).chain(running.said.iter().map(String::as_str));
        Verdict::Failed(lines.filter(|line| !line.is_empty()).collect::<Vec<_>>().join("\n"))
    } else if let Some(reason) = remark.strip_prefix("SKIP") {
        Verdict::Skipped(reason.trim().to_owned())
    } else {
        Verdict::Passed
    })
}

/// `N passed, N failed`, and `, N skipped` if there are any.
fn summary(line: &str) -> Option<Summary> {
    let (passed, rest) = line.split_once(" passed, ")?;
    let (failed, rest) = rest.split_once(" failed")?;
    let skipped = match rest {
        "" => 0,
        rest => rest.strip_prefix(", ")?.strip_suffix(" skipped")?.parse().ok()?,
    };
    Some(Summary { passed: passed.parse().ok()?, failed: failed.parse().ok()?, skipped })
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &str = "boot: kernel at 0x100000\r\nKTAP version 1\r\n1..4\n# run buddy/a\nok 1 buddy/a\n# run buddy/b\n\
        # seed 7\n# list 3 has 2\nnot ok 2 buddy/b # FREE-2 broken\n# run kmap/c\nok 3 kmap/c # SKIP no highmem\n\
        # run d\nok 4 d\n2 passed, 1 failed, 1 skipped\n";

    fn finished(names: &[(&str, Verdict)]) -> Vec<(String, Verdict)> {
        names.iter().map(|(name, verdict)| ((*name).to_owned(), verdict.clone())).collect()
    }

    #[test]
    fn every_test_gets_its_verdict_and_a_failure_its_diagnostics() {
        let ktap = read(WHOLE);
        let expected = finished(&[
            ("buddy/a", Verdict::Passed),
            ("buddy/b", Verdict::Failed("FREE-2 broken\nseed 7\nlist 3 has 2".into())),
            ("kmap/c", Verdict::Skipped("no highmem".into())),
            ("d", Verdict::Passed),
        ]);
        assert_eq!(ktap.finished, expected);
        assert_eq!((ktap.planned, ktap.running.as_ref()), (Some(4), None));
        assert_eq!(ktap.summary, Some(Summary { passed: 2, failed: 1, skipped: 1 }));
        assert_eq!(ktap.summary, Some(ktap.count()));
    }

    #[test]
    fn cut_off_anywhere_a_transcript_tells_only_what_the_whole_one_tells() {
        let whole = read(WHOLE);
        for end in 0..WHOLE.len() {
            let part = read(&WHOLE[..end]);
            assert!(whole.finished.starts_with(&part.finished), "cut at {end}");
            assert!(part.summary.is_none(), "cut at {end}");
            if let Some(running) = part.running {
                assert_eq!(running.name, whole.finished[part.finished.len()].0, "cut at {end}");
            }
        }
    }

    #[test]
    fn the_test_that_was_running_is_known_with_what_it_said() {
        let ktap = read("1..2\n# run a\nok 1 a\n# run b\n# half way\nPANIC: b\n  backtrace: 0x1\n");
        let said = vec!["half way".to_owned()];
        assert_eq!(ktap.running, Some(Running { name: "b".into(), said }));
        assert_eq!(ktap.summary, None);
    }

    #[test]
    fn noise_inside_a_result_line_costs_the_verdict_and_names_no_other_test() {
        for noise in
            ["ok 1 other\n", "ok 1 ab\n", "ok 1 a#\n", "ok x a\n", "ok 1\n", "ok\n", " ok 1 a\n", "\u{fffd}ok 1 a\n"]
        {
            let ktap = read(&format!("# run a\n{noise}1 passed, 0 failed\n"));
            assert_eq!(ktap.finished, [], "{noise}");
            assert_eq!(ktap.running.unwrap().name, "a", "{noise}");
        }
    }

    #[test]
    fn what_a_test_says_is_neither_a_plan_nor_a_beginning_nor_a_summary() {
        let ktap = read("1..1\n# run a\n1..9\n# run b\n7 passed, 7 failed\nok 1 a\n1 passed, 0 failed\n");
        assert_eq!(ktap.finished, finished(&[("a", Verdict::Passed)]));
        assert_eq!(ktap.planned, Some(1));
        assert_eq!(ktap.summary, Some(Summary { passed: 1, failed: 0, skipped: 0 }));
    }

    #[test]
    fn reports_behind_the_summary_change_nothing() {
        let reports = "# /proc/buddyinfo\nNode 0, zone   Normal      1 \n# /proc/meminfo\nMemTotal:  1 kB\n";
        assert_eq!(read(&format!("{WHOLE}{reports}")), read(WHOLE));
    }

    #[test]
    fn a_failure_without_a_word_is_still_a_failure() {
        assert_eq!(read("# run a\nnot ok 1 a\n").finished, finished(&[("a", Verdict::Failed(String::new()))]));
    }
}
