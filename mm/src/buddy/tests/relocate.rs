//! Nodes in the way of a merge or of a range.

use super::{Bench, with_memory};
use crate::host::scaled;
use crate::machine::Geometry;
use crate::migratetype::Migratetype::{Movable, Unmovable};
use crate::units::Order;
use crate::{ContigError, PageState};

/// Two entries a node, two inline, and a largest order of choice.
struct Tiny<const MAX_ORDER: usize>;

impl<const MAX_ORDER: usize> Geometry for Tiny<MAX_ORDER> {
    const MAX_ORDER: Order = Order::of(MAX_ORDER);
    const PAGEBLOCK_ORDER: Order = Order::of(if MAX_ORDER > 0 { MAX_ORDER - 1 } else { 0 });
    const LEAF_SHIFT: u32 = 1;
    const NODE_SHIFT: u32 = 1;
    const INLINE: u32 = 2;
    const RESERVE_SHARE: u32 = 0;
}

/// All of the first block of eight is free but page 1, and page 0 is the node of the list on which the single pages
/// `outside` stand. Enough others are in use for all of them to be below the pivot.
fn node_beside_the_last_page<const MAX_ORDER: usize>(bench: &Bench<'_, Tiny<MAX_ORDER>>, outside: &[u32]) {
    bench.take_all(Movable);
    let (before, after) = outside.split_at(2);
    bench.free_each(before.iter().copied());
    bench.free(0);
    bench.free_each(after.iter().copied());
    bench.free_each(2..8);
    assert_eq!((bench.state(0), bench.nodes()), (PageState::Node, 1));
}

#[test]
fn a_node_beside_the_last_allocated_page_moves_out_and_the_block_comes_whole() {
    for lowmem in [0, 32] {
        with_memory::<Tiny<3>>(32, lowmem, |bench| {
            node_beside_the_last_page(bench, &[8, 10, 12]);
            bench.free(1);
            assert_eq!(bench.free_order(0), Some(3));
            assert_eq!((bench.nodes(), bench.free_pages()), (1, 8 + 3));
            let states = [8, 10, 12].map(|page| bench.state(page));
            assert_eq!(states.iter().filter(|&&state| state == PageState::Node).count(), 1);
        });
    }
}

#[test]
fn a_node_that_is_needless_once_its_new_page_is_off_the_list_just_goes() {
    with_memory::<Tiny<3>>(32, 32, |bench| {
        node_beside_the_last_page(bench, &[8, 10]);
        bench.free(1);
        assert_eq!((bench.free_order(0), bench.nodes(), bench.free_pages()), (Some(3), 0, 8 + 2));
        assert_eq!([8, 10].map(|page| bench.free_order(page)), [Some(0); 2]);
    });
}

#[test]
fn a_node_stays_when_nothing_outside_is_smaller_than_what_would_come_of_it() {
    with_memory::<Tiny<1>>(24, 24, |bench| {
        bench.take_all(Movable);
        // Two pairs fill the ring; the third takes the only single page for its node.
        bench.free_each([2, 3, 4, 5, 0, 6, 7]);
        assert_eq!((bench.state(0), bench.free_order(6)), (PageState::Node, Some(1)));
        bench.free(1);
        assert_eq!((bench.state(0), bench.free_order(1)), (PageState::Node, Some(0)));
        // A single page outside makes the difference.
        assert_eq!(bench.alloc(0, Movable), Some(1));
        bench.free(8);
        bench.free(1);
        assert_eq!((bench.free_order(0), bench.state(8)), (Some(1), PageState::Node));
    });
}

#[test]
fn a_node_that_was_stuck_for_lack_of_room_is_moved_as_soon_as_there_is_some() {
    with_memory::<Tiny<1>>(24, 24, |bench| {
        bench.take_all(Movable);
        bench.free_each([2, 3, 4, 5, 0, 6, 7, 1]);
        assert_eq!((bench.state(0), bench.free_order(1)), (PageState::Node, Some(0)), "there is nowhere to go");
        bench.free(8);
        assert_eq!((bench.free_order(0), bench.state(8)), (Some(1), PageState::Node));
    });
}

