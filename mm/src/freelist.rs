//! The freelists of a zone: for each migratetype and order a dense sequence of free blocks' heads, open at both ends.
//!
//! ```text
//!    far end                                                             near end
//!   <── stack of blocks above the zone's pivot ──┤├── stack of blocks below it ──>
//!       on a tree of nodes (`stack`, `node`)           on a tree of nodes
//! ```
//!
//! A list is two stacks, bottom to bottom. Allocation takes from the near ends of all orders before it touches a far one, and
//! from both what came last: so what stands on far ends is left alone for as long as can be, and merges. Which blocks go to
//! which end, the zone's pivot says (`Zone::end_for`). Which end a block stands
//! on is in its first word, its position there in the second: so any block can leave from the middle, and the top of
//! its stack takes its place. This file keeps the descriptors' side of that; which entry stands where, the stacks do.
//!
//! A ring over one index space, as first sketched, cannot keep its promises: a tree that doubles under a wrapped ring
//! must renumber half its entries, and a window that drifts over a fixed space needs nodes for where it stands, not
//! for how long it is. Two stacks have FREE-4 exactly, and nothing wraps.
//!
//! Neither an entry nor a descriptor is believed without the other: what comes off a list says that it stood there, and what
//! leaves the middle is what stands where it says. So a bit that flips in one of them stops the machine, and gives no page
//! to a second owner.
//!
//! Invariants: FREE-1 (`entry(position(p)) == p`, kept here and nowhere else), FREE-4 (by the stacks).
//! Cost: push, pop and remove O(1): the zone's own memory and one or two descriptors, but for one time in
//! `INLINE / 2`, when a leaf is touched.
//!
//! Source: K. Overstreet, "Dynamically allocated memory descriptors", linux-mm, 2021-10-26.

mod node;
mod stack;
#[cfg(all(test, not(loom)))]
pub(crate) mod tests;
mod verify;

#[cfg(all(test, not(loom), not(miri)))]
use core::ptr::NonNull;

pub(crate) use node::Nodes;
use stack::{Elsewhere, Stack};

use crate::block::{FreeBlock, Pending};
use crate::desc::allocator_word::{End, ListId, PageState};
use crate::desc::map::PageMap;
use crate::desc::word::{Page, Position};
use crate::image::{Note, NoteFull, layout};
use crate::machine::{Geometry, Machine};
use crate::migratetype::Migratetype;
use crate::poison;
use crate::random::Random;
use crate::units::{Order, Pfn, PfnRange, ZoneId};

/// What a list needs to keep its entries' descriptors and its nodes.
#[derive(Debug)]
pub(crate) struct ListContext<'a, 'm, M: Machine> {
    pub(crate) nodes: Nodes<'a, M>,
    pub(crate) map: &'a PageMap<'m, M::Geometry>,
    pub(crate) zone: ZoneId,
}

/// Where the pages of nodes go that a list no longer needs.
#[derive(Debug)]
pub(crate) struct Released<'z> {
    pub(crate) pending: &'z mut Pending,
    /// The zone's count of nodes.
    pub(crate) nodes: &'z mut u32,
}

impl Released<'_> {
    fn page<M: Machine>(&mut self, context: &ListContext<'_, '_, M>, page: Pfn) {
        let says_so = |page: &Page| page.word().is(PageState::Node) && page.word().zone() == context.zone;
        if !context.map.get(page).is_some_and(says_so) {
            panic_no_node(page);
        }
        *self.nodes -= 1;
        poison::on_free(context.nodes.machine(), PfnRange::new(page, page.plus(1)));
        self.pending.push(context.map, context.zone, FreeBlock::claim(page, Order::ZERO));
    }
}

/// FREE-1 is broken: a block does not stand where it says, or a list has what is no block of it.
#[cold]
#[inline(never)]
fn panic_elsewhere(head: Pfn, list: ListId) -> ! {
    panic!("invariant FREE-1 broken: {head:?} is no free block of {list:?}, or stands elsewhere than it says");
}

