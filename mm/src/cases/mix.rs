//! Blocks of random orders come and go at a steady fill, and nobody touches what is theirs.

use super::holdings::Holdings;
use super::{Failure, Seed, contents};
use crate::machine::{Geometry, Machine};
use crate::migratetype::Migratetype;
use crate::page::{PageAllocator, Request};
use crate::units::{Order, Pfn};

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
    let mut random = seed.random();
    let mut ballast = Holdings::new(allocator)?;
    ballast.leave_free(ARENA)?;
    let mut held = Holdings::new(allocator)?;
    // In the end, as many pages are allocated as freed: so chances are even where the fill is as it should be.
    let target = u64::from(allocator.free_pages()) * u64::from(percent) / 100;
    for operation in 0..OPERATIONS {
        let grow = random.rand_range(0..2 * target.max(1)) >= u64::from(held.pages());
        // Half of all blocks are single pages, a quarter pairs, and so on.
        let order = random.rand_u64().trailing_zeros().min(u32::from(M::Geometry::MAX_ORDER.number()));
        let migratetype = Migratetype::ALL[random.rand_range(0..Migratetype::ALL.len() as u64) as usize];
        let request = Request::movable(Order::of(order as usize)).with_migratetype(migratetype);
        match allocator.alloc(request) {
            Ok(mut block) if grow => {
                contents::write(&mut block, random.rand_u64())?;
                held.insert(block)?;
            }
            _ => {
                let hull = held.hull();
                let from = random.rand_range(0..u64::from(hull.pages()).max(1)) as u32;
                if let Some(mut block) = held.take_next(hull.start.plus(from)) {
                    contents::check(&mut block)?;
                }
            }
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
