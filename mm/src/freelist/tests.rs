//! Stacks without an allocator around them: entries are bare numbers, nodes come from a handful of pages.
#![expect(unsafe_code, reason = "a machine that counts what another one does")]

pub(crate) mod bench;
mod broken;
mod lists;
mod random;

use std::vec::Vec;

use self::bench::{Bench, nodes_for, with_stack};
use crate::arena::Deep;
use crate::host::scaled;
use crate::machine::{Geometry, Standard};
use crate::units::{Order, Pfn};

/// Two inline.
type Tiny = Deep<3, 2, 2>;

/// Four of each, so that half a ring is neither one entry nor a leaf.
struct Mid;

impl Geometry for Mid {
    const MAX_ORDER: Order = Order::of(4);
    const PAGEBLOCK_ORDER: Order = Order::of(3);
    const LEAF_SHIFT: u32 = 2;
    const NODE_SHIFT: u32 = 2;
    const INLINE: u32 = 4;
    const RESERVE_SHARE: u32 = 0;
}

/// A ring that holds eight leaves, so that one refill empties several.
type LargeRing = Deep<4, 3, 16>;

#[test]
fn positions_stay_put_while_entries_come_and_go_in_the_middle() {
    with_stack::<Mid>(64, 32, |bench| {
        bench.push_many(50);
        for index in [0, 49, 17, 3, 4, 16, 31, 32, 0].into_iter().step_by(scaled(1, 3)) {
            let before = bench.entries.clone();
            let index = index.min(bench.entries.len() - 1);
            bench.remove(index);
            bench.check();
            let others = (0..bench.entries.len()).filter(|&other| other != index);
            others.for_each(|other| assert_eq!(bench.entries[other], before[other]));
            bench.push(before[index]);
            bench.check();
        }
    });
}

#[test]
fn the_top_leaves_without_moving_any_entry_wherever_it_stands() {
    with_stack::<Tiny>(64, 32, |bench| {
        for len in 1..scaled(40, 20) {
            bench.push_many(len - bench.stack.len());
            let below = bench.entries[..len as usize - 1].to_vec();
            bench.remove(len as usize - 1);
            bench.check();
            assert_eq!(bench.entries, below);
        }
    });
}

#[test]
fn the_last_entry_leaves_and_every_page_comes_back() {
    with_stack::<Tiny>(8, 4, |bench| {
        bench.push_many(5);
        while bench.entries.len() > 1 {
            bench.remove(0);
            bench.check();
        }
        bench.remove(0);
        bench.check();
        assert_eq!((bench.nodes, bench.pool.len()), (0, 8));
    });
}

#[test]
fn few_entries_need_no_node_at_all() {
    with_stack::<Standard>(1, 1, |bench| {
        for _ in 0..scaled(100, 10) {
            bench.push_many(Standard::INLINE);
            bench.pop_many(Standard::INLINE as usize);
        }
        assert_eq!(bench.conversions, 0);
    });
}

/// Swings by less than half a ring from each of these lengths: no page is converted, and no node even looked at.
fn assert_swings_convert_nothing<G: Geometry>(lengths: core::ops::Range<u32>) {
    with_stack::<G>(lengths.end, 0, |bench| {
        for len in lengths.step_by(scaled(1, 39)) {
            bench.push_many(len - bench.stack.len());
            for swing in 1..G::INLINE / 2 {
                // The first swing may meet a leaf's edge, where the ring then finds its place.
                for turn in 0..scaled(8, 2) {
                    let before = (bench.conversions, bench.touches());
                    bench.pop_many(swing.min(len) as usize);
                    bench.push_many(len - bench.stack.len());
                    let after = (bench.conversions, bench.touches());
                    assert!(turn == 0 || after == before, "{swing} below {len}: {before:?} came to {after:?}");
                }
            }
        }
    });
}

#[test]
fn a_stack_that_swings_by_less_than_half_a_ring_leaves_its_tree_alone() {
    assert_swings_convert_nothing::<Mid>(0..200);
    assert_swings_convert_nothing::<LargeRing>(0..200);
}

#[test]
fn a_stack_that_swings_around_a_real_leafs_edge_leaves_its_tree_alone() {
    assert_swings_convert_nothing::<Standard>(0..40);
    assert_swings_convert_nothing::<Standard>(1000..1064);
    assert_swings_convert_nothing::<Standard>(2030..2090);
}

#[test]
fn a_leaf_is_looked_at_once_for_half_a_ring_of_pushes_or_pops() {
    with_stack::<Standard>(8, 0, |bench| {
        let count = scaled(4096, 1200);
        let most = (count / (Standard::INLINE / 2)) as usize + 16;
        bench.push_many(count);
        let touches = bench.touches();
        assert!(touches <= most, "{touches} of {count} pushes looked at a node");
        bench.pop_many(count as usize);
        let touches = bench.touches() - touches;
        assert!(touches <= most, "{touches} of {count} pops looked at a node");
    });
}

