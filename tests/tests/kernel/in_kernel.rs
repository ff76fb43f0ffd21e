//! The kernel's own tests.
//!
//! Their names come from a boot that lists them. In one process all tests of a machine that the arguments select
//! share one boot, which the first of them makes. A process that is to run one test by its exact name (as nextest
//! starts one for each) boots for that test alone.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use anyhow::Context as _;
use harness::faults::Faults;
use harness::interleaving::Interleaving;
use harness::ktap::Verdict;
use harness::launch::{Launch, Select};
use harness::machine::Machine;
use harness::machines::{MACHINES, Named};
use harness::size::Size;
use harness::symbols::Symbols;
use harness::topology::Cpus;
use harness::word::Word;
use libtest_mimic::{Arguments, Completion, Trial};

use crate::{PATIENCE, checked};

/// A trial for each test on each machine.
pub(crate) fn trials(arguments: &Arguments) -> anyhow::Result<Vec<Trial>> {
    let tests = match (&arguments.filter, arguments.exact) {
        (Some(name), true) if name.starts_with("host::") => return Ok(Vec::new()),
        (Some(name), true) => {
            let known = MACHINES.iter().find_map(|named| name.strip_prefix(named.name)?.strip_prefix("::"));
            known.map(str::to_owned).into_iter().collect()
        }
        _ => Launch::new(checked()?, Machine::with_memory(Size::mib(64))).list(PATIENCE)?.tests,
    };
    let interleaving = Interleaving::from_environment()?;
    let faults = Faults::from_environment()?;
    let batch = |named: &Named| Arc::new(Batch::new(*named, &tests, arguments, interleaving, faults));
    let batches: Vec<_> = MACHINES.iter().map(batch).collect();
    // Machine by machine within a test, so that as many boots go on at once as there are threads.
    let trial = |test: &String, batch: &Arc<Batch>| {
        let (name, batch) = (test.clone(), Arc::clone(batch));
        Trial::ignorable_test(format!("{}::{test}", batch.named.name), move || match batch.verdict(&name) {
            Verdict::Passed => Ok(Completion::Completed),
            Verdict::Skipped(reason) => Ok(Completion::ignored_with(reason)),
            Verdict::Failed(message) => Err(message.into()),
        })
    };
    Ok(tests.iter().flat_map(|test| batches.iter().map(move |batch| trial(test, batch))).collect())
}

/// The tests of one machine that share a boot.
struct Batch {
    named: Named,
    /// The selected ones, in the kernel's order.
    tests: Vec<String>,
    /// The filter they were selected with.
    filter: Option<String>,
    interleaving: Interleaving,
    faults: Faults,
    verdicts: OnceLock<HashMap<String, Verdict>>,
}

impl Batch {
    fn new(named: Named, tests: &[String], arguments: &Arguments, interleaving: Interleaving, faults: Faults) -> Batch {
        let selected = |test: &&String| {
            let name = format!("{}::{test}", named.name);
            let matches = |pattern: &String| if arguments.exact { name == *pattern } else { name.contains(pattern) };
            arguments.filter.as_ref().is_none_or(matches) && !arguments.skip.iter().any(matches)
        };
        let tests = tests.iter().filter(selected).cloned().collect();
        Batch { named, tests, filter: arguments.filter.clone(), interleaving, faults, verdicts: OnceLock::new() }
    }

    fn verdict(&self, test: &str) -> Verdict {
        let verdicts = self.verdicts.get_or_init(|| match self.run() {
            Ok(verdicts) => verdicts,
            Err(error) => {
                let failed = |test: &String| (test.clone(), Verdict::Failed(format!("{error:#}")));
                self.tests.iter().map(failed).collect()
            }
        });
        verdicts.get(test).cloned().unwrap_or_else(|| Verdict::Failed("was not selected".into()))
    }

    fn run(&self) -> anyhow::Result<HashMap<String, Verdict>> {
        let guest = checked()?;
        let symbols = Symbols::load(&guest.symbols)?;
        let interleaving = self.interleaving;
        let (accel, seed) = (interleaving.accel(), Some(interleaving.seed));
        let launch = Launch { accel, seed, faults: self.faults, ..Launch::new(guest, self.named.machine) };
        let mut verdicts = launch.run_tests((&self.select()?, &self.tests), &symbols, PATIENCE, |_| ());
        if self.named.machine.cpus > Cpus::ONE {
            let command = format!("./qemu-run.sh test {}", self.filter.as_deref().unwrap_or_default());
            for (test, verdict) in &mut verdicts {
                let alone = format!("./qemu-run.sh test {}::{test}", self.named.name);
                verdict.remark(&interleaving.replay(command.trim_end(), &alone));
            }
        }
        Ok(verdicts.into_iter().collect())
    }

    /// The narrowest selection that the kernel understands and that leaves none of the tests out.
    fn select(&self) -> anyhow::Result<Select> {
        let word = |name: &str| name.parse::<Word>().context("the kernel cannot be asked for this test");
        if let [test] = &self.tests[..] {
            return Ok(Select::Exact(word(test)?));
        }
        // The filter is on our names; what stands behind the machine in it is on the kernel's.
        let part = self.filter.as_ref().and_then(|filter| filter.rsplit("::").next());
        match part.filter(|part| !part.is_empty() && self.tests.iter().all(|test| test.contains(part))) {
            Some(part) => Ok(Select::Containing(word(part)?)),
            None => Ok(Select::All),
        }
    }
}
