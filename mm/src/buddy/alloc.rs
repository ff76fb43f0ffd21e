//! Allocating: the smallest block that is large enough, split down to size.

use super::{Buddy, FreeBlock};
use crate::desc::word::End;
use crate::machine::Machine;
use crate::migratetype::Migratetype;
use crate::units::{Order, Pfn};

impl<M: Machine> Buddy<'_, '_, M> {
    /// Allocates a block and returns its head; `None` if the zone has no free block of that order or above.
    ///
    /// FREE-3: at order 0 that means that no page is free, as nodes exist only under lists that are not empty.
    pub(crate) fn alloc(&mut self, order: Order, migratetype: Migratetype) -> Option<Pfn> {
        let block = match self.zone.lists.smallest(migratetype, order) {
            Some(smallest) => self.pop(migratetype, smallest)?,
            None => self.take_from_others(order, migratetype)?,
        };
        let mut above = block.order();
        let head = block.into_head();
        while above > order {
            above = Order::of(above.index() - 1);
            self.place(FreeBlock::claim(head.buddy(above), above), End::Near);
        }
        self.map.page(head).set_allocated(order, self.zone.id);
        self.zone.free -= order.pages();
        self.drain();
        Some(head)
    }
}
