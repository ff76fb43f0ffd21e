//! Memory that was in use before the allocator was there, and what cannot be taken in.

use std::vec::Vec;

use super::{GIB, MIB, Machine, allocator, machine, usable};
use crate::PageState;
use crate::boot_map::{Region, RegionKind};
use crate::host::scaled;
use crate::page::{AdoptError, PageAllocator, Request};
use crate::units::{NodeId, Order, PAGE_SIZE, Pfn, PfnRange, PhysAddr};
use crate::zone::{ZoneKind, ZoneReport};

const PAGE: u64 = PAGE_SIZE as u64;

fn reserved(start: u64, len: u64) -> Region {
    Region { kind: RegionKind::Reserved, ..usable(start, len) }
}

fn range(start: u64, end: u64) -> PfnRange {
    let pfn = |address| Pfn::containing(PhysAddr(address)).expect("low enough");
    PfnRange::new(pfn(start), pfn(end))
}

fn zone(allocator: &PageAllocator<'_, Machine>, kind: ZoneKind, node: u8) -> ZoneReport {
    allocator.drain();
    let mut zones = allocator.zones();
    zones.find(|zone| zone.kind == kind && zone.node == NodeId(node)).expect("the machine has such a zone")
}

fn verify(allocator: &PageAllocator<'_, Machine>) {
    allocator.verify().expect("every invariant holds");
    allocator.verify_charges().expect("the charges add up");
}

#[test]
fn a_reserved_hole_is_in_use_until_it_is_dropped_and_then_all_coalesces_over_it() {
    // An odd run of pages inside one whole block, and one that reaches from the middle of a block into another.
    for (start, end) in [(5 * MIB + PAGE, 5 * MIB + 8 * PAGE), (6 * MIB, 13 * MIB + 3 * PAGE)] {
        let machine = machine(24 * MIB, 24 * MIB);
        // The highest run is where the allocator puts its tables.
        let regions = [usable(0, 16 * MIB), reserved(start, end - start), usable(20 * MIB, MIB)];
        let allocator = allocator(&machine, &regions);
        let hole = range(start, end);
        let before = zone(&allocator, ZoneKind::Dma32, 0);
        assert_eq!(allocator.alloc_contig(hole).map(drop), Err(crate::ContigError::NotManaged(hole.start)));
        // SAFETY: nobody uses the memory of this machine but its allocator.
        let mut adopted = unsafe { allocator.adopt(hole) }.expect("all of it is reserved");
        verify(&allocator);
        let during = zone(&allocator, ZoneKind::Dma32, 0);
        assert_eq!((during.free, during.managed), (before.free, before.managed + hole.pages()));
        // It was there before, and in the zone's span.
        assert_eq!(during.present, before.present);
        assert_eq!(allocator.alloc_contig(hole).map(drop), Err(crate::ContigError::InUse(hole.start)));
        assert_eq!(adopted.bytes_mut().map(|bytes| bytes.len() as u64), Some(end - start));
        drop(adopted);
        verify(&allocator);
        let after = zone(&allocator, ZoneKind::Dma32, 0);
        assert_eq!((after.free, after.managed), (before.free + hole.pages(), during.managed));
        let largest = Order::of(10);
        // Of four blocks, the first has the frame that is none.
        assert_eq!(after.blocks_of(largest), 3);
        assert!(before.blocks_of(largest) < 3);
        let whole = allocator.alloc_contig(range(4 * MIB, 16 * MIB)).expect("there is no hole any more");
        drop(whole);
        verify(&allocator);
    }
}

#[test]
fn what_a_range_held_before_it_was_adopted_it_holds_after() {
    let machine = machine(16 * MIB, 8 * MIB);
    let allocator = allocator(&machine, &[usable(0, 16 * MIB), reserved(2 * MIB, PAGE)]);
    let frames = range(2 * MIB, 2 * MIB + PAGE);
    let early = crate::machine::Machine::direct_map(&machine, frames.start);
    // SAFETY: the frame is reserved for this test, and in the direct map.
    unsafe { early.write(0x5a) };
    // SAFETY: nobody but this test uses the frame.
    let mut adopted = unsafe { allocator.adopt(frames) }.expect("it is reserved");
    assert_eq!(adopted.with_page(frames.start, |bytes| bytes[0]), Some(0x5a));
}

