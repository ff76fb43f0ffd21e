//! Heaps of small kernels, for one thread at a time, without a lock.
#![expect(unsafe_code, reason = "lends them memory, and gives objects back")]

use std::alloc::Layout;
use std::ptr::NonNull;
use std::sync::Arc;

use anyhow::Context as _;
use talc::TalcCell;
use talc::source::Manual;

use super::{Objects, SIZE};
use crate::memory::Memory;

const LAYOUT: Layout = match Layout::from_size_align(SIZE, 8) {
    Ok(layout) => layout,
    Err(_) => panic!("a power of two"),
};

/// `slab_allocator_rs`: a list of free blocks for each of seven sizes.
pub(crate) struct Slabs {
    heap: slab_allocator_rs::Heap,
    _memory: Arc<Memory>,
}

impl Slabs {
    /// A heap in this memory.
    pub(crate) fn new(memory: &Arc<Memory>) -> Self {
        let start = memory.start().as_ptr().expose_provenance();
        // SAFETY: the memory is mapped, this one's, lives as long, and is a multiple of what it asks for.
        let heap = unsafe { slab_allocator_rs::Heap::new(start, memory.len()) };
        Self { heap, _memory: memory.clone() }
    }
}

impl Objects for Slabs {
    type Object = NonNull<u8>;

    #[inline]
    fn alloc(&mut self) -> Option<NonNull<u8>> {
        self.heap.allocate(LAYOUT).ok()
    }

    #[inline]
    fn free(&mut self, object: NonNull<u8>) {
        // SAFETY: the object is the caller's, of that layout.
        unsafe { self.heap.deallocate(object, LAYOUT) };
    }
}

/// `talc`: lists by size, boundary tags.
pub(crate) struct Talc {
    heap: TalcCell<Manual>,
    _memory: Arc<Memory>,
}

impl Talc {
    /// A heap in this memory.
    ///
    /// # Errors
    /// It does not take it.
    pub(crate) fn new(memory: &Arc<Memory>) -> anyhow::Result<Self> {
        let heap = TalcCell::new(Manual);
        // SAFETY: the memory is mapped, this one's, and lives as long.
        unsafe { heap.claim(memory.start().as_ptr(), memory.len()) }.context("the heap takes its memory")?;
        Ok(Self { heap, _memory: memory.clone() })
    }
}

impl Objects for Talc {
    type Object = NonNull<u8>;

    #[inline]
    fn alloc(&mut self) -> Option<NonNull<u8>> {
        // SAFETY: the layout is not empty.
        unsafe { self.heap.get_mut().allocate(LAYOUT) }
    }

    #[inline]
    fn free(&mut self, object: NonNull<u8>) {
        // SAFETY: the object is the caller's, of that layout.
        unsafe { self.heap.get_mut().deallocate(object.as_ptr(), LAYOUT) };
    }
}

/// `linked_list_allocator`: first fit on one list in order of addresses.
pub(crate) struct LinkedList {
    heap: linked_list_allocator::Heap,
    _memory: Arc<Memory>,
}

impl LinkedList {
    /// A heap in this memory.
    pub(crate) fn new(memory: &Arc<Memory>) -> Self {
        // SAFETY: the memory is mapped, this one's, and lives as long.
        let heap = unsafe { linked_list_allocator::Heap::new(memory.start().as_ptr(), memory.len()) };
        Self { heap, _memory: memory.clone() }
    }
}

impl Objects for LinkedList {
    type Object = NonNull<u8>;

    #[inline]
    fn alloc(&mut self) -> Option<NonNull<u8>> {
        self.heap.allocate_first_fit(LAYOUT).ok()
    }

    #[inline]
    fn free(&mut self, object: NonNull<u8>) {
        // SAFETY: the object is the caller's, of that layout.
        unsafe { self.heap.deallocate(object, LAYOUT) };
    }
}
