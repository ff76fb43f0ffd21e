//! Allocating: the smallest block below the zone's pivot that is large enough, or else one above, split down to size.

use super::Buddy;
use crate::block::FreeBlock;
use crate::desc::allocator_word::{AllocatorWord, End, ListId};
use crate::desc::map::Section;
use crate::machine::{Geometry, Machine};
use crate::migratetype::Migratetype;
use crate::units::{Order, Pfn};

/// The most blocks left behind by the pivot that one allocation moves to their end.
const MOVED_AT_ONCE: usize = 32;

impl<M: Machine> Buddy<'_, '_, M> {
    /// Allocates a block and returns its head; `None` if the zone has no free block of that order or above.
    ///
    /// FREE-3: at order 0 that means that no page is free, as nodes exist only under lists that are not empty.
    #[inline(always)]
    pub(crate) fn alloc(&mut self, order: Order, migratetype: Migratetype) -> Option<Pfn> {
        let block = match self.take(order, migratetype) {
            Some(block) => block,
            None => self.take_from_others(order, migratetype)?,
        };
        let section = self.map.known_section(block.head());
        let found = block.order();
        let head = block.into_head();
        if found > order {
            self.put_upper_halves(section, head, found, order);
        }
        section.page(head).set_allocated(migratetype, order, self.zone.id);
        self.zone.lose(order.pages());
        self.drain();
        Some(head)
    }

    /// The list that a block of at least `order` is to be taken from.
    #[inline(always)]
    pub(super) fn next(&self, order: Order, migratetype: Migratetype) -> Option<ListId> {
        self.zone.lists.next(migratetype, order, self.zone.pivot.at())
    }

    /// Takes a block of at least `order` off the lists of its migratetype. One from below the zone's pivot, if
    /// there is any.
    #[inline(always)]
    pub(super) fn take(&mut self, order: Order, migratetype: Migratetype) -> Option<FreeBlock> {
        let list = self.next(order, migratetype)?;
        let block = self.pop(list);
        if list.end() == End::Near && self.zone.end_for(block.head()) == End::Far {
            return Some(self.take_lower(order, migratetype, block));
        }
        Some(block)
    }

    /// The first frame above the pivot, if there are blocks below for blocks like one that says `word` once it is allocated.
    /// Blocks of a pageblock's size break none, wherever they are.
    pub(crate) fn pivot_for(&self, word: AllocatorWord) -> Option<Pfn> {
        let next = self.next(word.order(), word.list().migratetype())?;
        (next.end() == End::Near && word.order() < M::Geometry::PAGEBLOCK_ORDER).then(|| self.zone.pivot.at())
    }

    /// Finds a block to be taken in place of one that the pivot has left behind, and puts that one where it belongs by now.
    /// Each is moved once for each time that it was freed; not all at once, as there are many when much was freed (FREE-5).
    #[cold]
    fn take_lower(&mut self, order: Order, migratetype: Migratetype, mut block: FreeBlock) -> FreeBlock {
        for _ in 0..MOVED_AT_ONCE {
            let Some(list) = self.next(order, migratetype).filter(|list| list.end() == End::Near) else { break };
            let next = self.pop(list);
            let section = self.map.known_section(block.head());
            self.put(&self.context(), section, section.list(block.head(), block.order(), End::Far), block);
            block = next;
            if self.zone.end_for(block.head()) == End::Near {
                break;
            }
        }
        block
    }

    /// Splits a block from one order down to another, and puts what is cut off on the lists of its pageblock, all of
    /// which are of one type.
    pub(super) fn put_upper_halves(
        &mut self,
        section: &Section<'_, M::Geometry>,
        head: Pfn,
        mut from: Order,
        to: Order,
    ) {
        let context = self.context();
        let mut list = section.list(head, from, End::Near);
        while from > to
            && let Some(order) = from.down()
        {
            list = list.of_halves();
            self.put(&context, section, list, FreeBlock::claim(head.buddy(order), order));
            from = order;
        }
    }
}
