//! What an operation costs in how much memory: address space, of which only what is touched is there.

use std::sync::Arc;
use std::time::{Duration, Instant};

use mm::units::{Order, PAGE_SIZE};

use super::LARGEST;
use super::pairs::hot_pair;
use crate::contenders::{Bitmap, BuddySlab, BuddySystem, Contender, Depot, LinkedList, Ours, Pages, Stack, Talc};
use crate::figures::{Chart, Row, Section, Unit};
use crate::memory::Memory;
use crate::mix::{Mix, Victim};
use crate::script::Blocks;
use crate::suite::Suite;
use crate::{FLOOR, OURS};

/// An amount of memory.
#[derive(Clone, Copy, Debug)]
struct Size {
    name: &'static str,
    bytes: usize,
}

const SIZES: [Size; 4] = [
    Size { name: "512M", bytes: 512 << 20 },
    Size { name: "8G", bytes: 8 << 30 },
    Size { name: "64G", bytes: 64 << 30 },
    Size { name: "1T", bytes: 1 << 40 },
];

/// Measures pairs and a mix in each amount of memory.
///
/// # Errors
/// Nothing could be sampled.
pub(crate) fn measure(suite: &mut Suite) -> anyhow::Result<()> {
    for size in SIZES {
        pairs(suite, "order0", Order::ZERO, size)?;
        pairs(suite, "order9", Order::of(9), size)?;
        mix(suite, size)?;
    }
    Ok(())
}

fn pairs(suite: &mut Suite, work: &'static str, order: Order, size: Size) -> anyhow::Result<()> {
    let cell = Cell::new(work, size);
    if !suite.wants(&cell.row.name) {
        return Ok(());
    }
    cell.pairs::<Ours>(suite, OURS, order)?;
    if order == Order::ZERO {
        cell.pairs::<Stack>(suite, FLOOR, order)?;
    }
    cell.pairs::<Depot>(suite, "frame-alloc", order)?;
    cell.pairs::<BuddySlab>(suite, "buddy-slab", order)?;
    cell.pairs::<BuddySystem>(suite, "buddy_system", order)?;
    cell.pairs::<Bitmap>(suite, "bitmap", order)?;
    cell.pairs::<Talc>(suite, "talc", order)?;
    cell.pairs::<LinkedList>(suite, "linked_list", order)
}

fn mix(suite: &mut Suite, size: Size) -> anyhow::Result<()> {
    let cell = Cell::new("mix_50", size);
    if !suite.wants(&cell.row.name) {
        return Ok(());
    }
    cell.mix::<Ours>(suite, OURS)?;
    cell.mix::<Depot>(suite, "frame-alloc")?;
    cell.mix::<BuddySlab>(suite, "buddy-slab")?;
    cell.mix::<BuddySystem>(suite, "buddy_system")?;
    cell.mix::<Bitmap>(suite, "bitmap")?;
    if size.bytes <= WRITABLE {
        cell.mix::<Talc>(suite, "talc")?;
    } else {
        suite.leave_out(&cell.row.name, Some("talc"), "it writes into every block, and not all of memory is there");
    }
    Ok(())
}

/// As much memory as may be written to all over.
const WRITABLE: usize = 8 << 30;

/// A kind of work in an amount of memory.
struct Cell {
    row: Row,
    chart: Chart,
    size: Size,
}

impl Cell {
    fn new(work: &'static str, size: Size) -> Self {
        let row = Row::new(Section::Size, format!("size_{work}_{}", size.name), Unit::Nanoseconds);
        Self { row, chart: Chart::CostBySize(work), size }
    }

    fn pairs<C: Contender + Pages>(
        &self,
        suite: &mut Suite,
        contender: &'static str,
        order: Order,
    ) -> anyhow::Result<()> {
        let Some(mut pages) = self.made::<C>(suite, contender) else { return Ok(()) };
        self.sample(suite, contender, |pairs| hot_pair(&mut pages, order, pairs))
    }

    /// Half of memory stays in use from one sample to the next.
    fn mix<C: Contender + Pages>(&self, suite: &mut Suite, contender: &'static str) -> anyhow::Result<()> {
        let Some(mut pages) = self.made::<C>(suite, contender) else { return Ok(()) };
        let mut mix = Mix::new(self.size.bytes / PAGE_SIZE / 2, LARGEST, Victim::Oldest, 50);
        let filling = mix.filling();
        let mut blocks = Blocks::new(mix.blocks());
        blocks.run(&mut pages, &filling);
        self.sample(suite, contender, |operations| mixed(&mut pages, &mut blocks, &mut mix, operations))
    }

    /// The contender, if it can be made of so much memory.
    fn made<C: Contender>(&self, suite: &mut Suite, contender: &'static str) -> Option<C> {
        let made = Memory::new(self.size.bytes).map_err(Into::into).and_then(|memory| C::new(&Arc::new(memory)));
        made.inspect_err(|why| suite.leave_out(&self.row.name, Some(contender), &why.to_string())).ok()
    }

    fn sample(&self, suite: &mut Suite, contender: &str, work: impl FnMut(u64) -> Duration) -> anyhow::Result<()> {
        let value = suite.sample(&self.row, contender, work)?;
        suite.point(&self.chart, contender, (self.size.bytes as f64 / f64::from(1 << 30), value));
        Ok(())
    }
}

/// Operations that are written down at once.
const CHUNK: u64 = 1 << 16;

/// So many operations of a mix, timed.
fn mixed(pages: &mut impl Pages, blocks: &mut Blocks, mix: &mut Mix, operations: u64) -> Duration {
    let (mut spent, mut left) = (Duration::ZERO, operations);
    while left > 0 {
        let now = left.min(CHUNK);
        let script: Vec<_> = mix.by_ref().take(now as usize).collect();
        blocks.grow(mix.blocks());
        let start = Instant::now();
        blocks.run(pages, &script);
        spent += start.elapsed();
        left -= now;
    }
    spent
}
