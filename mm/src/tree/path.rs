//! The way down to the slots of an extent, and the steps of which every change is made.
//!
//! Readers see each step, so each leaves the tree one that says for every index what it said before, or what it is to
//! say. A node is filled before a word leads to it. One that leaves is out of reach before the shape changes, and the
//! shape changes before the node is emptied.
#![expect(unsafe_code, reason = "whoever has the lock has the nodes")]

use arrayvec::ArrayVec;

use super::node::{Access, Mark, NodeStock};
use super::word::{LEVELS, Level, NodePointer, SLOT_BITS, Word};
use super::{Extent, Tree, TreeGuard};
use crate::sync::Ordering;

impl Extent {
    /// The level at which an entry of this size stands.
    pub(super) const fn level(self) -> Level {
        Level::of(self.order())
    }

    /// Its slots in the node of its level, or the slot that covers it in one above.
    pub(super) fn slots(self, level: Level) -> core::ops::Range<usize> {
        let slot = level.slot(self.first());
        let slots = if level == self.level() { 1 << (u32::from(self.order().number()) % SLOT_BITS) } else { 1 };
        slot..slot + slots
    }
}

/// Nodes on the way down, the root first.
pub(super) type Path = ArrayVec<NodePointer, LEVELS>;

impl<T, G> TreeGuard<'_, '_, T, G> {
    pub(super) fn access(&self) -> Access<'_> {
        // SAFETY: this is the lock, and nodes that leave the tree go to the stock that the caller has.
        unsafe { Access::writer() }
    }

    pub(super) fn word(&self, pointer: NodePointer, slot: usize) -> Word<T> {
        self.access().node(pointer).word(slot)
    }

    pub(super) fn set(&self, pointer: NodePointer, slot: usize, word: Word<T>, mark: Mark) {
        self.access().node(pointer).set(slot, word, mark);
    }

    /// The nodes over an extent, down to its level at most. None if the root does not reach it, or is lower than it.
    pub(super) fn path(&self, extent: Extent) -> Path {
        let mut path = Path::new();
        let mut word = self.tree.root();
        while let Some(pointer) = word.to_node() {
            if path.is_empty() && (pointer.level < extent.level() || extent.first().0 > pointer.level.node_mask()) {
                break;
            }
            path.push(pointer);
            if pointer.level == extent.level() {
                break;
            }
            word = self.word(pointer, pointer.level.slot(extent.first()));
        }
        path
    }

    pub(super) fn set_root(&mut self, word: Word<T>, mark: Mark) {
        self.tree.root.store(word.bits(), Ordering::Release);
        self.writer.root_mark = mark;
    }

    /// A node is out of reach: says so to readers, and puts it in stock.
    pub(super) fn left(&self, pointer: NodePointer, stock: &mut NodeStock) {
        self.tree.left();
        stock.put(pointer.node);
    }
}

impl<T, G> Tree<'_, T, G> {
    /// A node is out of reach. Release pairs with the acquire in `consistently`.
    fn left(&self) {
        let shape = self.shape.load(Ordering::Relaxed);
        self.shape.store(shape.wrapping_add(1), Ordering::Release);
    }
}
