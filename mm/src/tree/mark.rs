//! The mark: of entries, and of each node over one.

use super::node::Mark;
use super::path::Path;
use super::word::{NodePointer, SLOTS};
use super::{Extent, TreeGuard};
use crate::units::PageIndex;

impl<T, G> TreeGuard<'_, '_, T, G> {
    /// Marks what stands in an extent; larger entries too, if they cover it.
    pub(crate) fn mark(&mut self, extent: Extent) {
        self.mark_all(extent, Mark::Set);
    }

    /// Takes the mark from what stands in an extent.
    pub(crate) fn unmark(&mut self, extent: Extent) {
        self.mark_all(extent, Mark::Clear);
    }

    fn mark_all(&mut self, extent: Extent, mark: Mark) {
        let path = self.path(extent);
        if let Some(&node) = path.last() {
            extent.slots(node.level).for_each(|slot| self.mark_below(node, slot, mark));
            self.carry(&path, extent.first());
            return;
        }
        // The root is lower than the extent, which covers all under it or nothing.
        let root = self.tree.root();
        match root.to_node() {
            _ if extent.first() != PageIndex(0) || root.is_empty() => {}
            Some(node) => (0..SLOTS).for_each(|slot| self.mark_below(node, slot, mark)),
            None => self.writer.root_mark = mark,
        }
    }

    /// Marks all entries under a slot.
    fn mark_below(&self, node: NodePointer, slot: usize, mark: Mark) {
        let word = self.word(node, slot);
        if word.is_empty() {
            return;
        }
        if let Some(below) = word.to_node() {
            (0..SLOTS).for_each(|slot| self.mark_below(below, slot, mark));
        }
        self.access().node(node).set_mark(slot, mark);
    }

    /// Carries marks upwards from the last node of the path to an index.
    pub(super) fn carry(&self, path: &Path, index: PageIndex) {
        for pair in path.windows(2).rev() {
            if let &[above, below] = pair {
                let mark = self.access().node(below).any_mark();
                self.access().node(above).set_mark(above.level.slot(index), mark);
            }
        }
    }
}
