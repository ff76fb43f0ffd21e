//! Insertion, removal and replacement.

use core::fmt;

use thiserror::Error;

use super::node::{Mark, NodeStock};
use super::path::Path;
use super::word::{Level, Word};
use super::{Entry, Extent, Found, TreeGuard};
use crate::units::{Count, PageIndex};

/// An operation wants so many nodes in stock; nothing has changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error("{} nodes must be in stock", .0.0)]
pub(crate) struct NodesLacking(pub(crate) Count);

/// Why an entry was not inserted; nothing has changed.
#[derive(Error)]
pub(crate) enum InsertError<T> {
    /// That stands there, perhaps among others; it is the first.
    #[error("{0:?} stands there")]
    Occupied(Found<T>),
    /// There were too few nodes.
    #[error(transparent)]
    Nodes(NodesLacking),
}

impl<T> PartialEq for InsertError<T> {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Occupied(one), Self::Occupied(other)) => one == other,
            (Self::Nodes(one), Self::Nodes(other)) => one == other,
            _ => false,
        }
    }
}

impl<T> fmt::Debug for InsertError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// An extent is not covered by one entry in slots of its own; nothing has changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error("not one entry, in slots of its own")]
pub(crate) struct NotOne;

impl<T, G> TreeGuard<'_, '_, T, G> {
    /// Nodes that an insertion wants in stock.
    ///
    /// # Errors
    /// What stands there.
    pub(crate) fn nodes_for(&self, extent: Extent) -> Result<Count, Found<T>> {
        if let Some(found) = self.next(extent.first()).filter(|found| found.first <= extent.last()) {
            return Err(found);
        }
        let level = extent.level();
        let nodes = match (self.path(extent).last(), self.tree.root()) {
            (Some(lowest), _) => lowest.level.number() - level.number(),
            (None, root) => {
                let top = level.max(Level::reaching(extent.first())).number();
                let below = top - level.number();
                match root.to_node() {
                    Some(root) => top - root.level.number() + below,
                    None if !root.is_empty() => top + 1 + below,
                    None if extent == Extent::page(PageIndex(0)) => 0,
                    None => 1 + below,
                }
            }
        };
        #[expect(clippy::cast_possible_truncation, reason = "twice as many as there are levels, at most")]
        Ok(Count(nodes as u32))
    }

    /// Inserts an entry, unmarked.
    ///
    /// # Errors
    /// Something stands there, or nodes lack.
    pub(crate) fn insert(
        &mut self,
        extent: Extent,
        entry: Entry<T>,
        stock: &mut NodeStock,
    ) -> Result<(), InsertError<T>> {
        let (path, word) = (self.path(extent), Word::of(entry));
        if let Some(&node) = path.last()
            && node.level == extent.level()
            && extent.slots(node.level).all(|slot| self.word(node, slot).is_empty())
        {
            extent.slots(node.level).for_each(|slot| self.set(node, slot, word, Mark::Clear));
            return Ok(());
        }
        let wanted = self.nodes_for(extent).map_err(InsertError::Occupied)?;
        if self.tree.root().is_empty() && extent == Extent::page(PageIndex(0)) {
            self.set_root(word, Mark::Clear);
            return Ok(());
        }
        let Some(path) = self.reach(extent, wanted, stock) else {
            return Err(InsertError::Nodes(NodesLacking(wanted)));
        };
        if let Some(&node) = path.last() {
            extent.slots(node.level).for_each(|slot| self.set(node, slot, word, Mark::Clear));
        }
        Ok(())
    }

