//! The buddy allocator of one zone: finding, splitting and merging free blocks.
//!
//! ```text
//! free(p, o):  while the buddy is free, of the same order and zone:  take it off its list and merge
//!              push the block; a list that needs a node takes one page: the block itself, the smallest other block,
//!              or the block's own first page
//! alloc(o):    take the smallest block there is, split it, push the upper halves
//! ```
//!
//! Lists grow only with pages that are free or being freed, and shrink into them. A node that this gives back is
//! another block to free: it waits in `pending` until the one in hand is placed, so nothing here calls itself, and
//! the smallest waits least, so that it can serve the others as a node.
//!
//! `block` is the block in flight, `free` and `alloc` the two directions, `fallback` what a migratetype does when it
//! has run out, `relocate` how nodes get out of the way of a merge, `contig` ranges out of the middle, `verify` the
//! checker.
//!
//! Invariants: FREE-2, FREE-3, FREE-5, FREE-6, ZONE-1.
//! Cost: O(orders) list operations; what those cost stands in `freelist`.

mod alloc;
mod block;
mod contig;
mod fallback;
mod free;
mod relocate;
mod verify;

pub use contig::ContigError;

pub(crate) use block::FreeBlock;
use block::Pending;

use crate::desc::map::PageMap;
use crate::desc::word::ListId;
use crate::freelist::{Deque, ListContext, Nodes};
use crate::machine::Machine;
use crate::migratetype::Migratetype;
use crate::units::{Order, Pfn};
use crate::zone::{Zone, ZoneReport};

/// A zone in the hands of one operation, which holds its lock.
#[derive(Debug)]
pub(crate) struct Buddy<'a, 'm, M: Machine> {
    machine: &'a M,
    map: &'a PageMap<'m, M::Geometry>,
    zone: &'a mut Zone<M::Geometry>,
    pending: Pending,
}

impl<'a, 'm, M: Machine> Buddy<'a, 'm, M> {
    pub(crate) fn new(machine: &'a M, map: &'a PageMap<'m, M::Geometry>, zone: &'a mut Zone<M::Geometry>) -> Self {
        Self { machine, map, zone, pending: Pending::new() }
    }

    /// The zone's counts.
    pub(crate) fn report(&self) -> ZoneReport {
        self.zone.report()
    }

    fn context(&self) -> ListContext<'a, 'm, M> {
        ListContext { nodes: Nodes::new(self.machine), map: self.map, zone: self.zone.id }
    }

    /// Hands a list to `change`, together with where the pages of nodes that it gives up go.
    #[inline]
    fn with_list<R>(
        &mut self,
        migratetype: Migratetype,
        order: Order,
        change: impl FnOnce(&mut Deque<M::Geometry>, ListContext<'a, 'm, M>, &mut dyn FnMut(Pfn)) -> R,
    ) -> R {
        let context = self.context();
        let Self { zone, pending, .. } = self;
        let Zone { lists, nodes, .. } = &mut **zone;
        lists.change(migratetype, order, |list| {
            let mut released = |page| {
                *nodes -= 1;
                pending.push(context.map, context.zone, FreeBlock::claim(page, Order::ZERO));
            };
            change(list, context, &mut released)
        })
    }

    /// Takes a free block off its list, wherever on it it stands.
    fn unlist(&mut self, head: Pfn) -> FreeBlock {
        let page = self.map.page(head);
        let ListId { migratetype, order, end } = page.word().list();
        let position = page.position();
        self.with_list(migratetype, order, |list, context, mut released| {
            list.remove(context, end, position, &mut released);
        });
        FreeBlock::claim(head, order)
    }

    /// Takes the block that is next in turn on a list.
    fn pop(&mut self, migratetype: Migratetype, order: Order) -> Option<FreeBlock> {
        let head =
            self.with_list(migratetype, order, |list, context, mut released| list.pop(context, &mut released))?;
        Some(FreeBlock::claim(head, order))
    }

    /// Keeps the first page of a block; the rest, one block of each order below the block's, is to be placed.
    fn keep_first_page(&mut self, block: FreeBlock) -> Pfn {
        let orders = block.order().index();
        let page = block.into_head();
        for order in (0..orders).map(Order::of) {
            self.pending.push(self.map, self.zone.id, FreeBlock::claim(page.buddy(order), order));
        }
        page
    }
}
