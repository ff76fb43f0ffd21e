//! One zone by itself: what each of its operations takes from where, and what it leaves behind.

mod batches;
mod places;
mod reserve;
mod sections;

use std::vec::Vec;

use crate::arena::ArenaMachine;
use crate::block::FreeBlock;
use crate::boot_map::{BootMap, Region, RegionKind};
use crate::buddy::Buddy;
use crate::desc::allocator_word::{AllocatorWord, Mergeable, PageState};
use crate::desc::map::PageMap;
use crate::early::MetadataBytes;
use crate::machine::Geometry;
use crate::migratetype::Migratetype::{self, Movable};
use crate::units::{NodeId, Order, PAGE_SIZE, Pfn, PfnRange, ZoneId};
use crate::zone::{Zone, ZoneKind};

/// Where the pages start; the descriptors stand below.
const BASE: Pfn = Pfn::new(64);

const ZONE: ZoneId = ZoneId(0);

/// Pageblocks of eight pages, two to a largest block, and lists that need no nodes.
#[derive(Debug)]
struct Plain;

impl Geometry for Plain {
    const MAX_ORDER: Order = Order::of(4);
    const PAGEBLOCK_ORDER: Order = Order::of(3);
    const LEAF_SHIFT: u32 = 10;
    const NODE_SHIFT: u32 = 9;
    const INLINE: u32 = 16;
    const RESERVE_SHARE: u32 = 4;
}

/// Pageblocks of sixteen pages.
#[derive(Debug)]
struct Wide;

impl Geometry for Wide {
    const MAX_ORDER: Order = Order::of(5);
    const PAGEBLOCK_ORDER: Order = Order::of(4);
    const LEAF_SHIFT: u32 = 10;
    const NODE_SHIFT: u32 = 9;
    const INLINE: u32 = 16;
    const RESERVE_SHARE: u32 = 0;
}

/// Pageblocks of sixteen pages, and nodes for almost every block.
#[derive(Debug)]
struct Deep;

impl Geometry for Deep {
    const MAX_ORDER: Order = Order::of(5);
    const PAGEBLOCK_ORDER: Order = Order::of(4);
    const LEAF_SHIFT: u32 = 1;
    const NODE_SHIFT: u32 = 1;
    const INLINE: u32 = 2;
    const RESERVE_SHARE: u32 = 0;
}

/// A zone all of whose pages were free at first; they are named by their distance from the first.
struct Alone<'a, 'm, G: Geometry> {
    machine: &'a ArenaMachine<G>,
    map: &'a PageMap<'m, G>,
    zone: Zone<G>,
    cached: u32,
}

fn with_zone<G: Geometry>(pages: u32, test: impl FnOnce(&mut Alone<'_, '_, G>)) {
    let frames = PfnRange::new(BASE, BASE.plus(pages));
    let machine = ArenaMachine::<G>::new(frames.end, frames.end);
    let region = |range: PfnRange, node| Region {
        start: range.start.address(),
        len: u64::from(range.pages()) * PAGE_SIZE as u64,
        kind: RegionKind::Usable,
        node: NodeId(node),
    };
    let regions = [region(PfnRange::new(Pfn::new(1), BASE), 0), region(frames, 1)];
    let mut boot_map: BootMap = BootMap::new(&regions).expect("the regions are disjoint");
    let map = PageMap::carve(&machine, &mut boot_map, &mut MetadataBytes::default()).expect("descriptors fit below");
    map.fill(boot_map.extents());
    let mut zone = Zone::new(ZONE, NodeId(1), ZoneKind::Dma32, frames, pages);
    zone.pivot.cover(frames);
    let mut alone = Alone { machine: &machine, map: &map, zone, cached: 0 };
    alone.buddy(|buddy| (0..=G::MAX_ORDER.index()).for_each(|order| buddy.adopt(frames, Order::of(order))));
    alone.verify();
    test(&mut alone);
    alone.verify();
}

