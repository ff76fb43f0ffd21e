//! Pages that can move and pages that cannot: apart as long as there is room, together when there is none.

use super::holdings::{Holdings, orders};
use super::random::Random;
use super::{Failure, Seed};
use crate::machine::{Geometry, Machine};
use crate::migratetype::Migratetype;
use crate::page::{PageAllocator, Request};
use crate::units::{Order, PfnRange};
use crate::zone::ZoneReport;

/// Pages that are allocated one by one; on a larger machine, the rest is held in large blocks.
const ARENA: u32 = 1 << 14;

pub(super) fn unmovable_requests_can_use_up_all_memory<M: Machine>(
    allocator: &PageAllocator<'_, M>,
    _: Seed,
) -> Result<(), Failure> {
    use_up_all_memory(allocator, Migratetype::Unmovable)
}

pub(super) fn movable_requests_can_use_up_all_memory<M: Machine>(
    allocator: &PageAllocator<'_, M>,
    _: Seed,
) -> Result<(), Failure> {
    use_up_all_memory(allocator, Migratetype::Movable)
}

pub(super) fn reclaimable_requests_can_use_up_all_memory<M: Machine>(
    allocator: &PageAllocator<'_, M>,
    _: Seed,
) -> Result<(), Failure> {
    use_up_all_memory(allocator, Migratetype::Reclaimable)
}

fn use_up_all_memory<M: Machine>(allocator: &PageAllocator<'_, M>, migratetype: Migratetype) -> Result<(), Failure> {
    let mut ballast = Holdings::new(allocator)?;
    ballast.leave_free(ARENA)?;
    let mut held = Holdings::new(allocator)?;
    let free = allocator.free_pages();
    let request = Request::movable(Order::ZERO).with_migratetype(migratetype);
    Failure::unless_equal(free, held.alloc_all(request)?, "pages of one migratetype until none is left")?;
    allocator.verify()?;
    drop(held);
    Ok(allocator.verify()?)
}

pub(super) fn all_three_share_exhausted_memory_and_it_coalesces_whoever_goes_first<M: Machine>(
    allocator: &PageAllocator<'_, M>,
    seed: Seed,
) -> Result<(), Failure> {
    let mut random = Random::new(seed);
    for first in 0..Migratetype::REQUESTED.len() {
        let mut ballast = Holdings::new(allocator)?;
        ballast.leave_free(ARENA)?;
        let mut held = [Holdings::new(allocator)?, Holdings::new(allocator)?, Holdings::new(allocator)?];
        loop {
            let migratetype = random.migratetype();
            let order = random.small_order(M::Geometry::MAX_ORDER);
            let request = Request::movable(order).with_migratetype(migratetype).from_reserve();
            if held[migratetype.index()].alloc(request)?.is_none() && order == Order::ZERO {
                break;
            }
        }
        allocator.verify()?;
        held.rotate_left(first);
        for held in held {
            drop(held);
            allocator.verify()?;
        }
    }
    Ok(())
}

pub(super) fn a_request_takes_over_no_more_than_a_pageblock<M: Machine>(
    allocator: &PageAllocator<'_, M>,
    _: Seed,
) -> Result<(), Failure> {
    let free = |zone: &ZoneReport, migratetype: Migratetype| -> u32 {
        orders::<M>().map(|order| zone.blocks[migratetype.index()][order.index()] * order.pages()).sum()
    };
    let largest = |zone: &ZoneReport| zone.blocks_of(M::Geometry::MAX_ORDER) > 0;
    let mut found = false;
    for before in allocator.zones().filter(largest) {
        for migratetype in Migratetype::REQUESTED.into_iter().filter(|&migratetype| free(&before, migratetype) == 0) {
            let request = Request::movable(Order::ZERO).with_migratetype(migratetype).from_reserve();
            let page = allocator.alloc(request.up_to(before.kind).near(before.node))?;
            let after = allocator.zones().find(|zone| zone.id == before.id);
            let left = after.map_or(0, |after| free(&after, migratetype));
            let pageblock = M::Geometry::PAGEBLOCK_ORDER.pages();
            // Nodes may have taken some of it.
            Failure::unless(left < pageblock, "a request takes over no more than the pageblock that serves it")?;
            drop(page);
            found = true;
        }
    }
    if found { Ok(()) } else { Err(Failure::Skipped("every migratetype has free blocks of its own")) }
}

pub(super) fn unlike_pages_do_not_share_a_pageblock_while_there_are_plenty<M: Machine>(
    allocator: &PageAllocator<'_, M>,
    _: Seed,
) -> Result<(), Failure> {
    let pageblock = M::Geometry::PAGEBLOCK_ORDER;
    let plenty = |zone: &ZoneReport| zone.blocks_of(M::Geometry::MAX_ORDER) >= 8;
    let Some(zone) = allocator.zones().find(plenty) else {
        return Err(Failure::Skipped("no zone has plenty of free pageblocks"));
    };
    let request = Request::movable(Order::ZERO).up_to(zone.kind).near(zone.node).from_reserve();
    let mut held = [Holdings::new(allocator)?, Holdings::new(allocator)?, Holdings::new(allocator)?];
    for _ in 0..pageblock.pages() {
        for migratetype in Migratetype::REQUESTED {
            held[migratetype.index()].alloc(request.with_migratetype(migratetype))?;
        }
    }
    allocator.verify()?;
    for migratetype in Migratetype::REQUESTED {
        let others = migratetype.fallbacks();
        for at in zone.span.frames().step_by(pageblock.pages() as usize).map(|pfn| pfn.align_down(pageblock)) {
            let frames = PfnRange::new(at, at.plus(pageblock.pages()));
            let shared = held[migratetype.index()].holds_in(frames)
                && others.iter().any(|other| held[other.index()].holds_in(frames));
            Failure::unless_of(!shared, at, "a pageblock has pages of one migratetype")?;
        }
    }
    Ok(())
}
