//! A store in memory: pages that were had beforehand, so that writing needs none.
//!
//! Cost: a copy.
#![expect(unsafe_code, reason = "keeps frame numbers in bare memory, and frees the frames")]

use core::fmt;
use core::ptr::NonNull;

use thiserror::Error;

use super::store::{Store, StoreError};
use crate::lock::Mutex;
use crate::lock_order::class;
use crate::machine::Machine;
use crate::page::{AllocError, PageAllocator, Request};
use crate::slab::{KmemCaches, NoMemory};
use crate::units::{Bytes, Count, FileOffset, Order, PAGE_SIZE, Pfn};

/// Why there is no store; nothing is lost.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum MemoryStoreError {
    /// There are not that many pages.
    #[error(transparent)]
    Pages(#[from] AllocError),
    /// There is no memory for the list of them.
    #[error(transparent)]
    List(#[from] NoMemory),
}

/// A store in pages of its own, which it has from when it is made. Never written, it is all zeroes.
pub struct MemoryStore<'a, M: Machine> {
    caches: &'a KmemCaches<'a, M>,
    /// The frames, by index, and whose turn it is to look at their bytes.
    frames: Mutex<class::StoreFrames, Frames>,
    pages: u32,
}

/// Frame numbers in an object of `kmalloc`.
struct Frames(NonNull<Pfn>);

// SAFETY: the object is the store's alone.
unsafe impl Send for Frames {}

impl<'a, M: Machine> MemoryStore<'a, M> {
    /// A store of so many pages, which `request` asks for one by one.
    ///
    /// # Errors
    /// They cannot be had; none is lost.
    pub fn new(caches: &'a KmemCaches<'a, M>, Count(pages): Count, request: Request) -> Result<Self, MemoryStoreError> {
        let list = caches.kmalloc(Bytes((pages as usize).max(1) * size_of::<Pfn>()))?;
        // What there is so far goes back when this is dropped.
        let mut store = Self { caches, frames: Mutex::new(Frames(list.cast())), pages: 0 };
        while store.pages < pages {
            let mut block = caches.pages.alloc(request.with_order(Order::ZERO))?;
            let head = block.head();
            block.with_page(head, |bytes| bytes.fill(0));
            // SAFETY: the object has room for that many.
            let place = unsafe { store.frames.get_mut().0.add(store.pages as usize) };
            // SAFETY: as above.
            unsafe { place.write(block.into_raw()) };
            store.pages += 1;
        }
        Ok(store)
    }

    const fn allocator(&self) -> &'a PageAllocator<'a, M> {
        self.caches.pages
    }

    /// Shows each page that a run of bytes touches, with the part of the run that lies in it.
    fn each(
        &self,
        offset: FileOffset,
        len: usize,
        mut copy: impl FnMut(NonNull<u8>, core::ops::Range<usize>),
    ) -> Result<(), StoreError> {
        let end = usize::try_from(offset.0).ok().and_then(|start| start.checked_add(len));
        let end = end.filter(|&end| end <= self.pages as usize * PAGE_SIZE).ok_or(StoreError::Beyond(offset))?;
        let start = end - len;
        let frames = self.frames.lock(self.allocator().machine());
        let mut at = start;
        while at < end {
            let (page, within) = (at / PAGE_SIZE, at % PAGE_SIZE);
            let part = (end - at).min(PAGE_SIZE - within);
            // SAFETY: the list has all pages up to the end.
            let place = unsafe { frames.0.add(page) };
            // SAFETY: as above.
            let frame = unsafe { place.read() };
            self.allocator().with_mapped(frame, |bytes| {
                // SAFETY: the part lies in the page.
                copy(unsafe { bytes.add(within) }, at - start..at - start + part);
            });
            at += part;
        }
        Ok(())
    }
}

impl<M: Machine> Store for MemoryStore<'_, M> {
    fn size(&self) -> FileOffset {
        FileOffset(u64::from(self.pages) * PAGE_SIZE as u64)
    }

    fn read(&self, offset: FileOffset, bytes: &mut [u8]) -> Result<(), StoreError> {
        self.each(offset, bytes.len(), |page, part| {
            let to = NonNull::from(&mut bytes[part.clone()]).cast();
            // SAFETY: the page is the store's, whose lock is held, and that many bytes of it are left.
            unsafe { page.copy_to_nonoverlapping(to, part.len()) };
        })
    }

    fn write(&self, offset: FileOffset, bytes: &[u8]) -> Result<(), StoreError> {
        self.each(offset, bytes.len(), |page, part| {
            let from = NonNull::from(&bytes[part.clone()]).cast();
            // SAFETY: the page is the store's, whose lock is held, and that many bytes of it are left.
            unsafe { page.copy_from_nonoverlapping(from, part.len()) };
        })
    }
}

impl<M: Machine> Drop for MemoryStore<'_, M> {
    fn drop(&mut self) {
        let list = self.frames.get_mut().0;
        for page in 0..self.pages as usize {
            // SAFETY: the list has all pages.
            let place = unsafe { list.add(page) };
            // SAFETY: as above.
            let frame = unsafe { place.read() };
            // SAFETY: the block was given up when the store was made, and nobody else has it.
            let freed = unsafe { self.allocator().free_raw(frame) };
            debug_assert_eq!(freed, Ok(()), "invariant DESC-1 broken: a store's page cannot be freed");
        }
        // SAFETY: the object came from there, and nothing refers to it any more.
        let freed = unsafe { self.caches.kfree(list.cast()) };
        debug_assert!(freed.is_ok(), "invariant SLAB-1 broken: a store's list cannot be freed");
    }
}

impl<M: Machine> fmt::Debug for MemoryStore<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MemoryStore({} pages)", self.pages)
    }
}