impl<'m, G: Geometry> Alone<'_, 'm, G> {
    fn buddy<R>(&mut self, work: impl FnOnce(&mut Buddy<'_, 'm, ArenaMachine<G>>) -> R) -> R {
        work(&mut Buddy::new(self.machine, self.map, &mut self.zone))
    }

    fn verify(&mut self) {
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
<<<<<<< HEAD
=======

#[test]
fn blocks_below_a_pageblocks_size_are_to_be_had_below_the_pivot_as_long_as_there_are_any() {
    with_zone::<Plain>(64, |zone| {
        let pivot = |zone: &mut Alone<'_, '_, Plain>| {
            let of = |order| AllocatorWord::allocated(Movable, Order::of(order), ZONE);
            [0, 2, 3, 4].map(|order| zone.buddy(|buddy| buddy.pivot_for(of(order))))
        };
        let first = BASE.plus(16);
        assert_eq!(pivot(zone), [Some(first), Some(first), None, None], "the first block is below the pivot");
        // All but the first block are above the pivot, wherever it goes: they were freed when it was lower.
        assert_eq!(zone.alloc(4, Movable), Some(0));
        assert_eq!(pivot(zone), [None; 4]);
    });
}

#[test]
fn what_the_pivot_has_left_behind_goes_to_its_end_and_what_is_below_is_taken_instead() {
    with_zone::<Plain>(128, |zone| {
        while zone.alloc(0, Movable).is_some() {}
        [2, 6, 100].into_iter().for_each(|page| zone.free(page));
        // With these free the pivot is below page 100, which came last to its end of the list.
        (16..96).for_each(|page| zone.free(page));
        assert!(zone.zone.pivot.at() < BASE.plus(100));
        assert_eq!(zone.alloc(0, Movable), Some(6));
        assert_eq!(zone.alloc(0, Movable), Some(2), "the one below that is not moved");
        assert_eq!(zone.state(100), (PageState::Free, 0));
    });
}

#[test]
fn a_batch_breaks_no_block_for_its_last_quarter() {
    let batch = |want| {
        let mut taken = 0;
        with_zone::<Plain>(32, |zone| taken = zone.take(0, want).len());
        taken
    };
    // Half of a block of sixteen, and of the other half what is no less than a quarter of the batch.
    assert_eq!([8, 9, 10, 11, 12].map(batch), [8, 8, 10, 10, 12]);
}

#[test]
fn a_block_that_goes_into_the_batch_whole_is_taken_to_the_last() {
    with_zone::<Plain>(64, |zone| {
        // A pair of pages, and groups of four, none of which are buddies.
        zone.leave(&[Movable; 8], &[]);
        let groups = [8, 16, 24, 32, 40, 48, 56];
        groups.iter().chain(&[4]).flat_map(|&start| start..start + 2).for_each(|page| zone.free(page));
        groups.iter().flat_map(|&start| start + 2..start + 4).for_each(|page| zone.free(page));
        assert_eq!((zone.state(4), zone.state(8)), ((PageState::Free, 1), (PageState::Free, 2)));
        // One pair, then six groups of two pairs each: three are lacking, less than a quarter. A group goes in whole, and
        // one more pair would break the next; but there is none.
        let pairs = zone.take(1, 16);
        assert_eq!(pairs.len(), 15);
        assert_eq!(zone.zone.free, 0);
    });
}

#[test]
fn a_batch_takes_one_block_from_others_if_it_gets_no_other_and_else_none() {
    with_zone::<Plain>(64, |zone| {
        zone.leave(&[Movable, Unmovable, Unmovable, Reclaimable], &[1, 8, 10, 12]);
        assert_eq!(zone.take(0, 8), [1]);
        let taken = zone.take(0, 8);
        assert!(taken.len() == 1 && [8, 10, 12].contains(&taken[0]), "{taken:?}");
    });
}

#[test]
fn blocks_that_come_back_in_a_row_upwards_or_downwards_or_in_none_are_whole_again() {
    let shuffled = [5, 4, 7, 6, 0, 2, 1, 3, 8, 9, 15, 14, 13, 11, 12, 10];
    for order in [0, 1] {
        for back in [(0..16).collect::<Vec<u32>>(), (0..16).rev().collect(), shuffled.to_vec()] {
            with_zone::<Plain>(32, |zone| {
                let all = zone.take(order, 32 >> order);
                assert_eq!(all.len(), 32 >> order);
                let back: Vec<_> =
                    back.iter().filter(|&&piece| piece < 16 >> order).map(|piece| piece << order).collect();
                zone.put_back(order, &back);
                assert_eq!(zone.state(0), (PageState::Free, 4));
            });
        }
    }
}

#[test]
fn pageblocks_that_become_one_block_are_all_of_its_type() {
    for (freed_last, expected) in [([8, 0], Unmovable), ([0, 8], Unmovable)] {
        with_zone::<Plain>(32, |zone| {
            zone.leave(&[Unmovable, Reclaimable], &[]);
            freed_last.into_iter().flat_map(|start| start..start + 8).for_each(|page| zone.free(page));
            assert_eq!(zone.state(0), (PageState::Free, 4));
            assert_eq!([0, 8].map(|page| zone.kind(page)), [expected; 2]);
            // The upper half goes to the lists that its pageblock names.
            assert_eq!(zone.alloc(3, expected), Some(0));
            assert_eq!((zone.pages(expected), zone.pages(Reclaimable)), (8, 0));
        });
    }
}

#[test]
fn a_list_without_room_gets_its_node_from_a_smaller_block_or_else_from_the_block_that_comes() {
    with_zone::<Deep>(32, |zone| {
        zone.leave(&[Movable; 2], &[9, 0, 1, 4, 5]);
        assert_eq!(zone.zone.nodes, 0);
        [12, 13].into_iter().for_each(|page| zone.free(page));
        assert_eq!([0, 4, 12].map(|page| zone.state(page)), [(PageState::Free, 1); 3], "no pair is broken");
        assert_eq!((zone.state(9).0, zone.zone.nodes), (PageState::Node, 1));
    });
    with_zone::<Deep>(32, |zone| {
        // Pairs that come free as pairs, with no single page beside them.
        zone.leave(&[Movable; 2], &(0..32).collect::<Vec<_>>());
        let pairs: Vec<_> = core::iter::from_fn(|| zone.alloc(1, Movable)).collect();
        assert_eq!(pairs.len(), 16);
        [0, 4, 12].into_iter().for_each(|page| zone.free(page));
        assert_eq!([0, 4].map(|page| zone.state(page)), [(PageState::Free, 1); 2], "what stood there stays");
        assert_eq!((zone.state(12).0, zone.state(13)), (PageState::Node, (PageState::Free, 0)));
    });
}

#[test]
fn a_movable_request_takes_over_a_pageblock_for_a_block_of_half_its_order_and_no_smaller() {
    for (pairs_of, expected) in [(2, Unmovable), (4, Movable)] {
        with_zone::<Deep>(32, |zone| {
            let free: Vec<_> = (0..16).filter(|page| page / pairs_of % 2 == 0).collect();
            zone.leave(&[Unmovable; 2], &free);
            zone.alloc(0, Movable).expect("half is free");
            assert_eq!(zone.kind(0), expected, "half of the pageblock is free, in pieces of {pairs_of}");
        });
    }
}

#[test]
fn of_two_types_with_whole_pageblocks_the_first_choice_gives_one_unless_the_other_has_larger_ones() {
    for (kind, [first, second]) in
        [(Unmovable, [Reclaimable, Movable]), (Movable, [Reclaimable, Unmovable]), (Reclaimable, [Unmovable, Movable])]
    {
        with_zone::<Plain>(64, |zone| {
            let free: Vec<_> = (0..8).chain(16..24).collect();
            zone.leave(&[second, kind, first, kind], &free);
            assert_eq!(zone.alloc(3, kind), Some(16), "{kind:?}");
            assert_eq!(zone.kind(0), second);
        });
        with_zone::<Plain>(64, |zone| {
            let free: Vec<_> = (0..16).chain(16..24).collect();
            zone.leave(&[second, second, first, kind], &free);
            assert_eq!(zone.alloc(3, kind), Some(0), "{kind:?}");
            assert_eq!((zone.kind(8), zone.kind(16)), (second, first));
        });
    }
}

/// A demand that leaves what it must, and is met as long as there is anything.
fn demand(order: usize, urgency: Urgency) -> Demand {
    Demand { order: Order::of(order), highest: ZoneKind::Dma32, urgency, leaving: Watermark::Min }
}

#[test]
fn blocks_are_set_aside_as_soon_as_one_more_than_all_of_them_and_twice_the_mark_are_left() {
    // Four largest blocks are to be set aside; plenty is more than five and twice ten pages.
    for (left, set_aside) in [(5 * 16 + 20, 0), (5 * 16 + 21, 4)] {
        with_zone::<Plain>(256, |zone| {
            zone.zone.watermarks.high = 10;
            assert_eq!(zone.zone.highatomic_wanted(), 4);
            for _ in left + 1..256 {
                zone.alloc(0, Movable);
            }
            assert_eq!((zone.zone.free, zone.zone.highatomic.len()), (left + 1, 0));
            zone.buddy(|buddy| buddy.alloc_for(demand(0, Urgency::Ordinary), Movable)).expect("plenty is free");
            assert_eq!((zone.zone.free, zone.zone.highatomic.len()), (left, set_aside));
        });
    }
}

#[test]
fn what_is_set_aside_is_free_until_it_is_given_up_and_then_everybodys() {
    with_zone::<Plain>(256, |zone| {
        zone.buddy(|buddy| buddy.set_aside());
        zone.verify();
        assert_eq!((zone.zone.highatomic.len(), zone.pages(Migratetype::HighAtomic)), (4, 64));
        let mut heads: Vec<_> = zone.zone.highatomic.iter().map(|head| head.number() - BASE.number()).collect();
        heads.sort_unstable();
        assert_eq!(heads, vec![192, 208, 224, 240], "where nothing will be in use for long");
        let taken = core::iter::from_fn(|| zone.alloc(0, Movable)).count();
        assert_eq!(taken, 256 - 64);
        assert_eq!(zone.buddy(|buddy| buddy.alloc_for(demand(1, Urgency::Ordinary), Movable)), None);
        let urgent =
            zone.buddy(|buddy| buddy.alloc_for(demand(1, Urgency::Atomic), Movable)).expect("that is what it is for");
        assert!(heads.contains(&((urgent.number() - BASE.number()) & !15)));
        zone.verify();
        assert_eq!(zone.buddy(|buddy| buddy.give_up_reserve()).0, 62);
        zone.verify();
        assert_eq!((zone.pages(Migratetype::HighAtomic), zone.pages(Movable)), (0, 62));
    });
}

#[test]
fn a_batch_leaves_what_its_demand_must() {
    // The last of twenty pages would be the last quarter of a batch, for which no block is broken.
    for (order, most) in [(0, 16), (1, 10), (2, 5)] {
        with_zone::<Plain>(64, |zone| {
            zone.zone.watermarks.min = 44;
            let (mut taken, allocated) = (0, AllocatorWord::allocated(Movable, Order::of(order), ZONE));
            let demand = demand(order, Urgency::Ordinary);
            zone.buddy(|buddy| buddy.alloc_bulk_for(demand, allocated, 64, |_, _| taken += 1));
            zone.cached = taken << order;
            assert_eq!(taken, most, "blocks of order {order}");
        });
    }
}
>>>>>>> c55c49c059bf6ba395b2f296df30dcf2cf9a081b
