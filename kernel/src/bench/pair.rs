//! A block allocated and at once freed again: at hand of the CPU, and on the longest way through a zone.

use mm::machine::{Geometry, Machine};
use mm::page::{Block, Request};
use mm::units::Order;

use super::{Sampler, allocator, benchmark, needed};
use crate::ktest::{NotPassed, Outcome};
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
