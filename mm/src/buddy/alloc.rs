//! Allocating: the smallest block that is large enough, split down to size.

use super::Buddy;
use crate::block::FreeBlock;
use crate::desc::allocator_word::End;
use crate::desc::map::Section;
use crate::machine::Machine;
use crate::migratetype::Migratetype;
use crate::units::{Order, Pfn};

impl<M: Machine> Buddy<'_, '_, M> {
    /// Allocates a block and returns its head; `None` if the zone has no free block of that order or above.
    ///
    /// FREE-3: at order 0 that means that no page is free, as nodes exist only under lists that are not empty.
    #[inline(always)]
    pub(crate) fn alloc(&mut self, order: Order, migratetype: Migratetype) -> Option<Pfn> {
        let block = match self.zone.lists.smallest(migratetype, order) {
            Some(smallest) => self.pop(migratetype, smallest),
            None => self.take_from_others(order, migratetype)?,
        };
        let section = self.map.known_section(block.head());
        let found = block.order();
        let head = block.into_head();
        if found > order {
            self.put_upper_halves(section, head, found, order);
        }
        section.page(head).set_allocated(migratetype, order, self.zone.id);
        self.zone.free -= order.pages();
        self.drain();
        Some(head)
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
