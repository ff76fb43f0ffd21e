//! Runs tests to the last one, over the kernel's dead body if need be.
//!
//! A test that takes the kernel down fails under its name with the kernel's report, and the kernel is started again
//! behind it. Every restart begins behind a test further down the list, so there are no more boots than tests.

use std::collections::HashMap;
use std::time::Duration;

use crate::crash::Describe;
use crate::ktap::{self, Ktap, Verdict};
use crate::launch::{Launch, Select, Task};
use crate::run::{End, Run};
use crate::symbols::Symbols;
use crate::word::Word;

/// More kernels than this are not worth burying.
const MAX_BOOTS: usize = 50;

impl Launch<'_> {
    /// Runs the tests that `select` selects, `wanted` among them, and gives each of `wanted` its verdict, in that
    /// order, which is the order in which the kernel runs them. `patience` and `watch`: see [`Launch::run`].
    pub fn run_tests(
        &self,
        (select, wanted): (&Select, &[String]),
        symbols: &Symbols,
        patience: Duration,
        mut watch: impl FnMut(&[u8]),
    ) -> Vec<(String, Verdict)> {
        run(wanted, &|address| symbols.describe(address), |after| {
            self.run(&Task::Test { select: select.clone(), after: after.cloned() }, patience, &mut watch)
        })
    }
}

/// `boot` starts the kernel behind the test that it is given, or else at the first.
fn run(
    wanted: &[String],
    describe: Describe<'_>,
    mut boot: impl FnMut(Option<&Word>) -> anyhow::Result<Run>,
) -> Vec<(String, Verdict)> {
    let mut verdicts = HashMap::new();
    let mut after: Option<Word> = None;
    let mut why = String::from("the kernel has no such test");
    for boots in 1.. {
        let run = match boot(after.as_ref()) {
            Ok(run) => run,
            Err(error) => {
                why = format!("{error:#}");
                break;
            }
        };
        let ktap = ktap::read(&run.serial);
        let fault = fault(&run, &ktap, describe);
        let last = ktap.running.map(|running| running.name).or(ktap.finished.last().map(|(name, _)| name.clone()));
        verdicts.extend(ktap.finished);
        let Some(fault) = fault else { break };

        // The test that was running is to blame, or the last one, which left the kernel in such a state.
        let culprit = last.filter(|name| after.as_ref().is_none_or(|after| after.as_str() != name));
        let Some(culprit) = culprit else {
            why = fault;
            break;
        };
        verdicts.insert(culprit.clone(), Verdict::Failed(fault));
        if boots == MAX_BOOTS {
            why = format!("did not run: {MAX_BOOTS} tests before it took the kernel down");
            break;
        }
        if wanted.last() == Some(&culprit) {
            break;
        }
        let Ok(name) = culprit.parse() else { break };
        after = Some(name);
    }
    let mut verdict = |name: &String| verdicts.remove(name).unwrap_or_else(|| Verdict::Failed(why.clone()));
    wanted.iter().map(|name| (name.clone(), verdict(name))).collect()
}

