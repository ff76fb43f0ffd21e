//! Many blocks under one lock: out of the zone for a CPU to have at hand, and back.
//!
//! Out: as large a block as the batch has use for is split once and its pieces are handed over in a row, so that a batch
//! costs one way through the lists and one descriptor a piece. Back: what stands in a row, upwards or downwards, is put
//! together before it is freed, so that it merges once; what merging a few of them will touch is fetched before the first is
//! freed.
//!
//! Cost: two words a piece; that of one allocation or one free for each row.

use core::ptr::NonNull;

use arrayvec::ArrayVec;

use super::Buddy;
use crate::block::FreeBlock;
use crate::desc::allocator_word::{AllocatorWord, ListId, Mergeable};
use crate::desc::word::Page;
use crate::machine::{Geometry, Machine};
use crate::units::{Order, Pfn, PfnRange};

/// Rows that are looked at together: as many as a processor has lines under way.
const AHEAD: usize = 16;

impl<'m, M: Machine> Buddy<'_, 'm, M> {
    /// Takes up to `want` blocks out of the zone, each of which `give` gets as one at hand of a CPU that is to be allocated
    /// with the word `allocated`, the lowest last. For the last quarter it breaks no block: what is left of that would make small
    /// pieces of the next batch, which then lacks a little again. Of the other migratetypes' memory it takes one block and no
    /// more.
    pub(crate) fn alloc_bulk(&mut self, allocated: AllocatorWord, want: u32, mut give: impl FnMut(&'m Page, Pfn)) {
        let (migratetype, order) = (allocated.list().migratetype(), allocated.order());
        let mut left = want;
        while let Some(most) = left.checked_ilog2() {
            let whole = |list: ListId| list.order().index() <= order.index() + most as usize;
            if left < want / 4 && !self.next(order, migratetype).is_some_and(whole) {
                return;
            }
            let Some(block) = self.take(order, migratetype) else {
                if left == want
                    && let Some(block) = self.take_from_others(order, migratetype)
                {
                    self.give_pieces(block, allocated, 0, &mut give);
                }
                return;
            };
            left -= self.give_pieces(block, allocated, most, &mut give);
        }
    }

    /// Gives up to `1 << most` blocks that one splits into; what is left goes back on lists.
    fn give_pieces(
        &mut self,
        block: FreeBlock,
        allocated: AllocatorWord,
        most: u32,
        give: &mut impl FnMut(&'m Page, Pfn),
    ) -> u32 {
        let section = self.map.known_section(block.head());
        let order = allocated.order();
        let found = block.order();
        let head = block.into_head();
        let kept = Order::of((order.index() + most as usize).min(found.index()));
        if found > kept {
            self.put_upper_halves(section, head, found, kept);
        }
        self.zone.lose(kept.pages());
        let pieces = kept.pages() >> order.number();
        for piece in (0..pieces).rev() {
            let pfn = head.plus(piece << order.number());
            let page = section.page(pfn);
            give(page, pfn);
            page.keep_at_hand(allocated);
        }
        self.drain();
        pieces
    }

    /// Takes blocks of an order back that CPUs had at hand. They are nobody's on the way.
    pub(crate) fn free_bulk(&mut self, order: Order, heads: impl Iterator<Item = Pfn>) {
        let pages = order.pages();
        let mut rows: ArrayVec<PfnRange, AHEAD> = ArrayVec::new();
        for pfn in heads {
            match rows.last_mut() {
                Some(row) if pfn == row.end => row.end = pfn.plus(pages),
                Some(row) if pfn.plus(pages) == row.start => row.start = pfn,
                _ => {
                    if rows.is_full() {
                        self.free_rows(&mut rows, order);
                    }
                    rows.push(PfnRange::new(pfn, pfn.plus(pages)));
                }
            }
        }
        self.free_rows(&mut rows, order);
    }

    /// Frees rows of blocks of an order. What one of them waits for in memory, the others wait for too.
    fn free_rows(&mut self, rows: &mut ArrayVec<PfnRange, AHEAD>, order: Order) {
        for row in rows.iter().filter(|row| row.pages() == order.pages()) {
            self.foresee_merge(row.start, order);
        }
        for row in rows.drain(..) {
            self.free_row(row, order);
        }
    }

    /// Fetches what merging a block that is to be freed will touch, should its buddy be free.
    fn foresee_merge(&self, head: Pfn, order: Order) {
        let section = self.map.known_section(head);
        let buddy = section.page(head.buddy(order));
        let word = buddy.word();
        if word.is_free(order, self.zone.id) {
            self.zone.lists.foresee_removal(self.context().nodes, word.list(), buddy.position());
            // The next four descriptors are in the line already, or will be.
            for above in
                (order.index() + 2..order.index() + 5).take_while(|&above| above < M::Geometry::MAX_ORDER.index())
            {
                let above = Order::of(above);
                let page = section.page(head.align_down(above).buddy(above));
                self.machine.prefetch(NonNull::from(page).cast());
            }
        }
    }

    /// Frees a row of blocks of an order, as the fewest there can be.
    fn free_row(&mut self, row: PfnRange, order: Order) {
        for block in FreeBlock::claim_all::<M::Geometry>(row) {
            let section = self.map.known_section(block.head());
            for piece in 1..block.order().pages() >> order.number() {
                section.page(block.head().plus(piece << order.number())).set_tail();
            }
            let wanted = Mergeable::new(block.order(), self.zone.id);
            self.free(section, block, wanted);
        }
    }
}
