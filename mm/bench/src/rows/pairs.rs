//! A block allocated and freed, again and again.

use std::hint::black_box;
use std::time::{Duration, Instant};

use mm::migratetype::Migratetype;
use mm::units::Order;

use super::each;
use crate::contenders::{Bitmap, BuddySlab, BuddySystem, Depot, LinkedList, Locked, Ours, Pages, Stack, Talc};
use crate::figures::{Row, Section, Unit};
use crate::suite::Suite;
use crate::{FLOOR, OURS};

/// Measures pairs of the smallest and of large blocks.
///
/// # Errors
/// A contender cannot be made.
pub(crate) fn measure(suite: &mut Suite) -> anyhow::Result<()> {
    let row = Row::new(Section::Pages, "order0_pair", Unit::Nanoseconds);
    each!(suite, &row, |pages, pairs| hot_pair(pages, Order::ZERO, pairs);
        OURS => Ours, FLOOR => Stack, "frame-alloc" => Depot, "buddy-slab" => BuddySlab, "buddy-slab+lock" => Locked<BuddySlab>,
        "buddy_system" => BuddySystem, "bitmap" => Bitmap, "talc" => Talc, "linked_list" => LinkedList);
    let row = Row::new(Section::Pages, "order9_pair", Unit::Nanoseconds);
    each!(suite, &row, |pages, pairs| hot_pair(pages, Order::of(9), pairs);
        OURS => Ours, "frame-alloc" => Depot, "buddy-slab" => BuddySlab, "buddy-slab+lock" => Locked<BuddySlab>,
        "buddy_system" => BuddySystem, "bitmap" => Bitmap, "talc" => Talc, "linked_list" => LinkedList);
    Ok(())
}

/// So many pairs, timed.
pub(crate) fn hot_pair(pages: &mut impl Pages, order: Order, pairs: u64) -> Duration {
    let start = Instant::now();
    for _ in 0..pairs {
        let place = black_box(pages.alloc(order, Migratetype::Movable)).expect("memory is free");
        pages.free(black_box(place), order);
    }
    start.elapsed()
}
