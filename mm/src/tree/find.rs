//! The next entry, or the next marked one.
//!
//! Cost: a step for each level down, and for each level up if the next one is in another node.

use core::fmt;

use super::node::{Access, Mark, Node};
use super::word::{LEVELS, NodePointer, SLOTS, Word};
use super::{Entry, Tree, TreeGuard};
use crate::units::PageIndex;

/// An entry, and where it stands.
pub(crate) struct Found<T> {
    /// The first index it was seen to cover. One that was expanded is found once in each node; what was lost, which says the
    /// same whoever it was lost with, once in each slot.
    pub(crate) first: PageIndex,
    /// The last one.
    pub(crate) last: PageIndex,
    /// What it is.
    pub(crate) entry: Entry<T>,
}

impl<T> Clone for Found<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Found<T> {}

impl<T> PartialEq for Found<T> {
    fn eq(&self, other: &Self) -> bool {
        (self.first, self.last, self.entry) == (other.first, other.last, other.entry)
    }
}

impl<T> fmt::Debug for Found<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Found({:#x} to {:#x}, {:?})", self.first.0, self.last.0, self.entry)
    }
}

impl<T, G> Tree<'_, T, G> {
    fn find_occupied(&self, from: PageIndex, access: Access<'_>) -> Option<Found<T>> {
        match self.root().entry() {
            Some(entry) => Found::in_root(entry, from),
            None => self.find(from, access, Node::occupied),
        }
    }

    /// Finds the first slot from an index on, of those that are `wanted` of each node.
    fn find(&self, from: PageIndex, access: Access<'_>, wanted: impl Fn(&Node) -> u64) -> Option<Found<T>> {
        let mut pointer = self.root().to_node()?;
        // Nodes passed, by level.
        let mut above: [Option<NodePointer>; LEVELS] = [None; LEVELS];
        let mut index = from.0;
        if index > pointer.level.node_mask() {
            return None;
        }
        loop {
            let (node, level) = (access.node(pointer), pointer.level);
            let candidates = wanted(node) & u64::MAX << level.slot(PageIndex(index));
            let passed = if candidates == 0 {
                index | level.node_mask()
            } else {
                let slot = candidates.trailing_zeros() as usize;
                index = index.max(level.first(PageIndex(index), slot).0);
                let word = node.word::<T>(slot);
                if let Some(entry) = word.entry() {
                    return Some(Found::in_node(entry, node, pointer, slot, PageIndex(index)));
                }
                match word.to_node() {
                    Some(below) if below.level < level => {
                        above[level.number()] = Some(pointer);
                        pointer = below;
                        continue;
                    }
                    // The node serves elsewhere, so the shape has changed.
                    Some(_) => return None,
                    // It went just now.
                    None => index | level.slot_mask(),
                }
            };
            index = passed.checked_add(1)?;
            while index & pointer.level.node_mask() == 0 {
                pointer = (*above.get(pointer.level.number() + 1)?)?;
            }
        }
    }
}

impl<T> Found<T> {
    fn in_root(entry: Entry<T>, from: PageIndex) -> Option<Self> {
        let index = PageIndex(0);
        (from == index).then_some(Self { first: index, last: index, entry })
    }

    /// The entry in a slot of a node over `index`, with the neighbours that are the same one.
    fn in_node(entry: Entry<T>, node: &Node, pointer: NodePointer, slot: usize, index: PageIndex) -> Self {
        let level = pointer.level;
        let same = |&slot: &usize| entry != Entry::Lost && node.word(slot) == Word::of(entry);
        let first = (0..slot).rev().take_while(same).last().unwrap_or(slot);
        let last = (slot + 1..SLOTS).take_while(same).last().unwrap_or(slot);
        let last = PageIndex(level.first(index, last).0 | level.slot_mask());
        Self { first: level.first(index, first), last, entry }
    }
}

impl<T, G> TreeGuard<'_, '_, T, G> {
    /// What stands at an index or, if nothing does, next behind it.
    pub(crate) fn next(&self, from: PageIndex) -> Option<Found<T>> {
        self.tree.find_occupied(from, self.access())
    }

    /// The same among what is marked.
    pub(crate) fn next_marked(&self, from: PageIndex) -> Option<Found<T>> {
        match (self.tree.root().entry(), self.writer.root_mark) {
            (Some(entry), Mark::Set) => Found::in_root(entry, from),
            (Some(_), Mark::Clear) => None,
            (None, _) => self.tree.find(from, self.access(), Node::marked),
        }
    }

    /// What stands between two indexes, both included, in ascending order.
    pub(crate) fn entries(&self, first: PageIndex, last: PageIndex) -> impl Iterator<Item = Found<T>> {
        let mut next = Some(first);
        core::iter::from_fn(move || {
            let found = self.next(next?).filter(|found| found.first <= last)?;
            next = found.last.0.checked_add(1).map(PageIndex);
            Some(found)
        })
    }
}
