//! Lists with descriptors: a block knows where it stands, and who comes next is the one that should.

use std::collections::BTreeMap;
use std::vec::Vec;

use super::bench::{Metered, ZONE, with_pages};
use super::{Mid, Tiny};
use crate::block::Pending;
use crate::desc::allocator_word::{End, ListId, PageState};
use crate::desc::word::Position;
use crate::freelist::{Freelists, ListContext, NeedsNode, Released};
use crate::host::scaled;
use crate::machine::Geometry;
use crate::migratetype::Migratetype;
use crate::random::{Random, RandomSeed};
use crate::units::{Order, Pfn};

const KIND: Migratetype = Migratetype::Movable;

fn end(end: End) -> ListId {
    ListId::new(KIND, Order::ZERO, end)
}

/// Pushes a page on a list, with nodes from `pool`, and counts them.
fn push<G: Geometry>(
    lists: &mut Freelists<G>,
    context: &ListContext<'_, '_, Metered<G>>,
    list: ListId,
    pfn: Pfn,
    pool: &mut impl Iterator<Item = Pfn>,
) -> u32 {
    let mut nodes = 0;
    while let Err(NeedsNode) = lists.push(context, list, pfn, context.map.page(pfn)) {
        lists.supply(context, list, pool.next().expect("a page for a node"));
        nodes += 1;
    }
    nodes
}

#[test]
fn the_block_that_fills_a_gap_learns_its_new_position() {
    with_pages::<Tiny>(64, 20, |context, pool| {
        let mut lists = Freelists::<Tiny>::new();
        let mut pool = pool.into_iter();
        let blocks: Vec<_> = pool.by_ref().take(20).collect();
        let list = end(End::Near);
        let mut nodes = 0;
        for &block in &blocks {
            nodes += push(&mut lists, context, list, block, &mut pool);
        }
        assert_eq!(lists.verify(context, list), Ok(nodes));
        let mut pending = Pending::new();
        // Each leaves by the position in its own descriptor, which is all that a merge knows.
        for &block in blocks.iter().step_by(3).chain(blocks.iter().skip(1).step_by(3)) {
            let page = context.map.page(block);
            assert!(page.word().is(PageState::Free));
            let released = &mut Released { pending: &mut pending, nodes: &mut nodes };
            lists.remove(context, list, block, page.position(), released);
            page.set_allocated(Migratetype::Movable, Order::ZERO, ZONE);
            while pending.pop(context.map).is_some() {}
            assert_eq!(lists.verify(context, list), Ok(nodes));
        }
        let left: Vec<_> = lists.heads(context.nodes, KIND, Order::ZERO).collect();
        assert_eq!(left.len(), 6);
        assert!(blocks.iter().skip(2).step_by(3).all(|block| left.contains(block)));
    });
}

#[test]
fn a_refused_block_leaves_the_list_as_it_was() {
    with_pages::<Tiny>(8, 8, |context, mut pool| {
        let mut lists = Freelists::<Tiny>::new();
        let list = end(End::Near);
        let mut next = || pool.pop_front().expect("a page");
        for _ in 0..Tiny::INLINE {
            let pfn = next();
            lists.push(context, list, pfn, context.map.page(pfn)).expect("the ring has room");
        }
        let pfn = next();
        let page = context.map.page(pfn);
        lists.push(context, list, pfn, page).expect_err("the ring is full, and there is no leaf");
        assert_eq!((lists.len(KIND, Order::ZERO), page.word().is_tail()), (Tiny::INLINE, true));
        lists.supply(context, list, next());
        lists.push(context, list, pfn, page).expect("there is a leaf now");
        assert_eq!((page.position(), lists.verify(context, list)), (Position(Tiny::INLINE), Ok(1)));
    });
}

#[test]
fn near_blocks_are_taken_last_in_first_out_and_far_ones_after_all_of_them() {
    with_pages::<Mid>(80, 40, |context, pool| {
        let mut lists = Freelists::<Mid>::new();
        let mut pool = pool.into_iter();
        let blocks: Vec<_> = pool.by_ref().take(40).collect();
        let (near, far) = blocks.split_at(20);
        let mut nodes = 0;
        for (&near, &far) in near.iter().zip(far) {
            nodes += push(&mut lists, context, end(End::Near), near, &mut pool);
            nodes += push(&mut lists, context, end(End::Far), far, &mut pool);
        }
        let expected: Vec<_> = near.iter().rev().chain(far.iter().rev()).copied().collect();
        assert_eq!(lists.heads(context.nodes, KIND, Order::ZERO).collect::<Vec<_>>(), expected);
        let mut pending = Pending::new();
        for block in expected {
            let list = lists.next(KIND, Order::ZERO, Pfn::new(0)).expect("there are more");
            let released = &mut Released { pending: &mut pending, nodes: &mut nodes };
            assert_eq!(lists.pop(context, list, released), block);
        }
        assert_eq!((lists.len(KIND, Order::ZERO), nodes), (0, 0));
        assert_eq!(lists.next(KIND, Order::ZERO, Pfn::new(0)), None);
    });
}

