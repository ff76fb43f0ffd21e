//! Which zone serves a request: kinds from the least wanted to the most, nodes from the preferred one on. And what is of one
//! zone is no other's.

use core::num::NonZeroU16;
use std::vec::Vec;

use super::with_memory;
use crate::arena::Deep;
use crate::boot_map::{BootMap, Region, RegionKind};
use crate::host::{HostMachine, scaled};
use crate::machine::Standard;
use crate::migratetype::Migratetype::Movable;
use crate::page::{AllocError, PageAllocator, Request};
use crate::units::{NodeId, Order, Pfn, PhysAddr};
use crate::zone::ZoneKind::{self, Dma32, Highmem, Normal};
use crate::{ContigError, PageState};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Runs `test` on a machine whose memory is at these addresses: start, end and node of each run.
fn with_machine(
    direct_map_end: u64,
    runs: &[(u64, u64, u8)],
    test: impl FnOnce(&PageAllocator<'_, HostMachine<Standard>>),
) {
    let pfn = |address| Pfn::containing(PhysAddr(address)).expect("below 16 TiB");
    let end = runs.iter().map(|&(_, end, _)| end).max().expect("a run");
    let machine = HostMachine::new(pfn(end), pfn(direct_map_end), NonZeroU16::MIN).expect("address space");
    let region = |&(start, end, node): &(u64, u64, u8)| Region {
        start: PhysAddr(start),
        len: end - start,
        kind: RegionKind::Usable,
        node: NodeId(node),
    };
    let regions: Vec<_> = runs.iter().map(region).collect();
    let mut boot_map: BootMap = BootMap::new(&regions).expect("the runs are disjoint");
    let allocator = machine.allocator(&mut boot_map).expect("the tables fit");
    allocator.verify().expect("all is well after boot");
    test(&allocator);
    allocator.verify().expect("all is well in the end");
}

/// Allocates until nothing is left, and says which zones served, in order, each with the pages it gave.
fn served(
    allocator: &PageAllocator<'_, HostMachine<Standard>>,
    request: Request,
) -> (Vec<(u8, ZoneKind, u32)>, AllocError) {
    let zones: Vec<_> = allocator.zones().collect();
    let mut served: Vec<(u8, ZoneKind, u32)> = Vec::new();
    let mut given: Vec<u32> = zones.iter().map(|_| 0).collect();
    let error = loop {
        let page = match allocator.alloc_raw(request) {
            Ok(page) => page,
            Err(error) => break error,
        };
        let which = allocator.zone_around(page).expect("the page is somewhere").index();
        given[which] += 1;
        let (node, kind) = (zones[which].node.0, zones[which].kind);
        match served.last_mut() {
            Some(last) if (last.0, last.1) == (node, kind) => last.2 += 1,
            _ => served.push((node, kind, 1)),
        }
    };
    let gone = zones.iter().zip(allocator.zones()).map(|(before, after)| before.free - after.free);
    assert!(gone.eq(given), "pages are not of the zones that count them");
    (served, error)
}

/// Four mebibytes on each side of 4 GiB and of the direct map's end, and some below.
const THREE_KINDS: [(u64, u64, u8); 3] =
    [(MIB, 3 * MIB, 0), (4 * GIB - 4 * MIB, 4 * GIB + 4 * MIB, 0), (6 * GIB - 4 * MIB, 6 * GIB + 4 * MIB, 0)];

const MOVABLE: Request = Request::movable(Order::ZERO).from_reserve();

#[test]
#[cfg_attr(miri, ignore = "memory from end to end of gigabytes, which an interpreter keeps all of")]
fn memory_around_4_gib_and_the_end_of_the_direct_map_makes_three_zones() {
    with_machine(6 * GIB, &THREE_KINDS, |allocator| {
        let zones: Vec<_> = allocator.zones().map(|zone| (zone.kind, zone.span.start, zone.span.end)).collect();
        assert_eq!(zones.iter().map(|zone| zone.0).collect::<Vec<_>>(), [Highmem, Normal, Dma32]);
        let four_gib = Pfn::new(1 << 20);
        assert_eq!((zones[2].2, zones[1].1), (four_gib, four_gib));
        assert_eq!((zones[1].2, zones[0].1), (Pfn::new(6 << 18), Pfn::new(6 << 18)));
        let managed: Vec<_> = allocator.zones().map(|zone| zone.managed).collect();
        let tables = u32::try_from(allocator.metadata().total() >> 12).expect("few");
        assert_eq!(managed.iter().sum::<u32>(), 512 + 4 * 1024 - tables);
        assert_eq!(managed[0], 1024, "highmem has no tables in it");
    });
}

/// The kinds that serve `request`, in order, and all of whose pages are then gone.
fn assert_kinds(request: Request, expected: &[ZoneKind]) {
    with_machine(6 * GIB, &THREE_KINDS, |allocator| {
        let managed = |kind| allocator.zones().find(|zone| zone.kind == kind).expect("three kinds").managed;
        let expected: Vec<_> = expected.iter().map(|&kind| (0, kind, managed(kind))).collect();
        assert_eq!(served(allocator, request), (expected, AllocError::Exhausted(request)));
    });
}

#[test]
#[cfg_attr(miri, ignore = "memory from end to end of gigabytes, which an interpreter keeps all of")]
fn a_request_is_served_by_the_highest_kind_it_allows_and_then_by_those_below() {
    assert_kinds(MOVABLE, &[Highmem, Normal, Dma32]);
    assert_kinds(Request::new(Order::ZERO).from_reserve(), &[Normal, Dma32]);
    assert_kinds(MOVABLE.up_to(Dma32), &[Dma32]);
}

#[test]
#[cfg_attr(miri, ignore = "memory from end to end of gigabytes, which an interpreter keeps all of")]
fn a_large_block_comes_from_a_lower_kind_when_the_higher_one_has_only_pieces() {
    with_machine(6 * GIB, &THREE_KINDS, |allocator| {
        let kind_of = |pfn: Pfn| {
            let zones: Vec<_> = allocator.zones().collect();
            zones.iter().find(|zone| zone.span.contains(pfn)).map(|zone| zone.kind)
        };
        let page = allocator.alloc(MOVABLE).expect("highmem is free");
        assert_eq!(kind_of(page.head()), Some(Highmem));
        let block = allocator.alloc(Request::movable(Order::LIMIT).from_reserve()).expect("a block is free below");
        assert_ne!(kind_of(block.head()), Some(Highmem));
        drop(page);
        allocator.drain();
        let block = allocator.alloc(Request::movable(Order::LIMIT).from_reserve()).expect("highmem is whole again");
        assert_eq!(kind_of(block.head()), Some(Highmem));
    });
}

/// What the sizes of nodes are multiples of.
const UNIT: u64 = scaled(MIB, MIB / 16);

/// Three nodes of unequal size, the middle one with highmem too, the others in lowmem alone.
const THREE_NODES: [(u64, u64, u8); 4] =
    [(UNIT, 6 * UNIT, 0), (8 * UNIT, 10 * UNIT, 1), (12 * UNIT, 15 * UNIT, 2), (32 * UNIT, 33 * UNIT, 1)];

fn assert_nodes(request: Request, expected: &[(u8, ZoneKind)]) {
    with_machine(32 * UNIT, &THREE_NODES, |allocator| {
        let managed = |node, kind| {
            let zone = allocator.zones().find(|zone| (zone.node, zone.kind) == (NodeId(node), kind));
            zone.expect("the machine has it").managed
        };
        let expected: Vec<_> = expected.iter().map(|&(node, kind)| (node, kind, managed(node, kind))).collect();
        assert_eq!(served(allocator, request), (expected, AllocError::Exhausted(request)));
    });
}

#[test]
fn a_node_serves_until_nothing_is_left_then_those_behind_it_then_those_in_front() {
    assert_nodes(MOVABLE.near(NodeId(0)), &[(0, Dma32), (1, Highmem), (1, Dma32), (2, Dma32)]);
    assert_nodes(MOVABLE.near(NodeId(1)), &[(1, Highmem), (1, Dma32), (2, Dma32), (0, Dma32)]);
    assert_nodes(MOVABLE.near(NodeId(2)), &[(2, Dma32), (0, Dma32), (1, Highmem), (1, Dma32)]);
}

#[test]
fn a_request_for_lowmem_skips_the_preferred_nodes_highmem_and_every_other() {
    let kernel = Request::new(Order::ZERO).from_reserve();
    assert_nodes(kernel.near(NodeId(1)), &[(1, Dma32), (2, Dma32), (0, Dma32)]);
    assert_nodes(kernel.near(NodeId(2)), &[(2, Dma32), (0, Dma32), (1, Dma32)]);
}

#[test]
fn without_a_preference_or_with_one_for_a_node_that_is_not_there_the_first_node_serves() {
    let all = [(0, Dma32), (1, Highmem), (1, Dma32), (2, Dma32)];
    assert_nodes(MOVABLE, &all);
    assert_nodes(MOVABLE.near(NodeId(7)), &all);
}

#[test]
fn a_range_that_ends_in_a_node_of_the_next_zone_is_refused_at_that() {
    /// Where lowmem ends.
    const EDGE: u32 = 8;
    with_memory::<Deep<0, 0, 2>>(16, EDGE, |bench| {
        bench.take_all(Movable);
        // The list has no room for the last of these but in a node, and takes its page for that.
        bench.free_each([EDGE - 1, EDGE + 1, EDGE + 2, EDGE]);
        assert_eq!(bench.state(EDGE), PageState::Node);
        let range = bench.range(EDGE - 1..EDGE + 1);
        let refused = bench.allocator.alloc_contig(range).map(drop);
        assert_eq!(refused, Err(ContigError::CrossesZone(range.start.plus(1))));
        assert_eq!(bench.free_pages(), 4);
        bench.free_each((0..EDGE - 1).chain(EDGE + 3..16));
    });
}
