//! Blocks of random orders come and go at a steady fill, and nobody touches what is theirs.

use super::holdings::Holdings;
use super::random::Random;
use super::{Failure, Seed, contents};
use crate::machine::{Geometry, Machine};
use crate::page::{PageAllocator, Request};
use crate::units::Pfn;

/// Memory that blocks come from and go to; on a larger machine, the rest is held in large blocks.
const ARENA: u32 = 4096;

const OPERATIONS: u32 = 4000;

/// Operations between two full checks.
const CHECK_EVERY: u32 = 500;

pub(super) fn random_orders_keep_their_contents_at_half_full<M: Machine>(
    allocator: &PageAllocator<'_, M>,
    seed: Seed,
) -> Result<(), Failure> {
    churn(allocator, seed, 50)
}

pub(super) fn random_orders_keep_their_contents_at_nine_tenths_full<M: Machine>(
    allocator: &PageAllocator<'_, M>,
    seed: Seed,
) -> Result<(), Failure> {
    churn(allocator, seed, 90)
}

fn churn<M: Machine>(allocator: &PageAllocator<'_, M>, seed: Seed, percent: u32) -> Result<(), Failure> {
    let mut random = Random::new(seed);
    let mut ballast = Holdings::new(allocator)?;
    ballast.leave_free(ARENA)?;
    let mut held = Holdings::new(allocator)?;
    // In the end, as many pages are allocated as freed: so chances are even where the fill is as it should be.
    let target = allocator.free_pages() * percent / 100;
    for operation in 0..OPERATIONS {
        let grow = random.below(2 * target.max(1)) >= held.pages();
        let order = random.small_order(M::Geometry::MAX_ORDER);
        let request = Request::movable(order).with_migratetype(random.migratetype());
        if grow && let Ok(mut block) = allocator.alloc(request) {
            contents::write(&mut block, random.bits())?;
            held.insert(block)?;
        } else if let Some(mut block) = held.take_next(random.frame(held.hull())) {
            contents::check(&mut block)?;
        }
        if operation % CHECK_EVERY == 0 {
            allocator.verify()?;
        }
    }
    while let Some(mut block) = held.take_next(Pfn::new(0)) {
        contents::check(&mut block)?;
    }
    Ok(allocator.verify()?)
}
