//! Models of looks without a lock, against a writer whose nodes leave one tree and serve another.
//!
//! Run with `RUSTFLAGS="--cfg loom" cargo test -p mm --release --lib loom`.

use ::loom::sync::Arc;
use ::loom::thread;
use core::ptr::NonNull;
use std::boxed::Box;

use super::node::{Node, NodeStock};
use super::word::Level;
use super::*;
use crate::arena::ArenaMachine;
use crate::descriptor::WalkGate;
use crate::machine::Standard;
use crate::units::{Pfn, StoreSlot};

const STAYS: Entry<u128> = Entry::Stored(StoreSlot(1));
const GOES: Entry<u128> = Entry::Stored(StoreSlot(2));
const ELSEWHERE: Entry<u128> = Entry::Stored(StoreSlot(3));

struct World {
    trees: [Tree<'static, u128>; 2],
    gate: WalkGate,
    machine: ArenaMachine<Standard>,
}

fn page(index: u64) -> Extent {
    Extent::page(PageIndex(index))
}

/// A node as its cache makes it.
#[repr(align(64))]
struct Aligned(Node);

fn stock(count: usize) -> NodeStock {
    let mut stock = NodeStock::new();
    for _ in 0..count {
        stock.put(NonNull::from(&mut Box::leak(Box::new(Aligned(Node::empty()))).0));
    }
    stock
}

/// The nodes, which the model must not leave behind.
fn free(mut stock: NodeStock) {
    while let Some(pointer) = stock.take(Level::LEAF) {
        // SAFETY: `stock` made it, and no tree has it.
        drop(unsafe { Box::from_raw(pointer.node.cast::<Aligned>().as_ptr()) });
    }
}

/// A reader looks at indexes of the first tree, once each, while the writer does its work.
fn against(
    nodes: usize,
    prepare: fn(&World, &mut NodeStock),
    work: fn(&World, &mut NodeStock),
    read: fn(&World, &Walking<'_>),
    clear: fn(&World, &mut NodeStock),
) {
    ::loom::model(move || {
        let world = Arc::new(World {
            trees: [Tree::new(()), Tree::new(())],
            gate: WalkGate::new(),
            machine: ArenaMachine::new(Pfn::new(1), Pfn::new(1)),
        });
        let mut stock = stock(nodes);
        prepare(&world, &mut stock);
        let reader = thread::spawn({
            let world = Arc::clone(&world);
            move || read(&world, &world.gate.enter())
        });
        work(&world, &mut stock);
        reader.join().expect("the reader saw nothing wrong");
        clear(&world, &mut stock);
        assert_eq!(stock.count().0 as usize, nodes, "all nodes come back");
        free(stock);
    });
}

fn insert(world: &World, tree: usize, extent: Extent, entry: Entry<u128>, stock: &mut NodeStock) {
    assert_eq!(world.trees[tree].lock(&world.machine).insert(extent, entry, stock), Ok(()));
}

fn remove(world: &World, tree: usize, extent: Extent, stock: &mut NodeStock) {
    assert!(world.trees[tree].lock(&world.machine).remove(extent, stock).is_ok());
}

/// Rests on: the second load of the shape, the release in `left` and the acquire that it pairs with, the releases in
/// `set` and `put` and the acquire in `word`, the shape changing before a node is emptied.
#[test]
fn an_entry_is_found_though_the_root_is_lowered_and_its_node_serves_another_tree() {
    against(
        2,
        |world, stock| {
            insert(world, 0, page(0), STAYS, stock);
            insert(world, 0, page(5), GOES, stock);
        },
        |world, stock| {
            remove(world, 0, page(5), stock);
            insert(world, 1, page(5), ELSEWHERE, stock);
        },
        |world, walking| {
            assert_eq!(world.trees[0].look(PageIndex(0), walking), Some(STAYS));
            let seen = world.trees[0].look(PageIndex(5), walking);
            assert!(seen.is_none_or(|seen| seen == GOES), "{seen:?}");
        },
        |world, stock| {
            remove(world, 0, page(0), stock);
            remove(world, 1, page(5), stock);
        },
    );
}

/// Rests on the same, and on a node being filled before a word leads to it.
#[test]
fn a_large_entry_is_found_whole_while_it_is_broken_up_and_put_together() {
    const LARGE: fn() -> Extent = || Extent::around(PageIndex(0), Order::of(6));
    against(
        2,
        |world, stock| insert(world, 0, LARGE(), STAYS, stock),
        |world, stock| {
            let mut guard = world.trees[0].lock(&world.machine);
            assert_eq!(guard.expand(page(3), Order::ZERO, stock), Ok(()));
            assert_eq!(guard.collapse(LARGE(), stock), Ok(STAYS));
            drop(guard);
            insert(world, 1, page(3), ELSEWHERE, stock);
        },
        |world, walking| assert_eq!(world.trees[0].look(PageIndex(3), walking), Some(STAYS)),
        |world, stock| {
            remove(world, 0, LARGE(), stock);
            remove(world, 1, page(3), stock);
        },
    );
}

/// Rests on: the release when the root is set, the acquire when it is read.
#[test]
fn an_entry_is_found_while_the_root_grows_above_it() {
    against(
        3,
        |world, stock| insert(world, 0, page(0), STAYS, stock),
        |world, stock| insert(world, 0, page(64), GOES, stock),
        |world, walking| {
            assert_eq!(world.trees[0].look(PageIndex(0), walking), Some(STAYS));
            let seen = world.trees[0].look(PageIndex(64), walking);
            assert!(seen.is_none_or(|seen| seen == GOES), "{seen:?}");
        },
        |world, stock| {
            remove(world, 0, page(0), stock);
            remove(world, 0, page(64), stock);
        },
    );
}
