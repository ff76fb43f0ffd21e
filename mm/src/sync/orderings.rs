//! Every ordering of what the models cover, weakened once: a model fails without it, or it is listed here, with the reason
//! why it stays.
//!
//! Which orderings there are is read from the source, and which of them are met by which model from a run of each. Then every
//! half of every one is taken away, one at a time ([`super::weaken`]), and those models run, the quickest first, until one
//! fails. Whatever it says then is printed. Each model runs in a process of its own, so one that hangs can be ended.
//!
//! Run with `RUSTFLAGS="--cfg loom" cargo test -p mm --lib orderings -- --include-ignored --nocapture`; `ORDERING=…` weakens
//! only those in whose line, printed as below, that stands.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::string::{String, ToString};
use std::sync::Mutex;
use std::time::{Duration, Instant};
use std::vec::Vec;
use std::{env, eprintln, format, fs, thread};

use super::weaken::Half;

mod kept;

use kept::KEPT;

/// An ordering that stays though no model fails without it.
struct Kept {
    /// The file, below the crate's sources, and the function.
    place: (&'static str, &'static str),
    /// What is called there; or, where no model comes, the line.
    text: &'static str,
    half: Option<Half>,
    /// Why it stays.
    why: &'static str,
}

/// A half of an ordering, in the source.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Site {
    file: String,
    line: usize,
    column: usize,
    half: Half,
}

/// A model, and how long it takes.
struct Model {
    name: String,
    took: Duration,
    meets: BTreeSet<Site>,
}

/// A model that takes so many times as long as it did as it is, and a while, is ended: it has noticed nothing.
const PATIENCE: u32 = 20;

/// What a place in the source is called: file, function, what is called there, and the half; or the line, where no model comes.
type Name = (String, String, String, Option<Half>);

fn crate_root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The tests of this program that are models.
fn names() -> Vec<String> {
    let list =
        Command::new(env::current_exe().expect("this runs")).args(["loom", "--list"]).output().expect("it lists");
    let list = String::from_utf8(list.stdout).expect("names are text");
    list.lines().filter_map(|line| line.strip_suffix(": test")).map(ToString::to_string).collect()
}

/// Runs one model. Says what it said if it failed, or did not end in time.
fn run(model: &str, variable: (&str, &str), patience: Duration) -> Result<Duration, String> {
    let began = Instant::now();
    let mut command = Command::new(env::current_exe().expect("this runs"));
    command.args(["--exact", model, "--include-ignored", "--nocapture"]).env(variable.0, variable.1);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("it runs");
    let mut stderr = child.stderr.take().expect("it is a pipe");
    let said = thread::spawn(move || {
        let mut said = Vec::new();
        stderr.read_to_end(&mut said).map(|_| String::from_utf8_lossy(&said).into_owned())
    });
    let status = loop {
        if let Some(status) = child.try_wait().expect("it can be waited for") {
            break Some(status);
        }
        if began.elapsed() > patience {
            child.kill().and_then(|()| child.wait()).expect("it can be ended");
            break None;
        }
        thread::sleep(Duration::from_millis(2));
    };
    let said = said.join().expect("it reads").unwrap_or_default();
    match status {
        Some(status) if status.success() => Ok(began.elapsed()),
        Some(_) => Err(told(&said)),
        None => Ok(patience),
    }
}

/// What the first panic of a run said.
fn told(said: &str) -> String {
    let mut lines = said.lines().skip_while(|line| !line.contains("panicked at"));
    let at = lines.next().unwrap_or("no panic").trim();
    format!("{} ({at})", lines.next().unwrap_or("").trim())
}

impl Model {
    /// Runs a model as it is, and sees what it meets.
    fn measure(name: String) -> Self {
        let file = env::temp_dir().join(format!("orderings-{}-{}", std::process::id(), name.replace(':', "-")));
        let path = file.to_str().expect("it is text").to_string();
        let took = run(&name, ("ORDERINGS", &path), Duration::from_secs(3600))
            .unwrap_or_else(|said| panic!("{name} fails as it is: {said}"));
        let met = fs::read_to_string(&file).unwrap_or_default();
        let _ = fs::remove_file(&file);
        Self { name, took, meets: met.lines().filter_map(Site::parse).collect() }
    }
}

