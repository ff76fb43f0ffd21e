//! One zone by itself: what each of its operations takes from where, and what it leaves behind.

mod batches;
mod places;
mod reserve;
mod sections;

use std::vec::Vec;

use super::Shallow;
use crate::arena::Deep;
use crate::block::FreeBlock;
use crate::buddy::Buddy;
use crate::desc::allocator_word::{AllocatorWord, Mergeable, PageState};
use crate::desc::map::PageMap;
use crate::freelist::tests::bench::{BASE, Metered, ZONE, with_pages};
use crate::host::at_each_step;
use crate::machine::Geometry;
use crate::migratetype::Migratetype::{self, Movable};
use crate::units::{NodeId, Order, PfnRange};
use crate::zone::{Zone, ZoneKind};

/// Pageblocks of eight pages, two to a largest block, and lists that need no nodes.
type Plain = Shallow<4, 3, 4>;

/// Pageblocks of sixteen pages.
type Wide = Shallow<5, 4, 0>;

/// Pageblocks of sixteen pages, and nodes for almost every block.
type WithNodes = Deep<5, 4, 2>;

/// A zone all of whose pages were free at first; they are named by their distance from the first.
struct Alone<'a, 'm, G: Geometry> {
    machine: &'a Metered<G>,
    map: &'a PageMap<'m, G>,
    zone: Zone<G>,
    cached: u32,
}

fn with_zone<G: Geometry>(pages: u32, test: impl FnOnce(&mut Alone<'_, '_, G>)) {
    with_pages(pages, pages, |context, _| {
        let frames = PfnRange::new(BASE, BASE.plus(pages));
        let mut zone = Zone::new(ZONE, NodeId(1), ZoneKind::Dma32, frames, pages);
        zone.pivot.cover(frames);
        let mut alone = Alone { machine: context.nodes.machine(), map: context.map, zone, cached: 0 };
        alone.buddy(|buddy| (0..=G::MAX_ORDER.index()).for_each(|order| buddy.adopt(frames, Order::of(order))));
        alone.assert_sound();
        test(&mut alone);
        alone.assert_sound();
    });
}

impl<'m, G: Geometry> Alone<'_, 'm, G> {
    fn buddy<R>(&mut self, work: impl FnOnce(&mut Buddy<'_, 'm, Metered<G>>) -> R) -> R {
        work(&mut Buddy::new(self.machine, self.map, &mut self.zone))
    }

    fn verify(&mut self) {
        at_each_step(|| self.assert_sound());
    }

    fn assert_sound(&mut self) {
        let cached = self.cached;
        self.buddy(|buddy| buddy.verify(cached)).expect("every invariant holds");
    }

    fn alloc(&mut self, order: usize, kind: Migratetype) -> Option<u32> {
        let head = self.buddy(|buddy| buddy.alloc(Order::of(order), kind))?;
        self.verify();
        Some(head.number() - BASE.number())
    }

    fn free(&mut self, page: u32) {
        let (map, head) = (self.map, BASE.plus(page));
        let word = map.page(head).word();
        assert!(word.is(PageState::Allocated), "the tests free what they hold");
        let wanted = Mergeable::new(word.order(), ZONE);
        self.buddy(|buddy| buddy.free(map.known_section(head), FreeBlock::claim(head, word.order()), wanted));
        self.verify();
    }

    /// Every page in use, each pageblock by the type that stands for it, and then these free.
    fn leave(&mut self, kinds: &[Migratetype], free: &[u32]) {
        let pages = G::PAGEBLOCK_ORDER.pages();
        while self.alloc(0, Movable).is_some() {}
        for (pageblock, &kind) in (0..).map(|block| block * pages).zip(kinds) {
            (pageblock..pageblock + pages).for_each(|page| self.free(page));
            while self.alloc(0, kind).is_some() {}
        }
        free.iter().for_each(|&page| self.free(page));
    }

    /// Takes blocks to have at hand; the pages that they start at.
    fn take(&mut self, order: usize, want: u32) -> Vec<u32> {
        let mut heads = Vec::new();
        let allocated = AllocatorWord::allocated(Movable, Order::of(order), ZONE);
        self.buddy(|buddy| buddy.alloc_bulk(allocated, want, |_, pfn| heads.push(pfn.number() - BASE.number())));
        self.cached += heads.len() as u32 * Order::of(order).pages();
        self.verify();
        heads
    }

    fn put_back(&mut self, order: usize, heads: &[u32]) {
        self.buddy(|buddy| buddy.free_bulk(Order::of(order), heads.iter().map(|&page| BASE.plus(page))));
        self.cached -= heads.len() as u32 * Order::of(order).pages();
        self.verify();
    }

    fn state(&self, page: u32) -> (PageState, usize) {
        let word = self.map.page(BASE.plus(page)).word();
        (word.state().expect("a state"), word.list().order().index())
    }

    fn kind(&self, page: u32) -> Migratetype {
        self.map.known_section(BASE.plus(page)).migratetype(BASE.plus(page))
    }

    fn pages(&self, kind: Migratetype) -> u32 {
        self.zone.lists.pages(kind)
    }
}
