//! What a migratetype does when it has no block left: it takes from the others, and where that pays, takes over a
//! whole pageblock, so that unlike pages stay apart.
//!
//! The free blocks of a pageblock always stand on the lists of its type. Source: Linux's `__rmqueue_fallback`.

use super::Buddy;
use crate::block::FreeBlock;
use crate::desc::allocator_word::{ListId, PageState};
use crate::machine::{Geometry, Machine};
use crate::migratetype::Migratetype;
use crate::units::{Order, PfnRange};

impl<M: Machine> Buddy<'_, '_, M> {
    /// Takes a free block of at least `order` from the lists of the other migratetypes.
    ///
    /// A block with whole pageblocks gives one to `migratetype`. A pageblock that is at least half free changes its
    /// type if the pages are to stay, or the block is a large part of it. Otherwise the smallest block that will do is
    /// taken, and the pageblock stays what it is. Cost: at most one pass over a pageblock.
    #[cold]
    pub(super) fn take_from_others(&mut self, order: Order, migratetype: Migratetype) -> Option<FreeBlock> {
        let from = self.largest_of_others(order, migratetype)?;
        let largest = from.order();
        if largest >= M::Geometry::PAGEBLOCK_ORDER {
            let block = self.pop(from);
            return Some(self.claim_pageblock(block, order, migratetype));
        }
        let stays = migratetype != Migratetype::Movable;
        if stays || largest.index() >= M::Geometry::PAGEBLOCK_ORDER.index() / 2 {
            let head = self.zone.lists.heads(self.context().nodes, from.migratetype(), largest).next()?;
            let pageblock = head.align_down(M::Geometry::PAGEBLOCK_ORDER);
            let pages = M::Geometry::PAGEBLOCK_ORDER.pages();
            let pageblock = PfnRange::new(pageblock, pageblock.plus(pages));
            if self.free_pages_in(pageblock).is_some_and(|free| free >= pages / 2) {
                self.convert(pageblock, migratetype);
                if let Some(block) = self.take(order, migratetype) {
                    return Some(block);
                }
            }
        }
        let smallest = |&other: &Migratetype| self.zone.lists.smallest(other, order);
        let smallest = migratetype.fallbacks().iter().filter_map(smallest).min_by_key(|list| list.order())?;
        Some(self.pop(smallest))
    }

    /// The largest blocks that the others have, of the one that is to be asked first.
    fn largest_of_others(&self, order: Order, migratetype: Migratetype) -> Option<ListId> {
        let [first, second] = migratetype.fallbacks().map(|other| self.zone.lists.largest(other, order));
        match (first, second) {
            (Some(first), Some(second)) if second.order() <= first.order() => Some(first),
            (first, second) => second.or(first),
        }
    }

    /// Splits whole pageblocks off that the request does not need; what is left changes its type.
    fn claim_pageblock(&mut self, block: FreeBlock, order: Order, migratetype: Migratetype) -> FreeBlock {
        let wanted = order.max(M::Geometry::PAGEBLOCK_ORDER);
        let section = self.map.known_section(block.head());
        let found = block.order();
        let head = block.into_head();
        self.put_upper_halves(section, head, found, wanted);
        let block = FreeBlock::claim(head, wanted);
        Self::set_migratetype(section, &block, migratetype);
        block
    }

    /// Gives a pageblock another type and moves its free blocks to that type's lists.
    pub(super) fn convert(&mut self, pageblock: PfnRange, migratetype: Migratetype) {
        let section = self.map.known_section(pageblock.start);
        section.set_migratetype(pageblock.start, migratetype);
        for pfn in pageblock.frames() {
            let page = section.page(pfn);
            if page.word().is(PageState::Free) {
                let block = self.unlist(page, pfn);
                self.defer(block);
            }
        }
        self.drain();
    }

    /// Pages of free blocks in a pageblock; nodes do not count, as they are of no type. `None` if another zone has a
    /// part of the pageblock, and so a say in its type.
    fn free_pages_in(&self, pageblock: PfnRange) -> Option<u32> {
        let section = self.map.known_section(pageblock.start);
        pageblock.frames().try_fold(0, |free, pfn| {
            let word = section.page(pfn).word();
            match word.state() {
                Some(PageState::Hole | PageState::Reserved | PageState::Tail) => Some(free),
                _ if word.zone() != self.zone.id => None,
                Some(PageState::Free) => Some(free + word.order().pages()),
                _ => Some(free),
            }
        })
    }
}
