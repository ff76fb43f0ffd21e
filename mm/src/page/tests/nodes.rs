//! Whose memory serves a request: by distance, by policy, and counted.

use core::num::NonZeroU16;
use std::vec::Vec;

use super::super::{AllocError, NumaEvents, PageAllocator, Request};
use super::{Machine, exhaust, pages_in};
use crate::boot_map::{BootMap, Region, RegionKind};
use crate::host::{Topology, on_cpu, scaled};
use crate::units::{CpuId, Distance, NodeId, Order, Pfn, PhysAddr};
use crate::zone::ZoneKind;

/// Pages of a node.
const NODE: u32 = scaled(8 << 8, 1 << 8);

/// In what pieces memory is used up.
const PIECE: Order = Order::of(scaled(0, 4));

/// No two nodes are equally far from any; the last has no memory.
const FAR: [[Distance; 5]; 5] = [
    [Distance(10), Distance(30), Distance(20), Distance(40), Distance(50)],
    [Distance(31), Distance(10), Distance(41), Distance(21), Distance(60)],
    [Distance(20), Distance(40), Distance(10), Distance(30), Distance(70)],
    [Distance(19), Distance(18), Distance(17), Distance(10), Distance(16)],
    [Distance(50), Distance(21), Distance(60), Distance(17), Distance(10)],
];

/// A CPU on each node, from the last one down.
const CPUS: [NodeId; 5] = [NodeId(4), NodeId(3), NodeId(2), NodeId(1), NodeId(0)];

