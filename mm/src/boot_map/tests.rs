//! Hard maps by hand, and random ones against a model that looks at each byte.

use core::num::NonZeroU8;
use std::string::ToString;
use std::vec::Vec;

use proptest::prelude::*;

use super::{BootMap, BootMapError, CarveError, Extent, NumberedRegion, Region, RegionKind, SplitError};
use crate::units::{NodeId, Order, Pfn, PfnRange, PhysAddr};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;

const fn region(kind: RegionKind, start: u64, end: u64, node: u8) -> Region {
    Region { start: PhysAddr(start), len: end - start, kind, node: NodeId(node) }
}

const fn usable(start: u64, end: u64) -> Region {
    region(RegionKind::Usable, start, end, 0)
}

const fn reserved(start: u64, end: u64) -> Region {
    region(RegionKind::Reserved, start, end, 0)
}

const fn range(start: u32, end: u32) -> PfnRange {
    PfnRange::new(Pfn::new(start), Pfn::new(end))
}

fn map(regions: &[Region]) -> BootMap {
    BootMap::new(regions).expect("a good map")
}

/// Start, end, node and kind of each extent.
fn shape(map: &BootMap) -> Vec<(u32, u32, u8, RegionKind)> {
    let numbers = |extent: &Extent| (extent.range.start.number(), extent.range.end.number());
    map.extents().iter().map(|extent| (numbers(extent).0, numbers(extent).1, extent.node.0, extent.kind)).collect()
}

use RegionKind::{Reserved, Usable};

#[test]
fn a_firmware_map_that_starts_at_zero_and_ends_inside_a_page_loses_both_ends() {
    let map = map(&[usable(0, 0x9_fc00), reserved(0x9_fc00, 0xa_0000), reserved(0xf_0000, MIB)]);
    assert_eq!(shape(&map), [(1, 0x9f, 0, Usable)]);
}

#[test]
fn one_mebibyte_is_a_machine() {
    assert_eq!(map(&[usable(0, MIB)]).usable_pages(), 255);
}

#[test]
fn one_tebibyte_with_a_reserved_region_above_it_is_one_extent() {
    let map = map(&[usable(MIB, TIB), reserved(0xfd_0000_0000 + TIB, 16 * TIB), reserved(64 * TIB, 65 * TIB)]);
    assert_eq!(shape(&map), [(0x100, 1 << 28, 0, Usable)]);
}

#[test]
fn a_reserved_region_up_to_one_tebibyte_costs_nothing() {
    let map = map(&[
        usable(0, 0x9_fc00),
        usable(MIB, 128 * MIB),
        reserved(0xfd_0000_0000, TIB),
        reserved(0xfffc_0000, 4 * GIB),
    ]);
    assert_eq!(shape(&map), [(1, 0x9f, 0, Usable), (0x100, 0x8000, 0, Usable)]);
}

#[test]
fn dozens_of_adjacent_uefi_runs_in_any_order_become_one() {
    let mut regions: Vec<_> = (0..96).map(|run| usable(MIB + run * 68 * KIB, MIB + (run + 1) * 68 * KIB)).collect();
    let expected = [(0x100, 0x100 + 96 * 17, 0, Usable)];
    assert_eq!(shape(&map(&regions)), expected);
    regions.reverse();
    assert_eq!(shape(&map(&regions)), expected);
    regions.sort_by_key(|region| region.start.0 % 7);
    assert_eq!(shape(&map(&regions)), expected);
}

#[test]
fn two_halves_of_a_page_are_a_page_but_not_if_they_are_of_two_nodes() {
    let halves = |second| map(&[usable(0x1000, 0x2800), region(Usable, 0x2800, 0x4000, second)]);
    assert_eq!(shape(&halves(0)), [(1, 4, 0, Usable)]);
    assert_eq!(shape(&halves(1)), [(1, 2, 0, Usable), (3, 4, 1, Usable)]);
}

#[test]
fn a_page_made_of_one_byte_and_the_rest_stands_beside_another_node() {
    let map = map(&[usable(0x1000, 0x2000), region(Usable, 0x2000, 0x2001, 1), region(Usable, 0x2001, 0x3000, 1)]);
    assert_eq!(shape(&map), [(1, 2, 0, Usable), (2, 3, 1, Usable)]);
}

