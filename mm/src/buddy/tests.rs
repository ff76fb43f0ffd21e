//! What a zone does with its memory, seen from outside: through the allocator of a machine of a few pages.
#![expect(unsafe_code, reason = "frees bare frames")]

#[expect(clippy::cast_possible_truncation, reason = "a test's numbers are small")]
mod alone;
mod fallback;
mod relocate;
mod zones;

use crate::PageState;
use crate::arena::ArenaMachine;
use crate::boot_map::{BootMap, Region, RegionKind};
use crate::host::at_each_step;
use crate::machine::Geometry;
use crate::migratetype::Migratetype;
use crate::page::{PageAllocator, Request};
use crate::units::{NodeId, Order, PAGE_SIZE, Pfn, PfnRange};
use crate::zone::{ZoneKind, ZoneReport};

/// Nodes and rings as large as can be: lists of tests need no node.
#[derive(Debug)]
struct Shallow<const MAX_ORDER: usize, const PAGEBLOCK_ORDER: usize, const RESERVE_SHARE: u32>;

impl<const MAX_ORDER: usize, const PAGEBLOCK_ORDER: usize, const RESERVE_SHARE: u32> Geometry
    for Shallow<MAX_ORDER, PAGEBLOCK_ORDER, RESERVE_SHARE>
{
    const MAX_ORDER: Order = Order::of(MAX_ORDER);
    const PAGEBLOCK_ORDER: Order = Order::of(PAGEBLOCK_ORDER);
    const LEAF_SHIFT: u32 = 10;
    const NODE_SHIFT: u32 = 9;
    const INLINE: u32 = 16;
    const RESERVE_SHARE: u32 = RESERVE_SHARE;
}

/// Where the pages start; the allocator's tables stand below, on a node whose memory is in use.
const BASE: Pfn = Pfn::new(64);

/// The node of the pages.
const NODE: NodeId = NodeId(1);

/// An allocator of a few pages, which are named by their distance from the first.
struct Bench<'m, G: Geometry> {
    allocator: PageAllocator<'m, ArenaMachine<G>>,
    frames: PfnRange,
}

/// Runs `test` with `pages` free pages, of which the first `lowmem` are in the direct map.
fn with_memory<G: Geometry>(pages: u32, lowmem: u32, test: impl FnOnce(&Bench<'_, G>)) {
    let frames = PfnRange::new(BASE, BASE.plus(pages));
    let machine = ArenaMachine::<G>::new(frames.end, BASE.plus(lowmem));
    let region = |range: PfnRange, node| Region {
        start: range.start.address(),
        len: u64::from(range.pages()) * PAGE_SIZE as u64,
        kind: RegionKind::Usable,
        node,
    };
    let regions = [region(PfnRange::new(Pfn::new(1), BASE), NodeId(0)), region(frames, NODE)];
    let mut boot_map: BootMap = BootMap::new(&regions).expect("the regions are disjoint");
    let allocator = machine.allocator(&mut boot_map).expect("the tables fit below");
    let bench = Bench { allocator, frames };
    for _ in 0..bench.allocator.free_pages() - pages {
        bench.allocator.alloc_raw(Request::movable(Order::ZERO).near(NodeId(0))).expect("the pages are counted");
    }
    assert_eq!(bench.free_pages(), pages);
    test(&bench);
    allocator_holds(&bench.allocator);
}

fn allocator_holds<G: Geometry>(allocator: &PageAllocator<'_, ArenaMachine<G>>) {
    allocator.verify().expect("every invariant holds");
}

impl<G: Geometry> Bench<'_, G> {
    /// Checks every invariant, as `with_memory` does in the end.
    fn verify(&self) {
        at_each_step(|| allocator_holds(&self.allocator));
    }

    /// Allocates a block, and checks every invariant.
    fn alloc(&self, order: usize, kind: Migratetype) -> Option<u32> {
        self.alloc_up_to(order, kind, ZoneKind::Highmem)
    }

    fn alloc_up_to(&self, order: usize, kind: Migratetype, highest: ZoneKind) -> Option<u32> {
        let request = Request::movable(Order::of(order)).with_migratetype(kind).up_to(highest).near(NODE);
        let head = self.allocator.alloc_raw(request).ok()?;
        self.verify();
        assert!(self.frames.contains(head));
        Some(head.number() - BASE.number())
    }

    /// Frees a block, and checks every invariant.
    fn free(&self, page: u32) {
        // SAFETY: no test uses the bytes of a page.
        unsafe { self.allocator.free_raw(BASE.plus(page)) }.expect("the tests free what they hold");
        self.verify();
    }

    fn free_each(&self, pages: impl IntoIterator<Item = u32>) {
        pages.into_iter().for_each(|page| self.free(page));
    }

    /// Allocates single pages until there is none.
    fn take_all(&self, kind: Migratetype) -> u32 {
        let mut taken = 0;
        while self.alloc(0, kind).is_some() {
            taken += 1;
        }
        taken
    }

    /// Every page in use, and every pageblock of the type that stands for it in `kinds`; a pageblock changes hands
    /// whole when nothing else is free.
    fn fill(&self, kinds: &[Migratetype]) {
        let pages = G::PAGEBLOCK_ORDER.pages();
        assert_eq!(kinds.len(), (self.frames.pages() / pages) as usize);
        self.take_all(Migratetype::Movable);
        for (pageblock, &kind) in (0..).map(|block| block * pages).zip(kinds) {
            self.free_each(pageblock..pageblock + pages);
            assert_eq!(self.take_all(kind), pages);
        }
    }

    fn range(&self, pages: core::ops::Range<u32>) -> PfnRange {
        PfnRange::new(BASE.plus(pages.start), BASE.plus(pages.end))
    }

    fn state(&self, page: u32) -> PageState {
        self.allocator.page_state(BASE.plus(page)).0
    }

    /// The order of the free block that a page heads.
    fn free_order(&self, page: u32) -> Option<usize> {
        let (state, order) = self.allocator.page_state(BASE.plus(page));
        (state == PageState::Free).then(|| order.index())
    }

    fn zones(&self) -> impl Iterator<Item = ZoneReport> {
        self.allocator.zones().filter(|zone| zone.node == NODE)
    }

    fn free_pages(&self) -> u32 {
        self.zones().map(|zone| zone.free).sum()
    }

    fn nodes(&self) -> u32 {
        self.zones().map(|zone| zone.nodes).sum()
    }

    /// Pages in the free blocks on the lists of each migratetype: unmovable, movable, reclaimable.
    fn listed(&self) -> [u32; 3] {
        let pages = |kind: Migratetype| {
            let blocks = self.zones().map(|zone| zone.blocks[kind.index()]);
            blocks.flatten().zip((0..=Order::LIMIT.index()).cycle()).map(|(count, order)| count << order).sum()
        };
        Migratetype::REQUESTED.map(pages)
    }
}
