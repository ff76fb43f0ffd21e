//! The last screen: what a person reads in ten seconds.

use std::fmt;
use std::process::ExitCode;

use harness::bench::Bench;
use harness::ktap::Verdict;
use harness::limits::LIMITS;
use harness::machine::Machine;

/// What one part of a run came to.
#[derive(Debug)]
pub(crate) enum Outcome {
    Tests { machine: Machine, verdicts: Vec<(String, Verdict)> },
    Benchmarks(Vec<Column>),
    Replay { machine: Machine, trace: String, figures: Vec<Bench> },
}

/// One machine's figures.
#[derive(Debug)]
pub(crate) struct Column {
    pub(crate) machine: Machine,
    pub(crate) figures: Vec<Bench>,
    /// The limits that they break.
    pub(crate) broken: Vec<String>,
}

/// All parts, in their order.
#[derive(Debug, Default)]
pub(crate) struct Summary {
    parts: Vec<Result<Outcome, String>>,
}

impl Summary {
    pub(crate) fn add(&mut self, part: &str, outcome: anyhow::Result<Outcome>) {
        self.parts.push(outcome.map_err(|error| format!("{part}: {error:#}")));
    }

    pub(crate) fn status(&self) -> ExitCode {
        if self.failures().is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }

    /// What went wrong, each with a first line that says it all.
    fn failures(&self) -> Vec<String> {
        let of = |part: &Result<Outcome, String>| match part {
            Err(error) => vec![error.trim_end().to_owned()],
            Ok(Outcome::Tests { verdicts, .. }) => verdicts.iter().filter_map(failure).collect(),
            Ok(Outcome::Benchmarks(columns)) => {
                let line = |column: &Column| {
                    let machine = column.machine;
                    column.broken.iter().map(move |broken| format!("{broken} (on {machine})")).collect::<Vec<_>>()
                };
                columns.iter().flat_map(line).collect()
            }
            Ok(Outcome::Replay { .. }) => Vec::new(),
        };
        self.parts.iter().flat_map(of).collect()
    }
}

fn failure((name, verdict): &(String, Verdict)) -> Option<String> {
    match verdict {
        Verdict::Failed(message) => Some(format!("{name}: {message}")),
        Verdict::Passed | Verdict::Skipped(_) => None,
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let failures = self.failures();
        if !failures.is_empty() {
            writeln!(f, "\n=== failures\n\n{}", failures.join("\n\n"))?;
        }
        writeln!(f, "\n=== summary\n")?;
        for outcome in self.parts.iter().flatten() {
            match outcome {
                Outcome::Tests { machine, verdicts } => {
                    let count = |is: fn(&Verdict) -> bool| verdicts.iter().filter(|(_, verdict)| is(verdict)).count();
                    let passed = count(|verdict| matches!(verdict, Verdict::Passed));
                    let failed = count(|verdict| matches!(verdict, Verdict::Failed(_)));
                    writeln!(
                        f,
                        "tests on {machine}: {passed} passed, {failed} failed, {} skipped\n",
                        verdicts.len() - passed - failed
                    )?;
                }
                Outcome::Benchmarks(columns) => table(f, columns)?,
                Outcome::Replay { machine, trace, figures } => {
                    writeln!(f, "replay of {trace} on {machine}: every pattern intact, every check passed")?;
                    for Bench { name, mean, unit, .. } in figures {
                        writeln!(f, "  {name:<38} {mean:>12} {unit}")?;
                    }
                    writeln!(f)?;
                }
            }
        }
        for failure in &failures {
            writeln!(f, "FAILED  {}", failure.lines().next().unwrap_or_default())?;
        }
        if failures.is_empty() { writeln!(f, "PASSED") } else { writeln!(f, "\n{} FAILED", failures.len()) }
    }
}

