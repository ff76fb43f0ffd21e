//! What it takes to take memory over, in time and in memory.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;

use crate::contenders::{Bitmap, BuddySlab, BuddySystem, Contender, Depot, Ours, Stack};
use crate::figures::{Row, Section, Unit};
use crate::memory::Memory;
use crate::suite::Suite;
use crate::{FLOOR, OURS};

/// Measures setting up, and what ours has spent on itself then.
///
/// # Errors
/// A contender cannot be made.
pub(crate) fn measure(suite: &mut Suite) -> anyhow::Result<()> {
    let row = Row::new(Section::Pages, "set_up", Unit::MicrosecondsPerGib);
    if suite.wants(&row.name) {
        time::<Ours>(suite, &row, OURS)?;
        time::<Stack>(suite, &row, FLOOR)?;
        time::<Depot>(suite, &row, "frame-alloc")?;
        time::<BuddySlab>(suite, &row, "buddy-slab")?;
        time::<BuddySystem>(suite, &row, "buddy_system")?;
        time::<Bitmap>(suite, &row, "bitmap")?;
    }
    let row = Row::new(Section::Pages, "metadata", Unit::KibPerGib);
    if suite.wants(&row.name) {
        let bytes = Ours::new(&suite.memory()?)?.metadata().context("ours knows")?;
        suite.record(&row, OURS, bytes as f64 / 1024.0 / gibibytes(suite.bytes()));
    }
    Ok(())
}

fn gibibytes(bytes: usize) -> f64 {
    bytes as f64 / f64::from(1 << 30)
}

fn time<C: Contender>(suite: &mut Suite, row: &Row, contender: &str) -> anyhow::Result<()> {
    let memory = suite.memory()?;
    drop(C::new(&memory)?);
    let gibibytes = gibibytes(suite.bytes());
    suite.sample(row, contender, |times| set_up::<C>(&memory, times).div_f64(gibibytes)).map(drop)
}

/// Makes the contender anew, so many times, in memory that was touched before.
fn set_up<C: Contender>(memory: &Arc<Memory>, times: u64) -> Duration {
    let mut spent = Duration::ZERO;
    for _ in 0..times {
        let start = Instant::now();
        let pages = black_box(C::new(memory)).expect("it was made before");
        spent += start.elapsed();
        drop(pages);
    }
    spent
}
