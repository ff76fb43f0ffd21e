//! Entries broken up, and put together again: neither changes what is found at any index.

use thiserror::Error;

use super::edit::{NodesLacking, NotOne};
use super::node::NodeStock;
use super::word::{Level, SLOTS, Word};
use super::{Entry, Extent, TreeGuard};
use crate::units::{Count, Order, PageIndex};

/// Why entries were not put together; nothing has changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub(crate) enum CollapseError {
    /// They are not all the same, or some are missing.
    #[error(transparent)]
    NotOne(#[from] NotOne),
    /// There were too few nodes.
    #[error(transparent)]
    Nodes(#[from] NodesLacking),
}

impl<T, G> TreeGuard<'_, '_, T, G> {
    /// Breaks up what stands in an extent and covers slots larger than `order`, so that parts of that size can be
    /// replaced: each gets slots of its own, which say and are marked as the large one.
    ///
    /// # Errors
    /// Nodes lack.
    pub(crate) fn expand(&mut self, extent: Extent, order: Order, stock: &mut NodeStock) -> Result<(), NodesLacking> {
        let path = self.path(extent);
        let Some(&node) = path.last().filter(|node| node.level > Level::of(order)) else { return Ok(()) };
        let Some(below) = node.level.down() else { return Ok(()) };
        let is_entry = |slot: &usize| self.word(node, *slot).entry().is_some();
        #[expect(clippy::cast_possible_truncation, reason = "no more than slots")]
        let wanted = Count(extent.slots(node.level).filter(is_entry).count() as u32);
        if stock.count() < wanted {
            return Err(NodesLacking(wanted));
        }
        for slot in extent.slots(node.level) {
            let (word, mark) = (self.word(node, slot), self.access().node(node).mark(slot));
            if word.entry().is_none() {
                continue;
            }
            let Some(leaf) = stock.take(below) else { return Err(NodesLacking(wanted)) };
            (0..SLOTS).for_each(|slot| self.set(leaf, slot, word, mark));
            self.set(node, slot, Word::node(leaf), mark);
        }
        Ok(())
    }

    /// Puts together what was expanded: an extent all of whose slots say the same gets slots as large as it allows.
    ///
    /// # Errors
    /// They do not, or nodes lack: one is wanted where the root must grow to have slots so large.
    pub(crate) fn collapse(&mut self, extent: Extent, stock: &mut NodeStock) -> Result<Entry<T>, CollapseError> {
        let entry = self.look(extent.first()).ok_or(NotOne)?;
        let mut covered = extent.first();
        while let Some(next) = self.next(covered).filter(|next| next.first <= covered && next.entry == entry) {
            covered = PageIndex(next.last.0.saturating_add(1));
            if next.last >= extent.last() {
                break;
            }
        }
        if covered <= extent.last() {
            return Err(NotOne.into());
        }
        if extent.level() == Level::LEAF {
            return Ok(entry);
        }
        let root = self.tree.root().to_node().map_or(Level::LEAF, |root| root.level);
        #[expect(clippy::cast_possible_truncation, reason = "no more than levels")]
        let wanted = Count(extent.level().number().saturating_sub(root.number()) as u32);
        let Some(path) = self.reach(extent, wanted, stock) else { return Err(NodesLacking(wanted).into()) };
        if let Some(&node) = path.last() {
            for slot in extent.slots(node.level) {
                let (below, mark) = (self.word(node, slot), self.access().node(node).mark(slot));
                if let Some(leaf) = below.to_node() {
                    self.set(node, slot, Word::of(entry), mark);
                    self.left(leaf, stock);
                }
            }
        }
        Ok(entry)
    }
}
