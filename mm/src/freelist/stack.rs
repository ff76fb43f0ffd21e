//! One end of a freelist: a stack of frame numbers, on a radix tree of nodes, with its top inline in the zone.
//!
//! Entries have positions, counted from the bottom, and keep them while they stay. The first `stored` of them stand
//! in the leaves of the tree, the rest in a small ring, so that most pushes and pops touch no node at all, and a
//! highmem leaf is mapped once for several of them:
//!
//! ```text
//!    position   0 ............................ stored ..... len
//!               [ leaf ][ leaf ][ leaf ][ leaf ] inline ring
//!                   \      |       |      /
//!                       interior node            (only above the second leaf)
//! ```
//!
//! A tree grows by one node at a time ([`Stack::supply`]), from the root down to the leaf that is missing, so that
//! one freed page is always enough to get on; it gives its nodes back as soon as no entry needs them.
//!
//! Invariants: FREE-4. The tree holds ceil(stored / leaf) leaves, the interior nodes above them, and at most one path
//! under construction. `len > 0` means that the ring is not empty; no more than half a ring of entries needs no tree.
//!
//! Cost: push and pop O(1), without a node in all but one of `INLINE / 2`; `remove` and `get` one node a level.
//! An emptied leaf comes back only after half a ring of pops, so a stack swinging around a leaf's edge does not convert
//! a page per operation.

use core::marker::PhantomData;
use core::ptr::NonNull;

use super::{ListContext, Released};

use super::node::{NodePointer, Nodes};
use crate::desc::word::{NodePlace, Position};
use crate::image::{Note, NoteFull, layout};
use crate::machine::{Geometry, Machine};
use crate::units::Pfn;

#[cfg(all(test, not(loom)))]
mod tests;

/// The most entries that a ring can have, whatever the geometry.
const RING: usize = 16;

/// A stack; the machine's nodes are passed in.
#[derive(Debug)]
pub(super) struct Stack<G> {
    ring: [u32; RING],
    len: u32,
    stored: u32,
    /// Levels of the tree: 0 without one, 1 if the root is a leaf.
    height: u8,
    /// Interior nodes that already stand on the path to the leaf that is missing, below the root.
    prepared: u8,
    root: Option<NodePointer>,
    /// The last leaf: it holds position `stored - 1`.
    tail: Option<NodePointer>,
    geometry: PhantomData<fn() -> G>,
}

impl<G: Geometry> Stack<G> {
    const HALF: u32 = G::INLINE / 2;
    const LEAF: u32 = 1 << G::LEAF_SHIFT;

    pub(super) const fn new() -> Self {
        const {
            assert!(G::INLINE.is_power_of_two() && G::INLINE >= 2 && G::INLINE as usize <= RING);
            assert!(G::LEAF_SHIFT >= 1 && G::LEAF_SHIFT <= 10 && G::NODE_SHIFT >= 1 && G::NODE_SHIFT <= 9);
        }
        let ring = [0; RING];
        Self { ring, len: 0, stored: 0, height: 0, prepared: 0, root: None, tail: None, geometry: PhantomData }
    }

    /// For who reads an image of memory.
    pub(super) fn write_note(note: &mut Note) -> Result<(), NoteFull> {
        layout!(note, Self as "Stack": ring, len, stored, height, prepared, root, tail)
    }

    pub(super) const fn len(&self) -> u32 {
        self.len
    }

    /// Positions under a node of `level`, as a shift; a level beyond all positions covers them all.
    const fn shift(level: u8) -> u32 {
        G::LEAF_SHIFT + (level as u32 - 1) * G::NODE_SHIFT
    }

    /// Whether `position` is the first one under a node of `level`.
    const fn starts(position: u32, level: u8) -> bool {
        (position as u64).trailing_zeros() >= Self::shift(level) || position == 0
    }

    /// Which child of its parent at `level + 1` the node of `level` over `position` is.
    const fn child_index(position: u32, level: u8) -> usize {
        let children = (1 << G::NODE_SHIFT) - 1;
        // Beyond the 32 bits of a position everything is under child 0.
        match position.checked_shr(Self::shift(level)) {
            Some(index) => (index & children) as usize,
            None => 0,
        }
    }

    /// Whether the tree, were it `height` levels high, would cover `positions` entries.
    const fn covers(height: u8, positions: u32) -> bool {
        height != 0 && (positions as u64) <= 1u64 << Self::shift(height)
    }

    fn ring_slot(position: u32) -> usize {
        (position % G::INLINE) as usize
    }

    /// The node of `level` over `position`, which the tree has.
    fn node<M: Machine>(&self, nodes: Nodes<'_, M>, level: u8, position: u32) -> NodePointer {
        let mut node = present(self.root);
        for below in (level..self.height).rev() {
            node = present(nodes.view(node, |view| view.child(Self::child_index(position, below))));
        }
        node
    }

