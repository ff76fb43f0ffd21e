//! What is not as its words say stops the machine by name, before anybody has it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::string::String;
use std::vec::Vec;

use super::Tiny;
use super::bench::{BASE, Metered, ZONE, with_pages};
use crate::block::Pending;
use crate::desc::allocator_word::{End, ListId, PageState};
use crate::desc::word::{NodePlace, Page, Position};
use crate::freelist::{Freelists, ListContext, NeedsNode, Released};
use crate::migratetype::Migratetype;
use crate::units::{Order, Pfn, ZoneId};

const LIST: ListId = ListId::new(Migratetype::Movable, Order::ZERO, End::Near);

type Context<'a, 'm> = ListContext<'a, 'm, Metered<Tiny>>;

/// What the machine says that stops as a list of so many blocks, those first that came first, is worked on; the others of its
/// pages are nodes.
fn stops(
    blocks: usize,
    work: impl FnOnce(&mut Freelists<Tiny>, &Context<'_, '_>, &[Pfn], &mut Released<'_>),
) -> String {
    let mut said = String::new();
    with_pages::<Tiny>(32, 32, |context, pool| {
        let (mut lists, mut nodes, mut pool) = (Freelists::new(), 0, pool.into_iter());
        let blocks: Vec<_> = pool.by_ref().take(blocks).collect();
        for &block in &blocks {
            while let Err(NeedsNode) = lists.push(context, LIST, block, context.map.page(block)) {
                lists.supply(context, LIST, pool.next().expect("a page for a node"));
                nodes += 1;
            }
        }
        let mut pending = Pending::new();
        let released = &mut Released { pending: &mut pending, nodes: &mut nodes };
        let work = AssertUnwindSafe(|| work(&mut lists, context, &blocks, released));
        let payload = catch_unwind(work).expect_err("what is wrong is noticed");
        said = payload.downcast_ref::<String>().expect("it says what is wrong").clone();
    });
    said
}

type Change = fn(&Page);

/// What makes the head of a free block, which stands at 1, another one's.
const CHANGES: [Change; 6] = [
    |page| page.set_position(Position(0)),
    |page| page.set_free(LIST, ZoneId(ZONE.0 + 1), Position(1)),
    |page| page.set_free(LIST.other_end(), ZONE, Position(1)),
    |page| page.set_free(ListId::new(Migratetype::Unmovable, Order::ZERO, End::Near), ZONE, Position(1)),
    |page| page.set_allocated(Migratetype::Movable, Order::ZERO, ZONE),
    |page| page.set_tail(),
];

#[test]
fn a_block_that_does_not_say_that_it_stands_there_is_not_handed_out() {
    for change in CHANGES {
        let said = stops(2, |lists, context, blocks, released| {
            change(context.map.page(blocks[1]));
            lists.pop(context, LIST, released);
        });
        assert!(said.starts_with("invariant FREE-1 broken"), "{said}");
    }
}

#[test]
fn nor_does_it_fill_the_gap_that_another_one_leaves() {
    for change in CHANGES {
        let said = stops(2, |lists, context, blocks, released| {
            change(context.map.page(blocks[1]));
            lists.remove(context, LIST, blocks[0], Position(0), released);
        });
        assert!(said.starts_with("invariant FREE-1 broken"), "{said}");
    }
}

#[test]
fn a_block_is_not_taken_from_where_another_one_stands_or_none_does() {
    for position in [1, 2, 7] {
        let said = stops(2, |lists, context, blocks, released| {
            lists.remove(context, LIST, blocks[0], Position(position), released);
        });
        assert!(said.starts_with("invariant FREE-1 broken"), "{said}");
    }
}

/// The pages that say that they are nodes.
fn nodes<'m>(context: &Context<'_, 'm>) -> Vec<&'m Page> {
    let pages = (BASE.number()..BASE.number() + 32).map(|pfn| context.map.page(Pfn::new(pfn)));
    pages.filter(|page| page.word().is(PageState::Node)).collect()
}

#[test]
fn a_page_that_does_not_say_that_it_is_a_node_of_the_zone_does_not_come_free() {
    let changes: [Change; 3] = [
        |page| page.set_node(LIST, ZoneId(ZONE.0 + 1), NodePlace { first: page.position(), level: 0 }),
        |page| page.set_allocated(Migratetype::Movable, Order::ZERO, ZONE),
        |page| page.set_free(LIST, ZONE, page.position()),
    ];
    for change in changes {
        let said = stops(6, |lists, context, blocks, released| {
            nodes(context).into_iter().for_each(change);
            for _ in blocks {
                lists.pop(context, LIST, released);
            }
        });
        assert!(said.starts_with("invariant FREE-4 broken"), "{said}");
    }
}

#[test]
fn a_page_that_says_that_it_is_another_node_is_not_moved() {
    let said = stops(6, |lists, context, _, _| {
        let free = Pfn::new(BASE.number() + 31);
        let node = nodes(context)[0];
        let place = NodePlace { first: Position(node.position().0 + 2), level: 0 };
        node.set_node(LIST, ZONE, place);
        let from = (BASE.number()..).map(Pfn::new).find(|&pfn| core::ptr::eq(context.map.page(pfn), node));
        lists.relocate(context, from.expect("it has a number"), free);
    });
    assert!(said.starts_with("invariant FREE-4 broken"), "{said}");
}