#[test]
fn the_smallest_the_largest_and_the_next_block_are_of_the_migratetype_that_was_asked_for() {
    with_pages::<Mid>(32, 32, |context, pool| {
        let mut lists = Freelists::<Mid>::new();
        let mut pool = pool.into_iter();
        let blocks = [(KIND, 1, End::Far), (KIND, 3, End::Near), (Migratetype::Unmovable, 0, End::Near)];
        let heads = blocks.map(|(kind, order, end)| {
            let (list, pfn) = (ListId::new(kind, Order::of(order), end), pool.next().expect("a page"));
            push(&mut lists, context, list, pfn, &mut pool);
            (list, pfn)
        });
        let found = |lists: &Freelists<Mid>, from| {
            let order = Order::of(from);
            let lists = [lists.smallest(KIND, order), lists.largest(KIND, order), lists.next(KIND, order, Pfn::new(0))];
            lists.map(|list| list.map(|list| list.order().index()))
        };
        assert_eq!(found(&lists, 0), [Some(1), Some(3), Some(3)], "what is at the near end is next, whatever its size");
        assert_eq!(found(&lists, 2), [Some(3), Some(3), Some(3)]);
        assert_eq!(found(&lists, 4), [None, None, None]);
        assert_eq!(lists.smallest(Migratetype::Reclaimable, Order::ZERO), None);
        let (mut pending, mut nodes) = (Pending::new(), 0);
        for (list, pfn) in heads {
            let released = &mut Released { pending: &mut pending, nodes: &mut nodes };
            assert_eq!(lists.pop(context, list, released), pfn);
        }
        assert_eq!(found(&lists, 0), [None, None, None]);
    });
}

#[test]
fn of_far_blocks_the_smallest_is_next_unless_the_pivot_has_come_past_the_first_of_the_largest() {
    with_pages::<Mid>(32, 32, |context, pool| {
        let mut lists = Freelists::<Mid>::new();
        let mut pool = pool.into_iter();
        let [small, large] = [0, 2].map(|order| ListId::new(KIND, Order::of(order), End::Far));
        let [_, head] = [small, large].map(|list| {
            let pfn = pool.next().expect("a page");
            push(&mut lists, context, list, pfn, &mut pool);
            pfn
        });
        assert_eq!((lists.pages(KIND), lists.pages(Migratetype::Unmovable)), (1 + 4, 0));
        assert_eq!(lists.next(KIND, Order::ZERO, Pfn::new(head.number() - 1)), Some(small));
        assert_eq!(lists.next(KIND, Order::ZERO, head), Some(small), "what is from the pivot on is to stay whole");
        assert_eq!(lists.next(KIND, Order::ZERO, head.plus(1)), Some(large));
        assert_eq!(lists.next(KIND, Order::of(1), head), Some(large), "the small one does not do");
        for (list, pfn) in [(small, Pfn::new(head.number() - 1)), (large, head)] {
            let released = &mut Released { pending: &mut Pending::new(), nodes: &mut 0 };
            assert_eq!((lists.next(KIND, Order::ZERO, pfn), lists.len(KIND, list.order())), (Some(list), 1));
            lists.pop(context, list, released);
        }
    });
}

#[test]
fn every_order_of_a_shuffled_list_is_as_likely_as_any_other() {
    with_pages::<Mid>(32, 32, |context, pool| {
        let mut seen = BTreeMap::<_, u32>::new();
        let blocks: Vec<_> = pool.into_iter().take(3).collect();
        const ROUNDS: u32 = scaled(600, 240);
        for seed in 0..ROUNDS.into() {
            let mut lists = Freelists::<Mid>::new();
            for &block in &blocks {
                push(&mut lists, context, end(End::Near), block, &mut core::iter::empty());
            }
            lists.shuffle(context, &mut Random::of(RandomSeed(seed), b"lists"));
            assert_eq!(lists.verify(context, end(End::Near)), Ok(0));
            *seen.entry(lists.heads(context.nodes, KIND, Order::ZERO).collect::<Vec<_>>()).or_default() += 1;
        }
        assert!(seen.len() == 6 && seen.values().all(|times| (ROUNDS / 10..ROUNDS / 4).contains(times)), "{seen:?}");
    });
}