    /// The leaf over `position`, which is stored; the last one is at hand.
    fn leaf<M: Machine>(&self, nodes: Nodes<'_, M>, position: u32) -> NodePointer {
        if (position ^ (self.stored - 1)) >> G::LEAF_SHIFT == 0 {
            present(self.tail)
        } else {
            self.node(nodes, 1, position)
        }
    }

    /// The entry at `position`, which is below the length.
    pub(super) fn get<M: Machine>(&self, nodes: Nodes<'_, M>, position: Position) -> Pfn {
        let position = position.0;
        if position >= self.stored {
            return Pfn::new(self.ring[Self::ring_slot(position)]);
        }
        nodes.view(self.leaf(nodes, position), |leaf| leaf.entry((position % Self::LEAF) as usize))
    }

    /// Fetches the entry at `position`, which is below the length.
    pub(super) fn foresee<M: Machine>(&self, nodes: Nodes<'_, M>, Position(position): Position) {
        if position < self.stored {
            nodes.prefetch(self.leaf(nodes, position), (position % Self::LEAF) as usize);
        }
    }

    /// Puts an entry in the place of another, which is below the length, and gives what stood there.
    pub(super) fn replace<M: Machine>(&mut self, nodes: Nodes<'_, M>, position: Position, pfn: Pfn) -> Pfn {
        let position = position.0;
        if position >= self.stored {
            return Pfn::new(core::mem::replace(&mut self.ring[Self::ring_slot(position)], pfn.number()));
        }
        nodes.view(self.leaf(nodes, position), |leaf| {
            let index = (position % Self::LEAF) as usize;
            let before = leaf.entry(index);
            leaf.set_entry(index, pfn);
            before
        })
    }

    /// Whether a push finds no room in the ring, and must [spill](Self::spill) first.
    #[inline(always)]
    pub(super) const fn is_full(&self) -> bool {
        self.len - self.stored == G::INLINE
    }

    /// Whether there is no leaf to spill to, so that the stack must be given a node first.
    pub(super) const fn needs_node(&self) -> bool {
        self.is_full() && self.stored.is_multiple_of(Self::LEAF)
    }

    /// Puts an entry on top of a ring that is not full, and says where it stands.
    #[inline(always)]
    pub(super) fn push(&mut self, pfn: Pfn) -> Position {
        let position = self.len;
        self.ring[Self::ring_slot(position)] = pfn.number();
        self.len += 1;
        Position(position)
    }

    /// Moves the older half of the ring into the last leaf, as far as it has room.
    pub(super) fn spill<M: Machine>(&mut self, nodes: Nodes<'_, M>) {
        let first = self.stored;
        let count = Self::HALF.min(Self::LEAF - first % Self::LEAF);
        nodes.view(present(self.tail), |leaf| {
            for position in first..first + count {
                let pfn = Pfn::new(self.ring[Self::ring_slot(position)]);
                leaf.set_entry((position % Self::LEAF) as usize, pfn);
            }
        });
        self.stored += count;
    }

    /// Where the next node that is supplied will stand: the highest one missing on the way to position `stored`.
    pub(super) fn next_place(&self) -> NodePlace {
        let first = Position(self.stored);
        if self.height == 0 {
            return NodePlace { level: 1, first };
        }
        if !Self::covers(self.height, self.stored + 1) {
            return NodePlace { level: self.height + 1, first: Position(0) };
        }
        NodePlace { level: self.highest_missing() - self.prepared, first }
    }

    /// The level of the highest node that starts at position `stored`, below the root.
    fn highest_missing(&self) -> u8 {
        (1..self.height).take_while(|&level| Self::starts(self.stored, level)).last().unwrap_or(1)
    }

    /// Takes the page of frame `pfn` for the node at [`next_place`](Self::next_place), of which the stack has need.
    /// With the leaf in place, half the ring moves into it.
    pub(super) fn supply<M: Machine>(&mut self, nodes: Nodes<'_, M>, pfn: Pfn) {
        let node = NodePointer::to(nodes.machine(), pfn);
        let NodePlace { level, first } = self.next_place();
        if level > self.height {
            if let Some(root) = self.root {
                nodes.view(node, |view| view.set_child(0, root));
            }
            self.root = Some(node);
            self.height = level;
        } else {
            let parent = self.node(nodes, level + 1, first.0);
            nodes.view(parent, |view| view.set_child(Self::child_index(first.0, level), node));
            self.prepared += 1;
        }
        if level == 1 {
            self.prepared = 0;
            self.tail = Some(node);
            self.spill(nodes);
        }
    }

    /// The top entry, if there is any.
    pub(super) fn top(&self) -> Option<Pfn> {
        self.len.checked_sub(1).map(|position| Pfn::new(self.ring[Self::ring_slot(position)]))
    }