/// FREE-4 is broken: the page of a node does not say that it is one, or not which.
#[cold]
#[inline(never)]
fn panic_no_node(page: Pfn) -> ! {
    panic!("invariant FREE-4 broken: {page:?} is not the node that it has to be");
}

/// A list must be given a node before it can take another block.
#[derive(Debug)]
pub(crate) struct NeedsNode;

/// All freelists of a zone.
#[derive(Debug)]
pub(crate) struct Freelists<G> {
    stacks: [Stack<G>; ListId::COUNT],
    /// By end, a bit for each list that is not empty there, sixteen orders a migratetype.
    occupied: [u64; 2],
}

impl<G: Geometry> Freelists<G> {
    pub(crate) const fn new() -> Self {
        Self { stacks: [const { Stack::new() }; ListId::COUNT], occupied: [0; 2] }
    }

    /// For who reads an image of memory.
    pub(crate) fn write_note(note: &mut Note) -> Result<(), NoteFull> {
        layout!(note, Self as "Freelists": stacks, occupied)?;
        Stack::<G>::write_note(note)
    }

    /// Blocks on a list, both ends together.
    pub(crate) const fn len(&self, migratetype: Migratetype, order: Order) -> u32 {
        let near = ListId::new(migratetype, order, End::Near);
        self.stacks[near.index()].len() + self.stacks[near.other_end().index()].len()
    }

    /// Puts a block's head, whose descriptor is `page`, on the end of a list.
    ///
    /// # Errors
    /// The list needs a node first; it is as before.
    #[inline(always)]
    pub(crate) fn push<M: Machine<Geometry = G>>(
        &mut self,
        context: &ListContext<'_, '_, M>,
        list: ListId,
        head: Pfn,
        page: &Page,
    ) -> Result<(), NeedsNode> {
        let stack = &mut self.stacks[list.index()];
        if stack.is_full() {
            Self::make_room(stack, context)?;
        }
        let position = stack.push(head);
        // INVARIANT: FREE-1, the block learns its position as it enters.
        page.set_free(list, context.zone, position);
        if position == Position(0) {
            self.occupied[list.end() as usize] |= list.occupied_bit();
        }
        Ok(())
    }

    #[cold]
    fn make_room<M: Machine<Geometry = G>>(
        stack: &mut Stack<G>,
        context: &ListContext<'_, '_, M>,
    ) -> Result<(), NeedsNode> {
        if stack.needs_node() {
            return Err(NeedsNode);
        }
        stack.spill(context.nodes);
        Ok(())
    }

    /// Takes the head that came last of those on a list's end, of which there is one.
    #[inline(always)]
    pub(crate) fn pop<M: Machine<Geometry = G>>(
        &mut self,
        context: &ListContext<'_, '_, M>,
        list: ListId,
        released: &mut Released<'_>,
    ) -> Pfn {
        let stack = &mut self.stacks[list.index()];
        let head = stack.pop(context, released);
        let position = Position(stack.len());
        Self::check(context, list, position, head);
        self.note_if_empty(list);
        head
    }

    /// Takes a head, which says that it stands at `position`, out of the middle.
    #[inline(always)]
    pub(crate) fn remove<M: Machine<Geometry = G>>(
        &mut self,
        context: &ListContext<'_, '_, M>,
        list: ListId,
        head: Pfn,
        position: Position,
        released: &mut Released<'_>,
    ) {
        let stack = &mut self.stacks[list.index()];
        match stack.remove(context, position, head, released) {
            Ok(Some(moved)) => {
                let page = Self::check(context, list, Position(stack.len()), moved);
                // INVARIANT: FREE-1, the entry that took the place learns its new position.
                page.set_position(position);
            }
            Ok(None) => {}
            Err(Elsewhere) => panic_elsewhere(head, list),
        }
        self.note_if_empty(list);
    }

