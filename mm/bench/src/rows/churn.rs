//! What is left whole of free memory after random churn.

use mm::migratetype::Migratetype;
use mm::units::Order;

use crate::OURS;
use crate::contenders::{Bitmap, BuddySlab, BuddySystem, Contender, Depot, Ours, Pages};
use crate::figures::{Row, Section, Unit};
use crate::suite::Suite;

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
            share::<Ours>(suite, &row, OURS, percent)?;
            share::<Depot>(suite, &row, "frame-alloc", percent)?;
            share::<BuddySlab>(suite, &row, "buddy-slab", percent)?;
            share::<BuddySystem>(suite, &row, "buddy_system", percent)?;
            share::<Bitmap>(suite, &row, "bitmap", percent)?;
        }
    }
    Ok(())
}

fn share<C: Contender + Pages>(
    suite: &mut Suite,
    row: &Row,
    contender: &'static str,
    percent: usize,
) -> anyhow::Result<()> {
    match recoverable(&mut C::new(&suite.memory()?)?, percent, TURNS) {
        Some(share) => suite.record(row, contender, share * 100.0),
        None => suite.leave_out(&row.name, Some(contender), "an allocation failed with memory free"),
    }
    Ok(())
}

/// How much of free memory can be had in blocks of 2 MiB, after so many turns of random churn with that share of memory in
/// use: all of it was, pages go at random until only so many are left, and each turn as many pages as there are go and come,
/// one by one: one of those in use at random, and another for it. `None` if an allocation fails before.
fn recoverable(pages: &mut impl Pages, percent: usize, turns: usize) -> Option<f64> {
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

/// How much of so many free frames can be had in blocks of 2 MiB.
pub(super) fn share_of_whole(pages: &mut impl Pages, free: usize) -> f64 {
    pages.settle();
    let large: Vec<_> = std::iter::from_fn(|| pages.alloc(Order::of(9), Migratetype::Movable)).collect();
    let share = (large.len() << 9) as f64 / free as f64;
    large.into_iter().for_each(|place| pages.free(place, Order::of(9)));
    share
}
