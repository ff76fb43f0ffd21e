//! Which tests come by which mutants, and whether they notice.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process_group};
use serde::{Deserialize, Serialize};

use crate::schema::Number;

/// A test that takes so many times as long as it does, and a while, does not end.
const PATIENCE: u32 = 10;
const A_WHILE: Duration = Duration::from_secs(10);

/// A test that takes longer while it is noted what it comes by is not run: such are those that step through instructions.
const TOO_LONG: Duration = Duration::from_secs(30);

/// A test, and what it comes by.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Trial {
    program: PathBuf,
    pub(crate) name: String,
    pub(crate) took: Duration,
    reaches: BTreeSet<Number>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Outcome {
    /// A test fails.
    Noticed(String),
    /// A test does not end.
    Hangs(String),
    /// The code asserts of its constants that they are not so: it does not compile.
    Refused,
    /// No test fails.
    Missed,
    /// No test comes by.
    Unreached,
}

impl Outcome {
    pub(crate) fn is_noticed(&self) -> bool {
        matches!(self, Self::Noticed(_) | Self::Hangs(_) | Self::Refused)
    }
}

enum End {
    Passed(Duration),
    Failed,
    Late,
}

fn run(program: &Path, name: &str, variable: (&str, &str), patience: Duration) -> Result<End> {
    let began = Instant::now();
    let mut command = Command::new(program);
    command.args(["--exact", name, "--test-threads=1"]).env(variable.0, variable.1);
    // What is long only to be sure is not better at noticing.
    command.env("OPERATIONS", "200000").env("PROPTEST_CASES", "64");
    // What fails need not be made small, nor said where.
    command.env("PROPTEST_MAX_SHRINK_ITERS", "0").env("RUST_BACKTRACE", "0").env("NO_COLOR", "1");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
    command.current_dir(std::env::temp_dir());
    let mut child = command.spawn().context("a test starts")?;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(if status.success() { End::Passed(began.elapsed()) } else { End::Failed });
        }
        if began.elapsed() > patience {
            // What it started goes with it.
            if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
                let _ = kill_process_group(group, Signal::KILL);
            }
            child.wait()?;
            return Ok(End::Late);
        }
        thread::sleep(Duration::from_millis(1));
    }
}

fn names(program: &Path) -> Result<Vec<String>> {
    let list = Command::new(program).arg("--list").output().context("tests are listed")?;
    let ignored = Command::new(program).args(["--list", "--ignored"]).output().context("tests are listed")?;
    let lines = |output: Vec<u8>| -> Result<BTreeSet<String>> {
        let text = String::from_utf8(output)?;
        Ok(text.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_string).collect())
    };
    let (all, ignored) = (lines(list.stdout)?, lines(ignored.stdout)?);
    Ok(all.difference(&ignored).cloned().collect())
}

/// Does something for each of many, on all processors.
pub(crate) fn each<T: Sync, R: Send>(many: &[T], act: impl Fn(&T) -> Result<R> + Sync) -> Result<Vec<R>> {
    let next = Mutex::new(many.iter());
    let done = Mutex::new(Ok(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, Into::into) {
            scope.spawn(|| {
                loop {
                    let Some(one) = next.lock().expect("nobody panics").next() else { return };
                    let result = act(one);
                    let mut done = done.lock().expect("nobody panics");
                    match (&mut *done, result) {
                        (Ok(results), Ok(result)) => results.push(result),
                        (Ok(_), Err(error)) => *done = Err(error),
                        (Err(_), _) => return,
                    }
                }
            });
        }
    });
    done.into_inner().expect("nobody panics")
}

