//! The checker: every node of a tree.

use super::TreeGuard;
use super::node::Mark;
use super::word::{Level, NodePointer, SLOTS};
use crate::invariant::{Invariant, Violation};
use crate::units::Count;

impl<T, G> TreeGuard<'_, '_, T, G> {
    /// Checks TREE-1, and counts the tree's nodes. Cost: a pass over all slots.
    ///
    /// # Errors
    /// The first violation found.
    pub(crate) fn verify(&self) -> Result<Count, Violation> {
        let root = self.tree.root();
        let Some(top) = root.to_node() else {
            return match self.writer.root_mark {
                Mark::Set if root.is_empty() => Err(broken("the root of nothing is marked")),
                _ => Ok(Count(0)),
            };
        };
        let node = self.access().node(top);
        if node.occupied() == 1 && (top.level == Level::LEAF || node.word::<T>(0).to_node().is_some()) {
            return Err(broken("the root is higher than it must be"));
        }
        Ok(Count(self.verify_node(top)?))
    }

    fn verify_node(&self, pointer: NodePointer) -> Result<u32, Violation> {
        let node = self.access().node(pointer);
        if node.occupied() == 0 {
            return Err(broken("a node is empty"));
        }
        if node.marked() & !node.occupied() != 0 {
            return Err(broken("an empty slot is marked"));
        }
        let mut nodes = 1;
        for slot in 0..SLOTS {
            let word = node.word::<T>(slot);
            if word.is_empty() == (node.occupied() >> slot & 1 == 1) {
                return Err(broken("a node counts a slot that is empty, or does not count one that is not"));
            }
            if let Some(below) = word.to_node() {
                if Some(below.level) != pointer.level.down() {
                    return Err(broken("a word leads to another level than the next"));
                }
                nodes += self.verify_node(below)?;
                if node.mark(slot) != self.access().node(below).any_mark() {
                    return Err(broken("a mark is not that of the node below"));
                }
            } else if pointer.level > Level::LARGEST_ENTRY && !word.is_empty() {
                return Err(broken("an entry larger than any"));
            }
        }
        Ok(nodes)
    }
}

const fn broken(what: &'static str) -> Violation {
    Violation::of(Invariant::Tree1, None, what)
}
