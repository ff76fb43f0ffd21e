//! Pages of an area that have been vacated, or were free: whole blocks, whose pages are marked in a map of bits.
#![expect(unsafe_code, reason = "takes back blocks that it gave up")]

use arrayvec::ArrayVec;

use crate::machine::Machine;
use crate::page::{Block, PageAllocator};
use crate::units::{Order, Pfn, PfnRange};

const WORDS: usize = Order::LIMIT.pages() as usize / u64::BITS as usize;

/// Blocks of an area, freed when this drops.
///
/// # Invariants
/// What is marked is a row of whole plain blocks inside the area that nobody else frees (DESC-1).
pub(super) struct Claim<'a, M: Machine> {
    pages: &'a PageAllocator<'a, M>,
    area: PfnRange,
    marked: [u64; WORDS],
}

impl<'a, M: Machine> Claim<'a, M> {
    pub(super) const fn new(pages: &'a PageAllocator<'a, M>, area: PfnRange) -> Self {
        Self { pages, area, marked: [0; WORDS] }
    }

    pub(super) const fn area(&self) -> PfnRange {
        self.area
    }

    const fn place(&self, pfn: Pfn) -> (usize, u64) {
        let page = pfn.index() - self.area.start.index();
        (page / u64::BITS as usize, 1 << (page % u64::BITS as usize))
    }

    pub(super) const fn has(&self, pfn: Pfn) -> bool {
        let (word, bit) = self.place(pfn);
        self.marked[word] & bit != 0
    }

    /// Adds a block that lies in the area. One that does not is freed.
    pub(super) fn add(&mut self, block: Block<'a, M>) {
        let range = block.range();
        if self.area.intersection(range) == range {
            let _ = block.into_raw();
            for pfn in range.frames() {
                let (word, bit) = self.place(pfn);
                self.marked[word] |= bit;
            }
        }
    }

    /// Whether no page of the area is missing.
    pub(super) fn is_whole(&self) -> bool {
        self.area.frames().all(|pfn| self.has(pfn))
    }

    /// Makes one block of the area. `None` if its pages are not of one zone; they are freed.
    pub(super) fn into_block(mut self) -> Option<Block<'a, M>> {
        let mut merged: ArrayVec<Block<'a, M>, { Order::LIMIT.index() + 1 }> = ArrayVec::new();
        let mut at = self.area.start;
        while let Some(mut block) = self.take(at) {
            at = block.range().end;
            while merged.last().is_some_and(|low| low.order() == block.order()) {
                block = merged.pop()?.merge(block).ok()?;
            }
            merged.push(block);
        }
        merged.pop().filter(|block| block.range() == self.area)
    }

    /// Takes out the block that begins at a page, if that is marked.
    fn take(&mut self, head: Pfn) -> Option<Block<'a, M>> {
        if !self.area.contains(head) || !self.has(head) {
            return None;
        }
        // SAFETY: the block was given up to this, and its pages are not marked any more once it is taken.
        let block = unsafe { self.pages.from_raw(head) };
        let block = block.unwrap_or_else(|error| panic!("invariant DESC-1 broken: {error}"));
        for pfn in block.range().frames() {
            let (word, bit) = self.place(pfn);
            self.marked[word] &= !bit;
        }
        Some(block)
    }
}

impl<M: Machine> Drop for Claim<'_, M> {
    fn drop(&mut self) {
        for pfn in self.area.frames() {
            drop(self.take(pfn));
        }
    }
}
