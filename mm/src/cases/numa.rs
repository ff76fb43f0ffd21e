//! Memory nodes: the preferred one first, the nearest of the others when it has nothing left, none if it must be that one.

use super::holdings::Holdings;
use super::{Failure, Seed};
use crate::machine::{Geometry, Machine};
use crate::page::{NumaEvents, PageAllocator, Request};
use crate::units::{NodeId, Order};

/// Every node once, in the order of the zones.
fn nodes<M: Machine>(allocator: &PageAllocator<'_, M>) -> impl Iterator<Item = NodeId> {
    let mut last = None;
    allocator.zones().map(|zone| zone.node).filter(move |&node| last.replace(node) != Some(node))
}

fn free_on<M: Machine>(allocator: &PageAllocator<'_, M>, node: NodeId) -> u32 {
    allocator.zones().filter(|zone| zone.node == node).map(|zone| zone.free).sum()
}

fn needs_two_nodes<M: Machine>(allocator: &PageAllocator<'_, M>) -> Result<(), Failure> {
    if nodes(allocator).count() < 2 { Err(Failure::Skipped("the machine has one node")) } else { Ok(()) }
}

pub(super) fn memory_comes_from_the_preferred_node<M: Machine>(
    allocator: &PageAllocator<'_, M>,
    _: Seed,
) -> Result<(), Failure> {
    needs_two_nodes(allocator)?;
    for node in nodes(allocator) {
        let free = free_on(allocator, node);
        if free > 0 {
            let _page = allocator.alloc(Request::movable(Order::ZERO).near(node).from_reserve())?;
            Failure::unless_equal(free - 1, free_on(allocator, node), "free pages on the preferred node")?;
        }
    }
    Ok(allocator.verify()?)
}

pub(super) fn memory_comes_from_the_cpus_own_node_unless_another_is_named<M: Machine>(
    allocator: &PageAllocator<'_, M>,
    _: Seed,
) -> Result<(), Failure> {
    needs_two_nodes(allocator)?;
    let own = allocator.machine().node_of(allocator.machine().cpu());
    let free = free_on(allocator, own);
    if free == 0 {
        return Err(Failure::Skipped("the CPU's node has no free memory"));
    }
    let _page = allocator.alloc(Request::movable(Order::ZERO).from_reserve())?;
    Failure::unless_equal(free - 1, free_on(allocator, own), "free pages on the CPU's own node")
}

pub(super) fn an_exhausted_node_is_helped_out_by_the_nearest_that_is_not<M: Machine>(
    allocator: &PageAllocator<'_, M>,
    _: Seed,
) -> Result<(), Failure> {
    needs_two_nodes(allocator)?;
    for node in nodes(allocator) {
        let mut held = Holdings::new(allocator)?;
        let request = Request::movable(Order::ZERO).near(node).from_reserve();
        held.use_up(request, |zone| zone.node == node)?;
        let distance = |&other: &NodeId| allocator.machine().distance(node, other);
        let nearest =
            nodes(allocator).filter(|&other| free_on(allocator, other) > 0).map(|other| distance(&other)).min();
        let head = held.alloc(request)?;
        Failure::unless(
            head.is_some() == nearest.is_some(),
            "another node helps out when the preferred one is exhausted",
        )?;
        if let Some(head) = head {
            let zone = allocator.zone_around(head);
            let helper = allocator.zones().find(|report| Some(report.id) == zone).map(|report| report.node);
            Failure::unless(helper.as_ref().map(distance) == nearest, "the nearest node that has memory helps out")?;
        }
        allocator.verify()?;
    }
    Ok(())
}

pub(super) fn a_request_bound_to_an_exhausted_node_fails_whatever_the_others_have<M: Machine>(
    allocator: &PageAllocator<'_, M>,
    _: Seed,
) -> Result<(), Failure> {
    needs_two_nodes(allocator)?;
    for node in nodes(allocator) {
        let mut held = Holdings::new(allocator)?;
        let free = free_on(allocator, node);
        let request = Request::movable(Order::ZERO).bound_to(node).from_reserve();
        Failure::unless_equal(free, held.alloc_all(request)?, "pages that requests get which are bound to a node")?;
        Failure::unless_equal(0, free_on(allocator, node), "free pages on the node")?;
        Failure::unless(held.alloc(request)?.is_none(), "a request that is bound to a node gets no other's memory")?;
        allocator.verify()?;
    }
    Ok(())
}

pub(super) fn every_allocation_is_a_hit_or_a_miss_and_every_miss_is_foreign_elsewhere<M: Machine>(
    allocator: &PageAllocator<'_, M>,
    _: Seed,
) -> Result<(), Failure> {
    let total = || allocator.numa_events().map(|(_, events)| events).sum::<NumaEvents>();
    let of = |node| allocator.numa_events().find(|&(of, _)| of == node).map(|(_, events)| events).unwrap_or_default();
    for node in nodes(allocator) {
        let mut held = Holdings::new(allocator)?;
        let (before, here) = (total(), of(node));
        let request = Request::movable(M::Geometry::MAX_ORDER).near(node).from_reserve();
        let blocks = u64::from(held.alloc_all(request)?);
        let (after, now) = (total(), of(node));
        let (hits, misses) = (after.hit - before.hit, after.miss - before.miss);
        Failure::unless(hits + misses == blocks, "every allocation is a hit or a miss")?;
        Failure::unless(
            after.foreign - before.foreign == misses,
            "every miss is foreign to the node it was wanted of",
        )?;
        Failure::unless(now.foreign - here.foreign == misses, "what the node cannot serve is foreign to it")?;
        Failure::unless(now.hit - here.hit == hits, "what the node serves is a hit there")?;
        let by_place = after.local - before.local + after.other - before.other;
        Failure::unless(by_place == blocks, "every allocation is local or not")?;
    }
    Ok(())
}
