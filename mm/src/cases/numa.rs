//! Memory nodes: the preferred one first, the others when it has nothing left.

use super::holdings::Holdings;
use super::{Failure, Seed};
use crate::machine::Machine;
use crate::page::{PageAllocator, Request};
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
            let _page = allocator.alloc(Request::movable(Order::ZERO).near(node))?;
            Failure::unless_equal(free - 1, free_on(allocator, node), "free pages on the preferred node")?;
        }
    }
    Ok(allocator.verify()?)
}

pub(super) fn an_exhausted_node_is_helped_out_by_the_others<M: Machine>(
    allocator: &PageAllocator<'_, M>,
    _: Seed,
) -> Result<(), Failure> {
    needs_two_nodes(allocator)?;
    for node in nodes(allocator) {
        let mut held = Holdings::new(allocator)?;
        let request = Request::movable(Order::ZERO).near(node);
        held.use_up(request, |zone| zone.node == node)?;
        let others = allocator.free_pages();
        let helped = held.alloc(request)?.is_some();
        Failure::unless(helped || others == 0, "another node helps out when the preferred one is exhausted")?;
        allocator.verify()?;
    }
    Ok(())
}
