//! Radix trees from a page's index in a mapping to what stands there: something in memory, or a place in a store.
//!
//! ```text
//!   root ──> node, level 1 ──> leaf, level 0 ──> entry          64 slots a node
//!                         └──> entry of order 6 to 10            in every slot that it covers
//! ```
//!
//! An entry of order k covers 2^k indexes. It stands at the highest level whose slots are not larger, as the same
//! word in each of its slots, so a look finds it from any index by itself. Equal neighbours in a node are one entry. A
//! single entry at index 0 stands in the root, without a node.
//!
//! **Who reads** takes no lock. It has passed the gate of the allocator that the nodes come from ([`Walking`]), and what
//! [`Tree::look`] says stood there at some moment of the call: a node that leaves a tree changes the tree's *shape*
//! first, and who saw the shape change looks again. It need not stand there any more. An item is the address of
//! something that the tree knows nothing of: before anything else, the caller must take a reference that fails if the
//! item is gone, and then ask the item for its mapping and index. What is larger than a slot does not come or go in all
//! of its slots at once.
//!
//! **Who writes** holds the tree's lock ([`TreeGuard`]), which guards a value of the tree's user as well. Under it
//! nothing is allocated and nothing freed: nodes come from a [`NodeReserve`] and go there, and an operation that would
//! not find enough says how many it wants, and has changed nothing.
//!
//! One mark is carried upwards, so that the next marked entry is found in as many steps as there are levels.
//!
//! Invariants: TREE-1 (a node's counts and marks are those of its slots, a level leads to the next, no node is empty, and
//! the root is no higher than it must be).
//! Cost: a look is a load for each level, and two of the shape. Insertion and removal are that and the slots covered.
//!
//! Source: Linux's XArray, without sibling entries; H. Boehm, "Can seqlocks get along with programming language memory
//! models?", MSPC 2012.

mod edit;
mod find;
#[cfg(all(test, loom))]
#[expect(unsafe_code, reason = "gives its nodes back")]
mod loom;
mod mark;
mod node;
mod path;
mod reshape;
#[cfg(all(test, not(loom)))]
mod tests;
mod verify;
mod word;

use core::fmt;
use core::marker::PhantomData;
use core::ops::{Deref, DerefMut};

pub(crate) use edit::{InsertError, NodesLacking};
pub(crate) use find::Found;
use node::{Access, Mark};
pub(crate) use node::{NodeReserve, TreeNodes};
pub(crate) use word::Entry;
use word::Word;

use crate::descriptor::Walking;
use crate::lock::{Mutex, MutexGuard};
use crate::lock_order::class;
use crate::machine::Machine;
use crate::sync::{AtomicPtr, AtomicU64, Ordering};
use crate::units::{Order, PageIndex};

/// An aligned run of 2^order indexes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Extent {
    first: PageIndex,
    order: Order,
}

impl Extent {
    /// The size of what fills a slot above the leaves.
    pub(crate) const SLOT: Order = Order::of(word::SLOT_BITS as usize);

    /// One index.
    pub(crate) const fn page(index: PageIndex) -> Self {
        Self { first: index, order: Order::ZERO }
    }

    /// The run of that order in which an index lies.
    pub(crate) const fn around(PageIndex(index): PageIndex, order: Order) -> Self {
        Self { first: PageIndex(index & !(order.pages() as u64 - 1)), order }
    }

    /// Its first index.
    pub(crate) const fn first(self) -> PageIndex {
        self.first
    }

    /// Its last index.
    pub(crate) const fn last(self) -> PageIndex {
        PageIndex(self.first.0 | (self.order.pages() as u64 - 1))
    }

    /// Its size.
    pub(crate) const fn order(self) -> Order {
        self.order
    }
}

/// A tree whose items are `T`; its lock guards a `G`. Its nodes must not outlive their cache, for which `'n` stands.
pub(crate) struct Tree<'n, T, G = ()> {
    root: AtomicPtr<()>,
    /// Changes when a node has left the tree, and before it is anything else.
    shape: AtomicU64,
    writer: Mutex<class::Tree, Writer<G>>,
    nodes: PhantomData<&'n ()>,
    items: PhantomData<fn() -> T>,
}

