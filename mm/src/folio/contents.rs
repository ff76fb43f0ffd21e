//! The bytes of folios.
//!
//! Many see a folio's bytes: readers without a lock, users through their page tables. So they are copied in and out, and
//! nobody has them as a slice but whoever alone can change them.
//!
//! Invariants: FOLIO-2 (the bytes of a folio that is not up to date are touched only by who holds its lock, or owns it
//! alone; of one that is, the kernel changes them only under the lock), HIGH-1.
//! Cost: highmem is mapped page by page.
#![expect(unsafe_code, reason = "copies bytes that others may see")]

use super::lock::LockedFolio;
use crate::machine::Machine;
use crate::owner::{FolioFlags, FolioRef};
use crate::page::PageAllocator;
use crate::units::{Bytes, Order, PAGE_SIZE, Pfn};

#[cfg(all(test, not(loom)))]
mod tests;

/// The part of a copy that lies in one page.
struct Piece {
    page: u32,
    within: usize,
    len: usize,
}

/// Cuts a run of bytes at the edges of pages.
fn pieces(offset: usize, len: usize) -> impl Iterator<Item = Piece> {
    let end = offset + len;
    let mut at = offset;
    core::iter::from_fn(move || {
        let within = at % PAGE_SIZE;
        let len = (end - at).min(PAGE_SIZE - within);
        let page = u32::try_from(at / PAGE_SIZE).ok()?;
        at += len;
        (len > 0).then_some(Piece { page, within, len })
    })
}

impl<M: Machine> FolioRef<'_, M> {
    fn allocator(&self) -> &PageAllocator<'_, M> {
        self.owners().pages()
    }

    /// Bytes in the folio.
    pub fn len(&self) -> Bytes {
        Bytes((self.order().pages() as usize) * PAGE_SIZE)
    }

    fn holds(&self, offset: usize, len: usize) -> Option<()> {
        offset.checked_add(len).filter(|&end| end <= self.len().0).map(|_| ())
    }

    /// Copies bytes out, under the folio's lock. `None` if they are not all the folio's, or it is not up to date.
    pub fn copy_to(&self, offset: Bytes, bytes: &mut [u8]) -> Option<()> {
        self.get().lock().copy_to(offset, bytes)
    }
}

impl<M: Machine> LockedFolio<'_, M> {
    /// Copies bytes out. `None` if they are not all the folio's, or it is not up to date.
    pub fn copy_to(&self, Bytes(offset): Bytes, bytes: &mut [u8]) -> Option<()> {
        self.holds(offset, bytes.len())?;
        self.flags().contains(FolioFlags::UPTODATE).then_some(())?;
        let mut rest = bytes;
        for piece in pieces(offset, rest.len()) {
            let (part, behind) = rest.split_at_mut(piece.len);
            self.allocator().with_mapped(self.head().plus(piece.page), |page| {
                // SAFETY: the piece lies in the page.
                let from = unsafe { page.add(piece.within) };
                // SAFETY: FOLIO-2, the page is the folio's, which is referred to; the slice is somewhere else.
                unsafe { from.copy_to_nonoverlapping(core::ptr::NonNull::from(part).cast(), piece.len) };
            });
            rest = behind;
        }
        Some(())
    }

    /// Copies bytes in. `None` if they are not all the folio's.
    pub(crate) fn copy_from(&self, Bytes(offset): Bytes, bytes: &[u8]) -> Option<()> {
        self.holds(offset, bytes.len())?;
        let mut rest = bytes;
        for piece in pieces(offset, rest.len()) {
            let (part, behind) = rest.split_at(piece.len);
            self.allocator().with_mapped(self.head().plus(piece.page), |page| {
                // SAFETY: the piece lies in the page.
                let to = unsafe { page.add(piece.within) };
                // SAFETY: FOLIO-2, the lock is held; the slice is somewhere else.
                unsafe { to.copy_from_nonoverlapping(core::ptr::NonNull::from(part).cast(), piece.len) };
            });
            rest = behind;
        }
        Some(())
    }

    /// Shows the bytes of a page to `look`, which nobody changes meanwhile: the lock is held, and no page-table entry
    /// lets users write. `None` if the folio has no such page.
    pub(crate) fn with_stable_page<R>(&self, page: u32, look: impl FnOnce(&[u8; PAGE_SIZE]) -> R) -> Option<R> {
        (page < self.order().pages()).then(|| {
            self.allocator().with_mapped(self.head().plus(page), |bytes| {
                // SAFETY: FOLIO-2, the lock is held and users cannot write, so nobody does.
                look(unsafe { bytes.cast().as_ref() })
            })
        })
    }

    /// Lends the bytes of a page to `fill`. `None` if the folio has no such page, or is up to date, so that others may
    /// see it.
    pub(crate) fn fill_page<R>(&self, page: u32, fill: impl FnOnce(&mut [u8; PAGE_SIZE]) -> R) -> Option<R> {
        let fresh = page < self.order().pages() && !self.flags().contains(FolioFlags::UPTODATE);
        fresh.then(|| {
            self.allocator().with_mapped(self.head().plus(page), |bytes| {
                // SAFETY: FOLIO-2, the lock is held and the folio not up to date, so nobody else looks.
                fill(unsafe { bytes.cast().as_mut() })
            })
        })
    }

    /// Copies a page of another folio, which is up to date, to one of this, which is not. `None` if there are no such
    /// pages.
    pub(crate) fn copy_page(&self, page: u32, from: &FolioRef<'_, M>, from_page: u32) -> Option<()> {
        let both = page < self.order().pages() && from_page < from.order().pages();
        both.then(|| copy_frames(self.allocator(), from.head().plus(from_page), self.head().plus(page), Order::ZERO))
    }
}

/// Copies a block of pages, whose contents hold still, to another that is nobody else's.
pub(crate) fn copy_frames<M: Machine>(allocator: &PageAllocator<'_, M>, from: Pfn, to: Pfn, order: Order) {
    for page in 0..order.pages() {
        allocator.with_mapped(from.plus(page), |from| {
            allocator.with_mapped(to.plus(page), |to| {
                // SAFETY: both are whole pages that are mapped, and two frames never overlap.
                unsafe { to.copy_from_nonoverlapping(from, PAGE_SIZE) };
            });
        });
    }
}
