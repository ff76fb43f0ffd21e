//! Which block is taken and where one goes: the pivot, types of pageblocks, pages for nodes.

use std::vec::Vec;

use super::{Alone, BASE, Plain, Wide, WithNodes, ZONE, with_zone};
use crate::desc::allocator_word::{AllocatorWord, PageState};
use crate::migratetype::Migratetype::{Movable, Reclaimable, Unmovable};
use crate::units::Order;

#[test]
fn blocks_below_a_pageblocks_size_are_to_be_had_below_the_pivot_as_long_as_there_are_any() {
    with_zone::<Plain>(64, |zone| {
        let pivot = |zone: &mut Alone<'_, '_, Plain>| {
            let of = |order| AllocatorWord::allocated(Movable, Order::of(order), ZONE);
            [0, 2, 3, 4].map(|order| zone.buddy(|buddy| buddy.pivot_for(of(order))))
        };
        let first = BASE.plus(16);
        assert_eq!(pivot(zone), [Some(first), Some(first), None, None], "the first block is below the pivot");
        // All but the first block are above the pivot, wherever it goes: they were freed when it was lower.
        assert_eq!(zone.alloc(4, Movable), Some(0));
        assert_eq!(pivot(zone), [None; 4]);
    });
}

#[test]
fn what_the_pivot_has_left_behind_goes_to_its_end_and_what_is_below_is_taken_instead() {
    with_zone::<Plain>(128, |zone| {
        while zone.alloc(0, Movable).is_some() {}
        [2, 6, 100].into_iter().for_each(|page| zone.free(page));
        // With these free the pivot is below page 100, which came last to its end of the list.
        (16..96).for_each(|page| zone.free(page));
        assert!(zone.zone.pivot.at() < BASE.plus(100));
        assert_eq!(zone.alloc(0, Movable), Some(6));
        assert_eq!(zone.alloc(0, Movable), Some(2), "the one below that is not moved");
        assert_eq!(zone.state(100), (PageState::Free, 0));
    });
}

#[test]
fn pageblocks_that_become_one_block_are_all_of_its_type() {
    for freed in [[8, 0], [0, 8]] {
        with_zone::<Plain>(32, |zone| {
            zone.leave(&[Unmovable, Reclaimable], &[]);
            freed.into_iter().flat_map(|start| start..start + 8).for_each(|page| zone.free(page));
            assert_eq!(zone.state(0), (PageState::Free, 4));
            assert_eq!([0, 8].map(|page| zone.kind(page)), [Unmovable; 2]);
            // The upper half goes to the lists that its pageblock names.
            assert_eq!(zone.alloc(3, Unmovable), Some(0));
            assert_eq!((zone.pages(Unmovable), zone.pages(Reclaimable)), (8, 0));
        });
    }
}

#[test]
fn a_list_without_room_gets_its_node_from_a_smaller_block_or_else_from_the_block_that_comes() {
    with_zone::<WithNodes>(32, |zone| {
        zone.leave(&[Movable; 2], &[9, 0, 1, 4, 5]);
        assert_eq!(zone.zone.nodes, 0);
        [12, 13].into_iter().for_each(|page| zone.free(page));
        assert_eq!([0, 4, 12].map(|page| zone.state(page)), [(PageState::Free, 1); 3], "no pair is broken");
        assert_eq!((zone.state(9).0, zone.zone.nodes), (PageState::Node, 1));
    });
    with_zone::<WithNodes>(32, |zone| {
        // Pairs that come free as pairs, with no single page beside them.
        zone.leave(&[Movable; 2], &(0..32).collect::<Vec<_>>());
        let pairs: Vec<_> = core::iter::from_fn(|| zone.alloc(1, Movable)).collect();
        assert_eq!(pairs.len(), 16);
        [0, 4, 12].into_iter().for_each(|page| zone.free(page));
        assert_eq!([0, 4].map(|page| zone.state(page)), [(PageState::Free, 1); 2], "what stood there stays");
        assert_eq!((zone.state(12).0, zone.state(13)), (PageState::Node, (PageState::Free, 0)));
    });
}

#[test]
fn a_movable_request_takes_over_a_pageblock_for_a_block_of_half_its_order_and_no_smaller() {
    for (pairs_of, expected) in [(2, Unmovable), (4, Movable)] {
        with_zone::<Wide>(32, |zone| {
            let free: Vec<_> = (0..16).filter(|page| page / pairs_of % 2 == 0).collect();
            zone.leave(&[Unmovable; 2], &free);
            zone.alloc(0, Movable).expect("half is free");
            assert_eq!(zone.kind(0), expected, "half of the pageblock is free, in pieces of {pairs_of}");
        });
    }
}

#[test]
fn of_two_types_with_whole_pageblocks_the_first_choice_gives_one_unless_the_other_has_larger_ones() {
    for (kind, [first, second]) in
        [(Unmovable, [Reclaimable, Movable]), (Movable, [Reclaimable, Unmovable]), (Reclaimable, [Unmovable, Movable])]
    {
        with_zone::<Plain>(64, |zone| {
            let free: Vec<_> = (0..8).chain(16..24).collect();
            zone.leave(&[second, kind, first, kind], &free);
            assert_eq!(zone.alloc(3, kind), Some(16), "{kind:?}");
            assert_eq!(zone.kind(0), second);
        });
        with_zone::<Plain>(64, |zone| {
            let free: Vec<_> = (0..16).chain(16..24).collect();
            zone.leave(&[second, second, first, kind], &free);
            assert_eq!(zone.alloc(3, kind), Some(0), "{kind:?}");
            assert_eq!((zone.kind(8), zone.kind(16)), (second, first));
        });
    }
}
