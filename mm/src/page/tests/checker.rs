//! The checker sees what is broken, and names it and the page.
#![expect(unsafe_code, reason = "flips bits of words, which nothing does by design")]

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};
use std::vec::Vec;

use super::{GIB, MIB, Machine, PageAllocator, Request, allocator, machine, usable};
use crate::PageState;
use crate::desc::allocator_word::{AllocatorWord, End, ListId};
use crate::desc::word::{NodePlace, Page, Position};
use crate::host::scaled;
use crate::invariant::{Invariant, Violation};
use crate::migratetype::Migratetype;
use crate::units::{Order, Pfn, ZoneId};
use crate::zone::Zone;

type Allocator<'m> = PageAllocator<'m, Machine>;

const MEMORY: u64 = scaled(64, 16) * MIB;
const FRAMES: u32 = scaled(0x4000, 0x1000);

/// Pages of which every second one stays allocated.
const SINGLE: u32 = scaled(4096, 200);

/// Breaks something, and says what the checker says of it. Of many pages every second one is allocated, the others are on lists
/// that are long enough to have nodes, and two buddies of eight pages are allocated.
fn violation(break_it: impl FnOnce(&Allocator<'_>)) -> Violation {
    let machine = machine(MEMORY, MEMORY / 2);
    let allocator = allocator(&machine, &[usable(0, MEMORY)]);
    let pages: Vec<_> = (0..SINGLE).map_while(|_| allocator.alloc(Request::movable(Order::ZERO)).ok()).collect();
    let eights = allocator.alloc(Request::movable(Order::of(4))).expect("there is more").split();
    let (eight, buddy) = eights.expect("sixteen pages can be halved");
    let (even, odd): (Vec<_>, Vec<_>) = pages.into_iter().partition(|page| page.head().number() % 2 == 0);
    drop(even);
    allocator.drain();
    allocator.verify().expect("all is well before");
    break_it(&allocator);
    let violation = allocator.verify().expect_err("what was broken is seen");
    odd.into_iter().chain([eight, buddy]).for_each(core::mem::forget);
    violation
}

fn named(break_it: impl FnOnce(&Allocator<'_>)) -> (Invariant, &'static str) {
    let Violation { invariant, what, .. } = violation(break_it);
    (invariant, what)
}

/// The first page of a state that heads a block of an order.
fn first(allocator: &Allocator<'_>, state: PageState, order: Order) -> Pfn {
    let mut frames = (1..FRAMES).map(Pfn::new);
    frames.find(|&pfn| allocator.page_state(pfn) == (state, order)).expect("there is such a page")
}

fn page<'m>(allocator: &Allocator<'m>, state: PageState) -> &'m Page {
    allocator.map.page(first(allocator, state, Order::ZERO))
}

/// Changes what a zone says of itself: the one that a page is in.
fn with_zone(allocator: &Allocator<'_>, pfn: Pfn, change: impl FnOnce(&mut Zone<crate::machine::Standard>)) {
    let cell = &allocator.zones[allocator.map.page(pfn).word().zone().index()];
    allocator.with_buddy(cell, |buddy| change(buddy.zone()));
}

/// Changes what the zone of the freed pages says of itself.
fn with_counts(allocator: &Allocator<'_>, change: impl FnOnce(&mut Zone<crate::machine::Standard>)) {
    with_zone(allocator, first(allocator, PageState::Node, Order::ZERO), change);
}

#[test]
fn a_block_that_stands_elsewhere_than_it_says() {
    let (broken, _) = named(|a| page(a, PageState::Free).set_position(Position(77)));
    assert_eq!(broken, Invariant::Free1);
}

#[test]
fn a_listed_block_that_is_not_free() {
    let (broken, _) = named(|a| {
        let page = page(a, PageState::Free);
        page.set_allocated(Migratetype::Movable, page.word().order(), page.word().zone());
    });
    assert_eq!(broken, Invariant::Free1);
}

#[test]
fn a_node_that_does_not_know_what_it_is() {
    let (broken, _) = named(|a| page(a, PageState::Node).set_position(Position(1)));
    assert_eq!(broken, Invariant::Free4);
}

#[test]
fn a_listed_block_of_another_zone_or_list_or_place() {
    type Change = fn(ListId, ZoneId, u32) -> (ListId, ZoneId, u32);
    let changes: [(Change, &str); 4] = [
        (|list, ZoneId(zone), at| (list, ZoneId(zone ^ 1), at), "a list holds a page that is not a free block of it"),
        (|list, zone, at| (list.other_end(), zone, at), "a list holds a page that is not a free block of it"),
        (
            |list, zone, at| (ListId::new(list.migratetype(), Order::of(1), list.end()), zone, at),
            "a list holds a page that is not a free block of it",
        ),
        (|list, zone, at| (list, zone, at + 1), "a free block stands elsewhere than it says"),
    ];
    for (change, what) in changes {
        let broken = violation(|a| {
            let page = page(a, PageState::Free);
            let (list, zone, at) = change(page.word().list(), page.word().zone(), page.position().0);
            page.set_free(list, zone, Position(at));
        });
        assert_eq!((broken.invariant, broken.what), (Invariant::Free1, what));
    }
}

