//! The freelists of a zone: one deque a migratetype and order, on radix trees whose nodes are free pages themselves.
//!
//! `node` is what a node page holds and how to reach it, `stack` one end with its tree, `deque` the two ends and the
//! descriptors' side of FREE-1. Here stands the table of all lists, with a bit for each that is not empty.

mod deque;
mod node;
mod stack;
mod verify;

use deque::Deque;
pub(crate) use deque::ListContext;
pub(crate) use node::Nodes;

use crate::block::{FreeBlock, Pending};
use crate::desc::word::{End, ListId, NodePlace, Page, Position};
use crate::machine::{Geometry, Machine};
use crate::migratetype::Migratetype;
use crate::units::{Order, Pfn};

/// Where the pages of nodes go that a list no longer needs.
#[derive(Debug)]
pub(crate) struct Released<'z> {
    pub(crate) pending: &'z mut Pending,
    /// The zone's count of nodes.
    pub(crate) nodes: &'z mut u32,
}

impl Released<'_> {
    fn page<M: Machine>(&mut self, context: ListContext<'_, '_, M>, page: Pfn) {
        *self.nodes -= 1;
        self.pending.push(context.map, context.zone, FreeBlock::claim(page, Order::ZERO));
    }
}

/// Lists that a [`ListId`] can name: there are sixteen orders in its bits, and four migratetypes.
const LISTS: usize = 64;

/// All freelists of a zone.
#[derive(Debug)]
pub(crate) struct Freelists<G> {
    lists: [Deque<G>; LISTS],
    /// Bit `o` of entry `t`: list `t`, `o` is not empty.
    occupied: [u16; 4],
}

impl<G: Geometry> Freelists<G> {
    pub(crate) const fn new() -> Self {
        Self { lists: [const { Deque::new() }; LISTS], occupied: [0; 4] }
    }

    pub(crate) const fn list(&self, migratetype: Migratetype, order: Order) -> &Deque<G> {
        &self.lists[ListId::new(migratetype, order, End::Near).table_index() % LISTS]
    }

    const fn list_mut(&mut self, list: ListId) -> &mut Deque<G> {
        &mut self.lists[list.table_index() % LISTS]
    }

    /// Whether a push to this end must wait for a node.
    #[inline]
    pub(crate) const fn needs_node(&self, list: ListId) -> bool {
        self.lists[list.table_index() % LISTS].needs_node(list.end())
    }

    /// Puts a block's head, whose descriptor is `page`, on a list that needs no node.
    #[inline]
    pub(crate) fn push<M: Machine<Geometry = G>>(
        &mut self,
        context: ListContext<'_, '_, M>,
        list: ListId,
        head: Pfn,
        page: &Page,
    ) {
        let position = self.list_mut(list).push(context, list, head, page);
        if position == Position(0) {
            self.occupied[list.migratetype().index()] |= 1 << list.order().index();
        }
    }

    /// Takes the head that is next in turn.
    #[inline]
    pub(crate) fn pop<M: Machine<Geometry = G>>(
        &mut self,
        context: ListContext<'_, '_, M>,
        migratetype: Migratetype,
        order: Order,
        released: &mut Released<'_>,
    ) -> Option<Pfn> {
        let list = ListId::new(migratetype, order, End::Near);
        let head = self.list_mut(list).pop(context, released);
        self.note_if_empty(list);
        head
    }

    /// Takes a head out of the middle.
    #[inline]
    pub(crate) fn remove<M: Machine<Geometry = G>>(
        &mut self,
        context: ListContext<'_, '_, M>,
        list: ListId,
        position: Position,
        released: &mut Released<'_>,
    ) {
        self.list_mut(list).remove(context, list.end(), position, released);
        self.note_if_empty(list);
    }

    #[inline]
    fn note_if_empty(&mut self, list: ListId) {
        if self.list_mut(list).len() == 0 {
            self.occupied[list.migratetype().index()] &= !(1 << list.order().index());
        }
    }

    /// Makes the page of frame `pfn` the node that `list` lacks.
    pub(crate) fn supply<M: Machine<Geometry = G>>(&mut self, context: ListContext<'_, '_, M>, list: ListId, pfn: Pfn) {
        self.list_mut(list).supply(context, list, pfn);
    }

    /// Moves the node at `place` of `list` to the page of frame `to`; its old page is the caller's.
    pub(crate) fn relocate<M: Machine<Geometry = G>>(
        &mut self,
        context: ListContext<'_, '_, M>,
        list: ListId,
        place: NodePlace,
        to: Pfn,
    ) {
        self.list_mut(list).relocate(context, list, place, to);
    }

    /// The smallest order from `order` up that has a block of `migratetype`.
    pub(crate) fn smallest(&self, migratetype: Migratetype, order: Order) -> Option<Order> {
        let at_least = self.occupied[migratetype.index()] >> order.index() << order.index();
        (at_least != 0).then(|| Order::of(at_least.trailing_zeros() as usize))
    }

    /// The largest order from `order` up that has a block of `migratetype`.
    pub(crate) fn largest(&self, migratetype: Migratetype, order: Order) -> Option<Order> {
        let at_least = self.occupied[migratetype.index()] >> order.index() << order.index();
        at_least.checked_ilog2().map(|largest| Order::of(largest as usize))
    }

    /// Free blocks of `order`, whatever their migratetype.
    pub(crate) fn count(&self, order: Order) -> u32 {
        Migratetype::ALL.into_iter().map(|migratetype| self.list(migratetype, order).len()).sum()
    }

    /// Every list end, for the checker.
    pub(crate) fn ids() -> impl Iterator<Item = ListId> {
        Migratetype::ALL.into_iter().flat_map(|migratetype| {
            (0..=G::MAX_ORDER.index())
                .flat_map(move |order| [End::Near, End::Far].map(|end| ListId::new(migratetype, Order::of(order), end)))
        })
    }
}
