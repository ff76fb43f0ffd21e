//! A block allocated and at once freed again: at hand of the CPU, and on the longest way through a zone.

use alloc::vec::Vec;

use mm::machine::{Geometry, Machine};
use mm::migratetype::Migratetype;
use mm::page::{Block, Request};
use mm::units::Order;
use mm::zone::ZoneReport;

use super::{Sampler, allocator, benchmark, needed};
use crate::ktest::{NotPassed, Outcome, check};
use crate::platform::Platform;

const PAIRS: usize = 1000;
const MAX_ORDER: Order = <<Platform as Machine>::Geometry as Geometry>::MAX_ORDER;

/// Allocates and frees a block of `order`, again and again; a sample is one pair.
fn pairs(sampler: &mut Sampler, order: Order) -> Outcome {
    let allocator = allocator()?;
    let request = Request::movable(order);
    for _ in 0..PAIRS {
        sampler.sample(|| allocator.alloc(request).map(drop))?;
    }
    Ok(())
}

/// As [`pairs`], while blocks of `order` are free whose buddies are not: nothing splits and nothing merges, also where
/// nothing is kept at hand. There are two, so that no list becomes empty each time.
fn pairs_at_hand(sampler: &mut Sampler, order: Order) -> Outcome {
    let _kept = [half_freed(order)?, half_freed(order)?];
    pairs(sampler, order)
}

/// A block whose buddy was just freed.
pub(super) fn half_freed(order: Order) -> Result<Block<'static, Platform>, NotPassed> {
    let above = order.up().ok_or("no block is twice as large")?;
    let halves = needed(Request::movable(above))?.split();
    let (at_hand, kept) = halves.map_err(|block| alloc::format!("{block:?} does not split"))?;
    drop(at_hand);
    Ok(kept)
}

benchmark!("page", fn order0_pair(sampler) {
    pairs_at_hand(sampler, Order::ZERO)
});

benchmark!("page", fn order3_pair(sampler) {
    pairs_at_hand(sampler, Order::of(3))
});

benchmark!("page", fn order4_pair(sampler) {
    pairs_at_hand(sampler, Order::of(4))
});

benchmark!("page", fn order9_pair(sampler) {
    pairs_at_hand(sampler, Order::of(9))
});

benchmark!("page", fn order10_pair(sampler) {
    drop(needed(Request::movable(MAX_ORDER))?);
    pairs(sampler, MAX_ORDER)
});

/// The zone that serves a movable request first, with nothing at hand of any CPU.
fn first_zone() -> Result<ZoneReport, NotPassed> {
    allocator()?.drain();
    allocator()?.zones().next().ok_or_else(|| "the machine has no zone".into())
}

/// The type and the order of the smallest free block of the zone below the largest order.
fn smallest_below_largest(zone: &ZoneReport) -> Option<(Migratetype, Order)> {
    let of_order = |order: Order| {
        let has = |migratetype: &Migratetype| zone.blocks[*migratetype as usize][order.index()] > 0;
        Some((Migratetype::REQUESTED.into_iter().find(has)?, order))
    };
    (0..MAX_ORDER.index()).map(Order::of).find_map(of_order)
}

/// Every free block of the first zone that is smaller than the largest.
fn all_below_largest() -> Result<Vec<Block<'static, Platform>>, NotPassed> {
    let mut held = Vec::new();
    while let Some((migratetype, order)) = smallest_below_largest(&first_zone()?) {
        held.push(needed(Request::movable(order).with_migratetype(migratetype))?);
    }
    Ok(held)
}

/// The smallest order that is not kept at hand.
const UNCACHED: Order = Order::of(4);

benchmark!("page", fn order4_pair_split(sampler) {
    let _held = all_below_largest()?;
    let block = needed(Request::movable(UNCACHED))?;
    let zone = first_zone()?;
    let halves = (UNCACHED.index()..MAX_ORDER.index()).all(|order| zone.blocks_of(Order::of(order)) == 1);
    check!(halves && zone.span.contains(block.head()), "a block does not split a whole one: {zone:?}");
    drop(block);
    let left = smallest_below_largest(&first_zone()?);
    check!(left.is_none(), "a block that is freed does not merge to a whole one: {left:?} is left");
    pairs(sampler, UNCACHED)
});
