//! What the processor counts: cache misses and instructions, where the machine lets a process count them.

use mm::units::{Order, PAGE_SIZE};
use perf_event::events::Hardware;
use perf_event::{Builder, Counter};

use super::LARGEST;
use super::pairs::hot_pair;
use crate::contenders::{BuddySlab, BuddySystem, Contender, Depot, Locked, Ours, Pages, Stack, Talc};
use crate::figures::{Row, Section, Unit};
use crate::script::Script;
use crate::suite::Suite;
use crate::{FLOOR, OURS};

/// Pairs, or operations of a script.
const OPERATIONS: usize = 1 << 20;

/// Counts both for pairs and a mix.
///
/// # Errors
/// A contender cannot be made, or a counter not be read.
pub(crate) fn measure(suite: &mut Suite) -> anyhow::Result<()> {
    for (name, event, what) in
        [("misses", Hardware::CACHE_MISSES, "cache misses"), ("instructions", Hardware::INSTRUCTIONS, "instructions")]
    {
        let row = |work| Row::new(Section::Pages, format!("{work}_{name}"), Unit::Events);
        let (pair, mix) = (row("order0_pair"), row("mix_50"));
        let wanted: Vec<_> = [&pair, &mix].into_iter().filter(|row| suite.wants(&row.name)).collect();
        if wanted.is_empty() {
            continue;
        }
        let mut counter = match Builder::new(event).build() {
            Ok(counter) => counter,
            Err(why) => {
                for row in wanted {
                    suite.leave_out(&row.name, None, &format!("this machine counts no {what} ({why})"));
                }
                continue;
            }
        };
        if wanted.contains(&&pair) {
            pairs::<Ours>(suite, &pair, OURS, &mut counter)?;
            pairs::<Stack>(suite, &pair, FLOOR, &mut counter)?;
            pairs::<Depot>(suite, &pair, "frame-alloc", &mut counter)?;
            pairs::<BuddySlab>(suite, &pair, "buddy-slab", &mut counter)?;
            pairs::<Locked<BuddySlab>>(suite, &pair, "buddy-slab+lock", &mut counter)?;
            pairs::<BuddySystem>(suite, &pair, "buddy_system", &mut counter)?;
            pairs::<Talc>(suite, &pair, "talc", &mut counter)?;
        }
        if wanted.contains(&&mix) {
            let script = Script::mix(suite.bytes() / PAGE_SIZE, 50, LARGEST, OPERATIONS);
            scripted::<Ours>(suite, &mix, OURS, &script, &mut counter)?;
            scripted::<Depot>(suite, &mix, "frame-alloc", &script, &mut counter)?;
            scripted::<BuddySlab>(suite, &mix, "buddy-slab", &script, &mut counter)?;
            scripted::<Locked<BuddySlab>>(suite, &mix, "buddy-slab+lock", &script, &mut counter)?;
            scripted::<BuddySystem>(suite, &mix, "buddy_system", &script, &mut counter)?;
            scripted::<Talc>(suite, &mix, "talc", &script, &mut counter)?;
        }
    }
    Ok(())
}

/// What is counted while `work` runs.
fn count(counter: &mut Counter, work: impl FnOnce()) -> anyhow::Result<f64> {
    counter.reset()?;
    counter.enable()?;
    work();
    counter.disable()?;
    Ok(counter.read()? as f64)
}

fn pairs<C: Contender + Pages>(
    suite: &mut Suite,
    row: &Row,
    contender: &str,
    counter: &mut Counter,
) -> anyhow::Result<()> {
    let mut pages = C::new(&suite.memory()?)?;
    // The first pair brings to hand what the others use.
    hot_pair(&mut pages, Order::ZERO, 1);
    let counted = count(counter, || {
        hot_pair(&mut pages, Order::ZERO, OPERATIONS as u64);
    })?;
    suite.record(row, contender, counted / OPERATIONS as f64);
    Ok(())
}

fn scripted<C: Contender + Pages>(
    suite: &mut Suite,
    row: &Row,
    contender: &str,
    script: &Script,
    counter: &mut Counter,
) -> anyhow::Result<()> {
    let mut pages = C::new(&suite.memory()?)?;
    let mut blocks = script.table();
    blocks.run(&mut pages, &script.filling);
    let counted = count(counter, || blocks.run(&mut pages, &script.operations))?;
    blocks.finish(&mut pages);
    suite.record(row, contender, counted / script.operations.len() as f64);
    Ok(())
}