#[test]
fn a_single_reserved_byte_reserves_its_page_and_overlapping_reservations_are_one() {
    let map = map(&[
        reserved(0x5fff, 0x6000),
        reserved(0x6000, 0x7001),
        reserved(0x6800, 0x6900),
        usable(0x1000, 0x1_0000),
        usable(0x4000, 0x8000),
    ]);
    assert_eq!(shape(&map), [(1, 5, 0, Usable), (5, 8, 0, Reserved), (8, 16, 0, Usable)]);
}

#[test]
fn what_is_too_small_for_a_page_and_what_is_empty_leaves_no_trace() {
    let map =
        map(&[usable(0x1800, 0x2800), usable(u64::MAX, u64::MAX), reserved(0x9000, 0x9000), usable(0x8000, 0xa000)]);
    assert_eq!(shape(&map), [(8, 10, 0, Usable)]);
}

#[test]
fn memory_may_reach_the_last_frame_number_and_not_a_byte_further() {
    let end = Pfn::LIMIT.address().0;
    assert_eq!(shape(&map(&[usable(15 * TIB, end)])), [(0xf000_0000, u32::MAX, 0, Usable)]);

    let regions = [reserved(0, 1), usable(15 * TIB, end + 1)];
    let culprit = NumberedRegion { index: 1, region: regions[1] };
    assert_eq!(BootMap::<8>::new(&regions), Err(BootMapError::TooHigh(culprit)));
}

#[test]
fn a_region_that_wraps_is_named_and_one_that_ends_with_the_address_space_is_not() {
    let top = Region { start: PhysAddr(u64::MAX - 0xfff), len: 0x1000, kind: Reserved, node: NodeId(0) };
    assert_eq!(map(&[usable(0, MIB), top]).usable_pages(), 255);

    for kind in [Usable, Reserved] {
        let wraps = Region { len: 0x1001, kind, ..top };
        let error = BootMap::<8>::new(&[usable(0, MIB), top, wraps]).expect_err("a map that wraps");
        assert_eq!(error, BootMapError::Wraps(NumberedRegion { index: 2, region: wraps }));
        assert!(error.to_string().starts_with("region 2 ("));
    }
}

#[test]
fn regions_that_cover_everything_are_an_error_or_leave_nothing() {
    let everything = |kind| Region { start: PhysAddr(0), len: u64::MAX, kind, node: NodeId(0) };
    let too_high = BootMapError::TooHigh(NumberedRegion { index: 0, region: everything(Usable) });
    assert_eq!(BootMap::<8>::new(&[everything(Usable)]), Err(too_high));
    assert_eq!(BootMap::<8>::new(&[usable(0, GIB), everything(Reserved)]), Err(BootMapError::NoUsableMemory));
    assert_eq!(BootMap::<8>::new(&[]), Err(BootMapError::NoUsableMemory));
    assert_eq!(BootMap::<8>::new(&[usable(0, 0x1fff)]), Err(BootMapError::NoUsableMemory));
}

#[test]
fn nodes_that_share_a_byte_are_both_named() {
    let regions = [usable(0, MIB), reserved(0, GIB), region(Usable, 2 * MIB, 3 * MIB, 1), usable(3 * MIB - 1, 4 * MIB)];
    assert_eq!(
        BootMap::<8>::new(&regions),
        Err(BootMapError::NodesOverlap {
            first: NumberedRegion { index: 2, region: regions[2] },
            second: NumberedRegion { index: 3, region: regions[3] },
        })
    );
}

#[test]
fn the_region_that_does_not_fit_is_named_whatever_came_before() {
    let islands: Vec<_> = (0..5).rev().map(|island| usable((2 * island + 1) << 12, (2 * island + 2) << 12)).collect();
    assert_eq!(BootMap::<5>::new(&islands).map(|map| map.usable_pages()), Ok(5));
    // The highest island stands first in the list and is the last to be placed.
    let culprit = NumberedRegion { index: 0, region: islands[0] };
    assert_eq!(BootMap::<4>::new(&islands), Err(BootMapError::TooManyExtents { region: culprit, capacity: 4 }));
}

#[test]
fn pieces_carved_one_after_another_are_one_reserved_extent_at_the_bottom_of_the_highest_run() {
    let mut map = map(&[usable(0, 0x9_f000), usable(MIB, 64 * MIB), usable(4 * GIB, 5 * GIB)]);
    assert_eq!(map.carve(16, Pfn::LIMIT, None), Ok(range(0x10_0000, 0x10_0010)));
    assert_eq!(map.carve(1, Pfn::LIMIT, None), Ok(range(0x10_0010, 0x10_0011)));
    assert_eq!(map.carve(1, Pfn::new(0x10_0011), None), Ok(range(0x100, 0x101)));
    assert_eq!(map.carve(2, Pfn::new(0x100), None), Ok(range(1, 3)));
    assert_eq!(
        shape(&map),
        [
            (1, 3, 0, Reserved),
            (3, 0x9f, 0, Usable),
            (0x100, 0x101, 0, Reserved),
            (0x101, 0x4000, 0, Usable),
            (0x10_0000, 0x10_0011, 0, Reserved),
            (0x10_0011, 0x14_0000, 0, Usable),
        ]
    );
}

