//! The free blocks of one order and migratetype: a dense sequence of their heads, open at both ends.
//!
//! Two stacks, bottom to bottom. Blocks still warm go to the near end, where allocation takes from; blocks whose
//! merge is likely go to the far end and have the longest time to wait for it. Which end a block stands on is in
//! its first word, its position there in the second.
//!
//! A ring over one index space, as first sketched, cannot keep its promises: a tree that doubles under a wrapped ring
//! must renumber half its entries, and a window that drifts over a fixed space needs nodes for where it stands, not
//! for how long it is. Two stacks have FREE-4 exactly, and nothing wraps.
//!
//! Invariants: FREE-1 (`entry(position(p)) == p`, kept here and nowhere else), FREE-4 (by the stacks).
//! Cost: as the stacks', plus one write to the descriptor that moves.

use super::Released;
use super::node::Nodes;
use super::stack::Stack;
use crate::desc::map::PageMap;
use crate::desc::word::{End, ListId, NodePlace, Page, Position};
use crate::machine::{Geometry, Machine};
use crate::units::{Pfn, ZoneId};

/// What a list needs to keep its entries' descriptors and its nodes.
#[derive(Debug)]
pub(crate) struct ListContext<'a, 'm, M: Machine> {
    pub(crate) nodes: Nodes<'a, M>,
    pub(crate) map: &'a PageMap<'m, M::Geometry>,
    pub(crate) zone: ZoneId,
}

impl<M: Machine> Clone for ListContext<'_, '_, M> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<M: Machine> Copy for ListContext<'_, '_, M> {}

/// The deque.
#[derive(Debug)]
pub(crate) struct Deque<G> {
    ends: [Stack<G>; 2],
}

impl<G: Geometry> Deque<G> {
    pub(super) const fn new() -> Self {
        Self { ends: [const { Stack::new() }; 2] }
    }

    pub(crate) const fn len(&self) -> u32 {
        let [near, far] = &self.ends;
        near.len() + far.len()
    }

    pub(super) const fn stack(&self, end: End) -> &Stack<G> {
        &self.ends[end as usize]
    }

    const fn stack_mut(&mut self, end: End) -> &mut Stack<G> {
        &mut self.ends[end as usize]
    }

    /// Whether a push at `end` must wait for a node.
    pub(super) const fn needs_node(&self, end: End) -> bool {
        self.stack(end).needs_node()
    }

    /// Puts a block's head on and says where; the end does not need a node.
    #[inline]
    pub(super) fn push<M: Machine<Geometry = G>>(
        &mut self,
        context: ListContext<'_, '_, M>,
        list: ListId,
        head: Pfn,
        page: &Page,
    ) -> Position {
        let position = self.stack_mut(list.end()).push(context.nodes, head);
        // INVARIANT: FREE-1, the block learns its position as it enters.
        page.set_free(list, context.zone, position);
        position
    }

    /// Takes a head: from the near end, or from the far one when nothing else is left.
    #[inline]
    pub(super) fn pop<M: Machine<Geometry = G>>(
        &mut self,
        context: ListContext<'_, '_, M>,
        released: &mut Released<'_>,
    ) -> Option<Pfn> {
        let [near, far] = &mut self.ends;
        near.pop(context, released).or_else(|| far.pop(context, released))
    }

    /// Takes the head at `position` of `end` out of the middle.
    #[inline]
    pub(super) fn remove<M: Machine<Geometry = G>>(
        &mut self,
        context: ListContext<'_, '_, M>,
        end: End,
        position: Position,
        released: &mut Released<'_>,
    ) {
        if let Some(moved) = self.stack_mut(end).remove(context, position, released) {
            // INVARIANT: FREE-1, the entry that took the place learns its new position.
            context.map.page(moved).set_position(position);
        }
    }

    /// Makes the page of frame `pfn` the node that `list` lacks.
    pub(super) fn supply<M: Machine<Geometry = G>>(&mut self, context: ListContext<'_, '_, M>, list: ListId, pfn: Pfn) {
        let stack = self.stack_mut(list.end());
        // INVARIANT: FREE-4, the page says which node it is before the tree leads to it.
        context.map.page(pfn).set_node(list, context.zone, stack.next_place());
        stack.supply(context.nodes, pfn);
    }

    /// Moves the node at `place` of `list` to the page of frame `to`; its old page is the caller's.
    pub(super) fn relocate<M: Machine<Geometry = G>>(
        &mut self,
        context: ListContext<'_, '_, M>,
        list: ListId,
        place: NodePlace,
        to: Pfn,
    ) {
        context.map.page(to).set_node(list, context.zone, place);
        self.stack_mut(list.end()).relocate(context.nodes, place, to);
    }

    /// The heads, the ones that would be taken first in front.
    pub(crate) fn heads<M: Machine<Geometry = G>>(&self, context: ListContext<'_, '_, M>) -> impl Iterator<Item = Pfn> {
        self.ends.iter().flat_map(move |stack| {
            (0..stack.len()).rev().map(move |position| stack.get(context.nodes, Position(position)))
        })
    }
}