/// Four nodes, of which the second lies at the end of the direct map: half of it is beyond.
fn with_nodes(distances: &[[Distance; 5]], test: impl FnOnce(&PageAllocator<'_, Machine>)) {
    let cpus = NonZeroU16::new(CPUS.len() as u16).expect("there are some");
    let machine = Machine::new(Pfn::new(4 * NODE), Pfn::new(NODE + NODE / 2), cpus).expect("the host lends memory");
    let machine = machine.with_topology(Topology::new(&CPUS, distances));
    let node = |node: u8| Region {
        start: Pfn::new(u32::from(node) * NODE).address(),
        len: Pfn::new(NODE).address().0,
        kind: RegionKind::Usable,
        node: NodeId(node),
    };
    let mut map: BootMap = BootMap::new(&[0, 1, 2, 3].map(node)).expect("the nodes are apart");
    let allocator = machine.allocator(&mut map).expect("the tables fit");
    test(&allocator);
    allocator.verify().expect("all is well in the end");
}

fn free_on(allocator: &PageAllocator<'_, Machine>, node: u8) -> u32 {
    allocator.zones().filter(|zone| zone.node == NodeId(node)).map(|zone| zone.free).sum()
}

/// Allocates until nothing is left, and gives everything back. Says which zones served, in order.
fn served(allocator: &PageAllocator<'_, Machine>, request: Request) -> Vec<(u8, ZoneKind)> {
    // What CPUs have at hand comes last, whoever has it.
    allocator.drain();
    let zones: Vec<_> = allocator.zones().map(|zone| (zone.node.0, zone.kind)).collect();
    let mut served = Vec::new();
    let mut held = Vec::new();
    while let Ok(block) = allocator.alloc(request) {
        let zone = zones[allocator.zone_around(block.head()).expect("the page is somewhere").index()];
        if served.last() != Some(&zone) {
            served.push(zone);
        }
        held.push(block);
    }
    served
}

fn events(allocator: &PageAllocator<'_, Machine>, node: u8) -> NumaEvents {
    let of_node = allocator.numa_events().find(|&(of, _)| of == NodeId(node));
    of_node.expect("the node is known").1
}

#[test]
fn memory_comes_from_the_nearest_node_that_has_any_and_from_its_highest_zone_first() {
    use ZoneKind::{Dma32, Highmem};
    with_nodes(&FAR, |allocator| {
        let request = Request::movable(PIECE).from_reserve();
        let near = |node| served(allocator, request.near(NodeId(node)));
        let all = [(0, Dma32), (1, Highmem), (1, Dma32), (2, Highmem), (3, Highmem)];
        let order = |nodes: [u8; 4]| -> Vec<_> {
            nodes.into_iter().flat_map(|node| all.into_iter().filter(move |zone| zone.0 == node)).collect()
        };
        assert_eq!(near(0), order([0, 2, 1, 3]));
        assert_eq!(near(1), order([1, 3, 0, 2]));
        assert_eq!(near(2), order([2, 0, 3, 1]));
        // What is nearer than the node's own memory, as firmware says, comes second all the same.
        assert_eq!(near(3), order([3, 2, 1, 0]));
        assert_eq!(near(4), order([3, 1, 0, 2]), "a node without memory");
        assert_eq!(near(77), order([0, 2, 1, 3]), "a node that nobody knows");
        for (cpu, NodeId(own)) in (0..).zip(CPUS) {
            on_cpu(CpuId(cpu), || assert_eq!(served(allocator, request), near(own), "CPU {cpu}"));
        }
        let low = Request::new(PIECE).from_reserve();
        assert_eq!(served(allocator, low.near(NodeId(3))), [(1, Dma32), (0, Dma32)]);
    });
}

#[test]
fn nodes_equally_far_take_turns_so_that_not_all_fall_back_to_the_first() {
    let near = |nodes: [u8; 4], all: Vec<(u8, ZoneKind)>| {
        let mut seen: Vec<_> = all.into_iter().map(|(node, _)| node).collect();
        seen.dedup();
        assert_eq!(seen, nodes);
    };
    with_nodes(&[], |allocator| {
        let request = Request::movable(PIECE).from_reserve();
        near([0, 1, 2, 3], served(allocator, request.near(NodeId(0))));
        near([1, 2, 3, 0], served(allocator, request.near(NodeId(1))));
        near([2, 3, 0, 1], served(allocator, request.near(NodeId(2))));
        near([3, 0, 1, 2], served(allocator, request.near(NodeId(3))));
    });
}

#[test]
fn a_bound_request_fails_when_its_node_is_exhausted_and_a_preferred_one_goes_elsewhere() {
    with_nodes(&FAR, |allocator| {
        let bound = Request::movable(Order::ZERO).bound_to(NodeId(2)).from_reserve();
        let (there, elsewhere) = (free_on(allocator, 2), allocator.free_pages() - free_on(allocator, 2));
        let held = exhaust(allocator, bound);
        assert_eq!((pages_in(&held), free_on(allocator, 2)), (there, 0));
        assert_eq!(allocator.alloc(bound).err(), Some(AllocError::Exhausted(bound)));
        assert_eq!(allocator.free_pages(), elsewhere);
        let preferred = Request::movable(Order::ZERO).near(NodeId(2));
        let page = allocator.alloc(preferred).expect("others have some");
        assert_eq!(free_on(allocator, 0), NODE - metadata(allocator) - 1, "the nearest gave it");
        drop((page, held));
        // All of that node's memory is highmem.
        let low = Request::new(Order::ZERO).bound_to(NodeId(2));
        assert_eq!(allocator.alloc(low).err(), Some(AllocError::Exhausted(low)));
        let none = Request::movable(Order::ZERO).bound_to(NodeId(4));
        assert_eq!(allocator.alloc(none).err(), Some(AllocError::Exhausted(none)));
    });
}

/// Pages of the first node that were never free.
fn metadata(allocator: &PageAllocator<'_, Machine>) -> u32 {
    NODE - allocator.zones().filter(|zone| zone.node == NodeId(0)).map(|zone| zone.managed).sum::<u32>()
}

#[test]
fn every_allocation_is_a_hit_or_a_miss_of_the_node_that_served_it_and_local_or_not_to_the_cpu() {
    with_nodes(&FAR, |allocator| {
        let one = Request::movable(Order::ZERO);
        // CPU 1 is on node 3, CPU 4 on node 0.
        let hits: Vec<_> = on_cpu(CpuId(1), || (0..5).map(|_| allocator.alloc(one)).collect());
        let others: Vec<_> = on_cpu(CpuId(4), || (0..7).map(|_| allocator.alloc(one.near(NodeId(3)))).collect());
        let expected = NumaEvents { hit: 12, miss: 0, foreign: 0, local: 5, other: 7 };
        assert_eq!(events(allocator, 3), expected);

        let all = on_cpu(CpuId(4), || {
            let bound = Request::movable(Order::ZERO).bound_to(NodeId(3)).from_reserve();
            exhaust(allocator, bound)
        });
        let count = all.len() as u64;
        let full = NumaEvents { hit: 12 + count, other: 7 + count, ..expected };
        assert_eq!(events(allocator, 3), full);
        // Node 2 helps node 3 out; CPU 2 is on it.
        let missed: Vec<_> = [CpuId(1), CpuId(2), CpuId(4)]
            .map(|cpu| on_cpu(cpu, || allocator.alloc(one.near(NodeId(3)))))
            .into_iter()
            .collect();
        assert!(missed.iter().all(Result::is_ok));
        assert_eq!(events(allocator, 3), NumaEvents { foreign: 3, ..full });
        assert_eq!(events(allocator, 2), NumaEvents { hit: 0, miss: 3, foreign: 0, local: 1, other: 2 });
        // A node without memory wants what is nearest.
        let page = on_cpu(CpuId(0), || allocator.alloc(one.near(NodeId(1)))).expect("there is memory");
        assert_eq!(events(allocator, 1), NumaEvents { hit: 1, miss: 0, foreign: 0, local: 0, other: 1 });
        assert_eq!(events(allocator, 4), NumaEvents::default());
        // What fails is neither.
        let refused = Request::new(Order::ZERO).bound_to(NodeId(3));
        assert!(allocator.alloc(refused).is_err());
        let total: NumaEvents = allocator.numa_events().map(|(_, events)| events).sum();
        assert_eq!(total.hit + total.miss, 5 + 7 + count + 3 + 1);
        assert_eq!((total.miss, total.local + total.other), (total.foreign, total.hit + total.miss));
        drop((hits, others, all, missed, page));
    });
}

#[test]
fn four_cpus_count_at_once_and_no_count_is_lost() {
    const ROUNDS: u32 = scaled(5000, 100);
    with_nodes(&FAR, |allocator| {
        std::thread::scope(|scope| {
            for cpu in 0..4 {
                scope.spawn(move || {
                    on_cpu(CpuId(cpu), || {
                        for round in 0..ROUNDS {
                            let request = Request::movable(Order::ZERO);
                            let near = request.near(NodeId((round % 4) as u8));
                            let page = allocator.alloc(if round % 3 == 0 { near } else { request });
                            drop(page.expect("there is plenty"));
                        }
                    });
                });
            }
        });
        let total: NumaEvents = allocator.numa_events().map(|(_, events)| events).sum();
        assert_eq!((total.hit, total.miss, total.foreign), (4 * u64::from(ROUNDS), 0, 0));
        assert_eq!(total.local + total.other, 4 * u64::from(ROUNDS));
    });
}

#[test]
fn memory_of_one_address_range_is_one_node_whatever_the_cpus_say() {
    let machine = Machine::new(Pfn::new(NODE), Pfn::new(NODE), NonZeroU16::MIN).expect("the host lends memory");
    let machine = machine.with_topology(Topology::new(&[NodeId(9)], &[[Distance(10); 1]]));
    let memory = Region { start: PhysAddr(0), len: 8 << 20, kind: RegionKind::Usable, node: NodeId(5) };
    let mut map: BootMap = BootMap::new(&[memory]).expect("the map is sound");
    let allocator = machine.allocator(&mut map).expect("the tables fit");
    let _page = allocator.alloc(Request::new(Order::ZERO)).expect("there is memory");
    // The CPU's node has none: what is nearest to it is as good as its own.
    assert_eq!(events(&allocator, 5), NumaEvents { hit: 1, miss: 0, foreign: 0, local: 0, other: 1 });
    assert_eq!(allocator.numa_events().count(), 10);
}
