//! Insertion, removal, replacement, and entries broken up and put together again.
//!
//! Readers see each step, so each leaves the tree one that says for every index what it said before, or what it is to
//! say. A node is filled before a word leads to it. One that leaves is out of reach before the shape changes, and the
//! shape changes before the node is emptied.
#![expect(unsafe_code, reason = "whoever has the lock has the nodes")]

use core::fmt;

use arrayvec::ArrayVec;
use thiserror::Error;

use super::node::{Access, Mark, NodeStock};
use super::word::{LEVELS, Level, NodePointer, SLOT_BITS, SLOTS, Word};
use super::{Entry, Extent, Found, Tree, TreeGuard};
use crate::sync::Ordering;
use crate::units::{Count, Order, PageIndex};

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

impl Extent {
    /// The level at which an entry of this size stands.
    const fn level(self) -> Level {
        Level::of(self.order())
    }

    /// Its slots in the node of its level, or the slot that covers it in one above.
    fn slots(self, level: Level) -> core::ops::Range<usize> {
        let slot = level.slot(self.first());
        let slots = if level == self.level() { 1 << (u32::from(self.order().number()) % SLOT_BITS) } else { 1 };
        slot..slot + slots
    }
}

/// Nodes on the way down, the root first.
type Path = ArrayVec<NodePointer, LEVELS>;

impl<T, G> TreeGuard<'_, '_, T, G> {
    pub(super) fn access(&self) -> Access<'_> {
        // SAFETY: this is the lock, and nodes that leave the tree go to the stock that the caller has.
        unsafe { Access::writer() }
    }

    fn word(&self, pointer: NodePointer, slot: usize) -> Word<T> {
        self.access().node(pointer).word(slot)
    }

    fn set(&self, pointer: NodePointer, slot: usize, word: Word<T>, mark: Mark) {
        self.access().node(pointer).set(slot, word, mark);
    }

    /// The nodes over an extent, down to its level at most. None if the root does not reach it, or is lower than it.
    fn path(&self, extent: Extent) -> Path {
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
    fn reach(&mut self, extent: Extent, wanted: Count, stock: &mut NodeStock) -> Option<Path> {
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

    fn set_root(&mut self, word: Word<T>, mark: Mark) {
        self.tree.root.store(word.bits(), Ordering::Release);
        self.writer.root_mark = mark;
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
    fn carry(&self, path: &Path, index: PageIndex) {
        for pair in path.windows(2).rev() {
            if let &[above, below] = pair {
                let mark = self.access().node(below).any_mark();
                self.access().node(above).set_mark(above.level.slot(index), mark);
            }
        }
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

    /// A node is out of reach: says so to readers, and puts it in stock.
    fn left(&self, pointer: NodePointer, stock: &mut NodeStock) {
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
