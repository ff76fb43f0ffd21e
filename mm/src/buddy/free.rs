//! Freeing: merge, clear the way, place; then the same for every page that this set free.

use super::Buddy;
use crate::block::FreeBlock;
use crate::desc::allocator_word::{AllocatorWord, ListId, Mergeable};
use crate::desc::map::Section;
use crate::freelist::{ListContext, NeedsNode};
use crate::machine::{Geometry, Machine};
use crate::migratetype::Migratetype;
use crate::units::{Order, PfnRange};

impl<'m, M: Machine> Buddy<'_, 'm, M> {
    /// Takes in a block of `section`, which merges with a buddy whose word says what is `wanted`. Its pages count as free
    /// from here on.
    #[inline(always)]
    pub(crate) fn free(&mut self, section: &'m Section<'m, M::Geometry>, block: FreeBlock, wanted: Mergeable) {
        self.zone.gain(block.order().pages());
        self.settle(section, block, wanted);
        self.drain();
    }

    /// Takes in memory that the zone did not have before: those of a range's aligned blocks that are of `order`.
    pub(crate) fn adopt(&mut self, range: PfnRange, order: Order) {
        for block in FreeBlock::claim_all::<M::Geometry>(range).filter(|block| block.order() == order) {
            self.zone.managed += order.pages();
            let wanted = Mergeable::new(order, self.zone.id);
            self.free(self.map.known_section(block.head()), block, wanted);
        }
    }

    /// Does what the operation has left to do: settles the blocks in flight, the smallest first, and tries to free what
    /// is stuck, for which there may be room now.
    #[inline]
    pub(super) fn drain(&mut self) {
        if !self.zone.pending.is_idle() {
            self.settle_pending();
        }
    }

    #[cold]
    fn settle_pending(&mut self) {
        loop {
            while let Some(block) = self.zone.pending.pop(self.map) {
                let wanted = Mergeable::new(block.order(), self.zone.id);
                self.settle(self.map.known_section(block.head()), block, wanted);
            }
            match self.zone.pending.take_stuck() {
                Some(node) if self.clear_what_is_stuck(node) => {}
                _ => return,
            }
        }
    }

    /// Merges a block as far as it goes and places it. All of this happens in one section.
    #[inline(always)]
    fn settle(&mut self, section: &'m Section<'m, M::Geometry>, block: FreeBlock, wanted: Mergeable) {
        // A block of the largest order fills its section: there it is its own buddy, and a block in hand is not free.
        let in_the_way = section.page(block.head().buddy(block.order())).word();
        if in_the_way.is_mergeable(wanted) {
            return self.settle_merged(section, block);
        }
        if self.might_be_cleared(in_the_way) {
            return self.settle_cleared(section, block);
        }
        self.place(section, block);
    }

    /// Settles a block whose buddy is free.
    #[inline(never)]
    fn settle_merged(&mut self, section: &'m Section<'m, M::Geometry>, block: FreeBlock) {
        let (block, in_the_way) = self.merge(section, block);
        if self.might_be_cleared(in_the_way) {
            return self.settle_cleared(section, block);
        }
        self.place(section, block);
    }

    /// Settles a block that could not merge, but might if nodes were moved.
    #[inline(never)]
    fn settle_cleared(&mut self, section: &'m Section<'m, M::Geometry>, mut block: FreeBlock) {
        if self.holds_no_allocated_page(section, &block) {
            block = self.clear_the_way(section, block);
        }
        self.place(section, block);
    }

    /// FREE-2: joins the block with its buddy while that is free. One masked compare says so: same state, order and
    /// zone; a buddy across a zone's edge, in a hole, reserved, in flight or serving as a node fails it. Returns what
    /// was there instead.
    #[inline(always)]
    fn merge(&mut self, section: &Section<'_, M::Geometry>, block: FreeBlock) -> (FreeBlock, AllocatorWord) {
        let context = self.context();
        let mut order = block.order();
        let mut wanted = Mergeable::new(order, context.zone);
        let mut head = block.into_head();
        while order < M::Geometry::MAX_ORDER {
            let buddy = head.buddy(order);
            let page = section.page(buddy);
            let word = page.word();
            if !word.is_mergeable(wanted) {
                return (FreeBlock::claim(head, order), word);
            }
            self.remove(&context, page, buddy, word.list());
            section.page(head.max(buddy)).set_tail();
            head = head.min(buddy);
            order = order.above();
            wanted = wanted.of_parent();
        }
        (FreeBlock::claim(head, order), AllocatorWord::HOLE)
    }

    /// Puts a block on its pageblock's list, at the end that the pivot says.
    #[inline(always)]
    fn place(&mut self, section: &Section<'_, M::Geometry>, block: FreeBlock) {
        if block.order() > M::Geometry::PAGEBLOCK_ORDER {
            Self::set_migratetype(section, &block, section.migratetype(block.head()));
        }
        let end = self.zone.end_for(block.head());
        self.put(&self.context(), section, section.list(block.head(), block.order(), end), block);
    }

    /// Puts a block on a list. If the list needs a node first, the block may be used up for it, or wait.
    #[inline(always)]
    pub(super) fn put(
        &mut self,
        context: &ListContext<'_, '_, M>,
        section: &Section<'_, M::Geometry>,
        list: ListId,
        block: FreeBlock,
    ) {
        let page = section.page(block.head());
        if let Err(NeedsNode) = self.zone.lists.push(context, list, block.head(), page) {
            self.grow(list, block);
        }
    }

    /// Gives every pageblock of a block that has whole ones the same type.
    #[cold]
    pub(super) fn set_migratetype(section: &Section<'_, M::Geometry>, block: &FreeBlock, migratetype: Migratetype) {
        let mut pageblock = block.head();
        while block.range().contains(pageblock) {
            section.set_migratetype(pageblock, migratetype);
            pageblock = pageblock.plus(M::Geometry::PAGEBLOCK_ORDER.pages());
        }
    }

    /// FREE-5: gets a list the node without which it cannot take `block`. A single page becomes the node; else any
    /// smaller block gives a page; else the block itself gives its first one. No allocation, and one node at a time.
    #[cold]
    fn grow(&mut self, list: ListId, block: FreeBlock) {
        let page = if block.order() == Order::ZERO {
            block.into_head()
        } else if self.zone.pending.has_below(block.order()) {
            return self.defer(block);
        } else if let Some(smaller) = self.pop_below(block.order()) {
            self.defer(block);
            self.keep_first_page(smaller)
        } else {
            self.keep_first_page(block)
        };
        let context = self.context();
        self.zone.lists.supply(&context, list, page);
        self.zone.nodes += 1;
        self.zone.peak_nodes = self.zone.peak_nodes.max(self.zone.nodes);
    }

    /// Takes the smallest free block below `order`, of whatever migratetype.
    fn pop_below(&mut self, order: Order) -> Option<FreeBlock> {
        let lists = &self.zone.lists;
        let smallest = |migratetype| lists.smallest(migratetype, Order::ZERO);
        let smallest = Migratetype::ALL.into_iter().filter_map(smallest).min_by_key(|list| list.order())?;
        (smallest.order() < order).then(|| self.pop(smallest))
    }
}
