//! What is timed: each row takes a contender and how many operations are wanted, and gives the time that so many take.

use std::hint::black_box;
use std::sync::mpsc;
use std::sync::{Arc, Barrier, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use mm::units::{CpuId, Order, PAGE_SIZE};

use crate::contenders::{Pages, Place, Shared};
use crate::machine::be_cpu;
use crate::memory::Memory;
use crate::script::Script;

/// Allocates a block and frees it, again and again.
pub(crate) fn hot_pair(pages: &mut impl Pages, order: Order, pairs: u64) -> Duration {
    let start = Instant::now();
    for _ in 0..pairs {
        let place = black_box(pages.alloc(order)).expect("memory is free");
        pages.free(black_box(place), order);
    }
    start.elapsed()
}

/// Which half of taking all frames and giving them back is timed, and how they go back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Sweep {
    Alloc,
    FreeInOrder,
    FreeAtRandom,
}

/// Allocates every frame there is and frees it. Gives the time for so many frames.
pub(crate) fn sweep(pages: &mut impl Pages, sweep: Sweep, frames: u64) -> Duration {
    let mut held: Vec<Place> = Vec::with_capacity(1 << 19);
    let (mut spent, mut done) = (Duration::ZERO, 0);
    let mut random = fastrand::Rng::with_seed(1);
    while done < frames {
        let start = Instant::now();
        while let Some(place) = pages.alloc(Order::ZERO) {
            held.push(place);
        }
        let alloc = start.elapsed();
        if sweep == Sweep::FreeAtRandom {
            random.shuffle(&mut held);
        }
        done += held.len() as u64;
        let start = Instant::now();
        held.drain(..).for_each(|place| pages.free(place, Order::ZERO));
        spent += if sweep == Sweep::Alloc { alloc } else { start.elapsed() };
    }
    spent.mul_f64(frames as f64 / done as f64)
}

/// Runs a script's operations, so many of them.
pub(crate) fn scripted(pages: &mut impl Pages, script: &Script, operations: u64) -> Duration {
    let (mut spent, mut left) = (Duration::ZERO, operations);
    while left > 0 {
        let mut blocks = script.table().expect("there is room for a table");
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

/// A shared contender as one thread uses it.
struct Part<'s, S>(&'s S);

impl<S: Shared> Pages for Part<'_, S> {
    fn new(_: &Arc<Memory>) -> anyhow::Result<Self> {
        anyhow::bail!("a part of what is there already")
    }

    #[inline]
    fn alloc(&mut self, order: Order) -> Option<Place> {
        self.0.alloc(order)
    }

    #[inline]
    fn free(&mut self, place: Place, order: Order) {
        self.0.free(place, order);
    }
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
pub(crate) fn two_hot(pages: &impl Shared, pairs: u64) -> Duration {
    on_two_threads(|_| hot_pair(&mut Part(pages), Order::ZERO, pairs.div_ceil(2)))
}

/// Two threads each run a script of their own.
pub(crate) fn two_scripted(pages: &impl Shared, scripts: &[Script; 2], operations: u64) -> Duration {
    on_two_threads(|cpu| scripted(&mut Part(pages), &scripts[usize::from(cpu)], operations.div_ceil(2)))
}

/// One thread allocates pages, the other frees them; they are handed over by 256.
pub(crate) fn remote(pages: &impl Shared, pairs: u64) -> Duration {
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
                batch.extend((0..BATCH).map_while(|_| pages.alloc(Order::ZERO)));
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

/// Makes the contender anew, so many times, in memory that was touched before.
pub(crate) fn set_up<P: Pages>(memory: &Arc<Memory>, times: u64) -> Duration {
    let mut spent = Duration::ZERO;
    for _ in 0..times {
        let start = Instant::now();
        let pages = black_box(P::new(memory)).expect("it was made before");
        spent += start.elapsed();
        drop(pages);
    }
    spent
}

/// How much of free memory can be had in blocks of 2 MiB, after so many turns of random churn with that share of memory in
/// use: all of it was, pages go at random until only so many are left, and each turn as many pages as there are go and come,
/// one by one: one of those in use at random, and another for it. `None` if an allocation fails before.
pub(crate) fn recoverable(pages: &mut impl Pages, percent: usize, turns: usize) -> Option<f64> {
    let mut random = fastrand::Rng::with_seed(7);
    let mut held: Vec<_> = std::iter::from_fn(|| pages.alloc(Order::ZERO)).collect();
    let all = held.len();
    let target = all * percent / 100;
    random.shuffle(&mut held);
    held.drain(target..).for_each(|place| pages.free(place, Order::ZERO));
    for _ in 0..turns * target {
        let place = &mut held[random.usize(..target)];
        pages.free(*place, Order::ZERO);
        *place = pages.alloc(Order::ZERO)?;
    }
    let share = share_of_whole(pages, all - target);
    held.into_iter().for_each(|place| pages.free(place, Order::ZERO));
    Some(share)
}

/// How much of so many free frames can be had in blocks of 2 MiB.
pub(crate) fn share_of_whole(pages: &mut impl Pages, free: usize) -> f64 {
    pages.settle();
    let large: Vec<_> = std::iter::from_fn(|| pages.alloc(Order::of(9))).collect();
    let share = (large.len() << 9) as f64 / free as f64;
    large.into_iter().for_each(|place| pages.free(place, Order::of(9)));
    share
}

/// Frames in so much memory.
pub(crate) const fn frames(bytes: usize) -> usize {
    bytes / PAGE_SIZE
}