#[test]
fn a_limit_inside_a_run_counts_only_what_lies_below_it() {
    let mut map = map(&[usable(0x1000, 0x9000)]);
    let error = CarveError::OutOfMemory { pages: 4, limit: Pfn::new(4), longest: 3 };
    assert_eq!(map.carve(4, Pfn::new(4), None), Err(error));
    assert_eq!(map.carve(3, Pfn::new(4), None), Ok(range(1, 4)));
}

#[test]
fn the_preferred_node_gives_if_it_can_and_another_helps_out() {
    let mut map = map(&[usable(0x1000, 0x5000), region(Usable, 0x5000, 0x7000, 1)]);
    assert_eq!(map.carve(1, Pfn::LIMIT, Some(NodeId(0))), Ok(range(1, 2)));
    assert_eq!(map.carve(2, Pfn::LIMIT, Some(NodeId(1))), Ok(range(5, 7)));
    assert_eq!(map.carve(2, Pfn::LIMIT, Some(NodeId(1))), Ok(range(2, 4)));
}

#[test]
fn a_run_carved_to_the_last_page_joins_its_reserved_neighbours() {
    let mut map = map(&[usable(0x1000, 0x9000), reserved(0x3000, 0x4000), reserved(0x6000, 0x7000)]);
    assert_eq!(map.carve(2, Pfn::new(6), None), Ok(range(4, 6)));
    assert_eq!(shape(&map), [(1, 3, 0, Usable), (3, 7, 0, Reserved), (7, 9, 0, Usable)]);
}

#[test]
fn everything_can_be_carved_page_by_page_and_then_there_is_no_more() {
    let mut map = BootMap::<3>::new(&[usable(0, 0x4000), usable(0x8000, 0xa000)]).expect("a good map");
    for left in (0..5).rev() {
        assert_eq!(map.carve(1, Pfn::LIMIT, None).map(PfnRange::pages), Ok(1));
        assert_eq!(map.usable_pages(), left);
    }
    let error = CarveError::OutOfMemory { pages: 1, limit: Pfn::LIMIT, longest: 0 };
    assert_eq!(map.carve(1, Pfn::LIMIT, None), Err(error));
    assert_eq!(map.carve(0, Pfn::LIMIT, None).map(PfnRange::pages), Ok(0));
}

#[test]
fn a_carve_without_room_to_remember_it_changes_nothing() {
    let mut map = BootMap::<2>::new(&[usable(0, 0x4000), usable(0x8000, 0xa000)]).expect("a good map");
    let before = map.clone();
    assert_eq!(map.carve(1, Pfn::LIMIT, None), Err(CarveError::TooManyExtents { capacity: 2 }));
    assert_eq!(map, before);
}

fn node_pages<const N: usize>(map: &BootMap<N>, nodes: u8) -> Vec<u32> {
    let pages_of =
        |node| map.usable().filter(|&(_, of)| of == NodeId(node)).map(|(range, _)| range.pages()).sum::<u32>();
    (0..nodes).map(pages_of).collect()
}

#[test]
fn two_nodes_meet_at_a_block_and_share_alike_and_the_reserved_goes_with_its_place() {
    let whole = map(&[usable(0, 0x9_fc00), usable(MIB, 512 * MIB), reserved(300 * MIB, 301 * MIB)]);
    let halves = whole.split_nodes(NonZeroU8::new(2).expect("two"), Order::of(10)).expect("enough memory");
    assert_eq!(
        shape(&halves),
        [
            (1, 0x9f, 0, Usable),
            (0x100, 0x1_0000, 0, Usable),
            (0x1_0000, 0x1_2c00, 1, Usable),
            (0x1_2c00, 0x1_2d00, 1, Reserved),
            (0x1_2d00, 0x2_0000, 1, Usable),
        ]
    );
    assert_eq!(halves.usable_pages(), whole.usable_pages());
}