/// Medians, one machine a column, and where there is a limit for the first column, the limit.
fn table(f: &mut fmt::Formatter<'_>, columns: &[Column]) -> fmt::Result {
    let Some(first) = columns.first() else { return Ok(()) };
    write!(f, "{:<40}", "benchmarks (means)")?;
    for column in columns {
        write!(f, " {:>16}", column.machine.to_string())?;
    }
    writeln!(f, " {:>8}", "limit")?;
    for figure in &first.figures {
        write!(f, "  {:<38}", figure.name)?;
        for column in columns {
            let same = column.figures.iter().find(|other| other.name == figure.name);
            write!(f, " {:>16}", same.map_or("-".to_owned(), |same| same.mean.to_string()))?;
        }
        let limit = LIMITS.iter().find(|limit| limit.name == figure.name);
        let limit = limit.map_or(String::new(), |limit| limit.instructions.to_string());
        writeln!(f, " {limit:>8}  {}", figure.unit)?;
    }
    writeln!(f)
}

#[cfg(test)]
mod tests {
    use super::*;
    use harness::size::Size;

    const MACHINE: Machine = Machine::with_memory(Size::gib(2));

    fn figure(name: &str, mean: u64) -> Bench {
        let (unit, clock) = ("instructions".into(), "icount".into());
        Bench { name: name.into(), unit, clock, min: 0, median: 5, p99: 9, mean, operations: 1, machine: "2G".into() }
    }

    fn verdicts(last: Verdict) -> Outcome {
        let verdicts = [Verdict::Passed, Verdict::Skipped("no highmem".into()), last];
        Outcome::Tests {
            machine: MACHINE,
            verdicts: verdicts.into_iter().enumerate().map(|(index, verdict)| (format!("t{index}"), verdict)).collect(),
        }
    }

    #[test]
    fn all_is_well_only_if_every_part_is() {
        let mut summary = Summary::default();
        summary.add("tests", Ok(verdicts(Verdict::Passed)));
        summary.add("replay", Ok(Outcome::Replay { machine: MACHINE, trace: "a.gz".into(), figures: Vec::new() }));
        let text = summary.to_string();
        assert!(text.contains("tests on 2G: 2 passed, 0 failed, 1 skipped"), "{text}");
        assert!(text.contains("replay of a.gz on 2G: every pattern intact"), "{text}");
        assert!(text.starts_with("\n=== summary\n"), "{text}");
        assert!(text.ends_with("\nPASSED\n"), "{text}");
        assert_eq!(summary.status(), ExitCode::SUCCESS);

        summary.add("benchmarks", Err(anyhow::anyhow!("no such file").context("cannot build")));
        let text = summary.to_string();
        assert!(text.ends_with("\nFAILED  benchmarks: cannot build: no such file\n\n1 FAILED\n"), "{text}");
        assert_eq!(summary.status(), ExitCode::FAILURE);
    }

    #[test]
    fn a_failed_test_is_named_with_its_message() {
        let mut summary = Summary::default();
        summary.add("tests", Ok(verdicts(Verdict::Failed("PANIC: x\n  at f (a.rs:1)".into()))));
        let text = summary.to_string();
        assert!(text.contains("\n=== failures\n\nt2: PANIC: x\n  at f (a.rs:1)\n\n=== summary\n"), "{text}");
        assert!(text.ends_with("\nFAILED  t2: PANIC: x\n\n1 FAILED\n"), "{text}");
    }

    #[test]
    fn figures_stand_side_by_side_and_a_broken_limit_fails() {
        let highmem = MACHINE.with_lowmem(Size::mib(64));
        let mut summary = Summary::default();
        let figures = vec![figure("page/order0_pair", 301), figure("only/here", 7)];
        let plain = Column { machine: MACHINE, figures, broken: vec!["page/order0_pair: too much".into()] };
        let figures = vec![figure("page/order0_pair", 400)];
        summary.add(
            "benchmarks",
            Ok(Outcome::Benchmarks(vec![plain, Column { machine: highmem, figures, broken: Vec::new() }])),
        );
        let text = summary.to_string();
        let row = |name| text.lines().find(|line| line.contains(name)).unwrap().split_whitespace().collect::<Vec<_>>();
        assert_eq!(row("  page/order0_pair "), ["page/order0_pair", "301", "400", "90", "instructions"]);
        assert_eq!(row("  only/here "), ["only/here", "7", "-", "instructions"]);
        assert!(text.contains("FAILED  page/order0_pair: too much (on 2G)"), "{text}");
    }
}
