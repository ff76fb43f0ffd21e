//! Memory full of holes: long lists need nodes, nodes are freed pages, and none of it stays when the holes close.

use super::holdings::{Holdings, orders};
use super::permutation::Permutation;
use super::random::Random;
use super::{Failure, Seed};
use crate::machine::{Geometry, Machine};
use crate::migratetype::Migratetype;
use crate::page::{PageAllocator, Request};
use crate::units::Order;

/// Blocks that are allocated in all; on a larger machine, the rest is held in large blocks.
const BLOCKS: u32 = 1 << 15;

/// Allocates all memory in blocks of `order`, but for what goes to the ballast, and frees every second one.
pub(super) fn every_second_page_free<'a, M: Machine>(
    ballast: &mut Holdings<'a, M>,
    order: Order,
) -> Result<Holdings<'a, M>, Failure> {
    let allocator = ballast.allocator();
    ballast.leave_free(BLOCKS.saturating_mul(order.pages()))?;
    let mut held = Holdings::new(allocator)?;
    held.alloc_all(Request::movable(order))?;
    let hull = held.hull();
    for head in hull.frames().step_by(order.pages() as usize).filter(|head| head.number() & order.pages() == 0) {
        drop(held.take(head));
    }
    allocator.drain();
    Ok(held)
}

pub(super) fn every_second_page_freed_makes_nodes_and_the_others_bring_the_blocks_back<M: Machine>(
    allocator: &PageAllocator<'_, M>,
    _: Seed,
) -> Result<(), Failure> {
    let mut ballast = Holdings::new(allocator)?;
    let held = every_second_page_free(&mut ballast, Order::ZERO)?;
    check_nodes(allocator)?;
    allocator.verify()?;
    drop(held);
    drop(ballast);
    check_nodes(allocator)
}

pub(super) fn the_others_bring_the_blocks_back_in_random_order_too<M: Machine>(
    allocator: &PageAllocator<'_, M>,
    seed: Seed,
) -> Result<(), Failure> {
    let mut ballast = Holdings::new(allocator)?;
    let mut held = every_second_page_free(&mut ballast, Order::ZERO)?;
    let pages = held.pages();
    for pfn in Permutation::of(held.hull(), Random::new(seed).bits()) {
        drop(held.take(pfn));
        if held.pages() == pages / 2 {
            check_nodes(allocator)?;
        }
    }
    check_nodes(allocator)?;
    Ok(allocator.verify()?)
}

pub(super) fn every_second_block_of_any_order_can_be_free<M: Machine>(
    allocator: &PageAllocator<'_, M>,
    _: Seed,
) -> Result<(), Failure> {
    for order in orders::<M>().filter(|&order| order < M::Geometry::MAX_ORDER) {
        let mut ballast = Holdings::new(allocator)?;
        let mut held = every_second_page_free(&mut ballast, order)?;
        check_nodes(allocator)?;
        allocator.verify()?;
        for pfn in held.hull().frames().rev() {
            drop(held.take(pfn));
        }
        check_nodes(allocator)?;
    }
    Ok(())
}

/// FREE-4: a zone has nodes if one of its lists is longer than what is inline, and no more than its lists need.
fn check_nodes<M: Machine>(allocator: &PageAllocator<'_, M>) -> Result<(), Failure> {
    allocator.drain();
    for zone in allocator.zones() {
        let mut most = 0;
        let mut needed = false;
        for migratetype in Migratetype::REQUESTED {
            for order in orders::<M>() {
                let blocks = zone.blocks[migratetype.index()][order.index()];
                most += most_nodes::<M::Geometry>(blocks);
                needed |= blocks > 2 * M::Geometry::INLINE;
            }
        }
        Failure::unless(zone.nodes > 0 || !needed, "a list longer than what is inline has a node")?;
        Failure::unless(zone.nodes <= most, "there are no more nodes than the lists' lengths demand")?;
    }
    Ok(())
}

/// The most nodes that a list of `blocks` may have at its two ends: on each level as many as hold them all, one more
/// as each end has its own, and one more that may come ahead of what it is for.
fn most_nodes<G: Geometry>(blocks: u32) -> u32 {
    if blocks <= G::INLINE / 2 {
        return 0;
    }
    let mut nodes = 0;
    let mut shift = G::LEAF_SHIFT;
    loop {
        let level = u64::from(blocks).div_ceil(1 << shift);
        nodes += u32::try_from(level).unwrap_or(u32::MAX) + 2;
        if level <= 1 {
            return nodes;
        }
        shift += G::NODE_SHIFT;
    }
}