    /// The nodes over an extent, down to its level: made if there are none yet. `None` if those wanted are not in stock.
    pub(super) fn reach(&mut self, extent: Extent, wanted: Count, stock: &mut NodeStock) -> Option<Path> {
        if stock.count() < wanted {
            return None;
        }
        let top = extent.level().max(Level::reaching(extent.first()));
        if self.tree.root().is_empty() {
            self.set_root(Word::node(stock.take(top)?), Mark::Clear);
        }
        loop {
            let root = self.tree.root();
            let (level, mark) = match root.to_node() {
                Some(old) if old.level >= top => break,
                Some(old) => (old.level.up(), self.access().node(old).any_mark()),
                None => (Level::LEAF, self.writer.root_mark),
            };
            let node = stock.take(level)?;
            self.set(node, 0, root, mark);
            self.set_root(Word::node(node), Mark::Clear);
        }
        let mut path = self.path(extent);
        while let Some(&lowest) = path.last().filter(|lowest| lowest.level > extent.level()) {
            let below = stock.take(lowest.level.down()?)?;
            self.set(lowest, lowest.level.slot(extent.first()), Word::node(below), Mark::Clear);
            path.push(below);
        }
        Some(path)
    }

    /// Takes an entry out. Nodes that it leaves empty go to the stock.
    ///
    /// # Errors
    /// The extent is not covered by one entry, or by a slot that covers more.
    pub(crate) fn remove(&mut self, extent: Extent, stock: &mut NodeStock) -> Result<Entry<T>, NotOne> {
        let (path, entry) = self.only_entry(extent)?;
        match path.last() {
            Some(&node) => extent.slots(node.level).for_each(|slot| self.set(node, slot, Word::EMPTY, Mark::Clear)),
            None => self.set_root(Word::EMPTY, Mark::Clear),
        }
        self.settle(path, extent.first(), stock);
        self.lower(stock);
        Ok(entry)
    }

    /// Puts an entry into another's place, marked as that was.
    ///
    /// # Errors
    /// The extent is not covered by one entry, or by a slot that covers more.
    pub(crate) fn replace(&mut self, extent: Extent, entry: Entry<T>) -> Result<Entry<T>, NotOne> {
        let (path, old) = self.only_entry(extent)?;
        match path.last() {
            Some(&node) => extent.slots(node.level).for_each(|slot| {
                let mark = self.access().node(node).mark(slot);
                self.set(node, slot, Word::of(entry), mark);
            }),
            None => self.set_root(Word::of(entry), self.writer.root_mark),
        }
        Ok(old)
    }

    /// The entry that covers an extent in slots of its own, and the way there.
    fn only_entry(&self, extent: Extent) -> Result<(Path, Entry<T>), NotOne> {
        let path = self.path(extent);
        let Some(&node) = path.last() else {
            let entry = self.tree.root().entry().filter(|_| extent == Extent::page(PageIndex(0)));
            return Ok((path, entry.ok_or(NotOne)?));
        };
        let word = self.word(node, node.level.slot(extent.first()));
        let same = extent.slots(node.level).all(|slot| self.word(node, slot) == word);
        let entry = word.entry().filter(|_| same && node.level == extent.level());
        Ok((path, entry.ok_or(NotOne)?))
    }

    /// Takes what the path to an index leads through out of the tree as far as it is empty, and carries marks upwards
    /// from the rest.
    fn settle(&mut self, mut path: Path, index: PageIndex, stock: &mut NodeStock) {
        while let Some(&node) = path.last().filter(|&&node| self.access().node(node).occupied() == 0) {
            path.pop();
            match path.last() {
                Some(&above) => self.set(above, above.level.slot(index), Word::EMPTY, Mark::Clear),
                None => self.set_root(Word::EMPTY, Mark::Clear),
            }
            self.left(node, stock);
        }
        self.carry(&path, index);
    }

    /// Lowers the root to what it must be.
    fn lower(&mut self, stock: &mut NodeStock) {
        while let Some(root) = self.tree.root().to_node() {
            let (node, word) = (self.access().node(root), self.word(root, 0));
            let alone = node.occupied() == 1;
            let (fits, mark) = match word.to_node() {
                Some(_) => (alone, Mark::Clear),
                None => (alone && root.level == Level::LEAF, node.mark(0)),
            };
            if !fits {
                break;
            }
            self.set_root(word, mark);
            self.left(root, stock);
        }
    }
}