#[test]
fn a_node_of_another_zone_or_list_or_place() {
    type Change = fn(ListId, ZoneId, NodePlace) -> (ListId, ZoneId, NodePlace);
    let changes: [Change; 4] = [
        |list, ZoneId(zone), place| (list, ZoneId(zone ^ 1), place),
        |list, zone, place| (list.other_end(), zone, place),
        |list, zone, NodePlace { level, first }| (list, zone, NodePlace { level: level + 1, first }),
        |list, zone, NodePlace { level, first }| (list, zone, NodePlace { level, first: Position(first.0 + 1) }),
    ];
    for change in changes {
        let broken = named(|a| {
            let page = page(a, PageState::Node);
            let (list, zone, place) = change(page.word().list(), page.word().zone(), page.place());
            page.set_node(list, zone, place);
        });
        assert_eq!(broken, (Invariant::Free4, "a node's words do not say what it is"));
    }
}

#[test]
fn a_hole_that_is_more_than_a_hole() {
    let broken = named(|a| {
        let beyond = a.map.get(Pfn::new(64 << 10)).expect("the table has a section of holes there");
        assert_eq!(beyond.word(), AllocatorWord::HOLE);
        beyond.set_reserved();
    });
    assert_eq!(broken, (Invariant::Word1, "a hole is more than a hole"));
}

#[test]
fn a_free_block_on_no_list() {
    let broken = named(|a| {
        // Its buddy is allocated too, so they are not two that should have merged.
        let eight = first(a, PageState::Allocated, Order::of(3));
        let zone = a.map.page(eight).word().zone();
        let list = ListId::new(Migratetype::Movable, Order::of(3), End::Near);
        a.map.page(eight).set_free(list, zone, Position(0));
        with_zone(a, eight, |zone| zone.free += 8);
    });
    assert_eq!(broken, (Invariant::Free1, "there are free blocks that no list holds"));
}

#[test]
fn a_node_that_no_list_leads_to() {
    let broken = named(|a| {
        let page = page(a, PageState::Allocated);
        let list = ListId::new(Migratetype::Movable, Order::ZERO, End::Near);
        page.set_node(list, page.word().zone(), NodePlace { level: 0, first: Position(0) });
    });
    assert_eq!(broken, (Invariant::Free4, "there are nodes that no list leads to"));
}

#[test]
fn two_free_buddies() {
    let Violation { invariant, what, pfn } = violation(|a| {
        let free = first(a, PageState::Free, Order::ZERO);
        let word = a.map.page(free).word();
        a.map.page(free.buddy(Order::ZERO)).set_free(word.list(), word.zone(), Position(0));
    });
    assert_eq!((invariant, what), (Invariant::Free2, "two free buddies have not merged"));
    assert!(pfn.is_some());
}

#[test]
fn counts_of_a_zone_that_are_wrong_by_one() {
    type Change = fn(&mut Zone<crate::machine::Standard>);
    let cases: [(Change, Invariant, &str); 6] = [
        (|zone| zone.managed += 1, Invariant::Acct1, "total is not free plus at hand plus allocated"),
        (|zone| zone.managed -= 1, Invariant::Acct1, "total is not free plus at hand plus allocated"),
        (|zone| zone.free += 1, Invariant::Acct1, "the zone has miscounted its free pages"),
        (|zone| zone.free -= 1, Invariant::Acct1, "the zone has miscounted its free pages"),
        (|zone| zone.nodes += 1, Invariant::Free4, "the zone has miscounted its nodes"),
        (|zone| zone.nodes -= 1, Invariant::Free4, "the zone has miscounted its nodes"),
    ];
    for (change, invariant, what) in cases.into_iter().step_by(scaled(1, 2)) {
        assert_eq!(named(|a| with_counts(a, change)), (invariant, what));
    }
}

#[test]
fn a_block_that_nobody_owns_and_that_says_something_of_it() {
    let broken = named(|a| page(a, PageState::Allocated).set_position(Position(3)));
    assert_eq!(broken, (Invariant::Desc1, "a block that nobody owns has a second word"));
}

#[test]
fn a_page_at_hand_of_nobody() {
    let broken = named(|a| {
        let page = page(a, PageState::Allocated);
        page.keep_at_hand(page.word());
    });
    assert_eq!(broken, (Invariant::Pcp1, "pages say that a CPU has them, and none does"));
}

