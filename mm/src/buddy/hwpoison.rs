//! Pages whose memory lies: out of the lists, kept back when a block is freed, and taken in again.
//!
//! Such a page is a block of its own from then on, allocated and owned by nobody who would ever free it.
//!
//! Invariants: HWPOISON-1 (no free block has such a page), ACCT-1 (it counts as allocated).
//! Cost: that of a contiguous range of one page; for a block that is freed, a look at each of its pages.
//! Source: Linux's `take_page_off_buddy`, `free_has_hwpoisoned`.

use super::Buddy;
use super::contig::ContigError;
use crate::block::FreeBlock;
use crate::desc::allocator_word::Mergeable;
use crate::machine::Machine;
use crate::units::{Order, Pfn, PfnRange};

impl<M: Machine> Buddy<'_, '_, M> {
    /// Takes a page that is free, or a freelist's node, out of use. What the node holds moves to another page.
    ///
    /// # Errors
    /// It is neither; nothing has changed.
    pub(crate) fn poison_free(&mut self, pfn: Pfn) -> Result<(), ContigError> {
        self.alloc_range(PfnRange::new(pfn, pfn.plus(1)))?;
        self.set_hwpoisoned(pfn);
        Ok(())
    }

    /// Takes in the pages of a block whose memory does not lie, and shows the others, which stay out.
    pub(crate) fn free_sound(&mut self, block: FreeBlock, mut keep: impl FnMut(Pfn)) {
        let range = block.range();
        let lies = |pfn: &Pfn| self.map.page(*pfn).word().is_hwpoison();
        let _ = block.into_head();
        let mut sound = range.start;
        let mut kept = 0;
        // A page that is kept is no tail any more when what is beside it is freed.
        for pfn in range.frames().filter(lies) {
            self.set_hwpoisoned(pfn);
            keep(pfn);
            kept += 1;
        }
        for end in range.frames().filter(lies).chain([range.end]) {
            for piece in FreeBlock::claim_all::<M::Geometry>(PfnRange::new(sound, end)) {
                self.defer(piece);
            }
            sound = end.plus(1);
        }
        self.zone.gain(range.pages() - kept);
        self.drain();
    }

    /// Takes a page in that was out of use. The caller has seen that it is one.
    pub(crate) fn unpoison(&mut self, pfn: Pfn) {
        let section = self.map.known_section(pfn);
        section.page(pfn).set_allocated(section.migratetype(pfn), Order::ZERO, self.zone.id);
        self.free(section, FreeBlock::claim(pfn, Order::ZERO), Mergeable::new(Order::ZERO, self.zone.id));
    }

    /// Whether a page of the range lies.
    pub(crate) fn any_hwpoison(&self, range: PfnRange) -> bool {
        range.frames().any(|pfn| self.map.get(pfn).is_some_and(|page| page.word().is_hwpoison()))
    }

    fn set_hwpoisoned(&self, pfn: Pfn) {
        let section = self.map.known_section(pfn);
        section.page(pfn).set_hwpoisoned(section.migratetype(pfn), self.zone.id);
    }
}
