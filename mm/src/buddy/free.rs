//! Freeing: merge, clear the way, place; then the same for every page that this set free.

use super::{Buddy, FreeBlock};
use crate::desc::word::{End, ListId};
use crate::machine::{Geometry, Machine};
use crate::migratetype::Migratetype;
use crate::units::{Order, Pfn, PfnRange};

impl<M: Machine> Buddy<'_, '_, M> {
    /// Takes a block in. Its pages count as free from here on.
    pub(crate) fn free(&mut self, block: FreeBlock) {
        self.zone.free += block.order().pages();
        self.settle(block);
        self.drain();
    }

    /// Takes in memory that the zone did not have before.
    pub(crate) fn adopt(&mut self, range: PfnRange) {
        self.zone.managed += range.pages();
        for block in FreeBlock::claim_all::<M::Geometry>(range) {
            self.free(block);
        }
    }

    /// Settles the blocks in flight, the smallest first.
    pub(super) fn drain(&mut self) {
        while let Some(block) = self.pending.pop(self.map) {
            self.settle(block);
        }
    }

    /// Merges a block as far as it goes and places it.
    fn settle(&mut self, block: FreeBlock) {
        let block = self.merge(block);
        let block = self.clear_the_way(block);
        let end = self.likely_end(&block);
        self.place(block, end);
    }

    /// FREE-2: joins the block with its buddy while that is free. One masked compare says so: same state, order and
    /// zone; a buddy across a zone's edge, in a hole, reserved, in flight or serving as a node fails it.
    fn merge(&mut self, block: FreeBlock) -> FreeBlock {
        let section = self.map.known_section(block.head());
        let zone = self.zone.id;
        let mut order = block.order();
        let mut head = block.into_head();
        while order < M::Geometry::MAX_ORDER {
            let buddy = head.buddy(order);
            let page = section.page(buddy);
            let word = page.word();
            if !word.is_free(order, zone) {
                break;
            }
            let ListId { migratetype, end, .. } = word.list();
            let position = page.position();
            self.with_list(migratetype, order, |list, context, mut released| {
                list.remove(context, end, position, &mut released);
            });
            section.page(head.max(buddy)).set_tail();
            head = head.min(buddy);
            order = Order::of(order.index() + 1);
        }
        FreeBlock::claim(head, order)
    }

    /// The end for a block that was just freed: the far one if the next merge only waits for this block's buddy, as
    /// its parent's buddy is free already. Linux's `buddy_merge_likely`.
    fn likely_end(&self, block: &FreeBlock) -> End {
        let Some(parent) = block.order().up() else { return End::Near };
        if parent >= M::Geometry::MAX_ORDER {
            return End::Near;
        }
        let aunt = block.head().align_down(parent).buddy(parent);
        let word = self.map.known_section(aunt).page(aunt).word();
        if word.is_free(parent, self.zone.id) { End::Far } else { End::Near }
    }

    /// Puts a block on its pageblock's list. If the list needs a node first, the block may be used up for it, or wait.
    pub(super) fn place(&mut self, block: FreeBlock, end: End) {
        let section = self.map.known_section(block.head());
        let migratetype = section.migratetype(block.head());
        if block.order() > M::Geometry::PAGEBLOCK_ORDER {
            self.set_migratetype(&block, migratetype);
        }
        let list = ListId { migratetype, order: block.order(), end };
        if self.zone.lists.list(migratetype, block.order()).needs_node(end) {
            return self.grow(list, block);
        }
        let page = section.page(block.head());
        self.with_list(migratetype, block.order(), |deque, context, _| {
            deque.push(context, list, block.into_head(), page);
        });
    }

    /// Gives every pageblock in a block that has whole ones the same type.
    pub(super) fn set_migratetype(&self, block: &FreeBlock, migratetype: Migratetype) {
        let mut pageblock = block.head();
        while block.range().contains(pageblock) {
            self.map.known_section(pageblock).set_migratetype(pageblock, migratetype);
            pageblock = pageblock.plus(M::Geometry::PAGEBLOCK_ORDER.pages());
        }
    }

    /// FREE-5: gets a list the node without which it cannot take `block`. A single page becomes the node; else any
    /// smaller block gives a page; else the block itself gives its first one. No allocation, and one node at a time.
    #[cold]
    fn grow(&mut self, list: ListId, block: FreeBlock) {
        if block.order() == Order::ZERO {
            let page = block.into_head();
            return self.supply(list, page);
        }
        if self.pending.has_below(block.order()) {
            return self.pending.push(self.map, self.zone.id, block);
        }
        let smallest = |buddy: &Self| {
            let lists = &buddy.zone.lists;
            Migratetype::ALL
                .into_iter()
                .filter_map(|kind| Some((lists.smallest(kind, Order::ZERO)?, kind)))
                .min_by_key(|&(order, kind)| (order, kind.index()))
        };
        let smaller = match smallest(self) {
            Some((order, migratetype)) if order < block.order() => self.pop(migratetype, order),
            _ => None,
        };
        let page = match smaller {
            Some(smaller) => {
                self.pending.push(self.map, self.zone.id, block);
                self.keep_first_page(smaller)
            }
            None => self.keep_first_page(block),
        };
        self.supply(list, page);
    }

    fn supply(&mut self, list: ListId, page: Pfn) {
        self.with_list(list.migratetype, list.order, |deque, context, _| deque.supply(context, list, page));
        self.zone.nodes += 1;
        self.zone.peak_nodes = self.zone.peak_nodes.max(self.zone.nodes);
    }
}
