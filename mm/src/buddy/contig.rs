//! Ranges out of the middle: any run of free frames, whatever blocks it is made of.
//!
//! Free blocks come off their lists where they stand, in O(1) each; nodes in the range move out; what sticks out at the
//! edges goes back. The range is then a row of allocated blocks, each as large as its alignment allows.
//!
//! Memory that was in use before the zone had it comes in as such a row, too.
//!
//! Source: Linux's `alloc_contig_range`.

use thiserror::Error;

use super::Buddy;
use crate::block::FreeBlock;
use crate::desc::allocator_word::{AllocatorWord, PageState};
use crate::machine::{Geometry, Machine};
use crate::units::{Order, Pfn, PfnRange};

/// Why a range could not be allocated; nothing of it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum ContigError {
    /// The range is empty.
    #[error("the range is empty")]
    Empty,
    /// A frame of the range has no descriptor, or is memory that the allocator does not manage.
    #[error("{0:?} is not memory that the allocator manages")]
    NotManaged(Pfn),
    /// The range crosses into another zone at this frame.
    #[error("{0:?} lies in another zone")]
    CrossesZone(Pfn),
    /// A frame of the range is in use.
    #[error("{0:?} is in use")]
    InUse(Pfn),
    /// No run of that many free frames at that alignment exists.
    #[error("no run of that many free frames at that alignment")]
    NoSuchRun,
}

impl<M: Machine> Buddy<'_, '_, M> {
    /// Allocates exactly `range`.
    ///
    /// # Errors
    /// Names the first frame that is in the way; nothing has changed.
    pub(crate) fn alloc_range(&mut self, range: PfnRange) -> Result<(), ContigError> {
        if range.is_empty() {
            return Err(ContigError::Empty);
        }
        self.check_free(range)?;
        self.pull_blocks(range);
        self.empty_nodes(range);
        self.zone.lose(range.pages());
        self.drain();
        Ok(())
    }

    /// Takes reserved frames in, as a row of allocated blocks, each as large as its alignment allows.
    ///
    /// # Errors
    /// Names the first frame that is not reserved; nothing has changed.
    pub(crate) fn adopt_reserved(&mut self, range: PfnRange) -> Result<(), Pfn> {
        let is_reserved = |pfn| self.map.get(pfn).is_some_and(|page| page.word().is(PageState::Reserved));
        if let Some(other) = range.frames().find(|&pfn| !is_reserved(pfn)) {
            return Err(other);
        }
        for piece in FreeBlock::claim_all::<M::Geometry>(range) {
            let (order, frames) = (piece.order(), piece.range());
            for tail in frames.frames().skip(1) {
                self.map.page(tail).adopt(AllocatorWord::TAIL);
            }
            let head = piece.into_head();
            let section = self.map.known_section(head);
            section.page(head).adopt(AllocatorWord::allocated(section.migratetype(head), order, self.zone.id));
            if self.any_hwpoison(frames) {
                // Nobody has the block yet who might change the word.
                let _ = section.page(head).note_hwpoisoned(section.page(head).word());
            }
        }
        self.zone.take_in(range);
        Ok(())
    }

    /// Makes a frame the head of an allocated block, for whatever its pageblock is for.
    fn set_allocated(&self, head: Pfn, order: Order) {
        let section = self.map.known_section(head);
        section.page(head).set_allocated(section.migratetype(head), order, self.zone.id);
    }

    /// The lowest run of `pages` free frames that starts at a multiple of `align`. Cost: a look at every block of the
    /// zone and, where it has holes, at every place for a section.
    pub(crate) fn find_range(&self, pages: u32, align: Order) -> Option<PfnRange> {
        let mut start = self.zone.span.start.align_up(align);
        loop {
            let end = start.number().checked_add(pages)?;
            let range = PfnRange::new(start, Pfn::new(end));
            if range.end > self.zone.span.end {
                return None;
            }
            match self.check_free(range) {
                Ok(()) => return Some(range),
                Err(ContigError::NotManaged(pfn) | ContigError::CrossesZone(pfn) | ContigError::InUse(pfn)) => {
                    start = self.behind(pfn).align_up(align);
                }
                Err(_) => return None,
            }
        }
    }

    /// The first frame behind what stands at `pfn`: a block, or a section that is not there.
    fn behind(&self, pfn: Pfn) -> Pfn {
        let Some(head) = self.map.head_of(pfn).filter(|_| self.map.is_populated(pfn)) else {
            return pfn.plus(1).align_up(M::Geometry::MAX_ORDER);
        };
        let word = self.map.page(head).word();
        match word.state() {
            Some(PageState::Allocated | PageState::Free | PageState::Cached | PageState::Offline) => {
                head.plus(word.order().pages())
            }
            _ => pfn.plus(1),
        }
    }

    /// Whether every frame of the range lies in a free block of this zone, or serves one of its lists.
    fn check_free(&self, range: PfnRange) -> Result<(), ContigError> {
        let mut at = range.start;
        while at < range.end {
            at = self.free_block(at)?.end;
        }
        Ok(())
    }

    /// The free block, or node, around a frame of this zone.
    pub(super) fn free_block(&self, at: Pfn) -> Result<PfnRange, ContigError> {
        let head = self.map.head_of(at).ok_or(ContigError::NotManaged(at))?;
        let word = self.map.page(head).word();
        let pages = match word.state() {
            Some(PageState::Free) if word.zone() == self.zone.id => word.order().pages(),
            Some(PageState::Node) if word.zone() == self.zone.id => 1,
            Some(PageState::Free | PageState::Node) => return Err(ContigError::CrossesZone(at)),
            Some(PageState::Allocated | PageState::Isolated | PageState::Cached) => {
                return Err(ContigError::InUse(at));
            }
            Some(PageState::Hole | PageState::Reserved | PageState::Tail | PageState::Offline) | None => {
                return Err(ContigError::NotManaged(at));
            }
        };
        Ok(PfnRange::new(head, head.plus(pages)))
    }

    /// Takes every free block that touches the range off its list: what lies inside is allocated, the rest in flight.
    pub(super) fn pull_blocks(&mut self, range: PfnRange) {
        let mut at = range.start;
        while let Some(head) = self.map.head_of(at).filter(|_| at < range.end) {
            at = at.plus(1);
            let page = self.map.page(head);
            if page.word().is(PageState::Free) {
                let block = self.unlist(page, head).range();
                at = block.end;
                let inside = block.intersection(range);
                for piece in FreeBlock::claim_all::<M::Geometry>(PfnRange::new(block.start, inside.start)) {
                    self.defer(piece);
                }
                for piece in FreeBlock::claim_all::<M::Geometry>(inside) {
                    let order = piece.order();
                    self.set_allocated(piece.into_head(), order);
                }
                for piece in FreeBlock::claim_all::<M::Geometry>(PfnRange::new(inside.end, block.end)) {
                    self.defer(piece);
                }
            }
        }
    }

    /// Moves every node in the range to a page outside, and allocates the page it leaves, as well as those of nodes
    /// that had become needless. There is such a page: what a node holds leads to free blocks, none of them on a list
    /// and in the range any more.
    pub(super) fn empty_nodes(&mut self, range: PfnRange) {
        for pfn in range.frames() {
            let word = self.map.page(pfn).word();
            if word.is(PageState::Node) || word.is(PageState::Isolated) {
                let moved = self.move_node_out(pfn, range, M::Geometry::MAX_ORDER);
                assert!(moved, "invariant FREE-4 broken: {pfn:?} is a node, but of a list without a block");
                self.set_allocated(pfn, Order::ZERO);
            }
        }
    }
}