impl Site {
    /// A line of what [`super::weaken`] writes, if it is of this crate, and not of a model itself.
    fn parse(line: &str) -> Option<Self> {
        let (place, half) = line.rsplit_once(' ')?;
        let mut parts = place.rsplitn(3, ':');
        let (column, line) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        let file = parts.next()?.strip_prefix("mm/src/").filter(|file| !file.ends_with("loom.rs"))?.to_string();
        let half = Half::ALL.into_iter().find(|all| all.to_string() == half)?;
        Some(Self { file, line, column, half })
    }

    /// As [`super::weaken`] names it.
    fn place(&self) -> String {
        format!("mm/src/{}:{}:{} {}", self.file, self.line, self.column, self.half)
    }

    fn name(&self) -> Name {
        let source = source(&self.file);
        let line = source.lines().nth(self.line - 1).unwrap_or_default();
        let call = call(line, self.column.saturating_sub(1));
        (self.file.clone(), function(&source, self.line), call, Some(self.half))
    }
}

/// The function around a line, which may begin with it.
fn function(source: &str, line: usize) -> String {
    let lines: Vec<_> = source.lines().take(line).collect();
    let name = |line: &&str| {
        let (_, rest) = line.trim_start().split_once("fn ").filter(|(before, _)| !before.contains("//"))?;
        Some(rest.chars().take_while(|&char| char.is_alphanumeric() || char == '_').collect())
    };
    lines.iter().rev().find_map(name).unwrap_or_default()
}

fn written_as((file, function, text, half): &Name) -> String {
    let half = half.map_or_else(String::new, |half| format!(", {half}"));
    format!("{file}, {function}: {text}{half}")
}

/// The call whose name begins at a column, with what it is called on.
fn call(line: &str, column: usize) -> String {
    let (before, after) = line.split_at_checked(column).unwrap_or((line, ""));
    let mut depth = 0;
    let start = before.char_indices().rev().find(|&(_, char)| {
        depth += i32::from(matches!(char, ')' | ']')) - i32::from(matches!(char, '(' | '['));
        depth < 0 || depth == 0 && !(char.is_alphanumeric() || "_.[(".contains(char))
    });
    let before = start.map_or(before, |(index, char)| &before[index + char.len_utf8()..]);
    format!("{before}{}", after.chars().take_while(|&char| char.is_alphanumeric() || char == '_').collect::<String>())
}

fn source(file: &str) -> String {
    fs::read_to_string(crate_root().join("src").join(file)).expect("the source is there")
}