/// Page 9 is the last one in use of the first block of 32, some of whose lower pages have become nodes: of two lists
/// of halves of other blocks, `movable` and `unmovable` of them, outside of which nothing is free.
fn nodes_in_one_block(bench: &Bench<'_, Tiny<5>>, movable: u32, unmovable: u32) {
    while bench.alloc(4, Movable).is_some() {}
    let half = |block: u32| (block + 1) * 32;
    for half in (movable..movable + unmovable).map(half) {
        bench.free(half);
        assert_eq!(bench.alloc(4, Unmovable), Some(half));
    }
    bench.free_each([0, 16]);
    assert_eq!(bench.take_all(Movable), 32);
    bench.free_each(0..9);
    bench.free_each((0..movable + unmovable).map(half));
    bench.free_each(10..32);
}

/// How many of the nine lowest pages are nodes.
fn nodes_below_nine(bench: &Bench<'_, Tiny<5>>) -> usize {
    (0..9).filter(|&page| bench.state(page) == PageState::Node).count()
}

#[test]
fn nodes_of_two_lists_make_way_for_the_last_page_of_a_block() {
    with_memory::<Tiny<5>>(13 * 32, 13 * 32, |bench| {
        nodes_in_one_block(bench, 9, 3);
        assert!(nodes_below_nine(bench) > 1);
        bench.free(9);
        assert_eq!((bench.free_order(0), bench.free_pages()), (Some(5), 32 + 12 * 16));
    });
}

#[test]
fn a_node_moves_out_of_a_range_that_is_wanted() {
    for lowmem in [0, 32] {
        with_memory::<Tiny<3>>(32, lowmem, |bench| {
            node_beside_the_last_page(bench, &[8, 10, 12]);
            let wanted = bench.allocator.alloc_contig(bench.range(0..1)).expect("one free page, which is a node");
            bench.verify();
            assert_eq!((bench.state(0), bench.nodes(), bench.free_pages()), (PageState::Allocated, 1, 6 + 3));
            drop(wanted);
            assert_eq!((bench.free_order(0), bench.free_pages()), (Some(0), 7 + 3));
        });
    }
}

#[test]
fn a_range_with_a_page_in_use_is_refused_and_nothing_changes() {
    with_memory::<Tiny<3>>(32, 32, |bench| {
        node_beside_the_last_page(bench, &[8, 10, 12]);
        let before = bench.allocator.fingerprint(bench.frames);
        for pages in [0..2, 0..8, 1..2, 1..9, 7..10, 8..16] {
            let refused = bench.allocator.alloc_contig(bench.range(pages.clone())).map(drop);
            let in_use = pages.into_iter().find(|&page| bench.state(page) == PageState::Allocated);
            let in_use = bench.frames.start.plus(in_use.expect("a page of each is in use"));
            assert_eq!(refused, Err(ContigError::InUse(in_use)));
            assert_eq!(bench.allocator.fingerprint(bench.frames), before);
        }
    });
}

/// Frees some of ten pages, and wants each run of them.
fn want_each_run<const MAX_ORDER: usize>(order_of_frees: fn(u32) -> u32) {
    const PAGES: u32 = 10;
    with_memory::<Tiny<MAX_ORDER>>(PAGES, 7, |bench| {
        bench.take_all(Movable);
        for freed in (0..1u32 << PAGES).step_by(scaled(1, 101)) {
            let is_free = |page: &u32| freed >> page & 1 == 1;
            bench.free_each((0..PAGES).map(order_of_frees).filter(is_free));
            for start in 0..PAGES {
                let zone_end = if start < 7 { 7 } else { PAGES };
                for end in (start + 1..=zone_end).take_while(|end| is_free(&(end - 1))) {
                    let run = bench.allocator.alloc_contig(bench.range(start..end));
                    let run = run.unwrap_or_else(|error| panic!("{start}..{end} of {freed:#b}: {error}"));
                    assert!((start..end).all(|page| bench.state(page) != PageState::Node));
                    bench.verify();
                    drop(run);
                    bench.verify();
                }
            }
            assert_eq!(bench.take_all(Movable), freed.count_ones());
        }
    });
}

/// The nodes that stay when a range's own blocks are off the lists serve blocks outside, each of which has room for
/// one: so there is no run of free pages that cannot be had.
#[test]
fn every_run_of_free_pages_of_a_zone_can_be_had_whatever_nodes_stand_in_it() {
    want_each_run::<0>(|page| page);
    want_each_run::<0>(|page| 9 - page);
    want_each_run::<0>(|page| page * 3 % 10);
    want_each_run::<2>(|page| page * 7 % 10);
}
