//! Memory set aside for large blocks that somebody needs at once.
//!
//! However much of a zone is free, single pages that come and go leave no large block in it. So a few blocks of the
//! largest order are given a migratetype from which nobody takes but those who cannot wait and want more than a page, and
//! those who may take everything; both only once there is nothing else. What is freed there goes back to that type, as
//! anywhere. Before others fail, the blocks are everybody's again; and once there is plenty, others are set aside.
//!
//! Blocks of the largest order never merge, so no other pageblock comes to be of the type.
//!
//! Invariants: RSRV-1 (exactly the pageblocks of the zone's `highatomic` blocks are of the type).
//! Cost: setting aside O(1) a block; giving up, a pass over the block's descriptors.
//! Source: Linux's `reserve_highatomic_pageblock`, `unreserve_highatomic_pageblock`.

use super::Buddy;
use crate::desc::allocator_word::{AllocatorWord, End};
use crate::desc::word::Page;
use crate::machine::{Geometry, Machine};
use crate::migratetype::Migratetype;
use crate::units::{Count, Pfn, PfnRange};
use crate::zone::watermark::{Demand, Watermark};

impl<'m, M: Machine> Buddy<'_, 'm, M> {
    /// Allocates a block if the zone has enough left then.
    pub(crate) fn alloc_for(&mut self, demand: Demand, migratetype: Migratetype) -> Option<Pfn> {
        if !self.zone.may_give(demand) {
            return None;
        }
        self.note_enough(demand);
        let allocated = match self.alloc(demand.order, migratetype) {
            None if demand.may_use_highatomic() => self.alloc(demand.order, Migratetype::HighAtomic),
            allocated => allocated,
        };
        self.replenish();
        allocated
    }

    /// Takes up to `want` blocks out of the zone for a CPU to have at hand, as far as the zone has enough left then, as
    /// [`alloc_bulk`](Self::alloc_bulk) does.
    pub(crate) fn alloc_bulk_for(
        &mut self,
        demand: Demand,
        allocated: AllocatorWord,
        want: u32,
        give: impl FnMut(&'m Page, Pfn),
    ) {
        if !self.zone.may_give(demand) {
            return;
        }
        self.note_enough(demand);
        let most = self.zone.spare(demand) >> demand.order.number();
        self.alloc_bulk(allocated, want.min(most), give);
        self.replenish();
    }

    /// Who has nothing to give up need not be left in peace any more, once the zone has had enough.
    fn note_enough(&mut self, demand: Demand) {
        if demand.leaving == Watermark::Low {
            self.zone.ask_below = u32::MAX;
        }
    }

    fn replenish(&mut self) {
        if self.zone.highatomic.len() < self.zone.highatomic_wanted() {
            self.set_aside_in_plenty();
        }
    }

    /// Sets blocks aside, as many as there are to be, unless that leaves so little that they would soon be given up.
    #[cold]
    fn set_aside_in_plenty(&mut self) {
        let blocks = self.zone.highatomic_wanted() + 1;
        let plenty = (blocks << M::Geometry::MAX_ORDER.index()) + 2 * self.zone.watermarks.high as usize;
        if self.zone.free as usize > plenty {
            self.set_aside();
        }
    }

    /// Sets blocks aside, as many as there are to be, if there are any.
    pub(crate) fn set_aside(&mut self) {
        let largest = M::Geometry::MAX_ORDER;
        while self.zone.highatomic.len() < self.zone.highatomic_wanted() {
            let kinds = [Migratetype::Movable, Migratetype::Reclaimable, Migratetype::Unmovable];
            let blocks = |kind| self.zone.lists.largest(kind, largest);
            let Some(list) = kinds.into_iter().find_map(blocks) else { break };
            // The longest on its end: what was freed first. Of several only the first, as the last comes to its place.
            let head = self.zone.lists.oldest(self.context().nodes, list);
            let block = self.unlist(self.map.page(head), head);
            self.zone.highatomic.push(block.head());
            let section = self.map.known_section(block.head());
            Self::set_migratetype(section, &block, Migratetype::HighAtomic);
            let list = section.list(block.head(), largest, End::Near);
            self.put(&self.context(), section, list, block);
        }
        self.drain();
    }

    /// Makes all blocks that were set aside everybody's. Says how many pages of them are free.
    pub(crate) fn give_up_reserve(&mut self) -> Count {
        let pages = self.zone.lists.pages(Migratetype::HighAtomic);
        let pageblock = M::Geometry::PAGEBLOCK_ORDER.pages();
        while let Some(head) = self.zone.highatomic.pop() {
            let block = PfnRange::new(head, head.plus(M::Geometry::MAX_ORDER.pages()));
            for start in block.frames().step_by(pageblock as usize) {
                self.convert(PfnRange::new(start, start.plus(pageblock)), Migratetype::Movable);
            }
        }
        Count(pages)
    }
}