    /// Takes the top entry of a stack that has one. The pages of nodes that are no longer needed go to `released`.
    #[inline(always)]
    pub(super) fn pop<M: Machine<Geometry = G>>(
        &mut self,
        context: &ListContext<'_, '_, M>,
        released: &mut Released<'_>,
    ) -> Pfn {
        self.len -= 1;
        let pfn = Pfn::new(self.ring[Self::ring_slot(self.len)]);
        if self.stored > 0 && self.is_low() {
            self.refill(context, released);
        }
        pfn
    }

    /// Takes `pfn`, the entry at `position`, out of the middle: the top one moves to its place, and is returned if it did.
    ///
    /// # Errors
    /// Something else stands there: FREE-1 is broken.
    #[inline(always)]
    pub(super) fn remove<M: Machine<Geometry = G>>(
        &mut self,
        context: &ListContext<'_, '_, M>,
        position: Position,
        pfn: Pfn,
        released: &mut Released<'_>,
    ) -> Result<Option<Pfn>, Elsewhere> {
        if position.0 >= self.len {
            return Err(Elsewhere);
        }
        let last = self.pop(context, released);
        if position.0 == self.len {
            return if last == pfn { Ok(None) } else { Err(Elsewhere) };
        }
        if self.replace(context.nodes, position, last) == pfn { Ok(Some(last)) } else { Err(Elsewhere) }
    }

    /// Whether entries must come back out of the tree: the ring is empty, or could hold all there are.
    const fn is_low(&self) -> bool {
        self.len == self.stored || self.len <= Self::HALF
    }

    #[cold]
    fn refill<M: Machine<Geometry = G>>(&mut self, context: &ListContext<'_, '_, M>, released: &mut Released<'_>) {
        while self.stored > 0 && self.is_low() {
            self.refill_from_leaf(context, released);
        }
    }

    /// Moves up to half a ring of entries from the last leaf into the ring, and gives back the nodes that this empties.
    fn refill_from_leaf<M: Machine<Geometry = G>>(
        &mut self,
        context: &ListContext<'_, '_, M>,
        released: &mut Released<'_>,
    ) {
        let nodes = context.nodes;
        self.abandon_path(context, released);
        let count = Self::HALF.min((self.stored - 1) % Self::LEAF + 1);
        let tail = present(self.tail);
        let first = self.stored - count;
        nodes.view(tail, |leaf| {
            for position in first..self.stored {
                let entry = leaf.entry((position % Self::LEAF) as usize);
                self.ring[Self::ring_slot(position)] = entry.number();
                // It is near the top now, and whoever takes it writes there.
                if let Some(page) = context.map.get(entry) {
                    nodes.machine().prefetch(NonNull::from(page).cast());
                }
            }
        });
        self.stored = first;
        if first.is_multiple_of(Self::LEAF) {
            // Every node that starts here holds nothing any more; at position 0 that is the root too.
            let highest = if first == 0 { self.height } else { self.highest_missing() };
            // From the bottom up: the way to a node leads through those above it, which hold nothing once they are released.
            for level in 1..=highest {
                released.page(context, self.node(nodes, level, first).frame(nodes.machine()));
            }
        }
        if first == 0 {
            (self.root, self.tail, self.height) = (None, None, 0);
            return;
        }
        self.lower_root(context, released);
        if first.is_multiple_of(Self::LEAF) {
            self.tail = Some(self.node(nodes, 1, first - 1));
        }
    }

    /// Gives back the nodes of a path whose leaf never came.
    fn abandon_path<M: Machine<Geometry = G>>(
        &mut self,
        context: &ListContext<'_, '_, M>,
        released: &mut Released<'_>,
    ) {
        let nodes = context.nodes;
        let highest = self.highest_missing();
        // From the bottom up, as in `refill_from_leaf`.
        for level in highest + 1 - self.prepared..=highest {
            released.page(context, self.node(nodes, level, self.stored).frame(nodes.machine()));
        }
        self.prepared = 0;
    }

    /// Takes roots away that have but one child in use.
    fn lower_root<M: Machine<Geometry = G>>(&mut self, context: &ListContext<'_, '_, M>, released: &mut Released<'_>) {
        let nodes = context.nodes;
        while Self::covers(self.height.saturating_sub(1), self.stored) {
            let root = present(self.root);
            self.root = Some(present(nodes.view(root, |view| view.child(0))));
            self.height -= 1;
            released.page(context, root.frame(nodes.machine()));
        }
    }

    /// The frame of the node at a place; `None` if the tree has no such place.
    pub(super) fn frame_at<M: Machine>(
        &self,
        nodes: Nodes<'_, M>,
        NodePlace { level, first }: NodePlace,
    ) -> Option<Pfn> {
        let may_be = level >= 1 && level <= self.height && first.0 <= self.stored && Self::starts(first.0, level);
        may_be.then(|| self.node(nodes, level, first.0).frame(nodes.machine()))
    }

