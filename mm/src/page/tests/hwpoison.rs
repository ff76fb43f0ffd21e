//! Pages whose memory fails, in every state that a page can be in.

use std::collections::HashSet;
use std::vec::Vec;

use super::{MIB, Machine, PAGE_SIZE, PageAllocator, Request, ballast, exhaust, usable};
use crate::OwnerKind;
use crate::PageState;
use crate::boot_map::{BootMap, Region, RegionKind};
use crate::hardening::Hardening;
use crate::host::{at_each_step, scaled};
use crate::machine::Machine as _;
use crate::page::{FailedPage, FailureError, FailureOutcome, MemoryFailure, UnpoisonError};
use crate::units::{Count, Order, Pfn, PfnRange, PhysAddr};

use FailureOutcome::{Delayed, Ignored, Recovered};

/// Of a machine; the last MiB was reserved when it started.
const MEMORY: u64 = scaled(32, 24) * MIB;

/// Ends of lowmem: none is highmem; most is, and so are freelists' nodes; and in the middle of a block.
const LOWMEM: [u64; 3] = [MEMORY, 4 * MIB, MEMORY / 2 + PAGE_SIZE as u64];

const RESERVED: u64 = MEMORY - MIB;

fn pfn_at(address: u64) -> Pfn {
    Pfn::containing(PhysAddr(address)).expect("low")
}

fn frames() -> impl Iterator<Item = Pfn> {
    PfnRange::new(Pfn::new(0), pfn_at(MEMORY)).frames()
}

