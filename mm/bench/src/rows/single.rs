//! Single operations, each timed alone: the median, the hundredth part that takes longest, and the worst.
//!
//! Every contender does the same several times over, each time made anew in the same memory; an operation's time is the
//! mean of those that nothing came between (`clock`). So what is left is what the allocator does for it, and not what an
//! interrupt adds, or the machine when a page is touched first. Alone means fenced: nothing overlaps as it does in a loop, so
//! a median here and a mean elsewhere are two things.

use std::hint::black_box;
use std::path::PathBuf;

use mm::units::PAGE_SIZE;

use super::mixes::MIXES;
use super::{LARGEST, traces};
use crate::clock::{Clock, Ticks};
use crate::contenders::{Bitmap, BuddySlab, BuddySystem, Contender, Depot, Locked, Ours, Pages, Stack, Talc};
use crate::figures::{Row, Section, Unit};
use crate::script::{Operation, Script};
use crate::suite::Suite;
use crate::{FLOOR, OURS};

/// Times that every contender does everything.
const TIMES: usize = 16;

/// Operations of a script that is made up.
const OPERATIONS: usize = 1 << 18;

/// Measures pairs, mixes and recorded traces.
///
/// # Errors
/// A contender cannot be made, or a trace not read.
pub(crate) fn measure(suite: &mut Suite, recorded: &[PathBuf]) -> anyhow::Result<()> {
    let clock = Clock::calibrate();
    let order0 = Rows::new("order0");
    if order0.any_wanted(suite) {
        let script = Script::pairs(OPERATIONS / 2);
        order0.time_all(suite, &script, clock)?;
        order0.time::<Bitmap>(suite, "bitmap", &script, clock)?;
        order0.time::<Stack>(suite, FLOOR, &script, clock)?;
    }
    for (name, percent) in MIXES {
        let rows = Rows::new(name);
        if rows.any_wanted(suite) {
            let script = Script::mix(suite.bytes() / PAGE_SIZE, percent, LARGEST, OPERATIONS);
            rows.time_all(suite, &script, clock)?;
        }
    }
    for file in recorded {
        let rows = Rows::new(&traces::name(file));
        if rows.any_wanted(suite) {
            rows.time_all(suite, &Script::recorded(file)?, clock)?;
        }
    }
    Ok(())
}

/// What is said of each kind of operation, by how many percent of all take no longer.
const SHARES: [(&str, usize); 3] = [("median", 50), ("p99", 99), ("worst", 100)];

/// The rows of one script.
struct Rows {
    alloc: [Row; SHARES.len()],
    free: [Row; SHARES.len()],
}

impl Rows {
    fn new(script: &str) -> Self {
        let rows = |kind| {
            SHARES.map(|(share, _)| {
                Row::new(Section::Single, format!("single_{script}_{kind}_{share}"), Unit::Nanoseconds)
            })
        };
        Self { alloc: rows("alloc"), free: rows("free") }
    }

    fn any_wanted(&self, suite: &Suite) -> bool {
        self.alloc.iter().chain(&self.free).any(|row| suite.wants(&row.name))
    }

    fn time_all(&self, suite: &mut Suite, script: &Script, clock: Clock) -> anyhow::Result<()> {
        self.time::<Ours>(suite, OURS, script, clock)?;
        self.time::<Depot>(suite, "frame-alloc", script, clock)?;
        self.time::<BuddySlab>(suite, "buddy-slab", script, clock)?;
        self.time::<Locked<BuddySlab>>(suite, "buddy-slab+lock", script, clock)?;
        self.time::<BuddySystem>(suite, "buddy_system", script, clock)?;
        self.time::<Talc>(suite, "talc", script, clock)
    }

    fn time<C: Contender + Pages>(
        &self,
        suite: &mut Suite,
        contender: &str,
        script: &Script,
        clock: Clock,
    ) -> anyhow::Result<()> {
        let memory = suite.memory()?;
        let mut times = Vec::with_capacity(TIMES);
        for _ in 0..TIMES {
            times.push(time_each(&mut C::new(&memory)?, script, clock));
        }
        let (mut allocs, mut frees) = (Vec::new(), Vec::new());
        for (nth, operation) in script.operations.iter().enumerate() {
            // Where there was nothing to free, since it was refused, nothing was timed.
            let spent = clock.nanoseconds(times.iter().filter_map(|times| times[nth]));
            match operation {
                Operation::Alloc(..) => allocs.extend(spent),
                Operation::Free(..) => frees.extend(spent),
            }
        }
        for (rows, mut spent) in [(&self.alloc, allocs), (&self.free, frees)] {
            spent.sort_unstable_by(f64::total_cmp);
            let Some(last) = spent.len().checked_sub(1) else { continue };
            for (row, (_, percent)) in rows.iter().zip(SHARES) {
                if suite.wants(&row.name) {
                    suite.record(row, contender, spent[last * percent / 100]);
                }
            }
        }
        Ok(())
    }
}

/// Does what is written down, and says what each operation took that there was.
fn time_each(pages: &mut impl Pages, script: &Script, clock: Clock) -> Vec<Option<Ticks>> {
    let mut times = Vec::with_capacity(script.operations.len());
    let mut blocks = script.table();
    blocks.run(pages, &script.filling);
    for &operation in &script.operations {
        times.push(match operation {
            Operation::Alloc(block, order, migratetype) => {
                let (ticks, place) = clock.time(|| black_box(pages.alloc(order, migratetype)));
                blocks.put(block, place, order);
                Some(ticks)
            }
            Operation::Free(block, order) => black_box(blocks.take(block)).map(|(place, _)| {
                let (ticks, ()) = clock.time(|| pages.free(place, order));
                ticks
            }),
        });
    }
    blocks.finish(pages);
    times
}
