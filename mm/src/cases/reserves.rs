//! How low zones fall, for whom, and what large blocks are left then.

use super::holdings::Holdings;
use super::{Failure, Seed};
use crate::machine::{Geometry, Machine};
use crate::migratetype::Migratetype;
use crate::page::{PageAllocator, Request};
use crate::units::{NodeId, Order};
use crate::zone::ZoneReport;

/// Page by page, bound to each node in turn: each zone is left what it is to be left, to the page.
pub(super) fn ordinary_requests_stop_at_min_and_more_urgent_ones_go_on_to_the_last_page<M: Machine>(
    allocator: &PageAllocator<'_, M>,
    _: Seed,
) -> Result<(), Failure> {
    if M::Geometry::RESERVE_SHARE == 0 {
        return Err(Failure::Skipped("the geometry has no reserves"));
    }
    let mut last = None;
    for node in allocator.zones().map(|zone| zone.node).filter(|&node| last.replace(node) != Some(node)) {
        let mut held = Holdings::new(allocator)?;
        leave_free_on(&mut held, node)?;
        let on_node = move |zone: &ZoneReport| zone.node == node;
        if allocator.zones().filter(on_node).any(|zone| zone.free <= zone.watermarks.high) {
            return Err(Failure::Skipped("a zone is below its marks already"));
        }
        let request = Request::movable(Order::ZERO).bound_to(node);
        let left = |zone: ZoneReport, share: fn(u32) -> u32| {
            let marks = zone.watermarks;
            (zone.free, share(marks.min) + marks.protection[request.highest as usize])
        };
        while held.alloc(request.nowait())?.is_some() {}
        for (free, least) in allocator.zones().filter(on_node).map(|zone| left(zone, |min| min)) {
            // What is set aside is free, but not for such a request.
            Failure::unless(free >= least, "ordinary requests leave every zone its least")?;
        }
        while held.alloc(request)?.is_some() {}
        for (free, least) in allocator.zones().filter(on_node).map(|zone| left(zone, |min| min)) {
            Failure::unless_equal(least, free, "free pages that ordinary requests leave")?;
        }
        while held.alloc(request.atomic())?.is_some() {}
        for (free, least) in allocator.zones().filter(on_node).map(|zone| left(zone, |min| min / 2)) {
            Failure::unless_equal(least, free, "free pages that those leave which cannot wait")?;
        }
        held.alloc_all(request)?;
        Failure::unless_equal(0, allocator.zones().filter(on_node).map(|zone| zone.free).sum(), "free pages at last")?;
        allocator.verify()?;
    }
    Ok(())
}

/// Allocates largest blocks of a node, as long as each of its zones keeps some.
fn leave_free_on<M: Machine>(held: &mut Holdings<'_, M>, node: NodeId) -> Result<(), Failure> {
    let allocator = held.allocator();
    let largest = M::Geometry::MAX_ORDER;
    for zone in allocator.zones().filter(|zone| zone.node == node) {
        let enough = |zone: &ZoneReport| {
            let marks = zone.watermarks;
            zone.free > 2 * marks.high + marks.protection.iter().max().unwrap_or(&0) + 16 * largest.pages()
        };
        let now = || allocator.zones().find(|now| now.id == zone.id).is_some_and(|now| enough(&now));
        while now() && held.alloc(Request::movable(largest).bound_to(node).up_to(zone.kind).nowait())?.is_some() {}
    }
    Ok(())
}

pub(super) fn a_large_block_is_to_be_had_in_need_when_single_pages_have_used_up_the_rest<M: Machine>(
    allocator: &PageAllocator<'_, M>,
    _: Seed,
) -> Result<(), Failure> {
    let whole = |zone: &ZoneReport| zone.blocks[Migratetype::HighAtomic.index()][M::Geometry::MAX_ORDER.index()] > 0;
    let Some(zone) = allocator.zones().find(whole) else {
        return Err(Failure::Skipped("no zone is large enough to have blocks set aside"));
    };
    let mut held = Holdings::new(allocator)?;
    leave_free_on(&mut held, zone.node)?;
    let request = Request::movable(Order::ZERO).bound_to(zone.node).up_to(zone.kind);
    while held.alloc(request.nowait())?.is_some() {}
    let large = request.with_order(Order::of(3));
    Failure::unless(held.alloc(large.nowait())?.is_none(), "single pages have used up all that is anybody's")?;
    let saved = held.alloc(large.atomic())?;
    Failure::unless(saved.is_some(), "a large block is to be had by those who cannot wait")?;
    allocator.verify()?;
    // Before anybody fails who can wait, what is set aside is everybody's.
    Failure::unless(held.alloc(request)?.is_some(), "nobody fails for what is set aside")?;
    Ok(allocator.verify()?)
}
