//! What a stack says of its own shape, and of places in its tree.

use super::{Nodes, Position, Stack};
use crate::arena::{ArenaMachine, Deep};
use crate::desc::word::NodePlace;
use crate::machine::Geometry;
use crate::units::Pfn;

/// Two entries a node, four inline.
type Small = Deep<3, 2, 4>;

type Machine = ArenaMachine<Small>;

const PAGES: u32 = 128;

/// Half of it highmem.
fn machine() -> Machine {
    ArenaMachine::new(Pfn::new(PAGES), Pfn::new(PAGES / 2))
}

/// A stack of so many entries, whose nodes are the machine's first pages.
fn stack(nodes: Nodes<'_, Machine>, len: u32) -> Stack<Small> {
    let mut stack = Stack::new();
    let mut pages = (1..PAGES).map(Pfn::new);
    for entry in 0..len {
        while stack.is_full() {
            if stack.needs_node() {
                stack.supply(nodes, pages.next().expect("there are pages enough"));
            } else {
                stack.spill(nodes);
            }
        }
        stack.push(Pfn::new(1000 + entry));
    }
    stack
}

#[test]
fn a_stack_of_any_length_is_well_formed_and_no_longer_if_a_part_of_it_is_wrong() {
    type Damage = fn(&mut Stack<Small>);
    let of_trees: [(&str, Damage); 6] = [
        ("levels too many", |stack| stack.height += 2),
        ("no root", |stack| (stack.root, stack.height) = (None, 0)),
        ("no last leaf", |stack| stack.tail = None),
        ("an empty ring", |stack| stack.len = stack.stored),
        ("a ring too full", |stack| stack.len = stack.stored + Small::INLINE + 1),
        ("another last leaf", |stack| stack.tail = stack.root.filter(|_| stack.height > 1)),
    ];
    let of_rings: [(&str, Damage); 2] =
        [("levels of nothing", |stack| stack.height = 1), ("a ring too full", |stack| stack.len = Small::INLINE + 1)];
    let machine = machine();
    let nodes = Nodes::new(&machine);
    for len in 0..60 {
        let whole = stack(nodes, len);
        assert!(whole.is_well_formed(nodes), "{whole:?}");
        let damages = if whole.stored == 0 { of_rings.iter() } else { of_trees.iter() };
        for (what, damage) in damages {
            let mut damaged = stack(nodes, len);
            damage(&mut damaged);
            assert!(!damaged.is_well_formed(nodes), "{what}: {damaged:?}");
        }
    }
    // A tree that the ring could hold.
    let mut needless = stack(nodes, 6);
    for (stored, len) in [(needless.stored, needless.stored), (1, 2)] {
        (needless.stored, needless.len) = (stored, len);
        assert!(!needless.is_well_formed(nodes), "{needless:?}");
    }
}

#[test]
fn nodes_that_came_ahead_are_in_place_only_where_a_leaf_is_missing() {
    let machine = machine();
    let nodes = Nodes::new(&machine);
    for len in 5..60 {
        for prepared in 1..4 {
            let mut ahead = stack(nodes, len);
            ahead.prepared = prepared;
            // A node of each level of which one begins there, up to the root; the leaf is the last that comes.
            let missing = ahead.stored.trailing_zeros().min(u32::from(ahead.height) - 1);
            assert_eq!(ahead.is_well_formed(nodes), u32::from(prepared) < missing, "{ahead:?}");
        }
    }
}

#[test]
fn a_place_is_a_nodes_if_one_starts_there() {
    let machine = machine();
    let nodes = Nodes::new(&machine);
    let stack = stack(nodes, 40);
    let mut places = std::vec::Vec::new();
    stack.each_node(nodes, |place, node| places.push((place, node.frame(&machine))));
    assert!(places.len() > 30 && stack.height > 4, "{stack:?}");
    for level in 0..=stack.height + 1 {
        for first in 0..stack.stored {
            let place = NodePlace { level, first: Position(first) };
            let known = places.iter().find(|(known, _)| *known == place).map(|&(_, frame)| frame);
            assert_eq!(stack.frame_at(nodes, place), known, "{place:?}");
        }
        for first in stack.stored + 1..stack.stored + 9 {
            assert_eq!(stack.frame_at(nodes, NodePlace { level, first: Position(first) }), None);
        }
    }
}

#[test]
fn every_entry_is_seen_once_and_the_top_is_the_last() {
    let machine = machine();
    let nodes = Nodes::new(&machine);
    for len in 0..60 {
        let stack = stack(nodes, len);
        let mut seen = std::vec::Vec::new();
        stack.each_entry(nodes, |Position(position), pfn| seen.push((position, pfn.number())));
        seen.sort_unstable();
        assert_eq!(seen, (0..len).map(|entry| (entry, 1000 + entry)).collect::<std::vec::Vec<_>>());
        assert_eq!(stack.top(), len.checked_sub(1).map(|last| Pfn::new(1000 + last)));
        for entry in 0..len {
            assert_eq!(stack.get(nodes, Position(entry)), Pfn::new(1000 + entry));
        }
    }
}
