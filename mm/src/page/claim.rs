//! Pages of an area that somebody wants whole, as far as he has them: blocks, whose pages are marked in a map of bits.
#![expect(unsafe_code, reason = "takes back blocks that it gave up")]

use arrayvec::ArrayVec;

use super::allocator::PageAllocator;
use super::block::Block;
use crate::machine::Machine;
use crate::units::{Order, Pfn, PfnRange};

const WORDS: usize = Order::LIMIT.pages() as usize / u64::BITS as usize;

/// Blocks of an area, freed when this drops.
///
/// # Invariants
/// What is marked is a row of whole plain blocks inside the area that nobody else frees (DESC-1).
pub(crate) struct Claim<'a, M: Machine> {
    pages: &'a PageAllocator<'a, M>,
    area: PfnRange,
    marked: [u64; WORDS],
}

impl<'a, M: Machine> Claim<'a, M> {
    /// None of an area, of one largest block at most.
    pub(crate) const fn new(pages: &'a PageAllocator<'a, M>, area: PfnRange) -> Self {
        Self { pages, area, marked: [0; WORDS] }
    }

    /// The area.
    pub(crate) const fn area(&self) -> PfnRange {
        self.area
    }

    const fn place(&self, pfn: Pfn) -> (usize, u64) {
        let page = pfn.index() - self.area.start.index();
        (page / u64::BITS as usize, 1 << (page % u64::BITS as usize))
    }

    /// Whether a page of the area is among them.
    pub(crate) const fn has(&self, pfn: Pfn) -> bool {
        let (word, bit) = self.place(pfn);
        self.marked[word] & bit != 0
    }

    /// Adds a block that lies in the area. One that does not is freed, and one with memory that lies, which nobody is to get.
    pub(crate) fn add(&mut self, block: Block<'a, M>) {
        let range = block.range();
        if self.area.intersection(range) == range && !block.has_hwpoisoned() {
            let _ = block.into_raw();
            for pfn in range.frames() {
                let (word, bit) = self.place(pfn);
                self.marked[word] |= bit;
            }
        }
    }

    /// Whether no page of the area is missing.
    pub(crate) fn is_whole(&self) -> bool {
        self.area.frames().all(|pfn| self.has(pfn))
    }

    /// Makes one block of the area. `None` if its pages are not of one zone; they are freed.
    pub(crate) fn into_block(mut self) -> Option<Block<'a, M>> {
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

    /// Gives up all of it: the pages belong to what was made of the area.
    pub(super) fn into_area(mut self) -> PfnRange {
        self.marked = [0; WORDS];
        self.area
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