#[test]
fn a_page_that_belongs_to_nothing() {
    let broken = named(|a| page(a, PageState::Allocated).set_tail());
    assert_eq!(broken, (Invariant::Acct1, "a page belongs to no block"));
}

#[test]
fn a_block_left_in_flight() {
    let broken = named(|a| {
        let page = page(a, PageState::Allocated);
        page.set_isolated(Order::ZERO, page.word().zone(), None);
    });
    assert_eq!(broken, (Invariant::Acct1, "a block is still in flight"));
}

#[test]
fn more_than_a_tail_inside_a_block_of_each_page_of_it() {
    for inside in (1..8).step_by(scaled(1, 6)) {
        let mut at = None;
        let broken = violation(|a| {
            let head = first(a, PageState::Allocated, Order::of(3));
            at = Some(head.plus(inside));
            let page = a.map.page(head.plus(inside));
            page.set_allocated(Migratetype::Movable, Order::ZERO, a.map.page(head).word().zone());
        });
        assert_eq!((broken.invariant, broken.what), (Invariant::Zone1, "a page inside a block is more than a tail"));
        assert_eq!(broken.pfn, at);
    }
}

#[test]
fn a_block_that_is_not_where_its_size_allows() {
    let broken = named(|a| {
        let odd = first(a, PageState::Allocated, Order::ZERO);
        assert!(!odd.is_aligned(Order::of(1)), "odd pages are allocated");
        let page = a.map.page(odd);
        page.set_allocated(Migratetype::Movable, Order::of(1), page.word().zone());
    });
    assert_eq!(broken, (Invariant::Zone1, "a block is not aligned to its size"));
}

#[test]
fn a_free_block_of_another_type_than_its_pageblock() {
    let broken = named(|a| {
        let free = first(a, PageState::Free, Order::ZERO);
        a.map.known_section(free).set_migratetype(free, Migratetype::Reclaimable);
    });
    assert_eq!(broken, (Invariant::Free1, "a free block's list is not of its pageblock's type"));
}

#[test]
fn a_page_whose_memory_fails_in_a_block_that_is_silent_about_it() {
    for (state, order, inside) in [(PageState::Allocated, Order::of(3), 5), (PageState::Free, Order::ZERO, 0)] {
        let mut at = None;
        let broken = violation(|a| {
            let bad = first(a, state, order).plus(inside);
            a.map.page(bad).set_hwpoison();
            at = Some(bad);
        });
        assert_eq!(broken.invariant, Invariant::Hwpoison1, "{state:?}: {broken}");
        assert_eq!(broken.pfn, at);
    }
}

#[test]
fn a_flipped_bit_of_any_page_of_no_list() {
    for state in [PageState::Allocated, PageState::Reserved] {
        for &bit in scaled(&[0, 5, 16, 15, 32, 63][..], &[0, 63]) {
            let mut at = None;
            let broken = violation(|a| {
                let is_there =
                    |&pfn: &Pfn| a.page_state(pfn).0 == state && a.zones().any(|zone| zone.span.contains(pfn));
                let pfn = (1..FRAMES).map(Pfn::new).find(is_there).expect("there is one");
                let word: NonNull<AtomicU64> = NonNull::from(a.map.page(pfn)).cast();
                // SAFETY: a page is two words, the first of which is an atomic one.
                unsafe { word.as_ref() }.fetch_xor(1 << bit, Ordering::Relaxed);
                at = Some(pfn);
            });
            assert_eq!((broken.invariant, broken.pfn), (Invariant::Word1, at), "{state:?}, bit {bit}");
        }
    }
}

#[test]
#[cfg_attr(miri, ignore = "five looks at a gibibyte, of which less sets nothing aside")]
fn what_is_set_aside_of_another_type_and_what_is_of_the_type_and_not_set_aside() {
    let machine = machine(GIB, GIB);
    let allocator = allocator(&machine, &[usable(0, GIB)]);
    let heads = || (1..256).map(|block| Pfn::new(block << Order::LIMIT.number()));
    let of = |migratetype| {
        heads().find(|&head| allocator.map.known_section(head).migratetype(head) == migratetype).expect("there is one")
    };
    let (movable, aside) = (of(Migratetype::Movable), of(Migratetype::HighAtomic));
    let named = || allocator.verify().map_err(|violation| (violation.what, violation.pfn));
    assert_eq!(named(), Ok(()));
    with_zone(&allocator, movable, |zone| zone.highatomic.push(movable));
    assert_eq!(named(), Err(("what is set aside is of another type", Some(movable))));
    with_zone(&allocator, movable, |zone| zone.highatomic.retain(|&mut head| head != movable && head != aside));
    let forgotten = "a block is of the type of what is set aside, and is not";
    assert_eq!(named(), Err((forgotten, Some(aside))));
    with_zone(&allocator, movable, |zone| zone.highatomic.push(aside));
    assert_eq!(named(), Ok(()));
}