/// What is wrong with the way a boot ended; `None`: the kernel ran to its end, and its count agrees with ours.
fn fault(run: &Run, ktap: &Ktap, describe: Describe<'_>) -> Option<String> {
    let count = ktap.count();
    let honest = match run.end {
        End::Success => count.failed == 0,
        End::Failure => count.failed > 0,
        End::Silent(_) | End::Flood | End::Qemu(..) => false,
    };
    let planned = ktap.planned == Some(count.passed + count.failed + count.skipped);
    if honest && planned && ktap.running.is_none() && ktap.summary == Some(count) {
        return None;
    }
    let said = ktap.running.iter().flat_map(|running| &running.said).map(|line| format!("{line}\n"));
    Some(said.collect::<String>() + &run.story(describe))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A kernel that answers each boot from a script: behind which test, and what it says.
    fn scripted(wanted: &[&str], script: &[(Option<&str>, &str, End)]) -> Vec<(String, Verdict)> {
        let wanted: Vec<_> = wanted.iter().map(|name| (*name).to_owned()).collect();
        let mut script = script.iter();
        let verdicts = run(&wanted, &|_| vec!["somewhere (x.rs:1)".into()], |after| {
            let (expected, serial, end) = script.next().expect("one boot too many");
            assert_eq!(after.map(Word::as_str), *expected);
            Ok(Run { serial: (*serial).into(), end: end.clone() })
        });
        assert_eq!(script.len(), 0, "too few boots");
        assert!(verdicts.iter().map(|(name, _)| name).eq(&wanted));
        verdicts
    }

    fn message(verdict: &Verdict) -> &str {
        match verdict {
            Verdict::Failed(message) => message,
            other => panic!("{other:?} is no failure"),
        }
    }

    const CLEAN: &str = "KTAP version 1\n1..2\n# run a\nok 1 a\n# run b\nok 2 b\n2 passed, 0 failed\n";

    #[test]
    fn a_kernel_that_comes_to_its_end_is_booted_once() {
        let verdicts = scripted(&["a", "b"], &[(None, CLEAN, End::Success)]);
        assert!(verdicts.iter().all(|(_, verdict)| *verdict == Verdict::Passed));

        let failing = CLEAN.replace("ok 1 a", "not ok 1 a # why").replace("2 passed, 0", "1 passed, 1");
        let verdicts = scripted(&["a", "b"], &[(None, &failing, End::Failure)]);
        assert_eq!(verdicts[0].1, Verdict::Failed("why".into()));
        assert_eq!(verdicts[1].1, Verdict::Passed);
    }

    #[test]
    fn a_test_that_kills_the_kernel_fails_with_the_report_and_the_others_still_run() {
        let died = "1..3\n# run a\nok 1 a\n# run b\n# seed 7\nPANIC: FREE-1\n  backtrace: 0x10\n";
        let rest = "1..1\n# run c\nok 1 c\n1 passed, 0 failed\n";
        let verdicts = scripted(&["a", "b", "c"], &[(None, died, End::Failure), (Some("b"), rest, End::Success)]);
        assert_eq!(verdicts[0].1, Verdict::Passed);
        assert_eq!(message(&verdicts[1].1), "seed 7\nPANIC: FREE-1\n  at somewhere (x.rs:1)");
        assert_eq!(verdicts[2].1, Verdict::Passed);
    }

    #[test]
    fn tests_that_kill_the_kernel_in_a_row_each_fail_by_themselves() {
        let script = [
            (None, "1..3\n# run a\nPANIC: one\n", End::Failure),
            (Some("a"), "1..2\n# run b\nEXCEPTION: two\n", End::Failure),
            (Some("b"), "1..1\n# run c\nPANIC: three\n", End::Failure),
        ];
        let verdicts = scripted(&["a", "b", "c"], &script);
        let messages: Vec<_> = verdicts.iter().map(|(_, verdict)| message(verdict)).collect();
        assert_eq!(messages, ["PANIC: one", "EXCEPTION: two", "PANIC: three"]);
    }

    #[test]
    fn a_hang_a_reset_and_a_dead_qemu_fail_the_test_that_was_running() {
        let signal = std::os::unix::process::ExitStatusExt::from_raw(9);
        let ends = [
            (End::Silent(Duration::from_secs(7)), "no sign of life for 7 s"),
            (End::Qemu(std::process::ExitStatus::default(), String::new()), "triple fault"),
            (End::Qemu(signal, "out of memory".into()), "out of memory"),
        ];
        for (end, expected) in ends {
            let script = [
                (None, "1..2\n# run a\n# at 1\n", end),
                (Some("a"), "1..1\n# run b\nok 1 b\n1 passed, 0 failed\n", End::Success),
            ];
            let verdicts = scripted(&["a", "b"], &script);
            assert!(message(&verdicts[0].1).contains(expected), "{verdicts:?}");
            assert!(message(&verdicts[0].1).ends_with("# run a\n# at 1"), "{verdicts:?}");
            assert_eq!(verdicts[1].1, Verdict::Passed);
        }
    }

    #[test]
    fn a_kernel_that_dies_before_any_test_fails_them_all_after_one_boot() {
        let verdicts = scripted(&["a", "b"], &[(None, "boot: x\nPANIC: no memory\n", End::Failure)]);
        assert!(verdicts.iter().all(|(_, verdict)| message(verdict) == "PANIC: no memory"));
        let verdicts = scripted(&["a"], &[(None, "", End::Silent(Duration::from_secs(7)))]);
        assert!(message(&verdicts[0].1).contains("hung"));
    }

    #[test]
    fn a_restarted_kernel_that_gets_nowhere_is_not_restarted_again() {
        let again = "1..2\n# run a\nPANIC: a\n";
        let script = [(None, again, End::Failure), (Some("a"), again, End::Failure)];
        let verdicts = scripted(&["a", "b"], &script);
        assert_eq!(message(&verdicts[0].1), "PANIC: a");
        assert_eq!(message(&verdicts[1].1), "PANIC: a");
    }

    #[test]
    fn an_end_that_contradicts_the_results_is_nobodys_success() {
        let contradictions = [
            (CLEAN.replace("2 passed, 0 failed\n", ""), End::Success),
            (CLEAN.replace("2 passed, 0", "3 passed, 0"), End::Success),
            (CLEAN.replace("1..2", "1..3"), End::Success),
            (CLEAN.replace("1..2\n", ""), End::Success),
            (CLEAN.to_owned(), End::Failure),
            (CLEAN.replace("2 passed, 0 failed\n", "2 passed, 0 fai"), End::Silent(Duration::from_secs(7))),
            (CLEAN.replace("ok 2 b\n", "o\u{fffd} 2 b\n"), End::Success),
        ];
        for (serial, end) in contradictions {
            let verdicts = scripted(&["a", "b"], &[(None, &serial, end)]);
            assert_eq!(verdicts[0].1, Verdict::Passed, "{serial}");
            assert!(message(&verdicts[1].1).contains("its last lines"), "{serial}");
        }
    }

    #[test]
    fn a_test_that_the_kernel_does_not_know_has_failed() {
        let none = "1..0\n0 passed, 0 failed\n";
        let verdicts = scripted(&["gone"], &[(None, none, End::Success)]);
        assert_eq!(message(&verdicts[0].1), "the kernel has no such test");
    }

    #[test]
    fn boots_are_bounded_even_if_every_test_kills_its_kernel() {
        let wanted: Vec<_> = (0..1000).map(|index| format!("t{index}")).collect();
        let mut boots = 0;
        let verdicts = run(&wanted, &|_| Vec::new(), |_| {
            boots += 1;
            Ok(Run { serial: format!("1..1000\n# run t{}\nPANIC: x\n", boots - 1), end: End::Failure })
        });
        assert_eq!(boots, MAX_BOOTS);
        assert_eq!(message(&verdicts[MAX_BOOTS - 1].1), "PANIC: x");
        assert!(message(&verdicts[MAX_BOOTS].1).contains("did not run"));
    }

    #[test]
    fn a_machine_that_cannot_be_booted_fails_every_test_with_the_reason() {
        let wanted = ["a".to_owned()];
        let verdicts = run(&wanted, &|_| Vec::new(), |_| anyhow::bail!("no QEMU"));
        assert_eq!(message(&verdicts[0].1), "no QEMU");
    }
}