    /// Moves the node at `place` to frame `to`: copies the page and turns the one pointer that leads to it.
    pub(super) fn relocate<M: Machine>(&mut self, nodes: Nodes<'_, M>, place: NodePlace, to: Pfn) {
        let NodePlace { level, first } = place;
        let new = NodePointer::to(nodes.machine(), to);
        let old = self.node(nodes, level, first.0);
        nodes.copy(old, new);
        if level == self.height {
            self.root = Some(new);
        } else {
            let parent = self.node(nodes, level + 1, first.0);
            nodes.view(parent, |view| view.set_child(Self::child_index(first.0, level), new));
        }
        if self.tail == Some(old) {
            self.tail = Some(new);
        }
    }

    /// Shows what a stack consists of to `see`.
    #[cfg(all(test, not(loom), not(miri)))]
    pub(super) fn each_part(&self, see: &mut impl FnMut(&'static str, NonNull<u8>, usize)) {
        for position in self.stored..self.len {
            see("list: inline entry", NonNull::from(&self.ring[Self::ring_slot(position)]).cast(), 4);
        }
        see("list: length", NonNull::from(&self.len).cast(), 4);
        see("list: length", NonNull::from(&self.stored).cast(), 4);
        see("list: height", NonNull::from(&self.height).cast(), 1);
        see("list: height", NonNull::from(&self.prepared).cast(), 1);
        if self.root.is_some() {
            see("node pointer: root", NonNull::from(&self.root).cast(), 8);
            see("node pointer: last leaf", NonNull::from(&self.tail).cast(), 8);
        }
    }

    /// Shows every node of the tree to `see`, with the place that the tree's shape gives it: for the checker.
    pub(super) fn each_node<M: Machine>(&self, nodes: Nodes<'_, M>, mut see: impl FnMut(NodePlace, NodePointer)) {
        for level in (1..=self.height).rev() {
            let step = 1u64 << Self::shift(level);
            let mut first = 0u64;
            let on_path = level + self.prepared > self.highest_missing() && level < self.height;
            while first < u64::from(self.stored) || (on_path && first == u64::from(self.stored)) {
                #[expect(clippy::cast_possible_truncation, reason = "at most `stored`")]
                let position = first as u32;
                see(NodePlace { level, first: Position(position) }, self.node(nodes, level, position));
                first += step;
            }
        }
    }

    /// Shows every entry to `see`, for the checker; each leaf is mapped once.
    pub(super) fn each_entry<M: Machine>(&self, nodes: Nodes<'_, M>, mut see: impl FnMut(Position, Pfn)) {
        let mut first = 0;
        while first < self.stored {
            let end = self.stored.min(first.saturating_add(Self::LEAF));
            nodes.view(self.leaf(nodes, first), |leaf| {
                for position in first..end {
                    see(Position(position), leaf.entry((position % Self::LEAF) as usize));
                }
            });
            first = end;
        }
        for position in self.stored..self.len {
            see(Position(position), Pfn::new(self.ring[Self::ring_slot(position)]));
        }
    }

    /// Whether the shape obeys FREE-4: no level too many, the last leaf at hand, the ring in use.
    pub(super) fn is_well_formed<M: Machine>(&self, nodes: Nodes<'_, M>) -> bool {
        let ring = self.len - self.stored;
        let path_may_be_open = self.stored.is_multiple_of(Self::LEAF);
        // With the leaf, the last that is missing, the path is no longer open.
        let path_fits = self.prepared == 0 || (path_may_be_open && self.prepared < self.highest_missing());
        let height_fits = if self.stored == 0 {
            self.height == 0 && self.root.is_none()
        } else {
            // A root that came ahead of its second child is the only one too many.
            let lower = self.height.saturating_sub(1);
            Self::covers(self.height, self.stored)
                && (!Self::covers(lower, self.stored) || (path_may_be_open && !Self::covers(lower, self.stored + 1)))
        };
        // Only in a tree that is high enough is there a way to it.
        let tail_fits = || self.stored == 0 || self.tail == Some(self.node(nodes, 1, self.stored - 1));
        let ring_fits = ring <= G::INLINE && (ring > 0 || self.len == 0);
        let tree_is_needed = self.stored == 0 || self.len > Self::HALF;
        height_fits && tail_fits() && ring_fits && tree_is_needed && path_fits
    }
}

/// An entry is not where it was said to be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Elsewhere;

/// A pointer that FREE-4 says is there.
fn present(node: Option<NodePointer>) -> NodePointer {
    match node {
        Some(node) => node,
        None => panic!("invariant FREE-4 broken: a freelist's tree lacks a node that its length demands"),
    }
}
