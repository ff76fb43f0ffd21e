//! Two threads at once.

use std::sync::mpsc;
use std::sync::{Barrier, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use mm::migratetype::Migratetype;
use mm::units::{CpuId, Order, PAGE_SIZE};

use super::mixes::scripted;
use super::pairs::hot_pair;
use super::{LARGEST, each};
use crate::OURS;
use crate::contenders::{BuddySlab, BuddySystem, Depot, Locked, Ours, Place, Shared};
use crate::figures::{Row, Section, Unit};
use crate::machine::be_cpu;
use crate::script::Script;
use crate::suite::Suite;

/// Measures each thread for itself, and one that frees what the other allocates.
///
/// # Errors
/// A contender cannot be made.
pub(crate) fn measure(suite: &mut Suite) -> anyhow::Result<()> {
    let row = |name| Row::new(Section::Pages, name, Unit::MillionsPerSecond);
    each!(suite, &row("two_threads_order0"), |pages, pairs| two_hot(pages, pairs);
        OURS => Ours, "frame-alloc" => Depot, "buddy-slab+lock" => Locked<BuddySlab>, "buddy_system" => Locked<BuddySystem>);
    if suite.wants("two_threads_mix_50") {
        let frames = suite.bytes() / PAGE_SIZE;
        let half = |seed| Script::mix(frames / 2 - seed, 50, LARGEST, 1 << 20);
        let scripts = [half(0), half(1)];
        each!(suite, &row("two_threads_mix_50"), |pages, operations| two_scripted(pages, &scripts, operations);
            OURS => Ours, "frame-alloc" => Depot, "buddy-slab+lock" => Locked<BuddySlab>,
            "buddy_system" => Locked<BuddySystem>);
    }
    each!(suite, &row("two_threads_remote"), |pages, pairs| remote(pages, pairs);
        OURS => Ours, "frame-alloc" => Depot, "buddy-slab+lock" => Locked<BuddySlab>, "buddy_system" => Locked<BuddySystem>);
    Ok(())
}

/// Runs `work` on two threads at once, each with its number. Gives how long the slower one took.
fn on_two_threads(work: impl Fn(u16) -> Duration + Sync) -> Duration {
    let start = Barrier::new(2);
    thread::scope(|threads| {
        let spawn = |cpu| {
            let (start, work) = (&start, &work);
            threads.spawn(move || {
                be_cpu(CpuId(cpu));
                start.wait();
                work(cpu)
            })
        };
        let both = [spawn(0), spawn(1)];
        both.map(|thread| thread.join().expect("no thread fails")).into_iter().max().unwrap_or_default()
    })
}

/// Two threads each allocate a page and free it. Gives the time for so many pairs of both together.
fn two_hot(pages: &impl Shared, pairs: u64) -> Duration {
    on_two_threads(|_| hot_pair(&mut &*pages, Order::ZERO, pairs.div_ceil(2)))
}

/// Two threads each run a script of their own.
fn two_scripted(pages: &impl Shared, scripts: &[Script; 2], operations: u64) -> Duration {
    on_two_threads(|cpu| scripted(&mut &*pages, &scripts[usize::from(cpu)], operations.div_ceil(2)))
}

/// One thread allocates pages, the other frees them; they are handed over by 256.
fn remote(pages: &impl Shared, pairs: u64) -> Duration {
    const BATCH: usize = 256;
    let (full, filled) = mpsc::sync_channel::<Vec<Place>>(8);
    let (empty, emptied) = mpsc::sync_channel::<Vec<Place>>(16);
    for _ in 0..8 {
        empty.send(Vec::with_capacity(BATCH)).expect("there is room");
    }
    let (giver, taker) = (Mutex::new(Some((full, emptied))), Mutex::new(Some((filled, empty))));
    on_two_threads(|cpu| {
        let start = Instant::now();
        if cpu == 0 {
            let (full, emptied) = giver.lock().expect("nobody panics").take().expect("one thread gives");
            for _ in 0..pairs.div_ceil(BATCH as u64) {
                let mut batch = emptied.recv().expect("the other side is there");
                batch.extend((0..BATCH).map_while(|_| pages.alloc(Order::ZERO, Migratetype::Movable)));
                full.send(batch).expect("the other side is there");
            }
        } else {
            let (filled, empty) = taker.lock().expect("nobody panics").take().expect("one thread takes");
            while let Ok(mut batch) = filled.recv() {
                batch.drain(..).for_each(|place| pages.free(place, Order::ZERO));
                let _ = empty.send(batch);
            }
        }
        start.elapsed()
    })
}
