//! Freelist nodes: pages that are free, holding the positions of other free pages.
//!
//! A pointer to a node is tagged in its low bit:
//!
//! ```text
//!   lowmem    virtual address            | check << 1 | 0     read and written where it stands
//!   highmem   frame number << 12         | check << 1 | 1     mapped with kmap_local for as long as it is looked at
//! ```
//!
//! Pages are 4 KiB aligned, so neither the tag nor the eleven bits above it collide with an address or a frame
//! number; how high a tree is stands in its list, never in a pointer. No lowmem pointer is null, and a highmem one
//! is odd, so that "no node" is none of them.
//!
//! The eleven bits are all others folded into each other. Every other bit has its share in exactly one of them, so a pointer
//! with one bit flipped, or several within eleven in a row, is none; of what was never a pointer, one in 2048 passes for one.
//! None is followed that is not (FREE-4).
//!
//! Invariants: FREE-4 (as far as a pointer can say), HIGH-1 (a highmem node is touched only in [`Nodes::view`], between map
//! and unmap of its slot).
//! Cost: the check, a shift for each eleven bits of an address; one test of a bit for lowmem; map and unmap for highmem.
//!
//! Source: K. Overstreet, "Dynamically allocated memory descriptors", linux-mm, 2021-10-26.
#![expect(unsafe_code, reason = "node pages are bare memory, and a highmem pointer no address at all")]

use core::marker::PhantomData;
use core::ptr::{self, NonNull};

use crate::machine::Machine;
use crate::units::{PAGE_SHIFT, PAGE_SIZE, Pfn};

#[cfg(all(test, not(loom)))]
mod tests;

const HIGHMEM: usize = 1;
const CHECK_SHIFT: u32 = 1;
const CHECK_BITS: u32 = PAGE_SHIFT - CHECK_SHIFT;

/// The bits of a pointer that check the others.
const fn check(pointer: usize) -> usize {
    // The tag goes above what an address or a frame number has there, to be one bit among the others.
    let mut left = pointer >> PAGE_SHIFT | (pointer & HIGHMEM) << (usize::BITS - PAGE_SHIFT);
    let mut folded = 0;
    while left != 0 {
        folded ^= left;
        left >>= CHECK_BITS;
    }
    (folded % (1 << CHECK_BITS)) << CHECK_SHIFT
}

/// A tagged pointer to a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(transparent)]
pub(super) struct NodePointer(NonNull<u8>);

// SAFETY: the pointer is only followed through `Nodes`, under the lock of the zone whose list holds it.
unsafe impl Send for NodePointer {}

impl NodePointer {
    fn is_highmem(self) -> bool {
        self.0.addr().get() & HIGHMEM != 0
    }

    /// The pointer with its check. What is neither an address nor a frame number has no bit below the page's but the tag.
    fn sealed(pointer: NonNull<u8>) -> Self {
        Self(pointer.map_addr(|address| address | check(address.get())))
    }

    /// Its bits without the check.
    ///
    /// # Panics
    /// FREE-4 is broken: they are not those that were checked.
    fn opened(self) -> NonNull<u8> {
        let bits = self.0.addr().get();
        let plain = bits & (!0 << PAGE_SHIFT | HIGHMEM);
        match NonNull::new(self.0.as_ptr().map_addr(|_| plain)) {
            Some(pointer) if plain | check(plain) == bits => pointer,
            _ => panic_no_pointer(bits),
        }
    }

    /// The pointer to the node in frame `pfn`.
    pub(super) fn to<M: Machine>(machine: &M, pfn: Pfn) -> Self {
        if pfn < machine.kmap_start() {
            return Self::sealed(machine.direct_map(pfn));
        }
        let tagged = pfn.index() << PAGE_SHIFT | HIGHMEM;
        let tagged = core::num::NonZero::new(tagged).unwrap_or(core::num::NonZero::<usize>::MIN);
        Self::sealed(NonNull::without_provenance(tagged))
    }

    /// The frame that the node stands in.
    pub(super) fn frame<M: Machine>(self, machine: &M) -> Pfn {
        let pointer = self.opened();
        if self.is_highmem() {
            #[expect(clippy::cast_possible_truncation, reason = "made from a frame number, by `to`")]
            Pfn::new((pointer.addr().get() >> PAGE_SHIFT) as u32)
        } else {
            Pfn::containing(machine.physical(pointer)).unwrap_or(Pfn::LIMIT)
        }
    }

