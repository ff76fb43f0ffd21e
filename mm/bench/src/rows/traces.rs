//! Recorded traces replayed: what an operation costs, what is spent on the way, and what is left whole.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use mm::migratetype::Migratetype;
use mm::units::{Order, PAGE_SIZE};

use super::churn::share_of_whole;
use super::each;
use super::mixes::scripted;
use crate::OURS;
use crate::contenders::{Bitmap, BuddySlab, BuddySystem, Contender, Depot, Locked, Ours, Pages, Talc};
use crate::figures::{Chart, Row, Section, Unit};
use crate::memory::{Memory, heap_bytes};
use crate::script::Script;
use crate::suite::Suite;

/// Measures each trace.
///
/// # Errors
/// A contender cannot be made, or a trace not read.
pub(crate) fn measure(suite: &mut Suite, files: &[PathBuf]) -> anyhow::Result<()> {
    for file in files {
        let name = name(file);
        let row = |what: &str, unit| Row::new(Section::Pages, format!("{name}{what}"), unit);
        let rows = Replayed {
            metadata: row("_metadata", Unit::Kib),
            mean: row("_whole_mean", Unit::Percent),
            end: row("_whole_end", Unit::Percent),
            chart: Chart::WholeOverTime(name.clone()),
        };
        let time = row("", Unit::Nanoseconds);
        let rows_wanted = [&rows.metadata, &rows.mean, &rows.end].map(|row| suite.wants(&row.name)).contains(&true);
        if !rows_wanted && !suite.wants(&time.name) {
            continue;
        }
        let script = Script::recorded(file)?;
        each!(suite, &time, |pages, operations| scripted(pages, &script, operations);
            OURS => Ours, "frame-alloc" => Depot, "buddy-slab" => BuddySlab, "buddy-slab+lock" => Locked<BuddySlab>,
            "buddy_system" => BuddySystem, "talc" => Talc);
        if rows_wanted {
            rows.replay::<Ours>(suite, OURS, &script)?;
            rows.replay::<Depot>(suite, "frame-alloc", &script)?;
            rows.replay::<BuddySlab>(suite, "buddy-slab", &script)?;
            rows.replay::<BuddySystem>(suite, "buddy_system", &script)?;
            rows.replay::<Bitmap>(suite, "bitmap", &script)?;
        }
    }
    Ok(())
}

/// The row of a trace.
pub(super) fn name(file: &Path) -> String {
    let name = file.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    format!("trace_{}", name.split('.').next().unwrap_or_default())
}

/// Memory of a replay, in percent of what the trace has in use when that is most: where there is plenty, anything is whole.
const ROOM: usize = 125;

/// Where a replay stops to look around.
const POINTS: usize = 100;

/// What a replay shows besides its time. Talc, whose blocks have headers in memory, has no 2 MiB to give beside others.
struct Replayed {
    metadata: Row,
    mean: Row,
    end: Row,
    chart: Chart,
}

impl Replayed {
    /// Replays a trace, and stops here and there to see what can be had in blocks of 2 MiB: they are allocated until there
    /// are no more, and freed. Spent is what the allocator says, or else what of memory cannot be had in pages, and what it has
    /// on the process's heap.
    fn replay<C: Contender + Pages>(&self, suite: &mut Suite, contender: &str, script: &Script) -> anyhow::Result<()> {
        let bytes = (script.peak() * PAGE_SIZE * ROOM / 100).next_multiple_of(PAGE_SIZE << Order::LIMIT.index());
        let memory = Arc::new(Memory::present(bytes)?);
        let all = every_page(&mut C::new(&memory)?);
        let mut blocks = script.table();
        let heap_before = heap_bytes();
        let mut pages = C::new(&memory)?;
        let metadata = pages.metadata();
        let (mut shares, mut most_heap) = (Vec::with_capacity(POINTS), 0);
        for operations in script.operations.chunks(script.operations.len().div_ceil(POINTS)) {
            blocks.run(&mut pages, operations);
            most_heap = most_heap.max(heap_bytes().saturating_sub(heap_before));
            shares.push(100.0 * share_of_whole(&mut pages, all - blocks.pages()));
        }
        blocks.finish(&mut pages);
        for (nth, &share) in shares.iter().enumerate() {
            let at = 100.0 * (nth + 1) as f64 / shares.len() as f64;
            suite.point(&self.chart, contender, (at, share));
        }
        let spent = metadata.unwrap_or((bytes - all * PAGE_SIZE) as u64) + most_heap as u64;
        suite.record(&self.metadata, contender, spent as f64 / 1024.0);
        suite.record(&self.mean, contender, shares.iter().sum::<f64>() / shares.len() as f64);
        suite.record(&self.end, contender, shares.last().copied().unwrap_or_default());
        Ok(())
    }
}

/// Pages that can be had.
fn every_page(pages: &mut impl Pages) -> usize {
    std::iter::from_fn(|| pages.alloc(Order::ZERO, Migratetype::Movable)).count()
}
