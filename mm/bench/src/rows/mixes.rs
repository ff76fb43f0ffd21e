//! Blocks of random orders, with so much of memory in use.

use std::time::{Duration, Instant};

use mm::units::PAGE_SIZE;

use super::{LARGEST, each};
use crate::OURS;
use crate::contenders::{BuddySlab, BuddySystem, Depot, Locked, Ours, Pages, Talc};
use crate::figures::{Row, Section, Unit};
use crate::script::Script;
use crate::suite::Suite;

/// Operations of a script.
const OPERATIONS: usize = 1 << 20;

/// How full memory is.
pub(super) const MIXES: [(&str, usize); 2] = [("mix_50", 50), ("mix_90", 90)];

/// Measures mixes in half full and nearly full memory.
///
/// # Errors
/// A contender cannot be made.
pub(crate) fn measure(suite: &mut Suite) -> anyhow::Result<()> {
    for (name, percent) in MIXES {
        let row = Row::new(Section::Pages, name, Unit::Nanoseconds);
        if !suite.wants(&row.name) {
            continue;
        }
        let script = Script::mix(suite.bytes() / PAGE_SIZE, percent, LARGEST, OPERATIONS);
        each!(suite, &row, |pages, operations| scripted(pages, &script, operations);
            OURS => Ours, "frame-alloc" => Depot, "buddy-slab" => BuddySlab, "buddy-slab+lock" => Locked<BuddySlab>,
            "buddy_system" => BuddySystem, "talc" => Talc);
    }
    Ok(())
}

/// Runs a script's operations, so many of them.
pub(crate) fn scripted(pages: &mut impl Pages, script: &Script, operations: u64) -> Duration {
    let (mut spent, mut left) = (Duration::ZERO, operations);
    while left > 0 {
        let mut blocks = script.table();
        blocks.run(pages, &script.filling);
        let now = left.min(script.operations.len() as u64);
        let start = Instant::now();
        #[expect(clippy::cast_possible_truncation, reason = "no more than a slice is long")]
        blocks.run(pages, &script.operations[..now as usize]);
        spent += start.elapsed();
        left -= now;
        blocks.finish(pages);
    }
    spent
}