/// Every line of the sources that asks for an ordering, but for tests and what only hosts have.
fn written() -> BTreeSet<(String, usize)> {
    let mut found = BTreeSet::new();
    let root = crate_root().join("src");
    let mut folders = Vec::from([root.clone()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("sources can be listed") {
            let path = entry.expect("sources can be listed").path();
            let file = path.strip_prefix(&root).unwrap_or(&path).to_string_lossy().replace('\\', "/");
            if path.is_dir() {
                folders.push(path);
            } else if is_code(&path, &file) {
                let asks = |line: &str| {
                    let code = line.split("//").next().unwrap_or_default();
                    ["::Acquire", "::Release", "::AcqRel", "::SeqCst", " light_barrier()"]
                        .iter()
                        .any(|ordering| code.contains(ordering))
                };
                let source = source(&file);
                let lines = source.lines().take_while(|line| !line.contains("mod tests"));
                found.extend(lines.enumerate().filter(|(_, line)| asks(line)).map(|(at, _)| (file.clone(), at + 1)));
            }
        }
    }
    found
}

/// Whether orderings in a file are the allocator's.
fn is_code(path: &Path, file: &str) -> bool {
    let ours = !["sync", "host", "cases"].iter().any(|other| file.starts_with(other));
    let tests = ["tests", "loom"].iter().any(|other| file.contains(other));
    ours && !tests && path.extension().is_some_and(|extension| extension == "rs")
}

/// The models that meet each ordering; and the lines that none meets.
fn survey(models: &[Model]) -> (BTreeMap<&Site, Vec<&Model>>, BTreeSet<Name>) {
    let mut met: BTreeMap<&Site, Vec<&Model>> = BTreeMap::new();
    for model in models {
        eprintln!("{:.2} s, {} orderings: {}", model.took.as_secs_f32(), model.meets.len(), model.name);
        for site in &model.meets {
            met.entry(site).or_default().push(model);
        }
    }
    for models in met.values_mut() {
        models.sort_by_key(|model| model.took);
    }
    let unmet = written().into_iter().filter(|(file, line)| !met.keys().any(|at| at.file == *file && at.line == *line));
    let name = |(file, line): (String, usize)| {
        let source = source(&file);
        let text = source.lines().nth(line - 1).unwrap_or_default().trim().to_string();
        let function = function(&source, line);
        (file, function, text, None)
    };
    let unmet = unmet.map(name).collect();
    (met, unmet)
}

/// The first of the models that fails with an ordering weakened, and what it said.
fn noticed_by<'m>(site: &Site, models: &[&'m Model]) -> Option<(&'m Model, String)> {
    models.iter().find_map(|model| {
        let patience = model.took * PATIENCE + Duration::from_secs(10);
        Some((*model, run(&model.name, ("WEAKENED", &site.place()), patience).err()?))
    })
}

#[test]
#[ignore = "runs every model again and again"]
fn every_ordering_is_needed_or_it_is_said_why_it_stays() {
    let models: Vec<_> = names().into_iter().map(Model::measure).collect();
    let (met, mut unnoticed) = survey(&models);
    let wanted = env::var("ORDERING").unwrap_or_default();
    let is_wanted = |name: &Name| written_as(name).contains(&wanted);
    unnoticed.retain(is_wanted);
    let weakenings = Mutex::new(met.iter());
    let found = Mutex::new((0, unnoticed));
    let weaken = || {
        loop {
            let Some((site, models)) = weakenings.lock().expect("nobody panics").next() else { break };
            let name = site.name();
            if !is_wanted(&name) {
                continue;
            }
            let noticed = noticed_by(site, models);
            let mut found = found.lock().expect("nobody panics");
            match noticed {
                Some((model, said)) => {
                    found.0 += 1;
                    eprintln!("{} is needed: {} says {said}", written_as(&name), model.name);
                }
                None => drop(found.1.insert(name)),
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, Into::into) {
            scope.spawn(weaken);
        }
    });
    let (needed, unnoticed) = found.into_inner().expect("nobody panics");
    let name = |kept: &Kept| (kept.place.0.to_string(), kept.place.1.to_string(), kept.text.to_string(), kept.half);
    let mut kept: BTreeMap<_, _> = KEPT.iter().map(|kept| (name(kept), kept.why)).collect();
    kept.retain(|name, _| is_wanted(name));
    for (name, why) in &kept {
        eprintln!("{} stays: {why}", written_as(name));
    }
    eprintln!("{needed} are needed, {} stay", unnoticed.len());
    let kept: BTreeSet<_> = kept.into_keys().collect();
    let unsaid: Vec<_> = unnoticed.difference(&kept).map(written_as).collect();
    let outdated: Vec<_> = kept.difference(&unnoticed).map(written_as).collect();
    assert!(needed > 0 || !wanted.is_empty(), "the models meet no ordering");
    assert!(unsaid.is_empty(), "no model fails without these, and nobody says why they stay: {unsaid:#?}");
    assert!(outdated.is_empty(), "these are needed, or not there, and said to stay all the same: {outdated:#?}");
}