#[test]
fn as_many_nodes_as_pages_get_one_page_each_and_one_more_is_an_error() {
    let map = map(&[usable(0x1000, 0x4000), usable(0x9000, 0xa000), usable(0x1_0000, 0x1_1000)]);
    let five = map.split_nodes(NonZeroU8::new(5).expect("five"), Order::ZERO).expect("a page for each");
    assert_eq!(node_pages(&five, 5), [1; 5]);
    let six = NonZeroU8::new(6).expect("six");
    let error = SplitError::TooManyNodes { nodes: six, blocks: 5, alignment: Order::ZERO };
    assert_eq!(map.split_nodes(six, Order::ZERO), Err(error));
}

#[test]
fn a_block_that_several_runs_share_is_room_for_one_node() {
    let map = map(&[usable(0x1000, 0x2000), usable(0x3000, 0x4000), usable(0x5000, 0x6000), usable(0x7000, 0x9000)]);
    let three = NonZeroU8::new(3).expect("three");
    let error = SplitError::TooManyNodes { nodes: three, blocks: 2, alignment: Order::of(3) };
    assert_eq!(map.split_nodes(three, Order::of(3)), Err(error));
    let two = map.split_nodes(NonZeroU8::new(2).expect("two"), Order::of(3)).expect("two blocks");
    assert_eq!(node_pages(&two, 2), [4, 1]);
}

#[test]
fn a_terabyte_splits_into_255_nodes_that_differ_by_no_more_than_a_block() {
    let map = map(&[usable(MIB, 3 * GIB), usable(4 * GIB, TIB + GIB)]);
    let split = map.split_nodes(NonZeroU8::MAX, Order::of(10)).expect("enough memory");
    let pages = node_pages(&split, 255);
    assert_eq!(pages.iter().sum::<u32>(), map.usable_pages());
    let share = map.usable_pages() / 255;
    assert!(pages.iter().all(|&pages| pages.abs_diff(share) <= 1024), "{pages:?}");
}

#[test]
fn nodes_firmware_named_are_forgotten_when_memory_is_split_anew() {
    let map = map(&[usable(0x1000, 0x5000), region(Usable, 0x5000, 0x9000, 7)]);
    let one = map.split_nodes(NonZeroU8::MIN, Order::ZERO).expect("one node");
    assert_eq!(shape(&one), [(1, 9, 0, Usable)]);
}

/// The model's world: 64 frames of four cells.
const CELLS: u64 = 256;
const CELL: u64 = KIB;

fn any_region() -> impl Strategy<Value = Region> {
    (0..CELLS, 0..CELLS / 4, prop_oneof![2 => Just(Usable), 1 => Just(Reserved)], 0..8_u8).prop_map(
        |(start, len, kind, node)| {
            region(kind, start * CELL, (start + len).min(CELLS) * CELL, u8::from(kind == Usable && node == 0))
        },
    )
}

/// What each frame of the model is; `None` if two nodes claim a cell.
fn model(regions: &[Region]) -> Option<Vec<Option<(NodeId, RegionKind)>>> {
    let covers = |region: &Region, cell: u64| (region.start.0..region.start.0 + region.len).contains(&(cell * CELL));
    let mut owners = Vec::new();
    for cell in 0..CELLS {
        let mut nodes: Vec<_> =
            regions.iter().filter(|r| r.kind == Usable && covers(r, cell)).map(|r| r.node).collect();
        nodes.dedup();
        if nodes.len() > 1 {
            return None;
        }
        let is_reserved = regions.iter().any(|r| r.kind == Reserved && covers(r, cell));
        owners.push((nodes.first().copied(), is_reserved));
    }
    let frame = |(number, cells): (usize, &[(Option<NodeId>, bool)])| {
        let node = cells[0].0.filter(|_| number > 0)?;
        let whole = cells.iter().all(|cell| cell.0 == Some(node));
        let kind = if cells.iter().any(|cell| cell.1) { Reserved } else { Usable };
        whole.then_some((node, kind))
    };
    Some(owners.chunks(4).enumerate().map(frame).collect())
}

fn frames<const N: usize>(map: &BootMap<N>) -> Vec<Option<(NodeId, RegionKind)>> {
    let of = |number| {
        let mut holders = map.extents().iter().filter(|extent| extent.range.contains(Pfn::new(number)));
        let holder = holders.next();
        assert!(holders.next().is_none(), "extents overlap");
        holder.map(|extent| (extent.node, extent.kind))
    };
    (0..64).map(of).collect()
}

fn assert_well_formed<const N: usize>(map: &BootMap<N>) {
    for pair in map.extents().windows(2) {
        assert!(pair[0].range.end <= pair[1].range.start && !pair[0].continues_in(pair[1]), "{pair:?}");
    }
    assert!(map.extents().iter().all(|extent| !extent.range.is_empty()));
}

