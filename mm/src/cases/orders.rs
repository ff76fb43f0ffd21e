//! Blocks of every size and kind: what they are, and that they are their owner's alone.

use super::checks::Checks;
use super::holdings::{Holdings, orders};
use super::random::Random;
use super::{Failure, Seed, contents};
use crate::PageState;
use crate::machine::{Geometry, Machine};
use crate::migratetype::Migratetype;
use crate::page::{Block, PageAllocator, Request};
use crate::units::Order;

/// Blocks that come and go around the one that is looked at.
const NEIGHBOURS: u32 = 8;

pub(super) fn blocks_of_every_order_and_migratetype_are_aligned_whole_and_keep_their_contents<M: Machine>(
    allocator: &PageAllocator<'_, M>,
    seed: Seed,
) -> Result<(), Failure> {
    let mut random = Random::new(seed);
    let mut checks = Checks::new(allocator);
    for migratetype in Migratetype::REQUESTED {
        for order in orders::<M>() {
            let request = Request::movable(order).with_migratetype(migratetype);
            if largest_free(allocator) < Some(order) {
                continue;
            }
            let mut block = allocator.alloc(request)?;
            check_words(allocator, &block, order)?;
            contents::write(&mut block, random.bits())?;
            checks.step()?;
            let mut neighbours = Holdings::new(allocator)?;
            for _ in 0..NEIGHBOURS {
                let request = Request::movable(random.order(M::Geometry::MAX_ORDER));
                if let Ok(mut neighbour) = allocator.alloc(request) {
                    contents::write(&mut neighbour, random.bits())?;
                    neighbours.insert(neighbour)?;
                }
                if random.below(2) == 0 {
                    drop(neighbours.take_next(random.frame(neighbours.hull())));
                }
            }
            checks.step()?;
            drop(neighbours);
            contents::check(&mut block)?;
            let head = block.head();
            drop(block);
            let state = allocator.page_state(head).0;
            Failure::unless_of(state != PageState::Allocated, head, "a block that was dropped is free")?;
            checks.step()?;
        }
    }
    checks.turn()
}

pub(super) fn blocks_held_at_once_never_share_a_page<M: Machine>(
    allocator: &PageAllocator<'_, M>,
    seed: Seed,
) -> Result<(), Failure> {
    let mut random = Random::new(seed);
    let mut checks = Checks::new(allocator);
    let mut held = Holdings::new(allocator)?;
    for migratetype in Migratetype::REQUESTED {
        for order in orders::<M>() {
            if let Ok(mut block) = allocator.alloc(Request::movable(order).with_migratetype(migratetype)) {
                contents::write(&mut block, random.bits())?;
                held.insert(block)?;
                checks.step()?;
            }
        }
    }
    while let Some(mut block) = held.take_next(random.frame(held.hull())) {
        contents::check(&mut block)?;
        drop(block);
        checks.step()?;
    }
    checks.turn()
}

/// The order of the largest free block.
fn largest_free<M: Machine>(allocator: &PageAllocator<'_, M>) -> Option<Order> {
    allocator.drain();
    orders::<M>().rev().find(|&order| allocator.zones().any(|zone| zone.blocks_of(order) > 0))
}

/// The words say of every page of an allocated block what it is.
fn check_words<M: Machine>(
    allocator: &PageAllocator<'_, M>,
    block: &Block<'_, M>,
    order: Order,
) -> Result<(), Failure> {
    let head = block.head();
    Failure::unless_of(head.is_aligned(order), head, "a block is aligned to its size")?;
    Failure::unless_equal(order.pages(), block.range().pages(), "pages in a block of the order asked for")?;
    let said = allocator.page_state(head);
    Failure::unless_of(said == (PageState::Allocated, order), head, "a block's head says that it is allocated")?;
    for pfn in block.range().frames() {
        let tail = pfn == head || allocator.page_state(pfn).0 == PageState::Tail;
        Failure::unless_of(tail, pfn, "a page behind a head is a tail")?;
        Failure::unless_of(allocator.block_of(pfn) == Some(head), pfn, "any page leads to its block's head")?;
    }
    Ok(())
}