    /// FREE-1: what was found at a position of a list is a free block that says so, before anybody has it.
    #[inline(always)]
    fn check<'m, M: Machine<Geometry = G>>(
        context: &ListContext<'_, 'm, M>,
        list: ListId,
        position: Position,
        head: Pfn,
    ) -> &'m Page {
        match context.map.get(head) {
            Some(page) if page.is_free_at(list, context.zone, position) => page,
            _ => panic_elsewhere(head, list),
        }
    }

    /// Fetches what taking the head at `position` out of the middle will touch.
    pub(crate) fn foresee_removal<M: Machine<Geometry = G>>(
        &self,
        nodes: Nodes<'_, M>,
        list: ListId,
        position: Position,
    ) {
        self.stacks[list.index()].foresee(nodes, position);
    }

    #[inline(always)]
    fn note_if_empty(&mut self, list: ListId) {
        if self.stacks[list.index()].len() == 0 {
            self.occupied[list.end() as usize] &= !list.occupied_bit();
        }
    }

    /// Makes the page of frame `pfn` the node that `list` lacks.
    pub(crate) fn supply<M: Machine<Geometry = G>>(
        &mut self,
        context: &ListContext<'_, '_, M>,
        list: ListId,
        pfn: Pfn,
    ) {
        poison::on_becoming_node(context.nodes.machine(), pfn);
        let stack = &mut self.stacks[list.index()];
        // INVARIANT: FREE-4, the page says which node it is before the tree leads to it.
        context.map.page(pfn).set_node(list, context.zone, stack.next_place());
        stack.supply(context.nodes, pfn);
    }

    /// Moves the node in the page of frame `from` to that of frame `to`; its old page is the caller's.
    pub(crate) fn relocate<M: Machine<Geometry = G>>(&mut self, context: &ListContext<'_, '_, M>, from: Pfn, to: Pfn) {
        let page = context.map.page(from);
        let (word, place) = (page.word(), page.place());
        let list = word.list();
        let stack = &mut self.stacks[list.index()];
        if !word.is_intact() || stack.frame_at(context.nodes, place) != Some(from) {
            panic_no_node(from);
        }
        poison::on_becoming_node(context.nodes.machine(), to);
        context.map.page(to).set_node(list, context.zone, place);
        stack.relocate(context.nodes, place, to);
        poison::on_free(context.nodes.machine(), PfnRange::new(from, from.plus(1)));
    }

    /// Brings every list into a random order.
    pub(crate) fn shuffle<M: Machine<Geometry = G>>(&mut self, context: &ListContext<'_, '_, M>, random: &mut Random) {
        for list in Self::ids() {
            let stack = &mut self.stacks[list.index()];
            for last in (1..stack.len()).rev() {
                let (one, other) = (Position(last), Position(random.below(last + 1)));
                let moved = stack.get(context.nodes, other);
                let head = stack.replace(context.nodes, one, moved);
                stack.replace(context.nodes, other, head);
                // INVARIANT: FREE-1, both learn their new positions.
                context.map.page(moved).set_position(one);
                context.map.page(head).set_position(other);
            }
        }
    }

    /// The heads of a list, the ones that would be taken first in front.
    pub(crate) fn heads<M: Machine<Geometry = G>>(
        &self,
        nodes: Nodes<'_, M>,
        migratetype: Migratetype,
        order: Order,
    ) -> impl Iterator<Item = Pfn> {
        let near = ListId::new(migratetype, order, End::Near);
        [near, near.other_end()].into_iter().flat_map(move |list| {
            let stack = &self.stacks[list.index()];
            (0..stack.len()).rev().map(move |position| stack.get(nodes, Position(position)))
        })
    }

    /// The head that has been longest on a list's end that is not empty.
    pub(crate) fn oldest<M: Machine<Geometry = G>>(&self, nodes: Nodes<'_, M>, list: ListId) -> Pfn {
        self.stacks[list.index()].get(nodes, Position(0))
    }

    /// A bit for each order from `order` up that has a block of `migratetype`, where `occupied` has one for each list.
    #[inline(always)]
    fn orders_from(occupied: u64, migratetype: Migratetype, order: Order) -> u32 {
        let lowest = ListId::new(migratetype, Order::ZERO, End::Near).occupied_bit();
        ((occupied >> lowest.trailing_zeros()) & 0xffff) as u32 & (u32::MAX << order.index())
    }

    /// The same for both ends together.
    #[inline(always)]
    fn orders_of_both(&self, migratetype: Migratetype, order: Order) -> u32 {
        let [near, far] = self.occupied;
        Self::orders_from(near | far, migratetype, order)
    }

    /// The list that a block of at least `order` is to be taken from: the smallest that will do at the near end, whatever
    /// there is at the far one. Of far ones the smallest, which goes on with what is broken already, unless the `pivot` has come
    /// to the largest.
    #[inline(always)]
    pub(crate) fn next(&self, migratetype: Migratetype, order: Order, pivot: Pfn) -> Option<ListId> {
        let [near, far] = self.occupied;
        let orders = Self::orders_from(near, migratetype, order);
        if orders != 0 {
            return Some(ListId::new(migratetype, Order::of(orders.trailing_zeros() as usize), End::Near));
        }
        let orders = Self::orders_from(far, migratetype, order);
        let list = |order: u32| ListId::new(migratetype, Order::of(order as usize), End::Far);
        let largest = list(orders.checked_ilog2()?);
        let smallest = list(orders.trailing_zeros());
        let is_below = self.stacks[largest.index()].top().is_some_and(|head| head < pivot);
        Some(if is_below { largest } else { smallest })
    }

    /// The smallest blocks of `migratetype` from `order` up; those at the near end, if both have such.
    pub(crate) fn smallest(&self, migratetype: Migratetype, order: Order) -> Option<ListId> {
        let orders = self.orders_of_both(migratetype, order);
        (orders != 0).then(|| self.nearer(migratetype, Order::of(orders.trailing_zeros() as usize)))
    }

    /// The largest blocks of `migratetype` from `order` up; those at the near end, if both have such.
    pub(crate) fn largest(&self, migratetype: Migratetype, order: Order) -> Option<ListId> {
        let orders = self.orders_of_both(migratetype, order);
        orders.checked_ilog2().map(|largest| self.nearer(migratetype, Order::of(largest as usize)))
    }

    /// The near end of a list, if it has any.
    fn nearer(&self, migratetype: Migratetype, order: Order) -> ListId {
        let near = ListId::new(migratetype, order, End::Near);
        if self.stacks[near.index()].len() > 0 { near } else { near.other_end() }
    }

    /// Pages in the free blocks of `migratetype`. Cost: two loads for each order that has one.
    pub(crate) fn pages(&self, migratetype: Migratetype) -> u32 {
        let mut orders = self.orders_of_both(migratetype, Order::ZERO);
        let mut pages = 0;
        while orders != 0 {
            let order = Order::of(orders.trailing_zeros() as usize);
            pages += self.len(migratetype, order) * order.pages();
            orders &= orders - 1;
        }
        pages
    }

    /// Free blocks of `order`, whatever their migratetype.
    pub(crate) fn count(&self, order: Order) -> u32 {
        Migratetype::ALL.into_iter().map(|migratetype| self.len(migratetype, order)).sum()
    }

    /// Shows what the lists that are not empty consist of to `see`: what it is for, where it is and how long.
    #[cfg(all(test, not(loom), not(miri)))]
    pub(crate) fn each_part(&self, mut see: impl FnMut(&'static str, NonNull<u8>, usize)) {
        self.stacks.iter().filter(|stack| stack.len() > 0).for_each(|stack| stack.each_part(&mut see));
    }

    /// Every list end there can be in this geometry.
    pub(crate) fn ids() -> impl Iterator<Item = ListId> {
        Migratetype::ALL.into_iter().flat_map(|migratetype| {
            (0..=G::MAX_ORDER.index())
                .flat_map(move |order| [End::Near, End::Far].map(|end| ListId::new(migratetype, Order::of(order), end)))
        })
    }
}
