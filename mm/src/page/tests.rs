//! What the parts show only together: zones' edges, the price of the map.

mod adopt;
#[expect(clippy::cast_possible_truncation, reason = "a test's numbers are small")]
mod at_hand;
mod charges;
mod checker;
mod hotplug;
mod hwpoison;
// By signals, which an interpreter has none of.
#[cfg(all(target_arch = "x86_64", not(miri)))]
mod instructions;
#[cfg(all(target_arch = "x86_64", not(miri)))]
mod interrupted;
#[expect(clippy::cast_possible_truncation, reason = "a test's numbers are small")]
mod nodes;
mod poison;
#[expect(clippy::cast_possible_truncation, reason = "a test's numbers are small")]
mod reserves;
mod shuffle;
mod unwound;

use core::num::NonZeroU16;
use std::vec::Vec;

use super::{Block, PageAllocator, Request, SetupError};
use crate::PageState;
use crate::boot_map::{BootMap, Region, RegionKind};
use crate::host::{HostMachine, ballast, orders_that_take_all, scaled};
use crate::machine::Standard;
use crate::units::{NodeId, Order, PAGE_SIZE, Pfn, PfnRange, PhysAddr};
use crate::zone::ZoneKind;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

type Machine = HostMachine<Standard>;

fn machine(end: u64, direct_map_end: u64) -> Machine {
    let pfn = |address| Pfn::containing(PhysAddr(address)).expect("a test's memory ends below 16 TiB");
    Machine::new(pfn(end), pfn(direct_map_end), NonZeroU16::MIN).expect("the host lends address space")
}

fn usable(start: u64, len: u64) -> Region {
    Region { start: PhysAddr(start), len, kind: RegionKind::Usable, node: NodeId(0) }
}

fn allocator<'m>(machine: &'m Machine, regions: &[Region]) -> PageAllocator<'m, Machine> {
    let mut map: BootMap = BootMap::new(regions).expect("the regions make a map");
    machine.allocator(&mut map).expect("the tables fit")
}

/// Takes all pages that requests like this one get.
fn exhaust<'a>(allocator: &'a PageAllocator<'_, Machine>, page: Request) -> Vec<Block<'a, Machine>> {
    let blocks = |order| core::iter::from_fn(move || allocator.alloc(page.with_order(order)).ok());
    orders_that_take_all().flat_map(blocks).collect()
}