#[test]
fn a_path_whose_leaf_never_came_is_given_back_when_the_stack_shrinks_instead() {
    let mut longest = 0;
    for len in (3..scaled(140, 40)).step_by(scaled(1, 31)) {
        for supplied in 1.. {
            let mut leaf_came = false;
            with_stack::<Tiny>(scaled(300, 100), scaled(150, 50), |bench| {
                bench.push_many(len);
                let nodes = bench.nodes;
                for _ in 0..supplied {
                    leaf_came |= !bench.stack.needs_node();
                    if !leaf_came {
                        bench.supply();
                        bench.check();
                    }
                }
                leaf_came |= !bench.stack.needs_node();
                if !leaf_came {
                    longest = longest.max(supplied);
                    bench.pop_many(Tiny::INLINE as usize);
                    bench.check();
                    assert!(bench.nodes <= nodes, "the path of {supplied} above {len} entries is still there");
                }
            });
            if leaf_came {
                break;
            }
        }
    }
    assert!(longest >= scaled(5, 2), "only paths of {longest} nodes were tried");
}

/// Moves every node, some of them more than once, and wants every entry to be where it was.
fn move_every_node<G: Geometry>(bench: &mut Bench<'_, '_, G>, wanted: impl Fn(usize) -> bool) -> usize {
    let places: Vec<_> = bench.places();
    let mut moved = 0;
    for (_, (place, from)) in places.into_iter().enumerate().filter(|&(index, _)| wanted(index)) {
        bench.relocate(place, from);
        bench.check();
        moved += 1;
    }
    moved
}

#[test]
fn every_node_of_every_tree_can_move_and_all_entries_stay_readable() {
    with_stack::<Tiny>(80, 40, |bench| {
        let mut tallest = 0;
        for _ in 0..scaled(40, 12) {
            bench.push_many(1);
            if bench.stack.needs_node() {
                bench.supply();
            }
            move_every_node(bench, |_| true);
            tallest = bench.places().first().map_or(0, |(root, _)| root.level.max(tallest));
        }
        assert!(tallest >= scaled(5, 3), "{tallest} levels are few");
    });
}

#[test]
fn a_moved_tail_leaf_takes_the_entries_that_come_next() {
    with_stack::<Mid>(64, 32, |bench| {
        bench.push_many(22);
        let (place, from) = *bench.places().last().expect("a tail");
        assert!(place.level == 1 && place.first.0 >= 16);
        bench.relocate(place, from);
        bench.push_many(20);
        bench.check();
    });
}

/// 2^19 entries fill the leaves of one interior node; one more takes a root above it.
#[test]
#[cfg_attr(miri, ignore = "three levels of the real sizes take half a million entries; small ones have them too")]
fn a_tree_of_the_real_sizes_grows_to_three_levels_has_its_nodes_moved_and_shrinks() {
    let full = 1u32 << (Standard::LEAF_SHIFT + Standard::NODE_SHIFT);
    with_stack::<Standard>(nodes_for::<Standard>(full + 1) + 1, 256, |bench| {
        bench.push_many(full);
        assert_eq!(bench.places()[0].0.level, 2);
        bench.push_many(Standard::INLINE + 1);
        let levels: Vec<_> = bench.places().iter().map(|(place, _)| place.level).collect();
        assert_eq!(levels[..4], [3, 2, 2, 1]);
        assert_eq!(bench.nodes, nodes_for::<Standard>(full + 1));
        let last = levels.len() - 1;
        let moved = move_every_node(bench, |index| index < 5 || index == 300 || index >= last - 1);
        assert_eq!(moved, 8);
        bench.remove(0);
        bench.remove(full as usize / 2);
        bench.pop_many(2 * Standard::INLINE as usize);
        bench.check();
        assert_eq!(bench.places()[0].0.level, 2);
    });
}

/// The machine lends three. Reading, pushing, popping and removing take one at a time, as parents are left before
/// their children are entered; only copying a node takes two.
#[test]
fn one_slot_at_a_time_is_enough_and_two_for_moving_a_node() {
    with_stack::<Tiny>(300, 0, |bench| {
        bench.push_many(scaled(200, 30));
        bench.check();
        assert_eq!(bench.most_slots(), 1);
        (0..scaled(100, 12)).for_each(|index| bench.remove(index));
        assert_eq!(bench.most_slots(), 1);
        move_every_node(bench, |_| true);
        assert_eq!(bench.most_slots(), 2);
    });
    with_stack::<Tiny>(300, 300, |bench| {
        bench.push_many(scaled(200, 30));
        move_every_node(bench, |_| true);
        assert_eq!(bench.most_slots(), 0, "lowmem takes no slot");
    });
}

/// Numbers at the edges of what a leaf's slot can say.
#[test]
fn the_lowest_and_the_highest_frame_numbers_are_kept() {
    with_stack::<Mid>(16, 8, |bench| {
        for number in [0, 1, 0x000f_ffff, 0x0010_0000, 0x7fff_ffff, 0x8000_0000, u32::MAX - 1, u32::MAX] {
            bench.push(Pfn::new(number));
            bench.push(Pfn::new(!number));
            bench.check();
        }
    });
}