#[test]
fn highmem_is_adopted_without_being_touched() {
    let machine = machine(64 * MIB, 16 * MIB);
    let hole = range(33 * MIB, 42 * MIB + 5 * PAGE);
    let start = hole.start.address().0;
    let regions = [usable(0, 64 * MIB), reserved(start, hole.end.address().0 - start)];
    let allocator = allocator(&machine, &regions);
    let before = zone(&allocator, ZoneKind::Highmem, 0);
    // SAFETY: nobody uses the memory of this machine but its allocator.
    drop(unsafe { allocator.adopt(hole) }.expect("all of it is reserved"));
    verify(&allocator);
    let after = zone(&allocator, ZoneKind::Highmem, 0);
    assert_eq!(after.free, before.free + hole.pages());
    assert_eq!(after.blocks_of(Order::of(10)), 48 / 4);
}

#[test]
fn a_zone_grows_around_what_it_adopts_beyond_its_end_and_finds_it_there() {
    let machine = machine(16 * MIB, 16 * MIB);
    let allocator = allocator(&machine, &[usable(0, 16 * MIB), reserved(12 * MIB, 4 * MIB)]);
    let before = zone(&allocator, ZoneKind::Dma32, 0);
    assert_eq!(before.span.end, range(0, 12 * MIB).end);
    let tail = range(12 * MIB, 16 * MIB);
    // SAFETY: nobody uses the memory of this machine but its allocator.
    let adopted = unsafe { allocator.adopt(tail) }.expect("all of it is reserved");
    let during = zone(&allocator, ZoneKind::Dma32, 0);
    assert_eq!((during.span.end, during.present), (tail.end, before.present + tail.pages()));
    drop(adopted);
    verify(&allocator);
    let pages = u32::try_from(12 * MIB / PAGE).expect("few");
    let run = allocator.alloc_contig_aligned(pages, Order::of(10), ZoneKind::Normal);
    assert_eq!(run.expect("the run reaches to the end").range(), range(4 * MIB, 16 * MIB));
}

#[test]
fn what_lies_in_front_of_what_was_adopted_before_counts_once_it_is_adopted_too() {
    let machine = machine(16 * MIB, 16 * MIB);
    let allocator = allocator(&machine, &[usable(0, 16 * MIB), reserved(13 * MIB, 3 * MIB)]);
    let before = zone(&allocator, ZoneKind::Dma32, 0);
    let mut more = 0;
    for adopted in [range(15 * MIB, 16 * MIB), range(13 * MIB, 15 * MIB)] {
        // SAFETY: nobody uses the memory of this machine but its allocator.
        drop(unsafe { allocator.adopt(adopted) }.expect("all of it is reserved"));
        more += adopted.pages();
        let after = zone(&allocator, ZoneKind::Dma32, 0);
        assert_eq!((after.managed, after.present), (before.managed + more, before.present + more));
    }
    let present = || zone(&allocator, ZoneKind::Dma32, 0).present;
    assert_eq!(allocator.offline_pages(range(13 * MIB, 15 * MIB).start), Ok(range(12 * MIB, 16 * MIB)));
    assert_eq!(present(), before.present - 1024 + more);
}

#[test]
fn frames_go_to_the_node_that_they_lie_in_or_next_to() {
    let machine = machine(32 * MIB, 32 * MIB);
    let on = |node, region: Region| Region { node: NodeId(node), ..region };
    // Node 0 lies on both sides of node 1, so its span has everything.
    let regions = [
        on(0, usable(0, 8 * MIB)),
        on(1, usable(8 * MIB, 8 * MIB)),
        on(0, usable(16 * MIB, 4 * MIB)),
        on(2, usable(20 * MIB, 12 * MIB)),
        reserved(4 * MIB, MIB),
        reserved(10 * MIB, MIB),
        reserved(31 * MIB, MIB),
    ];
    let allocator = allocator(&machine, &regions);
    for (node, start) in [(0, 4 * MIB), (1, 10 * MIB), (2, 31 * MIB)] {
        let before = zone(&allocator, ZoneKind::Dma32, node).managed;
        // SAFETY: nobody uses the memory of this machine but its allocator.
        drop(unsafe { allocator.adopt(range(start, start + MIB)) }.expect("all of it is reserved"));
        verify(&allocator);
        assert_eq!(zone(&allocator, ZoneKind::Dma32, node).managed, before + 256, "node {node}");
    }
}