    /// Whether the tag says what the frame's place in memory demands (HIGH-1).
    pub(super) fn is_tagged_rightly<M: Machine>(self, machine: &M) -> bool {
        self.is_highmem() == (self.frame(machine) >= machine.kmap_start())
    }
}

#[cold]
#[inline(never)]
fn panic_no_pointer(bits: usize) -> ! {
    panic!("invariant FREE-4 broken: {bits:#x} is no pointer to a node");
}

/// Lets nodes be looked at.
#[derive(Debug)]
pub(crate) struct Nodes<'a, M> {
    machine: &'a M,
}

impl<M> Clone for Nodes<'_, M> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<M> Copy for Nodes<'_, M> {}

impl<'a, M: Machine> Nodes<'a, M> {
    pub(crate) fn new(machine: &'a M) -> Self {
        Self { machine }
    }

    pub(crate) fn machine(self) -> &'a M {
        self.machine
    }

    /// Shows a node to `look`; it is mapped exactly that long, so slots nest by construction.
    pub(super) fn view<R>(self, node: NodePointer, look: impl for<'k> FnOnce(NodeView<'k>) -> R) -> R {
        if !node.is_highmem() {
            return look(NodeView { page: node.opened(), mapping: PhantomData });
        }
        let page = self.machine.kmap_local(node.frame(self.machine));
        let seen = look(NodeView { page, mapping: PhantomData });
        // SAFETY: HIGH-1, this is the youngest live slot: those that `look` mapped were given up inside it; the view
        // cannot outlive the call.
        unsafe { self.machine.kunmap_local(page) };
        seen
    }

    /// Fetches the line of a leaf's entry, unless that would take a slot.
    pub(super) fn prefetch(self, leaf: NodePointer, index: usize) {
        if !leaf.is_highmem() {
            self.machine.prefetch(NodeView { page: leaf.opened(), mapping: PhantomData }.slot::<u32>(index).cast());
        }
    }

    /// Copies a node's page.
    pub(super) fn copy(self, from: NodePointer, to: NodePointer) {
        self.view(from, |from| self.view(to, |to| to.copy_from(from)));
    }
}

/// A node, mapped for the moment: an array of frame numbers (a leaf) or of pointers to nodes.
#[derive(Clone, Copy, Debug)]
pub(super) struct NodeView<'k> {
    page: NonNull<u8>,
    mapping: PhantomData<&'k ()>,
}

impl NodeView<'_> {
    /// The address of entry `index`, which is taken modulo what fits into a page.
    fn slot<T>(self, index: usize) -> NonNull<T> {
        // SAFETY: the index is below the number of entries that a page holds.
        unsafe { self.page.cast::<T>().add(index % (PAGE_SIZE / size_of::<T>())) }
    }

    /// The frame number in slot `index` of a leaf.
    pub(super) fn entry(self, index: usize) -> Pfn {
        // SAFETY: FREE-4, the page serves this list alone and is mapped; slots below the list's length were written.
        Pfn::new(unsafe { self.slot::<u32>(index).read() })
    }

    /// Writes a frame number into slot `index` of a leaf.
    pub(super) fn set_entry(self, index: usize, pfn: Pfn) {
        // SAFETY: FREE-4, the page serves this list alone and is mapped.
        unsafe { self.slot::<u32>(index).write(pfn.number()) };
    }

    /// The pointer in slot `index` of an interior node; `None` if there is none.
    pub(super) fn child(self, index: usize) -> Option<NodePointer> {
        // SAFETY: FREE-4, the page serves this list alone and is mapped; slots over filled leaves were written.
        unsafe { self.slot::<Option<NodePointer>>(index).read() }
    }

    /// Writes a pointer into slot `index` of an interior node.
    pub(super) fn set_child(self, index: usize, child: NodePointer) {
        // SAFETY: FREE-4, the page serves this list alone and is mapped.
        unsafe { self.slot::<NodePointer>(index).write(child) };
    }

    fn copy_from(self, from: NodeView<'_>) {
        // SAFETY: both pages are mapped, and are two different frames.
        unsafe { ptr::copy_nonoverlapping(from.page.as_ptr(), self.page.as_ptr(), PAGE_SIZE) };
    }
}