/// Runs every test in whose name something stands without a mutant, and sees what it comes by. That of all is kept for as long
/// as the programs are the same.
pub(crate) fn survey(programs: &[PathBuf], named: &str, work: &Path, mutants: Number) -> Result<Vec<Trial>> {
    let kept = work.join("surveyed");
    let changed = |file: &Path| fs::metadata(file).and_then(|data| data.modified());
    if let Ok(at) = changed(&kept)
        && programs.iter().all(|program| changed(program).is_ok_and(|built| built < at))
    {
        let mut trials: Vec<Trial> = serde_json::from_slice(&fs::read(&kept)?)?;
        trials.retain(|trial| trial.name.contains(named));
        return Ok(trials);
    }
    let mut tests = Vec::new();
    for program in programs {
        let names = names(program)?.into_iter().filter(|name| name.contains(named));
        tests.extend(names.map(|name| (program.clone(), name)));
    }
    ensure!(!tests.is_empty(), "there are no tests");
    let trials = each(&tests, |(program, name)| {
        let file = work.join(format!("reached-{}", name.replace(':', "-")));
        fs::write(&file, vec![0; mutants as usize + 1])?;
        let path = file.to_str().context("paths are text")?;
        let end = run(program, name, ("MUTANTS_REACHED", path), TOO_LONG)?;
        let reached = fs::read(&file)?;
        fs::remove_file(&file)?;
        let took = match end {
            End::Passed(took) => took,
            End::Failed => bail!("{name} fails without a mutant"),
            End::Late => {
                println!("too long, and not run: {name}");
                return Ok(None);
            }
        };
        let reaches = (0..=mutants).filter(|&mutant| reached[mutant as usize] != 0).collect();
        Ok(Some(Trial { program: program.clone(), name: name.clone(), took, reaches }))
    })?;
    let mut trials: Vec<_> = trials.into_iter().flatten().collect();
    trials.sort_by_key(|trial| trial.took);
    if named.is_empty() {
        fs::write(&kept, serde_json::to_vec(&trials)?)?;
    }
    Ok(trials)
}

/// How many mutants of a file each test has noticed.
pub(crate) type Notices = Mutex<BTreeMap<(PathBuf, usize), u32>>;

/// Runs tests that come by a mutant until one notices, or they have taken as long as `patience`: the quickest first, and
/// those that have noticed others in the same file.
pub(crate) fn attempt(
    trials: &[Trial],
    (mutant, file): (Number, &Path),
    patience: Duration,
    notices: &Notices,
) -> Result<Outcome> {
    let mut order: Vec<_> = {
        let notices = notices.lock().expect("nobody panics");
        let cost = |at: usize, trial: &Trial| trial.took / (1 + notices.get(&(file.to_path_buf(), at)).unwrap_or(&0));
        let reaching = trials.iter().enumerate().filter(|(_, trial)| trial.reaches.contains(&mutant));
        reaching.map(|(at, trial)| (cost(at, trial), at)).collect()
    };
    order.sort_unstable();
    if order.is_empty() {
        return Ok(Outcome::Unreached);
    }
    let these = order.iter().map(|&(_, at)| (&trials[at].program, &trials[at]));
    let Some((nth, outcome)) = in_turn(these, mutant, patience)? else { return Ok(Outcome::Missed) };
    *notices.lock().expect("nobody panics").entry((file.to_path_buf(), order[nth].1)).or_default() += 1;
    Ok(outcome)
}

/// Runs all tests in programs that have one mutant in them, the quickest first, until one notices.
pub(crate) fn attempt_alone(trials: &[Trial], programs: &[PathBuf], patience: Duration) -> Result<Outcome> {
    // The compiler puts a number behind a program's name.
    let name = |program: &Path| {
        let name = program.file_name().and_then(OsStr::to_str).unwrap_or_default();
        name.rsplit_once('-').map_or(name, |(name, _)| name).to_string()
    };
    let programs: BTreeMap<_, _> = programs.iter().map(|program| (name(program), program)).collect();
    let these = trials.iter().map(|trial| Some((*programs.get(&name(&trial.program))?, trial)));
    let these = these.collect::<Option<Vec<_>>>().context("there are the same programs")?;
    Ok(in_turn(these.into_iter(), 0, patience)?.map_or(Outcome::Missed, |(_, outcome)| outcome))
}

/// Runs tests until one notices a mutant, or they have taken as long as `patience`; also says which of them it was.
fn in_turn<'t>(
    these: impl Iterator<Item = (&'t PathBuf, &'t Trial)>,
    mutant: Number,
    patience: Duration,
) -> Result<Option<(usize, Outcome)>> {
    let (number, mut taken) = (mutant.to_string(), Duration::ZERO);
    for (at, (program, trial)) in these.enumerate() {
        taken += trial.took;
        if taken > patience {
            break;
        }
        match run(program, &trial.name, ("MUTANT", &number), trial.took * PATIENCE + A_WHILE)? {
            End::Passed(_) => {}
            End::Failed => return Ok(Some((at, Outcome::Noticed(trial.name.clone())))),
            End::Late => return Ok(Some((at, Outcome::Hangs(trial.name.clone())))),
        }
    }
    Ok(None)
}
