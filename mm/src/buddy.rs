//! The buddy allocator of one zone: finding, splitting and merging free blocks.
//!
//! ```text
//! free(p, o):  while the buddy is free, of the same order and zone:  take it off its list and merge
//!              push the block; a list that needs a node takes one page: the block itself, the smallest other block,
//!              or the block's own first page
//! alloc(o):    take the smallest block there is below the zone's pivot, or else above, split it, push the upper halves
//! ```
//!
//! Lists grow only with pages that are free or being freed, and shrink into them. A node that this gives back is
//! another block to free: it waits in `pending` until the one in hand is placed, so nothing here calls itself, and
//! the smallest waits least, so that it can serve the others as a node.
//!
//! `free` and `alloc` are the two directions, `fallback` what a migratetype does when it has run out, `highatomic` what is
//! set aside for large blocks in need, `relocate` how nodes get out of the way of a merge, `contig` ranges out of the
//! middle, `hwpoison` pages that stay out of use, `hotplug` sections that do, `verify` the checker, `charges` the blocks in
//! use, `bulk` many blocks at a time.
//!
//! Invariants: FREE-2, FREE-3, FREE-5, FREE-6, ZONE-1.
//! Cost: O(orders) list operations; what those cost stands in `freelist`.

mod alloc;
mod bulk;
mod charges;
mod contig;
mod fallback;
mod free;
mod highatomic;
mod hotplug;
mod hwpoison;
mod relocate;
#[cfg(all(test, not(loom)))]
mod tests;
mod verify;

pub use contig::ContigError;

use crate::block::FreeBlock;
use crate::desc::allocator_word::ListId;
use crate::desc::map::PageMap;
use crate::desc::word::Page;
use crate::freelist::{ListContext, Nodes, Released};
use crate::machine::Machine;
use crate::random::Random;
use crate::units::{Order, Pfn};
use crate::zone::{Zone, ZoneReport};

/// A zone in the hands of one operation, which holds its lock.
#[derive(Debug)]
pub(crate) struct Buddy<'a, 'm, M: Machine> {
    machine: &'a M,
    map: &'a PageMap<'m, M::Geometry>,
    zone: &'a mut Zone<M::Geometry>,
}

impl<'a, 'm, M: Machine> Buddy<'a, 'm, M> {
    pub(crate) fn new(machine: &'a M, map: &'a PageMap<'m, M::Geometry>, zone: &'a mut Zone<M::Geometry>) -> Self {
        Self { machine, map, zone }
    }

    /// The zone's counts, with the pages that CPUs have at hand.
    pub(crate) fn report(&self, cached: u32) -> ZoneReport {
        self.zone.report(cached)
    }

    /// The zone, whose counts and marks the lock guards.
    pub(crate) fn zone(&mut self) -> &mut Zone<M::Geometry> {
        self.zone
    }

    /// The frame of the node that is stuck, if one is: with the descriptors' words, all there is to a state.
    #[cfg(all(test, not(loom)))]
    pub(crate) fn stuck(&self) -> u64 {
        self.zone.pending.stuck().map_or(u64::MAX, |pfn| u64::from(pfn.number()))
    }

    fn context(&self) -> ListContext<'a, 'm, M> {
        ListContext { nodes: Nodes::new(self.machine), map: self.map, zone: self.zone.id }
    }

    /// Takes a block off the list that its word names, wherever on it it stands.
    #[inline(always)]
    fn remove(&mut self, context: &ListContext<'_, '_, M>, page: &Page, head: Pfn, list: ListId) {
        let Zone { lists, nodes, pending, .. } = &mut *self.zone;
        lists.remove(context, list, head, page.position(), &mut Released { pending, nodes });
    }

    /// Takes a free block off its list.
    fn unlist(&mut self, page: &Page, head: Pfn) -> FreeBlock {
        let list = page.word().list();
        self.remove(&self.context(), page, head, list);
        FreeBlock::claim(head, list.order())
    }

    /// Takes the block that came last to the end of a list that is not empty there.
    #[inline(always)]
    fn pop(&mut self, list: ListId) -> FreeBlock {
        let context = self.context();
        let Zone { lists, nodes, pending, .. } = &mut *self.zone;
        let head = lists.pop(&context, list, &mut Released { pending, nodes });
        FreeBlock::claim(head, list.order())
    }

    /// Brings the zone's free blocks into a random order.
    pub(crate) fn shuffle(&mut self, random: &mut Random) {
        self.zone.lists.shuffle(&self.context(), random);
    }

    /// Lets a block wait until those smaller than it are placed.
    fn defer(&mut self, block: FreeBlock) {
        self.zone.pending.push(self.map, self.zone.id, block);
    }

    /// Keeps the first page of a block; the rest, one block of each order below the block's, is to be placed.
    fn keep_first_page(&mut self, block: FreeBlock) -> Pfn {
        let orders = block.order().index();
        let page = block.into_head();
        for order in (0..orders).map(Order::of) {
            self.defer(FreeBlock::claim(page.buddy(order), order));
        }
        page
    }
}