proptest! {
    #[test]
    fn a_map_says_of_every_frame_what_its_bytes_say(regions in proptest::collection::vec(any_region(), 0..12)) {
        match (BootMap::<64>::new(&regions), model(&regions)) {
            (Ok(map), Some(model)) => {
                assert_well_formed(&map);
                prop_assert_eq!(frames(&map), model);
            }
            (Err(BootMapError::NodesOverlap { first, second }), None) => {
                prop_assert_eq!(regions[first.index], first.region);
                prop_assert_eq!(regions[second.index], second.region);
                prop_assert!(first.region.node != second.region.node && first.index < second.index);
            }
            (Err(BootMapError::NoUsableMemory), Some(model)) => {
                prop_assert!(model.iter().flatten().all(|frame| frame.1 == Reserved));
            }
            (map, model) => prop_assert!(false, "{map:?} where the model has {model:?}"),
        }
    }

    #[test]
    fn carving_turns_exactly_the_frames_it_returns_from_usable_to_reserved(
        regions in proptest::collection::vec(any_region(), 1..8),
        requests in proptest::collection::vec((1..9_u32, 0..70_u32, proptest::option::of(0..2_u8)), 1..16),
    ) {
        let Ok(mut map) = BootMap::<64>::new(&regions) else { return Ok(()) };
        for (pages, limit, preferred) in requests {
            let before = frames(&map);
            let fits = |node: Option<u8>| map.usable().any(|(range, of)| {
                range.intersection(self::range(0, limit)).pages() >= pages && node.is_none_or(|node| of == NodeId(node))
            });
            let (fits, preferred_fits) = (fits(None), preferred.is_some() && fits(preferred));
            let mut expected = before.clone();
            match map.carve(pages, Pfn::new(limit), preferred.map(NodeId)) {
                Ok(carved) => {
                    prop_assert!(fits && carved.pages() == pages && carved.end <= Pfn::new(limit));
                    for frame in carved.frames() {
                        let Some((node, Usable)) = before[frame.index()] else { panic!("{frame:?} was not usable") };
                        prop_assert!(!preferred_fits || Some(node.0) == preferred);
                        expected[frame.index()] = Some((node, Reserved));
                    }
                }
                Err(error) => prop_assert!(!fits, "{error}"),
            }
            assert_well_formed(&map);
            prop_assert_eq!(frames(&map), expected);
        }
    }

    #[test]
    fn splitting_changes_nothing_but_the_nodes_and_gives_each_a_fair_share(
        regions in proptest::collection::vec(any_region(), 1..8),
        nodes in 1..9_u8,
        order in 0..4_usize,
    ) {
        let Ok(map) = BootMap::<64>::new(&regions) else { return Ok(()) };
        let alignment = Order::of(order);
        let blocks: std::collections::BTreeSet<_> =
            map.usable().flat_map(|(range, _)| range.frames()).map(|frame| frame.align_down(alignment)).collect();
        match map.split_nodes(NonZeroU8::new(nodes).expect("not zero"), alignment) {
            Ok(split) => {
                assert_well_formed(&split);
                let kinds = |map: &BootMap<64>| -> Vec<_> {
                    frames(map).into_iter().map(|frame| frame.map(|(_, kind)| kind)).collect()
                };
                prop_assert_eq!(kinds(&map), kinds(&split));
                let of_blocks = |number: usize| frames(&split).chunks(1 << order).nth(number).map(<[_]>::to_vec);
                for block in blocks.iter().filter_map(|block| of_blocks(block.index() >> order)) {
                    let mut owners: Vec<_> = block.iter().flatten().map(|frame| frame.0).collect();
                    owners.dedup();
                    prop_assert_eq!(owners.len(), 1, "a block of two nodes");
                }
                let pages = node_pages(&split, nodes);
                prop_assert!(pages.iter().all(|&pages| pages > 0), "{:?}", pages);
                let order_of_nodes: Vec<_> = split.extents().iter().map(|extent| extent.node).collect();
                prop_assert!(order_of_nodes.is_sorted());
                if order == 0 {
                    let share = map.usable_pages() / u32::from(nodes);
                    prop_assert!(pages.iter().all(|&pages| pages.abs_diff(share) <= 1), "{:?}", pages);
                }
            }
            Err(error) => prop_assert!(blocks.len() < usize::from(nodes), "{error}"),
        }
    }
}
