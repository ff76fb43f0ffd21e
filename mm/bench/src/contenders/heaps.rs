//! Heaps that give out pages: what small kernels do before they have a page allocator.
#![expect(unsafe_code, reason = "lends them memory, and gives blocks back")]

use std::alloc::Layout;
use std::ptr::NonNull;
use std::sync::Arc;

use anyhow::Context as _;
use mm::migratetype::Migratetype;
use mm::units::{Order, PAGE_SIZE};
use talc::TalcCell;
use talc::source::Manual;

use super::{Contender, Pages, Place};
use crate::memory::Memory;

/// A block's layout.
const fn layout(order: Order) -> Layout {
    let size = PAGE_SIZE << order.index();
    // SAFETY: a power of two, and small.
    unsafe { Layout::from_size_align_unchecked(size, size) }
}

fn pointer(Place(address): Place) -> NonNull<u8> {
    NonNull::new(std::ptr::with_exposed_provenance_mut(address)).unwrap_or(NonNull::dangling())
}

/// `linked_list_allocator`: first fit on one list in order of addresses.
pub(crate) struct LinkedList {
    heap: linked_list_allocator::Heap,
    _memory: Arc<Memory>,
}

impl Contender for LinkedList {
    fn new(memory: &Arc<Memory>) -> anyhow::Result<Self> {
        memory.start().as_ptr().expose_provenance();
        // SAFETY: the memory is mapped, this one's, and lives as long.
        let heap = unsafe { linked_list_allocator::Heap::new(memory.start().as_ptr(), memory.len()) };
        Ok(Self { heap, _memory: memory.clone() })
    }
}

impl Pages for LinkedList {
    #[inline]
    fn alloc(&mut self, order: Order, _: Migratetype) -> Option<Place> {
        self.heap.allocate_first_fit(layout(order)).ok().map(|block| Place(block.addr().get()))
    }

    #[inline]
    fn free(&mut self, place: Place, order: Order) {
        // SAFETY: the block is the caller's, of that layout.
        unsafe { self.heap.deallocate(pointer(place), layout(order)) };
    }
}

/// `talc`: lists by size, boundary tags.
pub(crate) struct Talc {
    heap: TalcCell<Manual>,
    _memory: Arc<Memory>,
}

impl Contender for Talc {
    fn new(memory: &Arc<Memory>) -> anyhow::Result<Self> {
        memory.start().as_ptr().expose_provenance();
        let heap = TalcCell::new(Manual);
        // SAFETY: the memory is mapped, this one's, and lives as long.
        unsafe { heap.claim(memory.start().as_ptr(), memory.len()) }.context("the heap takes its memory")?;
        Ok(Self { heap, _memory: memory.clone() })
    }
}

impl Pages for Talc {
    #[inline]
    fn alloc(&mut self, order: Order, _: Migratetype) -> Option<Place> {
        // SAFETY: the layout is not empty.
        let block = unsafe { self.heap.get_mut().allocate(layout(order)) };
        block.map(|block| Place(block.addr().get()))
    }

    #[inline]
    fn free(&mut self, place: Place, order: Order) {
        // SAFETY: the block is the caller's, of that layout.
        unsafe { self.heap.get_mut().deallocate(pointer(place).as_ptr(), layout(order)) };
    }
}