/// What the lock guards besides the nodes.
struct Writer<G> {
    /// Whether an entry in the root is marked.
    root_mark: Mark,
    user: G,
}

/// A tree locked.
pub(crate) struct TreeGuard<'t, 'n, T, G> {
    tree: &'t Tree<'n, T, G>,
    writer: MutexGuard<'t, Writer<G>>,
}

impl<M: Machine> TreeNodes<'_, M> {
    /// An empty tree of nodes from here, whose lock guards `user` too. It is to be empty again when it is dropped: the
    /// memory of nodes that it has left is lost to their cache.
    pub(crate) fn tree<T, G>(&self, user: G) -> Tree<'_, T, G> {
        Tree::new(user)
    }
}

impl<'n, T, G> Tree<'n, T, G> {
    fn new(user: G) -> Self {
        Self {
            root: AtomicPtr::new(Word::<T>::EMPTY.bits()),
            shape: AtomicU64::new(0),
            writer: Mutex::new(Writer { root_mark: Mark::Clear, user }),
            nodes: PhantomData,
            items: PhantomData,
        }
    }

    /// What stands at an index.
    #[inline]
    pub(crate) fn look(&self, index: PageIndex, walking: &Walking<'_>) -> Option<Entry<T>> {
        self.consistently(|| self.word_at(index, Access::reader(walking))).entry()
    }

    /// Locks the tree.
    pub(crate) fn lock<'t>(&'t self, machine: &'t impl Machine) -> TreeGuard<'t, 'n, T, G> {
        TreeGuard { tree: self, writer: self.writer.lock(machine) }
    }

    /// Looks until no node has left the tree meanwhile.
    #[inline(always)]
    fn consistently<R>(&self, look: impl Fn() -> R) -> R {
        loop {
            // Acquire pairs with the release in `left`: whoever sees the new shape does not see what it was before.
            let shape = self.shape.load(Ordering::Acquire);
            let seen = look();
            // Whoever saw anything that was written to a node after it left sees the new shape: every load of a word is an
            // acquire, and every store a release.
            if self.shape.load(Ordering::Relaxed) == shape {
                return seen;
            }
            crate::sync::spin_loop();
        }
    }

    fn root(&self) -> Word<T> {
        Word::raw(self.root.load(Ordering::Acquire))
    }

    /// The word that covers an index.
    #[inline(always)]
    fn word_at(&self, index: PageIndex, access: Access<'_>) -> Word<T> {
        let mut word = self.root();
        let Some(mut pointer) = word.to_node() else {
            return if index == PageIndex(0) { word } else { Word::EMPTY };
        };
        if index.0 > pointer.level.node_mask() {
            return Word::EMPTY;
        }
        loop {
            word = access.node(pointer).word(pointer.level.slot(index));
            match word.to_node() {
                Some(below) if below.level < pointer.level => pointer = below,
                // The node serves elsewhere, so the shape has changed.
                Some(_) => return Word::EMPTY,
                None => return word,
            }
        }
    }
}

impl<T, G> fmt::Debug for Tree<'_, T, G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tree").finish_non_exhaustive()
    }
}

impl<T, G> TreeGuard<'_, '_, T, G> {
    /// What stands at an index.
    pub(crate) fn look(&self, index: PageIndex) -> Option<Entry<T>> {
        self.tree.word_at(index, self.access()).entry()
    }
}

impl<T, G> Deref for TreeGuard<'_, '_, T, G> {
    type Target = G;

    fn deref(&self) -> &G {
        &self.writer.user
    }
}

impl<T, G> DerefMut for TreeGuard<'_, '_, T, G> {
    fn deref_mut(&mut self) -> &mut G {
        &mut self.writer.user
    }
}

impl<T, G> fmt::Debug for TreeGuard<'_, '_, T, G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TreeGuard").finish_non_exhaustive()
    }
}
