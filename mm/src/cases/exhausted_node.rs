//! A node runs out while all CPUs ask for its memory, and others have some.

use spin::Mutex;

use super::Failure;
use super::crew::Crew;
use super::footprint::Footprint;
use super::holdings::Holdings;
use crate::machine::{Geometry, Machine};
use crate::page::{PageAllocator, Request};
use crate::sync::{AtomicU32, Ordering};
use crate::units::{NodeId, Order};

/// Pages that a node is left, about, for all CPUs to use up: some largest blocks.
const LEFT: u32 = 4096;
/// Pages that other nodes have to give.
const HELP: u32 = 2048;

/// Has all CPUs ask for pages near each node in turn until it has none for them, and go on: the other nodes help out, and
/// no CPU is refused. Nobody else may use the allocator meanwhile.
///
/// # Errors
/// A CPU was refused, none was helped out, or memory is not as whole as before. Skipped on a machine with one node, or where
/// the others have little.
pub fn an_exhausted_node_is_helped_out<M: Machine>(
    allocator: &PageAllocator<'_, M>,
    crew: &dyn Crew,
) -> Result<(), Failure> {
    let mut last = None;
    let mut helped = 0;
    let nodes = allocator.zones().map(|zone| zone.node).filter(|&node| last.replace(node) != Some(node));
    for node in nodes {
        let before = Footprint::settled(allocator);
        let others = allocator.free_pages() - free_on(allocator, node);
        let marks: u32 = allocator.zones().map(|zone| zone.watermarks.high).sum();
        if others < marks + 2 * HELP {
            continue;
        }
        helped += 1;
        use_up(allocator, crew, node)?;
        allocator.drain();
        before.check_restored(allocator)?;
        allocator.verify()?;
    }
    Failure::unless(helped > 0, "a node").map_err(|_| Failure::Skipped("no node has others that could help it out"))
}

fn use_up<M: Machine>(allocator: &PageAllocator<'_, M>, crew: &dyn Crew, node: NodeId) -> Result<(), Failure> {
    let mut rest = Holdings::new(allocator)?;
    let largest = Request::movable(M::Geometry::MAX_ORDER).bound_to(node);
    while free_on(allocator, node) > LEFT + M::Geometry::MAX_ORDER.pages() && rest.alloc(largest)?.is_some() {}

    let cpus = AtomicU32::new(0);
    let count = || {
        cpus.fetch_add(1, Ordering::Relaxed);
    };
    crew.everywhere(&count, None);
    let cpus = cpus.into_inner();
    let each = (free_on(allocator, node) + HELP).div_ceil(cpus);
    let (outcome, arrived) = (Mutex::new(Ok(())), AtomicU32::new(0));
    let work = || {
        let got = Holdings::new(allocator).and_then(|mut held| {
            for _ in 0..each {
                let page = held.alloc(Request::movable(Order::ZERO).near(node))?;
                Failure::unless(page.is_some(), "a request is served while another node has memory")?;
            }
            // Whoever is done first keeps what it has until all are, or the node would not be used up.
            arrived.fetch_add(1, Ordering::Relaxed);
            while arrived.load(Ordering::Relaxed) < cpus {
                crate::sync::spin_loop();
            }
            Ok(())
        });
        // Who failed is not waited for.
        arrived.fetch_add(if got.is_err() { cpus } else { 0 }, Ordering::Relaxed);
        let mut outcome = outcome.lock();
        *outcome = outcome.and(got);
    };
    crew.everywhere(&work, None);
    outcome.into_inner()
}

fn free_on<M: Machine>(allocator: &PageAllocator<'_, M>, node: NodeId) -> u32 {
    allocator.zones().filter(|zone| zone.node == node).map(|zone| zone.free).sum()
}
