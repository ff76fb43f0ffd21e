//! The freelists of a zone: one deque a migratetype and order, on radix trees whose nodes are free pages themselves.
//!
//! `node` is what a node page holds and how to reach it, `stack` one end with its tree, `deque` the two ends and the
//! descriptors' side of FREE-1. Here stands the table of all lists, with a bit for each that is not empty.

mod deque;
mod node;
mod stack;
mod verify;

pub(crate) use deque::{Deque, ListContext};
pub(crate) use node::Nodes;

use crate::desc::word::ListId;
use crate::machine::Geometry;
use crate::migratetype::Migratetype;
use crate::units::Order;

const ORDERS: usize = Order::LIMIT.index() + 1;

/// All freelists of a zone.
#[derive(Debug)]
pub(crate) struct Freelists<G> {
    lists: [[Deque<G>; ORDERS]; Migratetype::ALL.len()],
    /// Bit `o` of entry `t`: list `t`, `o` is not empty.
    occupied: [u16; Migratetype::ALL.len()],
}

impl<G: Geometry> Freelists<G> {
    pub(crate) const fn new() -> Self {
        Self { lists: [const { [const { Deque::new() }; ORDERS] }; Migratetype::ALL.len()], occupied: [0; 3] }
    }

    pub(crate) const fn list(&self, migratetype: Migratetype, order: Order) -> &Deque<G> {
        &self.lists[migratetype.index()][order.index()]
    }

    /// Hands a list to `change`, and notes whether it is empty afterwards.
    #[inline]
    pub(crate) fn change<R>(
        &mut self,
        migratetype: Migratetype,
        order: Order,
        change: impl FnOnce(&mut Deque<G>) -> R,
    ) -> R {
        let list = &mut self.lists[migratetype.index()][order.index()];
        let result = change(list);
        let bit = 1 << order.index();
        if list.len() == 0 {
            self.occupied[migratetype.index()] &= !bit;
        } else {
            self.occupied[migratetype.index()] |= bit;
        }
        result
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
        use crate::desc::word::End;
        Migratetype::ALL.into_iter().flat_map(|migratetype| {
            (0..=G::MAX_ORDER.index()).flat_map(move |order| {
                [End::Near, End::Far].map(|end| ListId { migratetype, order: Order::of(order), end })
            })
        })
    }
}