/// Runs a test beside the specification on machines of so much memory. What it leaves must be sound, and nobody's memory be lost.
pub(super) fn on_machines(test: impl Fn(&PageAllocator<'_, Machine>)) {
    let plain = LOWMEM.map(|lowmem| (lowmem, Hardening::empty()));
    let all = plain.into_iter().chain([(LOWMEM[2], Hardening::all())]);
    for (lowmem, hardening) in all.skip(scaled(0, 2)).take(scaled(4, 1)) {
        let machine = super::machine(MEMORY, lowmem).specified().hardened(hardening);
        let regions = [usable(0, MEMORY), Region { kind: RegionKind::Reserved, ..usable(RESERVED, MIB) }];
        let mut map: BootMap = BootMap::new(&regions).expect("the regions make a map");
        let allocator = machine.allocator(&mut map).expect("the tables fit");
        let before = census(&allocator);
        test(&allocator);
        assert_sound(&allocator);
        assert_eq!(allocator.hwpoisoned_pages(), Count(0), "the test has taken all in again");
        assert_eq!(census(&allocator), before, "lowmem ends at {lowmem:#x}, {hardening:?}");
        assert_eq!(machine.take_reports(), [""; 0], "a page was not treated as a free one is");
    }
}

pub(super) fn verify(allocator: &PageAllocator<'_, Machine>) {
    at_each_step(|| assert_sound(allocator));
}

fn assert_sound(allocator: &PageAllocator<'_, Machine>) {
    allocator.verify().expect("every invariant holds");
    allocator.verify_charges().expect("the charges add up");
    allocator.verify_specified().expect("every page is what it is to be");
}

/// Free pages of each zone, and whole blocks.
pub(super) fn census(allocator: &PageAllocator<'_, Machine>) -> Vec<(u32, u32, u32)> {
    allocator.drain();
    allocator.zones().map(|zone| (zone.managed, zone.free, zone.blocks_of(Order::of(10)))).collect()
}

/// What a small block is that was just freed: where free memory is treated, CPUs keep nothing at hand.
pub(super) fn where_freed(allocator: &PageAllocator<'_, Machine>) -> PageState {
    if allocator.machine().hardening().is_empty() { PageState::Cached } else { PageState::Free }
}

pub(super) fn find(allocator: &PageAllocator<'_, Machine>, state: PageState) -> Vec<Pfn> {
    frames().filter(|&pfn| allocator.page_state(pfn).0 == state).collect()
}

/// All pages that can be had.
pub(super) fn all_that_is_had(allocator: &PageAllocator<'_, Machine>) -> Vec<Pfn> {
    let blocks = exhaust(allocator, Request::movable(Order::ZERO).from_reserve());
    blocks.iter().flat_map(|block| block.range().frames()).collect()
}

const fn failure(page: FailedPage, outcome: FailureOutcome) -> MemoryFailure {
    MemoryFailure { page, outcome }
}

#[test]
fn a_free_page_is_taken_out_of_its_block_and_never_handed_out_until_it_is_taken_in() {
    on_machines(|a| {
        let free = a.free_pages();
        // The first, the last and one in the middle of a largest block, and one that is broken already.
        let whole = find(a, PageState::Free).into_iter().rfind(|&pfn| a.page_state(pfn).1 == Order::of(10));
        let whole = whole.expect("there is a whole block");
        let broken = find(a, PageState::Free).into_iter().find(|&pfn| a.page_state(pfn).1 < Order::of(10));
        let bad = [whole, whole.plus(1023), whole.plus(333), broken.expect("there is a smaller block")];
        for pfn in bad {
            assert_eq!(a.memory_failure(pfn), Ok(failure(FailedPage::Free, Recovered)), "{pfn:?}");
            assert_eq!(a.memory_failure(pfn), Err(FailureError::Known(pfn)));
            assert_eq!(a.alloc_contig(PfnRange::new(pfn, pfn.plus(1))).map(drop), Err(crate::ContigError::InUse(pfn)));
            verify(a);
        }
        assert_eq!((a.free_pages(), a.hwpoisoned_pages()), (free - 4, Count(4)));
        let all = all_that_is_had(a);
        assert_eq!(all.len(), free as usize - 4);
        assert!(bad.iter().all(|pfn| !all.contains(pfn)), "a page was handed out that lies");
        for pfn in bad {
            assert_eq!(a.unpoison_memory(pfn), Ok(()));
            assert_eq!(a.unpoison_memory(pfn), Err(UnpoisonError::NotPoisoned(pfn)));
            verify(a);
        }
    });
}

#[test]
fn a_page_at_hand_of_a_cpu_is_drained_and_taken_out() {
    on_machines(|a| {
        let block = a.alloc(Request::movable(Order::ZERO)).expect("memory is free");
        let pfn = block.head();
        drop(block);
        let at_hand = where_freed(a);
        assert_eq!(a.page_state(pfn).0, at_hand);
        let page = if at_hand == PageState::Cached { FailedPage::AtHand } else { FailedPage::Free };
        assert_eq!(a.memory_failure(pfn), Ok(failure(page, Recovered)));
        verify(a);
        assert!(!all_that_is_had(a).contains(&pfn));
        a.unpoison_memory(pfn).expect("it is out of use");
    });
}

/// Holds every second page of the upper half, so that the others, alone, fill lists that need nodes.
pub(super) fn fragment<'a>(a: &'a PageAllocator<'_, Machine>) -> Vec<crate::page::Block<'a, Machine>> {
    let pages = core::iter::from_fn(|| a.alloc(Request::movable(Order::ZERO).from_reserve()).ok());
    let (odd, even): (Vec<_>, Vec<_>) = pages.partition(|page| page.head().number() % 2 == 1);
    drop(even);
    a.drain();
    odd
}

#[test]
fn what_a_freelists_node_holds_moves_to_another_page() {
    on_machines(|a| {
        let _ballast = ballast(a, Request::movable(Order::LIMIT).from_reserve(), 1600);
        let held = fragment(a);
        let nodes = find(a, PageState::Node);
        assert!(nodes.len() >= 2, "{} nodes", nodes.len());
        let free = a.free_pages();
        for (taken, &node) in (1..).zip(&nodes) {
            let failed = a.memory_failure(node);
            // A node of more may have become needless when another went.
            let expected = [FailedPage::Node, FailedPage::Free].map(|page| Ok(failure(page, Recovered)));
            assert!(expected.contains(&failed), "{failed:?}");
            assert_eq!(a.page_state(node), (PageState::Allocated, Order::ZERO));
            assert_eq!(a.free_pages(), free - taken);
            verify(a);
        }
        assert!(all_that_is_had(a).iter().all(|pfn| !nodes.contains(pfn)));
        drop(held);
        verify(a);
        nodes.iter().for_each(|&node| a.unpoison_memory(node).expect("it is out of use"));
    });
}

#[test]
fn a_page_in_use_is_kept_back_when_its_block_is_freed_and_the_rest_of_the_block_is_not() {
    on_machines(|a| {
        // Those that would be put at hand, and those that go to the zone.
        for &order in scaled(&[0, 1, 3, 9, 10][..], &[1, 10]) {
            let order = Order::of(order);
            for at in [0, order.pages() / 2, order.pages() - 1].into_iter().take(scaled(3, 1)) {
                let block = a.alloc(Request::movable(order).from_reserve()).expect("memory is free");
                let (range, free) = (block.range(), a.free_pages());
                let pfn = range.start.plus(at);
                assert_eq!(a.memory_failure(pfn), Ok(failure(FailedPage::InUse(OwnerKind::Plain), Delayed)));
                assert_eq!(a.memory_failure(pfn), Err(FailureError::Known(pfn)));
                verify(a);
                drop(block);
                verify(a);
                assert_eq!(a.free_pages(), free + order.pages() - 1, "{order:?}, page {at}");
                assert!(!all_that_is_had(a).contains(&pfn), "{order:?}, page {at}");
                a.unpoison_memory(pfn).expect("it is out of use");
                a.drain();
                let again = a.alloc_contig(range);
                assert!(again.is_ok(), "{order:?}, page {at}: {again:?}");
            }
        }
    });
}

#[test]
fn bulk_frees_and_charged_frees_keep_pages_back_too() {
    on_machines(|a| {
        let group = a.groups().create(None).expect("there is room for a group");
        let batch = a.alloc_bulk::<8>(Request::movable(Order::of(1)));
        let charged = a.alloc(Request::movable(Order::of(1)).charged_to(group.id())).expect("memory is free");
        let bad: Vec<_> = batch.heads()[2..4].iter().map(|head| head.plus(1)).chain([charged.head()]).collect();
        for &pfn in &bad {
            assert_eq!(a.memory_failure(pfn), Ok(failure(FailedPage::InUse(OwnerKind::Plain), Delayed)));
        }
        drop((batch, charged));
        verify(a);
        assert!(all_that_is_had(a).iter().all(|pfn| !bad.contains(pfn)));
        bad.iter().for_each(|&pfn| a.unpoison_memory(pfn).expect("it is out of use"));
    });
}

#[test]
fn the_half_with_the_page_keeps_the_mark_when_a_block_is_split_and_so_does_the_whole_when_it_is_joined() {
    on_machines(|a| {
        for at in (0..8).step_by(scaled(1, 5)) {
            let block = a.alloc(Request::movable(Order::of(3))).expect("memory is free");
            let pfn = block.head().plus(at);
            a.memory_failure(pfn).expect("it is in use");
            let (low, high) = block.split().expect("eight pages can be halved");
            let (first, second) = low.split().expect("four can");
            verify(a);
            let low = first.merge(second).expect("they are two halves");
            verify(a);
            let whole = low.merge(high).expect("so are these");
            verify(a);
            let (low, high) = whole.split().expect("eight pages can be halved");
            // In whatever order they go.
            if at % 2 == 0 {
                drop((low, high));
            } else {
                drop((high, low));
            }
            verify(a);
            assert!(!all_that_is_had(a).contains(&pfn), "page {at}");
            a.unpoison_memory(pfn).expect("it is out of use");
        }
    });
}

#[test]
fn a_page_in_use_that_is_sound_after_all_is_freed_as_ever() {
    on_machines(|a| {
        let block = a.alloc(Request::movable(Order::of(2))).expect("memory is free");
        let range = block.range();
        for pfn in [range.start, range.start.plus(3)] {
            a.memory_failure(pfn).expect("it is in use");
        }
        a.unpoison_memory(range.start).expect("it was said to fail");
        verify(a);
        a.unpoison_memory(range.start.plus(3)).expect("so was it");
        drop(block);
        assert_eq!(a.page_state(range.start).0, where_freed(a), "the fast way is open again");
    });
}

#[test]
fn reserved_memory_is_marked_and_nobody_else_is_told_what_it_holds() {
    on_machines(|a| {
        let reserved = pfn_at(RESERVED);
        assert_eq!(a.memory_failure(reserved), Ok(failure(FailedPage::Reserved, Ignored)));
        assert_eq!(a.memory_failure(reserved), Err(FailureError::Known(reserved)));
        let map = find(a, PageState::Reserved);
        let map: Vec<_> = map
            .into_iter()
            .filter(|&pfn| a.memory_failure(pfn).map(|failure| failure.page) == Ok(FailedPage::MemoryMap))
            .collect();
        // And the tables that lead to them.
        let bytes = a.metadata().descriptors;
        assert!(map.len() as u64 > bytes / PAGE_SIZE as u64, "{} pages hold {bytes} bytes", map.len());
        verify(a);
        for pfn in find(a, PageState::Reserved) {
            a.unpoison_memory(pfn).expect("all of it was said to fail");
        }
        for absent in [Pfn::new(0), Pfn::new(64 << 8), Pfn::LIMIT] {
            let known = a.page_state(absent).0 == PageState::Reserved;
            if !known {
                assert_eq!(a.memory_failure(absent), Err(FailureError::NoMemory(absent)));
            }
        }
    });
}

#[test]
fn what_was_reserved_when_it_failed_is_kept_back_once_it_was_adopted_and_freed() {
    for lowmem in LOWMEM {
        let machine = super::machine(MEMORY, lowmem);
        let regions = [usable(0, MEMORY), Region { kind: RegionKind::Reserved, ..usable(RESERVED, MIB) }];
        let a = super::allocator(&machine, &regions);
        let range = PfnRange::new(pfn_at(RESERVED), pfn_at(MEMORY));
        for pfn in [range.start, range.start.plus(77)] {
            a.memory_failure(pfn).expect("it is reserved");
        }
        // SAFETY: nobody uses the memory of this machine but its allocator.
        drop(unsafe { a.adopt(range) }.expect("all of it is reserved"));
        a.verify().expect("every invariant holds");
        let all = all_that_is_had(&a);
        let had: Vec<_> = all.into_iter().filter(|&pfn| range.contains(pfn)).collect();
        assert_eq!(had.len(), 254);
        assert!(![range.start, range.start.plus(77)].iter().any(|pfn| had.contains(pfn)));
    }
}

#[test]
fn what_is_not_known_to_fail_is_not_taken_in() {
    on_machines(|a| {
        let block = a.alloc(Request::movable(Order::of(2))).expect("memory is free");
        let free = find(a, PageState::Free)[0];
        for pfn in [block.head(), block.head().plus(1), free, pfn_at(RESERVED), Pfn::new(64 << 8), Pfn::LIMIT] {
            assert_eq!(a.unpoison_memory(pfn), Err(UnpoisonError::NotPoisoned(pfn)));
        }
    });
}

#[test]
fn every_page_of_a_zone_may_fail() {
    on_machines(|a| {
        let ballast = ballast(a, Request::movable(Order::of(6)).from_reserve(), 700);
        let in_use: HashSet<_> = ballast.iter().flat_map(|block| block.range().frames()).collect();
        let is_free = |pfn| a.zone_around(pfn).is_some() && !in_use.contains(&pfn);
        let pages: Vec<_> = frames().filter(|&pfn| is_free(pfn)).collect();
        for &pfn in &pages {
            let failed = a.memory_failure(pfn).expect("it is free");
            assert_eq!(failed.outcome, Recovered, "{pfn:?}");
        }
        verify(a);
        assert_eq!((a.free_pages(), all_that_is_had(a).len()), (0, 0));
        for &pfn in pages.iter().rev() {
            a.unpoison_memory(pfn).expect("it is out of use");
        }
    });
}

#[test]
fn a_mark_survives_an_owner_who_halves_and_joins_all_the_time() {
    use std::sync::atomic::{AtomicBool, Ordering};
    let machine = super::machine(MEMORY, MEMORY / 2);
    let a = super::allocator(&machine, &[usable(0, MEMORY)]);
    let rounds = scaled(2000, 20);
    for round in 0..rounds {
        let block = a.alloc(Request::movable(Order::of(2))).expect("memory is free");
        let pfn = block.head().plus(round % 4);
        let marked = AtomicBool::new(false);
        let block = std::thread::scope(|scope| {
            let splitting = scope.spawn(|| {
                let mut block = block;
                loop {
                    let last = marked.load(Ordering::Acquire);
                    let (low, high) = block.split().expect("it can be halved");
                    block = low.merge(high).expect("they are two halves");
                    if last {
                        return block;
                    }
                }
            });
            a.memory_failure(pfn).expect("it is in use");
            marked.store(true, Ordering::Release);
            splitting.join().expect("nobody fails")
        });
        drop(block);
        assert_eq!(a.page_state(pfn), (PageState::Allocated, Order::ZERO), "round {round}");
        a.unpoison_memory(pfn).expect("it is out of use");
    }
    a.verify().expect("every invariant holds");
}