fn pages_in(blocks: &[Block<'_, Machine>]) -> u32 {
    blocks.iter().map(|block| block.order().pages()).sum()
}

#[test]
fn merge_stops_where_the_zone_ends_inside_an_order_10_block() {
    // Lowmem ends one page into a block of 4 MiB.
    let boundary = 8 * MIB + PAGE_SIZE as u64;
    let machine = machine(16 * MIB, boundary);
    let allocator = allocator(&machine, &[usable(0, 16 * MIB)]);
    allocator.verify().expect("all is well after boot");
    let boundary = Pfn::containing(PhysAddr(boundary)).expect("low");
    let (low, high): (Vec<_>, Vec<_>) = allocator.zones().partition(|zone| zone.kind == ZoneKind::Dma32);
    assert_eq!((low[0].span.end, high[0].span.start), (boundary, boundary));
    // The page below the boundary is alone: its buddy is free, of the same order, and in the other zone.
    let last = Pfn::new(boundary.number() - 1);
    assert_eq!(allocator.page_state(last), (PageState::Free, Order::ZERO));
    assert_eq!(allocator.page_state(boundary), (PageState::Free, Order::ZERO));
    let pair = allocator.alloc_contig(PfnRange::new(last, boundary.plus(1)));
    assert_eq!(pair.map(drop), Err(crate::ContigError::CrossesZone(boundary)));
}

#[test]
#[cfg_attr(miri, ignore = "terabytes of address space, which an interpreter has not")]
fn descriptors_follow_usable_memory_and_not_the_highest_address() {
    let machine = machine(GIB << 12, GIB << 12);
    let near = allocator(&machine, &[usable(MIB, 127 * MIB)]).metadata();
    let other = self::machine(GIB << 12, GIB << 12);
    let far = [usable(MIB, 63 * MIB), usable((GIB << 12) - 64 * MIB, 64 * MIB)];
    let far = allocator(&other, &far).metadata();
    assert_eq!(near.descriptors, 128 * MIB / PAGE_SIZE as u64 * 16);
    assert_eq!(far.descriptors, near.descriptors);
    // A second table of sections, and eight bytes for each 2 GiB of four terabytes in between.
    assert!(far.tables - near.tables <= 8192 + 8 * (4096 / 2) + PAGE_SIZE as u64, "{} B of tables", far.tables);
}

#[test]
fn a_hole_has_no_descriptors_but_around_its_edges() {
    let machine = machine(GIB, GIB);
    let allocator = allocator(&machine, &[usable(0, 10 * MIB), usable(GIB - MIB, MIB)]);
    // Three blocks of 4 MiB hold the first run, one the second.
    assert_eq!(allocator.metadata().descriptors, 4 * 1024 * 16);
    assert_eq!(allocator.block_of(Pfn::new(0x8000)), None);
    allocator.verify().expect("all is well after boot");
}

/// A search that looked at every frame of the hole would take a billion steps.
#[test]
#[cfg_attr(miri, ignore = "terabytes of address space, which an interpreter has not")]
fn a_search_for_a_run_steps_over_four_terabytes_of_nothing() {
    let end = GIB << 12;
    let machine = machine(end, end);
    // Between the two runs, all in one zone above 4 GiB, there is no memory; 6 MiB are only in the upper one.
    let allocator = allocator(&machine, &[usable(4 * GIB, 5 * MIB), usable(end - 8 * MIB, 8 * MIB)]);
    let pages = u32::try_from(6 * MIB / PAGE_SIZE as u64).expect("fits");
    let run = allocator.alloc_contig_aligned(pages, Order::of(8), ZoneKind::Normal).expect("the upper run has them");
    assert!(run.range().start.address().0 >= end - 8 * MIB);
    let twice = allocator.alloc_contig_aligned(pages, Order::ZERO, ZoneKind::Normal).map(drop);
    assert_eq!(twice, Err(crate::ContigError::NoSuchRun));
}

#[test]
#[cfg_attr(miri, ignore = "descriptors of 64 GiB, each of which is written")]
fn sixty_four_gibibytes_come_up_with_all_but_the_tables_free() {
    let machine = machine(64 * GIB, 64 * GIB);
    let allocator = allocator(&machine, &[usable(0, 64 * GIB)]);
    let pages = u32::try_from(64 * GIB / PAGE_SIZE as u64).expect("fits");
    let tables = u32::try_from(allocator.metadata().total() / PAGE_SIZE as u64).expect("fits");
    assert_eq!(allocator.free_pages(), pages - tables - 1);
    let zones: Vec<_> = allocator.zones().map(|zone| zone.kind).collect();
    assert_eq!(zones, [ZoneKind::Normal, ZoneKind::Dma32]);
    assert!(allocator.metadata().total() * 250 < 64 * GIB, "16 bytes a page are 0.39 %, the rest is small");
}

#[test]
fn no_room_for_descriptors_in_the_direct_map_is_an_error_that_says_so() {
    let machine = machine(GIB, MIB);
    let mut map: BootMap = BootMap::new(&[usable(0, GIB)]).expect("one region makes a map");
    let error = machine.allocator(&mut map).map(|_| ()).expect_err("4 MiB do not fit into one");
    assert!(matches!(error, SetupError::Metadata(_)), "{error}");
}

#[test]
fn an_owned_block_is_freed_when_it_is_dropped_and_not_before() {
    let machine = machine(16 * MIB, 16 * MIB);
    let allocator = allocator(&machine, &[usable(0, 16 * MIB)]);
    let free = allocator.free_pages();
    let block = allocator.alloc(Request::new(Order::of(4))).expect("memory is free");
    let (low, high) = block.split().expect("sixteen pages can be halved");
    assert_eq!(allocator.free_pages(), free - 16);
    drop(low);
    assert_eq!(allocator.free_pages(), free - 8);
    let raw = high.into_raw();
    assert_eq!(allocator.free_pages(), free - 8);
    allocator.verify().expect("half a block is a block");
    // SAFETY: the block was just given up.
    drop(unsafe { allocator.from_raw(raw) }.expect("the head of an allocated block"));
    assert_eq!(allocator.free_pages(), free);
    allocator.verify().expect("all is free again");
}
