//! Objects smaller than a page: one allocated and freed again and again, and thousands in a row.

use std::hint::black_box;
use std::time::{Duration, Instant};

use mm::slab::{CacheSpec, KmemCaches};

use crate::contenders::{Contender, Ours};
use crate::figures::{Row, Section, Unit};
use crate::objects::{Glibc, Kmalloc, LinkedList, Mimalloc, Objects, SIZE, Slabs, Talc};
use crate::suite::Suite;
use crate::{OUR_KMALLOC, OURS};

/// Objects that are allocated before the first is freed.
const IN_A_ROW: usize = 4096;

/// Measures all allocators of objects.
///
/// # Errors
/// A contender cannot be made.
pub(crate) fn measure(suite: &mut Suite) -> anyhow::Result<()> {
    for (name, work) in [("slab_pair", Work::Pair), ("slab_alloc", Work::Alloc), ("slab_free", Work::Free)] {
        let row = Row::new(Section::Slab, name, Unit::Nanoseconds);
        if !suite.wants(name) {
            continue;
        }
        let ours = Ours::new(&suite.memory()?)?;
        let caches = KmemCaches::new(ours.allocator())?;
        let cache = caches.create(CacheSpec::new("bench", u32::try_from(SIZE)?))?;
        work.time(suite, &row, OURS, &cache)?;
        work.time(suite, &row, OUR_KMALLOC, Kmalloc(&caches))?;
        work.time(suite, &row, "mimalloc", Mimalloc)?;
        work.time(suite, &row, "slab_allocator", Slabs::new(&suite.memory()?))?;
        work.time(suite, &row, "talc", Talc::new(&suite.memory()?)?)?;
        work.time(suite, &row, "linked_list", LinkedList::new(&suite.memory()?))?;
        work.time(suite, &row, "glibc", Glibc)?;
    }
    Ok(())
}

/// What is timed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Work {
    Pair,
    Alloc,
    Free,
}

impl Work {
    fn time(self, suite: &mut Suite, row: &Row, contender: &str, mut objects: impl Objects) -> anyhow::Result<()> {
        let time = |times| match self {
            Self::Pair => hot_pair(&mut objects, times),
            Self::Alloc | Self::Free => in_a_row(&mut objects, self, times),
        };
        suite.sample(row, contender, time).map(drop)
    }
}

fn hot_pair(objects: &mut impl Objects, pairs: u64) -> Duration {
    let start = Instant::now();
    for _ in 0..pairs {
        let object = black_box(objects.alloc()).expect("memory is free");
        objects.free(black_box(object));
    }
    start.elapsed()
}

/// Gives the time for so many objects.
fn in_a_row<O: Objects>(objects: &mut O, work: Work, times: u64) -> Duration {
    let mut held = Vec::with_capacity(IN_A_ROW);
    let turns = times.div_ceil(IN_A_ROW as u64);
    let mut spent = Duration::ZERO;
    for _ in 0..turns {
        let start = Instant::now();
        held.extend((0..IN_A_ROW).map_while(|_| objects.alloc()));
        let alloc = start.elapsed();
        assert_eq!(held.len(), IN_A_ROW, "memory is free");
        black_box(&mut held);
        let start = Instant::now();
        held.drain(..).for_each(|object| objects.free(object));
        spent += if work == Work::Alloc { alloc } else { start.elapsed() };
    }
    spent.mul_f64(times as f64 / (turns * IN_A_ROW as u64) as f64)
}