#[test]
fn what_is_not_reserved_memory_of_one_zone_is_refused_and_changes_nothing() {
    /// The end of memory; half of it is in no section.
    const END: u64 = scaled(GIB, 32 * MIB);
    let machine = machine(END, 8 * MIB);
    let regions = [
        usable(0, 12 * MIB),
        reserved(MIB, MIB),
        // Between these two, the allocator puts its tables.
        reserved(6 * MIB, MIB / 2),
        reserved(7 * MIB, 2 * MIB),
        // No section has its frames.
        reserved(END / 2, MIB),
    ];
    let allocator = allocator(&machine, &regions);
    let used = allocator.alloc(Request::new(Order::ZERO)).expect("memory is free");
    let all = range(0, END);
    let before = (allocator.fingerprint(all), allocator.zones().collect::<Vec<_>>());
    let page = |start| range(start, start + PAGE);
    let around = |pfn: Pfn| PfnRange::new(pfn, pfn.plus(1));
    let cases = [
        (range(MIB, MIB), AdoptError::Empty),
        (PfnRange { start: range(7 * MIB, 9 * MIB).start, end: range(MIB, MIB).end }, AdoptError::Empty),
        (range(MIB, 2 * MIB + PAGE), AdoptError::NotReserved(range(2 * MIB, 3 * MIB).start)),
        (range(MIB - PAGE, 2 * MIB), AdoptError::NotReserved(range(MIB - PAGE, MIB).start)),
        (around(used.head()), AdoptError::NotReserved(used.head())),
        (page(0), AdoptError::NotReserved(Pfn::new(0))),
        (page(END / 2), AdoptError::NotReserved(page(END / 2).start)),
        (page(GIB << 13), AdoptError::NotReserved(page(GIB << 13).start)),
        (range(7 * MIB, 9 * MIB), AdoptError::CrossesZone(page(8 * MIB).start)),
    ];
    for (frames, expected) in cases {
        // SAFETY: every one of these is refused.
        let refused = unsafe { allocator.adopt(frames) }.map(drop);
        assert_eq!(refused, Err(expected));
    }
    assert!(before == (allocator.fingerprint(all), allocator.zones().collect()), "a refusal changed something");
    verify(&allocator);
}

#[test]
fn memory_of_a_kind_that_the_machine_has_no_zone_of_is_refused() {
    let machine = machine(16 * MIB, 8 * MIB);
    let allocator = allocator(&machine, &[usable(0, 16 * MIB), reserved(8 * MIB, 8 * MIB)]);
    let highmem = range(9 * MIB, 10 * MIB);
    // SAFETY: this is refused.
    let refused = unsafe { allocator.adopt(highmem) }.map(drop);
    assert_eq!(refused, Err(AdoptError::NoZone(ZoneKind::Highmem)));
    assert_eq!(allocator.page_state(highmem.start).0, PageState::Reserved);
}

#[test]
fn frames_adopted_once_are_not_adopted_again() {
    let machine = machine(16 * MIB, 16 * MIB);
    let allocator = allocator(&machine, &[usable(0, 16 * MIB), reserved(6 * MIB, MIB)]);
    let hole = range(6 * MIB, 7 * MIB);
    // SAFETY: nobody uses the memory of this machine but its allocator.
    let adopted = unsafe { allocator.adopt(hole) }.expect("all of it is reserved");
    // SAFETY: this is refused.
    let while_in_use = unsafe { allocator.adopt(hole) }.map(drop);
    drop(adopted);
    // SAFETY: so is this.
    let while_free = unsafe { allocator.adopt(hole) }.map(drop);
    assert_eq!([while_in_use, while_free], [Err(AdoptError::NotReserved(hole.start)); 2]);
}
