//! Nodes: sixty-four words, which of them are not empty, and which are marked.
//!
//! Readers touch the words, and may touch those of a node that has left its tree and serves another one, or none. So
//! a node's memory is a node's for as long as anybody walks, all of it is atomic, and a node that serves no tree is
//! empty.
#![expect(unsafe_code, reason = "nodes are objects of their cache, and leave trees that are being read")]

use core::marker::PhantomData;
use core::mem::MaybeUninit;
use core::ops::{Deref, DerefMut};
use core::ptr;

use super::word::{Level, NodePointer, SLOTS, Word};
use crate::descriptor::{WalkGate, Walking};
use crate::machine::Machine;
use crate::slab::{CacheSpec, CreateError, KmemCache, KmemCaches, NoMemory};
use crate::sync::{AtomicPtr, AtomicU64, Ordering};
use crate::units::Count;

/// What a node's address is a multiple of: the bits below say its level. A cache line, too.
pub(super) const NODE_ALIGN: u32 = 64;

/// A node.
#[repr(C)]
pub(super) struct Node {
    words: [AtomicPtr<()>; SLOTS],
    /// A bit for each word that is not empty. The writer's alone, as all behind this: readers do not look at it.
    occupied: AtomicU64,
    /// A bit for each word that is marked, or leads to something marked.
    marked: AtomicU64,
    /// The next node in stock.
    next: AtomicPtr<Node>,
}

#[cfg(not(loom))]
const _: () = assert!(size_of::<Node>() <= 576 && align_of::<Node>() <= NODE_ALIGN as usize);

impl Node {
    pub(super) fn empty() -> Self {
        Self {
            words: core::array::from_fn(|_| AtomicPtr::new(ptr::null_mut())),
            occupied: AtomicU64::new(0),
            marked: AtomicU64::new(0),
            next: AtomicPtr::new(ptr::null_mut()),
        }
    }

    /// The word of a slot. Acquire pairs with the release in `set`: who sees an item sees what it was made of, and who
    /// sees what a node holds after it left a tree sees that it left.
    #[inline(always)]
    pub(super) fn word<T>(&self, slot: usize) -> Word<T> {
        Word::raw(self.words[slot % SLOTS].load(Ordering::Acquire))
    }

    /// Writes a slot's word, and marks it as it says.
    pub(super) fn set<T>(&self, slot: usize, word: Word<T>, mark: Mark) {
        self.words[slot % SLOTS].store(word.bits(), Ordering::Release);
        let bit = 1 << slot;
        let occupied = self.occupied();
        self.occupied.store(if word.is_empty() { occupied & !bit } else { occupied | bit }, Ordering::Relaxed);
        self.set_mark(slot, mark);
    }

    pub(super) fn set_mark(&self, slot: usize, mark: Mark) {
        let (bit, marked) = (1 << slot, self.marked());
        let marked = match mark {
            Mark::Clear => marked & !bit,
            Mark::Set => marked | bit,
        };
        self.marked.store(marked, Ordering::Relaxed);
    }

    /// Slots whose words are not empty.
    pub(super) fn occupied(&self) -> u64 {
        self.occupied.load(Ordering::Relaxed)
    }

    /// Slots that are marked.
    pub(super) fn marked(&self) -> u64 {
        self.marked.load(Ordering::Relaxed)
    }

    pub(super) fn mark(&self, slot: usize) -> Mark {
        Mark::of(self.marked() >> slot & 1)
    }

    /// Whether anything in it is marked.
    pub(super) fn any_mark(&self) -> Mark {
        Mark::of(self.marked())
    }
}

/// Whether a slot is marked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Mark {
    Clear,
    Set,
}

impl Mark {
    const fn of(bits: u64) -> Self {
        if bits == 0 { Self::Clear } else { Self::Set }
    }
}

/// Shows that nodes that were in the tree stay nodes: somebody walks, or has the tree to itself.
#[derive(Clone, Copy)]
pub(super) struct Access<'w>(PhantomData<&'w ()>);

impl<'w> Access<'w> {
    pub(super) const fn reader(_walking: &'w Walking<'_>) -> Self {
        Self(PhantomData)
    }

    /// # Safety
    /// The caller holds the tree's lock for as long as `'w`, and a node that leaves the tree meanwhile stays in stock.
    pub(super) const unsafe fn writer() -> Self {
        Self(PhantomData)
    }

    /// The node, which was found in a tree.
    #[inline(always)]
    pub(super) const fn node(self, pointer: NodePointer) -> &'w Node {
        // SAFETY: a pointer that stood in a tree leads to a node's memory, which is one as long as somebody walks
        // (`WalkGate`); under the lock, nodes in the tree leave it only by the writer's hand.
        unsafe { pointer.node.as_ref() }
    }
}

/// The memory that trees' nodes come from.
#[derive(Debug)]
pub(crate) struct TreeNodes<'a, M: Machine> {
    caches: &'a KmemCaches<'a, M>,
    cache: KmemCache<'a, M>,
}

