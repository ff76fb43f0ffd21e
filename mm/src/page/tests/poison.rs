//! What is written to a free page is told of, and nothing is left in a fresh one.

use core::num::NonZeroU16;
use std::string::ToString;
use std::vec::Vec;

use super::super::{Block, PageAllocator, Request};
use crate::PageState;
use crate::boot_map::{BootMap, Region, RegionKind};
use crate::hardening::Hardening;
use crate::host::{HostMachine, scaled};
use crate::machine::{Geometry, Standard};
use crate::poison::{PAGE_POISON, PageCorruption, PoisonedPageUse};
use crate::units::{Count, NodeId, Order, PAGE_SIZE, Pfn, PfnRange, PhysAddr};

/// Nodes of two entries: a list needs one before it has four blocks.
struct Small;

impl Geometry for Small {
    const MAX_ORDER: Order = Order::of(3);
    const PAGEBLOCK_ORDER: Order = Order::of(2);
    const LEAF_SHIFT: u32 = 1;
    const NODE_SHIFT: u32 = 1;
    const INLINE: u32 = 2;
    const CPU_CACHE: u32 = 8;
    const RESERVE_SHARE: u32 = 0;
}

type Pages<'m, G> = PageAllocator<'m, HostMachine<G>>;

/// A machine of so many frames, the upper half highmem.
fn with_hardened<G: Geometry>(hardening: Hardening, frames: u32, test: impl FnOnce(&Pages<'_, G>)) {
    with_memory(hardening, frames, frames / 2, test);
}

/// A machine of so many frames, of which those from `lowmem` on are highmem.
fn with_memory<G: Geometry>(hardening: Hardening, frames: u32, lowmem: u32, test: impl FnOnce(&Pages<'_, G>)) {
    let cpus = NonZeroU16::MIN;
    let machine = HostMachine::<G>::new(Pfn::new(frames), Pfn::new(lowmem), cpus).expect("the host lends memory");
    let machine = machine.hardened(hardening).specified();
    let memory =
        Region { start: PhysAddr(0), len: Pfn::new(frames).address().0, kind: RegionKind::Usable, node: NodeId(0) };
    let mut map: BootMap = BootMap::new(&[memory]).expect("the map is sound");
    let pages = machine.allocator(&mut map).expect("the tables fit");
    test(&pages);
    pages.verify().expect("the page allocator is sound");
    assert_eq!(machine.take_reports(), [""; 0], "something was told of that nobody did");
}

fn page_of<G: Geometry>(pages: &Pages<'_, G>, pfn: Pfn) -> Vec<u8> {
    let mut bytes = std::vec![0; PAGE_SIZE];
    pages.machine().read(pfn, 0, &mut bytes);
    bytes
}

fn one(pfn: Pfn) -> PfnRange {
    PfnRange::new(pfn, pfn.plus(1))
}

/// Writes one wrong byte to a free page past all mappings, and has it allocated. Says whether exactly that is told of.
fn is_told_of(pages: &Pages<'_, Standard>, pfn: Pfn, offset: u16, byte: u8) -> bool {
    pages.machine().write(pfn, offset.into(), &[byte]);
    drop(pages.alloc_contig(one(pfn)).expect("the page is free"));
    let became = PoisonedPageUse::Allocated;
    let expected = PageCorruption { pfn, first: offset, last: offset, found: byte, bytes: Count(1), became };
    pages.machine().take_reports() == [expected.to_string()]
}

/// A free block of exactly this order: its buddy is in use for as long as the result lives.
fn free_block<'p>(pages: &'p Pages<'_, Standard>, request: Request) -> (PfnRange, Option<Block<'p, HostMachine>>) {
    match request.order.up().filter(|&order| order <= Standard::MAX_ORDER) {
        Some(order) => {
            let double = pages.alloc(request.with_order(order)).expect("there is memory");
            let (low, high) = double.split().expect("it has two halves");
            (low.range(), Some(high))
        }
        None => (pages.alloc(request).expect("there is memory").range(), None),
    }
}

#[test]
fn every_bit_that_is_flipped_in_a_free_page_is_told_of_whatever_block_it_is_in() {
    /// Bytes from one that is written to the next: where all bits are flipped, and where one is.
    const ALL: usize = scaled(1, 512);
    const SOME: usize = scaled(16, 1024);
    /// Orders from one to the next, and how many that makes.
    const STEP: usize = scaled(1, 5);
    const ORDERS: usize = Standard::MAX_ORDER.index() / STEP + 1;
    let (mut written, mut told) = (0, 0);
    with_hardened(Hardening::PAGE_POISON, scaled(0x2000, 0x1000), |pages| {
        for request in [Request::new(Order::ZERO), Request::movable(Order::ZERO)] {
            for order in (0..=Standard::MAX_ORDER.index()).step_by(STEP).map(Order::of) {
                let (block, _buddy) = free_block(pages, request.with_order(order));
                // All bits of a page of lowmem; of others one in a row of bytes, scattered over the block's pages and the bits.
                let all = order == Order::ZERO && request == Request::new(order);
                let (step, bits) = if all { (ALL, 0..8) } else { (SOME, 0..1) };
                let offsets = (0..4096_u16).step_by(step);
                for (offset, bit) in offsets.flat_map(|offset| bits.clone().map(move |bit| (offset, bit))) {
                    let nth = u32::from(offset).wrapping_mul(0x9e37_79b1) >> 10;
                    let offset = if all { offset } else { offset + (nth % 16) as u16 };
                    let pfn = block.start.plus(nth % order.pages());
                    assert_eq!(pages.page_state(pages.block_of(pfn).expect("memory")), (PageState::Free, order));
                    let flipped = PAGE_POISON ^ (1 << ((nth + bit) % 8));
                    written += 1;
                    told += usize::from(is_told_of(pages, pfn, offset, flipped));
                }
            }
        }
    });
    std::println!("{written} bits flipped in free pages, {told} told of with page and offset");
    assert_eq!((written, told), (8 * 4096 / ALL + (2 * ORDERS - 1) * 4096 / SOME, written));
}

#[test]
fn what_was_written_is_told_of_once_with_its_extent() {
    with_hardened::<Standard>(Hardening::PAGE_POISON, 0x2000, |pages| {
        let block = pages.alloc(Request::movable(Order::ZERO)).expect("there is memory");
        let pfn = block.head();
        drop(block);
        let machine = pages.machine();
        machine.write(pfn, 0x123, b"gone");
        machine.write(pfn, 0xfff, &[0]);
        drop(pages.alloc_contig(one(pfn)).expect("the page is free"));
        let told = machine.take_reports();
        let extent = "is 0x67 instead of 0xaa (5 bytes, up to offset 0xfff)";
        let expected =
            std::format!("page poison overwritten: {pfn:?}, offset 0x123, {extent}: written to after it was freed");
        assert!(told.len() == 1 && told[0].starts_with(&expected), "{told:?} and not {expected}");
        drop(pages.alloc_contig(one(pfn)).expect("the page is free"));
    });
}

#[test]
fn a_single_bit_is_told_from_a_byte() {
    with_hardened::<Standard>(Hardening::PAGE_POISON, 0x2000, |pages| {
        let block = pages.alloc(Request::movable(Order::ZERO)).expect("there is memory");
        let pfn = block.head();
        drop(block);
        for (byte, is_bit) in [(PAGE_POISON ^ 0x20, true), (PAGE_POISON ^ 0x21, false)] {
            pages.machine().write(pfn, 7, &[byte]);
            drop(pages.alloc_contig(one(pfn)).expect("the page is free"));
            let told = pages.machine().take_reports();
            assert!(told.len() == 1 && told[0].contains("(a single bit)") == is_bit, "{told:?}");
        }
    });
}

#[test]
fn a_free_page_that_was_written_to_is_told_of_before_it_holds_a_node() {
    with_hardened::<Small>(Hardening::PAGE_POISON, scaled(512, 128), |pages| {
        let all: Vec<_> = core::iter::from_fn(|| pages.alloc(Request::movable(Order::of(1))).ok()).collect();
        let singles: Vec<_> = core::iter::from_fn(|| pages.alloc(Request::movable(Order::ZERO)).ok()).collect();
        let mut apart = all.into_iter().step_by(2);
        let (single, other) = apart.next().expect("there are many").split().expect("it has two halves");
        let pfn = single.head();
        drop(single);
        assert_eq!(pages.page_state(pfn), (PageState::Free, Order::ZERO));
        pages.machine().write(pfn, 9, &[1]);
        // Not all at once, so that none of them merge.
        let mut freed = 0;
        while pages.page_state(pfn).0 != PageState::Node {
            drop(apart.next().expect("a list of two entries needs a node soon"));
            freed += 1;
        }
        let told = pages.machine().take_reports();
        assert!(told.len() == 1 && told[0].contains(&std::format!("{pfn:?}")), "{told:?} after {freed} blocks");
        assert!(told[0].ends_with("found when it was made a freelist node"), "{told:?}");
        drop((singles, other));
    });
}

/// Steps of a churn, and of one that uses every page a thousand times.
const FEW: Count = Count(scaled(4000, 100));
const MANY: Count = Count(400_000);

/// Blocks of mixed orders are written to and freed in no order; many pages are nodes in between. Each that is allocated is
/// shown to `fresh`.
fn churn<G: Geometry>(
    pages: &Pages<'_, G>,
    Count(steps): Count,
    mut fresh: impl FnMut(&mut Block<'_, HostMachine<G>>),
) {
    let mut held: Vec<Block<'_, HostMachine<G>>> = Vec::new();
    let mut random = 1_u32;
    let mut nodes = 0;
    for _ in 0..steps {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let nth = (random >> 8) as usize;
        if !nth.is_multiple_of(3) || held.is_empty() {
            let request = Request::movable(Order::of(nth / 3 % 4));
            if let Ok(mut block) = pages.alloc(request) {
                fresh(&mut block);
                for pfn in block.range().frames() {
                    block.with_page(pfn, |bytes| bytes.fill(0x5c)).expect("the page is the block's");
                }
                held.push(block);
                continue;
            }
        }
        drop(held.swap_remove(nth % held.len()));
        nodes = nodes.max(pages.zones().map(|zone| zone.nodes).sum());
    }
    assert!(nodes > 10, "only {nodes} pages were nodes at once");
}

#[test]
fn after_any_work_every_free_page_that_is_no_node_holds_poison_and_nothing_was_told_of() {
    with_hardened::<Small>(Hardening::PAGE_POISON, 512, |pages| {
        churn(pages, FEW, |_| ());
        let free =
            |&pfn: &Pfn| pages.block_of(pfn).is_some_and(|head| matches!(pages.page_state(head).0, PageState::Free));
        let all: Vec<_> = PfnRange::new(Pfn::new(0), Pfn::new(512)).frames().filter(free).collect();
        assert!(all.len() > 300, "only {} pages are free", all.len());
        for pfn in all {
            assert!(page_of(pages, pfn) == [PAGE_POISON; PAGE_SIZE], "{pfn:?} is not poisoned");
        }
    });
}

#[test]
fn whatever_was_in_a_page_a_fresh_one_is_zero_where_that_is_asked_for_in_over_a_million_of_them() {
    let mut looked_at = 0;
    for hardening in [Hardening::INIT_ON_ALLOC, Hardening::INIT_ON_FREE] {
        // Highmem is mapped by the host for each look at it, which takes long.
        let plans = [
            (Hardening::empty(), 512, MANY),
            (Hardening::empty(), 256, FEW),
            (Hardening::PAGE_POISON, 256, FEW),
            (Hardening::all(), 256, FEW),
        ];
        for (more, lowmem, steps) in plans.into_iter().skip(scaled(0, 2)) {
            with_memory::<Small>(hardening | more, 512, lowmem, |pages| {
                churn(pages, steps, |block| {
                    for pfn in block.range().frames() {
                        let zero = block.with_page(pfn, |bytes| bytes[..] == [0; PAGE_SIZE]);
                        assert_eq!(zero, Some(true), "{pfn:?} with {hardening:?} and {more:?}");
                        looked_at += 1;
                    }
                });
                let batch = pages.alloc_bulk::<20>(Request::movable(Order::ZERO));
                assert!(batch.heads().iter().all(|&pfn| page_of(pages, pfn) == [0; PAGE_SIZE]));
            });
        }
    }
    std::println!("{looked_at} fresh pages were zero");
    assert!(looked_at > scaled(1_000_000, 200), "{looked_at}");
}

#[test]
fn nothing_is_left_in_a_page_that_is_freed_where_that_is_asked_for_nor_in_one_that_was_a_node() {
    with_hardened::<Small>(Hardening::INIT_ON_FREE, 512, |pages| {
        churn(pages, FEW, |_| ());
        for pfn in PfnRange::new(Pfn::new(0), Pfn::new(512)).frames() {
            let state = pages.block_of(pfn).map(|head| pages.page_state(head).0);
            if state == Some(PageState::Free) {
                assert!(page_of(pages, pfn) == [0; PAGE_SIZE], "something is left in {pfn:?}");
            }
        }
    });
}

#[test]
fn where_pages_are_treated_no_cpu_keeps_any_at_hand_and_where_they_are_not_it_does() {
    let kept = |hardening| {
        let mut kept = Count(0);
        with_hardened::<Standard>(hardening, scaled(0x2000, 0x400), |pages| {
            drop(pages.alloc(Request::movable(Order::ZERO)).expect("there is memory"));
            kept = pages.drain();
        });
        kept
    };
    assert_ne!(kept(Hardening::empty()), Count(0));
    for hardening in
        [Hardening::PAGE_POISON, Hardening::INIT_ON_ALLOC, Hardening::INIT_ON_FREE, Hardening::DEBUG_PAGEALLOC]
    {
        assert_eq!(kept(hardening), Count(0), "{hardening:?}");
    }
}
