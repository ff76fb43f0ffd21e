//! What is left whole of free memory after random churn.

use mm::migratetype::Migratetype;
use mm::units::{Order, PAGE_SIZE};

use crate::OURS;
use crate::contenders::{Bitmap, BuddySlab, BuddySystem, Contender, Depot, Ours, Pages};
use crate::figures::{Row, Section, Unit};
use crate::rows::LARGEST;
use crate::script::Script;
use crate::suite::Suite;

/// Blocks of random orders that come or go.
const MIXED_OPERATIONS: usize = 1 << 20;

/// Turns of churn, as in the comparison that the bars come from.
const TURNS: usize = 8;

/// Measures it with half and nearly all of memory in use.
///
/// # Errors
/// A contender cannot be made.
pub(crate) fn measure(suite: &mut Suite) -> anyhow::Result<()> {
    for (name, percent) in [("recoverable_50", 50), ("recoverable_90", 90)] {
        let row = Row::new(Section::Pages, name, Unit::Percent);
        if suite.wants(name) {
            let churn = |pages: &mut dyn Pages| recoverable(pages, percent, TURNS);
            share::<Ours>(suite, &row, OURS, churn)?;
            share::<Depot>(suite, &row, "frame-alloc", churn)?;
            share::<BuddySlab>(suite, &row, "buddy-slab", churn)?;
            share::<BuddySystem>(suite, &row, "buddy_system", churn)?;
            share::<Bitmap>(suite, &row, "bitmap", churn)?;
        }
    }
    for (name, percent) in [("recoverable_mix_50", 50), ("recoverable_mix_90", 90)] {
        let row = Row::new(Section::Pages, name, Unit::Percent);
        if suite.wants(name) {
            let script = Script::mix(suite.bytes() / PAGE_SIZE, percent, LARGEST, MIXED_OPERATIONS);
            let churn = |pages: &mut dyn Pages| Some(recoverable_of_mix(pages, &script));
            share::<Ours>(suite, &row, OURS, churn)?;
            share::<Depot>(suite, &row, "frame-alloc", churn)?;
            share::<BuddySlab>(suite, &row, "buddy-slab", churn)?;
            share::<BuddySystem>(suite, &row, "buddy_system", churn)?;
        }
    }
    Ok(())
}

fn share<C: Contender + Pages>(
    suite: &mut Suite,
    row: &Row,
    contender: &'static str,
    churn: impl Fn(&mut dyn Pages) -> Option<f64>,
) -> anyhow::Result<()> {
    match churn(&mut C::new(&suite.memory()?)?) {
        Some(share) => suite.record(row, contender, share * 100.0),
        None => suite.leave_out(&row.name, Some(contender), "an allocation failed with memory free"),
    }
    Ok(())
}

/// How much of free memory can be had in blocks of 2 MiB, after so many turns of random churn with that share of memory in
/// use: all of it was, pages go at random until only so many are left, and each turn as many pages as there are go and come,
/// one by one: one of those in use at random, and another for it. `None` if an allocation fails before.
fn recoverable(pages: &mut dyn Pages, percent: usize, turns: usize) -> Option<f64> {
    let mut random = fastrand::Rng::with_seed(7);
    let mut held: Vec<_> = std::iter::from_fn(|| pages.alloc(Order::ZERO, Migratetype::Movable)).collect();
    let all = held.len();
    let target = all * percent / 100;
    random.shuffle(&mut held);
    held.drain(target..).for_each(|place| pages.free(place, Order::ZERO));
    for _ in 0..turns * target {
        let place = &mut held[random.usize(..target)];
        pages.free(*place, Order::ZERO);
        *place = pages.alloc(Order::ZERO, Migratetype::Movable)?;
    }
    let share = share_of_whole(pages, all - target);
    held.into_iter().for_each(|place| pages.free(place, Order::ZERO));
    Some(share)
}

/// The same after blocks of random orders have come and gone.
fn recoverable_of_mix(pages: &mut dyn Pages, script: &Script) -> f64 {
    let mut blocks = script.table();
    blocks.run(pages, &script.filling);
    blocks.run(pages, &script.operations);
    let free: Vec<_> = std::iter::from_fn(|| pages.alloc(Order::ZERO, Migratetype::Movable)).collect();
    let frames = free.len();
    free.into_iter().for_each(|place| pages.free(place, Order::ZERO));
    let share = share_of_whole(pages, frames);
    blocks.finish(pages);
    share
}

/// How much of so many free frames can be had in blocks of 2 MiB.
pub(super) fn share_of_whole(pages: &mut dyn Pages, free: usize) -> f64 {
    pages.settle();
    let large: Vec<_> = std::iter::from_fn(|| pages.alloc(Order::of(9), Migratetype::Movable)).collect();
    let share = (large.len() << 9) as f64 / free as f64;
    large.into_iter().for_each(|place| pages.free(place, Order::of(9)));
    share
}