/// Writes a node: what their cache constructs.
fn construct(bytes: &mut [MaybeUninit<u8>]) {
    debug_assert!(bytes.len() >= size_of::<Node>());
    // SAFETY: the cache makes objects of a node's size, aligned to more.
    unsafe { bytes.as_mut_ptr().cast::<Node>().write(Node::empty()) };
}

impl<'a, M: Machine> TreeNodes<'a, M> {
    /// Makes the cache of nodes.
    ///
    /// # Errors
    /// There is no memory for it; nothing is lost.
    pub(crate) fn new(caches: &'a KmemCaches<'a, M>) -> Result<Self, CreateError> {
        #[expect(clippy::cast_possible_truncation, reason = "asserted at `Node`")]
        let spec = CacheSpec::new("radix_tree_node", size_of::<Node>() as u32);
        Ok(Self { caches, cache: caches.create(spec.aligned(NODE_ALIGN).constructed(construct).type_stable())? })
    }

    #[cfg(all(test, not(loom)))]
    pub(super) fn machine(&self) -> &'a M {
        self.caches.pages.machine()
    }

    /// Whom the memory of nodes waits for.
    pub(crate) fn gate(&self) -> &WalkGate {
        self.caches.pages.gate()
    }

    /// Room for nodes that are to be set aside for what is done to a tree under its lock, and for those that come free
    /// there.
    pub(crate) const fn no_reserve(&self) -> NodeReserve<'_, 'a, M> {
        NodeReserve { nodes: self, stock: NodeStock::new() }
    }

    /// Gives back the memory that holds no node of a tree. Says how many pages.
    pub(crate) fn shrink(&self) -> Count {
        self.cache.shrink()
    }
}

/// Nodes that no tree has, empty all of them.
#[derive(Debug)]
pub(crate) struct NodeStock {
    first: *mut Node,
    count: u32,
}

// SAFETY: the nodes are the stock's own, wherever that goes; readers that may still look at them touch only atomics.
unsafe impl Send for NodeStock {}

impl NodeStock {
    pub(super) const fn new() -> Self {
        Self { first: ptr::null_mut(), count: 0 }
    }

    /// Nodes there are.
    pub(crate) const fn count(&self) -> Count {
        Count(self.count)
    }

    /// Takes back a node that is in no tree, and empties it. Readers may see that: they see that it left, too.
    pub(super) fn put(&mut self, pointer: core::ptr::NonNull<Node>) {
        // SAFETY: the caller gives it away, so it is the stock's own but for readers.
        let node = unsafe { pointer.as_ref() };
        let mut occupied = node.occupied();
        while occupied != 0 {
            node.words[occupied.trailing_zeros() as usize].store(ptr::null_mut(), Ordering::Release);
            occupied &= occupied - 1;
        }
        node.occupied.store(0, Ordering::Relaxed);
        node.marked.store(0, Ordering::Relaxed);
        node.next.store(core::mem::replace(&mut self.first, pointer.as_ptr()), Ordering::Relaxed);
        self.count += 1;
    }

    /// Takes a node for a place at a level.
    pub(super) fn take(&mut self, level: Level) -> Option<NodePointer> {
        let node = ptr::NonNull::new(self.first)?;
        // SAFETY: nodes in stock are the stock's own.
        self.first = unsafe { node.as_ref() }.next.load(Ordering::Relaxed);
        self.count -= 1;
        Some(NodePointer { node, level })
    }
}

/// Nodes set aside. Those not taken go back when it drops: after the tree's lock, then.
#[derive(Debug)]
#[must_use = "dropping it gives the nodes back"]
pub(crate) struct NodeReserve<'n, 'a, M: Machine> {
    pub(super) nodes: &'n TreeNodes<'a, M>,
    stock: NodeStock,
}

impl<M: Machine> NodeReserve<'_, '_, M> {
    /// Sets nodes aside until there are `count`.
    ///
    /// # Errors
    /// There is no memory for all of them; those there are stay.
    pub(crate) fn refill(&mut self, Count(count): Count) -> Result<(), NoMemory> {
        while self.stock.count < count {
            self.stock.put(self.nodes.cache.alloc_raw()?.cast());
        }
        Ok(())
    }
}

impl<M: Machine> Deref for NodeReserve<'_, '_, M> {
    type Target = NodeStock;

    fn deref(&self) -> &NodeStock {
        &self.stock
    }
}

impl<M: Machine> DerefMut for NodeReserve<'_, '_, M> {
    fn deref_mut(&mut self) -> &mut NodeStock {
        &mut self.stock
    }
}

impl<M: Machine> Drop for NodeReserve<'_, '_, M> {
    fn drop(&mut self) {
        while let Some(NodePointer { node, .. }) = self.stock.take(Level::LEAF) {
            // SAFETY: the node came from this cache, is empty, and in no tree.
            let freed = unsafe { self.nodes.cache.free_raw(node.cast()) };
            if let Err(error) = freed {
                panic!("invariant TREE-1 broken: a node cannot be freed: {error}");
            }
        }
    }
}
