//! Zones: runs of memory that may serve the same requests, each with its freelists and its lock.
//!
//! A zone is the usable memory of one node on one side of two boundaries: 4 GiB, below which old devices reach, and
//! the end of the direct map, above which a page has no address of its own. Blocks never straddle a zone: every head
//! names its zone, and merging compares it (ZONE-1).
//!
//! `watermark` is how low a zone may fall, and for whom; `pivot` where its memory is to be used.

pub(crate) mod pivot;
pub(crate) mod watermark;

use arrayvec::ArrayVec;

use crate::block::Pending;
use crate::desc::allocator_word::End;
use crate::freelist::Freelists;
use crate::image::{self, Note, NoteFull, layout};
use crate::machine::Geometry;
use crate::migratetype::Migratetype;
use crate::units::{Count, NodeId, Order, Pfn, PfnRange, PhysAddr, ZoneId};
use pivot::Pivot;
use watermark::Demand;
pub use watermark::Watermarks;

/// The most largest blocks that a zone sets aside for large requests that cannot wait.
const HIGHATOMIC_BLOCKS: usize = 8;

/// What a zone's memory can be used for. A later kind serves fewer requests, and is tried first by those it serves.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum ZoneKind {
    /// In the direct map and below 4 GiB.
    Dma32,
    /// In the direct map.
    Normal,
    /// Beyond the direct map: reachable through `kmap_local` only.
    Highmem,
}

impl ZoneKind {
    /// Every kind, from the one that serves all requests to the one that serves the fewest.
    pub const ALL: [Self; 3] = [Self::Dma32, Self::Normal, Self::Highmem];

    /// Linux's name for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Dma32 => "DMA32",
            Self::Normal => "Normal",
            Self::Highmem => "HighMem",
        }
    }

    /// The frames of this kind, given where the direct map ends.
    pub(crate) fn frames(self, direct_map_end: Pfn) -> PfnRange {
        let dma32_end = match Pfn::containing(PhysAddr(1 << 32)) {
            Some(end) => end.min(direct_map_end),
            None => direct_map_end,
        };
        match self {
            Self::Dma32 => PfnRange::new(Pfn::new(0), dma32_end),
            Self::Normal => PfnRange::new(dma32_end, direct_map_end),
            Self::Highmem => PfnRange::new(direct_map_end, Pfn::LIMIT),
        }
    }
}

/// What the zone lock guards.
#[derive(Debug)]
pub(crate) struct Zone<G> {
    pub(crate) id: ZoneId,
    pub(crate) node: NodeId,
    pub(crate) kind: ZoneKind,
    /// From the first usable frame to behind the last; other zones and holes may lie between.
    pub(crate) span: PfnRange,
    /// The span as it was at boot.
    at_boot: PfnRange,
    /// Pages that the boot map calls the node's memory in the span as it was, and what came in from elsewhere since: those that
    /// were never free among them.
    pub(crate) present: u32,
    /// Pages that the allocator was given.
    pub(crate) managed: u32,
    /// Pages that are free, those that serve as nodes among them, those that CPUs have at hand not.
    pub(crate) free: u32,
    /// Which end of its list a free block belongs to.
    pub(crate) pivot: Pivot,
    /// Free pages that serve as nodes.
    pub(crate) nodes: u32,
    /// The most pages that ever served as nodes at once.
    pub(crate) peak_nodes: u32,
    /// How often its lock was taken.
    pub(crate) acquisitions: u64,
    /// How low it may fall.
    pub(crate) watermarks: Watermarks,
    /// The next time that shrinkers are asked before they have to be is when fewer pages are free: those asked last had
    /// nothing to give.
    pub(crate) ask_below: u32,
    /// Largest blocks whose pageblocks are set aside.
    pub(crate) highatomic: ArrayVec<Pfn, HIGHATOMIC_BLOCKS>,
    /// What the operation under way has yet to do.
    pub(crate) pending: Pending,
    pub(crate) lists: Freelists<G>,
}

impl<G: Geometry> Zone<G> {
    pub(crate) fn new(id: ZoneId, node: NodeId, kind: ZoneKind, span: PfnRange, present: u32) -> Self {
        Self {
            id,
            node,
            kind,
            span,
            at_boot: span,
            present,
            managed: 0,
            free: 0,
            pivot: Pivot::new(G::MAX_ORDER),
            nodes: 0,
            peak_nodes: 0,
            acquisitions: 0,
            watermarks: Watermarks::default(),
            ask_below: u32::MAX,
            highatomic: ArrayVec::new(),
            pending: Pending::new(),
            lists: Freelists::new(),
        }
    }

    /// For who reads an image of memory.
    pub(crate) fn write_note(&self, note: &mut Note) -> Result<(), NoteFull> {
        note.place("highatomic.elements", image::distance(&self.highatomic, self.highatomic.as_ptr()))?;
        layout!(
            note,
            Self as "Zone": id, kind, span.start, span.end, managed, free, nodes, highatomic, pending, lists
        )?;
        Pending::write_note(note)?;
        Freelists::<G>::write_note(note)
    }

    /// Pages of it are free.
    #[inline(always)]
    pub(crate) fn gain(&mut self, pages: u32) {
        self.free += pages;
        self.pivot.follow(self.managed - self.free);
    }

    /// Pages of it are free no longer.
    #[inline(always)]
    pub(crate) fn lose(&mut self, pages: u32) {
        self.free -= pages;
        self.pivot.follow(self.managed - self.free);
    }

    /// Frames of it are the allocator's from now on, which were reserved so far.
    pub(crate) fn take_in(&mut self, range: PfnRange) {
        self.managed += range.pages();
        let from_elsewhere = range.pages() - range.intersection(self.at_boot).pages();
        // What another node has there was not counted.
        self.present = (self.present + from_elsewhere).max(self.managed);
        self.span = PfnRange::new(self.span.start.min(range.start), self.span.end.max(range.end));
        self.pivot.cover(range);
    }

    /// The end of its list that a free block belongs to: below the pivot, where memory is to be used, it is the near one. What
    /// is above drains, as it is allocated last, and comes together.
    #[inline(always)]
    pub(crate) fn end_for(&self, head: Pfn) -> End {
        if head < self.pivot.at() { End::Near } else { End::Far }
    }

    /// Works out how low the zone may fall, on a machine with `lowmem` managed pages in its direct map and a node with
    /// `of_node` of each kind.
    pub(crate) fn set_watermarks(&mut self, lowmem: u32, of_node: [u32; ZoneKind::ALL.len()]) {
        let marks = Watermarks::new(self.kind, self.managed, lowmem, G::RESERVE_SHARE);
        self.watermarks = if G::RESERVE_SHARE == 0 { marks } else { marks.protected(self.kind, of_node) };
    }

    /// Free pages that such a demand might be given: what is set aside for large blocks counts only for those whom it may
    /// serve.
    fn usable(&self, demand: Demand) -> u32 {
        let reserved = if demand.may_use_highatomic() { 0 } else { self.lists.pages(Migratetype::HighAtomic) };
        self.free.saturating_sub(reserved)
    }

    /// Pages that may be taken for such a demand before the zone has only left what it must.
    pub(crate) fn spare(&self, demand: Demand) -> u32 {
        self.usable(demand).saturating_sub(self.watermarks.floor(demand))
    }

    /// Pages that the zone lacks to be filled up, if it has not enough for the demand, and those who might give something
    /// up are not known to have nothing.
    pub(crate) fn lacking(&self, demand: Demand) -> u32 {
        if self.spare(demand) >= demand.order.pages() || self.free >= self.ask_below {
            return 0;
        }
        (self.watermarks.high + demand.order.pages()).saturating_sub(self.usable(demand))
    }

    /// Nobody is asked to fill the zone up until it has lost so many pages more.
    pub(crate) fn ask_again_below(&mut self, Count(fewer): Count) {
        self.ask_below = self.free.saturating_sub(fewer);
    }

    /// Whether the demand may be met: enough is left then, and there is a block that large.
    pub(crate) fn may_give(&self, demand: Demand) -> bool {
        let has_block = |migratetype| self.lists.smallest(migratetype, demand.order).is_some();
        self.spare(demand) >= demand.order.pages()
            && (Migratetype::REQUESTED.into_iter().any(has_block)
                || demand.may_use_highatomic() && has_block(Migratetype::HighAtomic))
    }

    /// Largest blocks that are to be set aside, all in all: no more than one page in `G::RESERVE_SHARE`.
    pub(crate) fn highatomic_wanted(&self) -> usize {
        let most = self.managed.checked_div(G::RESERVE_SHARE).unwrap_or(0) / G::MAX_ORDER.pages();
        HIGHATOMIC_BLOCKS.min(most as usize)
    }

    /// Its counts, with the pages that CPUs have at hand.
    pub(crate) fn report(&self, cached: u32) -> ZoneReport {
        let Self { id, node, kind, span, present, managed, free, nodes, peak_nodes, watermarks, ref lists, .. } = *self;
        let free = free.saturating_add(cached);
        let orders: [Order; Order::LIMIT.index() + 1] = core::array::from_fn(Order::of);
        let blocks = Migratetype::ALL.map(|migratetype| orders.map(|order| lists.len(migratetype, order)));
        ZoneReport { id, node, kind, span, present, managed, free, cached, nodes, peak_nodes, watermarks, blocks }
    }
}

/// A zone at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ZoneReport {
    /// The zone's place in the table.
    pub id: ZoneId,
    /// The node whose memory it is.
    pub node: NodeId,
    /// What the memory can be used for.
    pub kind: ZoneKind,
    /// From the first frame to behind the last.
    pub span: PfnRange,
    /// Pages of the span that the boot map calls the node's memory: what the allocator was given, and what was
    /// reserved or carved out before.
    pub present: u32,
    /// Pages that the allocator was given.
    pub managed: u32,
    /// Pages that are free: on lists, nodes included, and at hand of CPUs.
    pub free: u32,
    /// Free pages that CPUs have at hand.
    pub cached: u32,
    /// Free pages that serve freelists as nodes.
    pub nodes: u32,
    /// The most there ever were of those.
    pub peak_nodes: u32,
    /// How low it may fall.
    pub watermarks: Watermarks,
    /// Free blocks on the zone's lists, by migratetype and order.
    pub blocks: [[u32; Order::LIMIT.index() + 1]; Migratetype::ALL.len()],
}

impl ZoneReport {
    /// Free blocks of an order, of whatever migratetype.
    pub fn blocks_of(&self, order: Order) -> u32 {
        self.blocks.iter().map(|by_order| by_order[order.index()]).sum()
    }
}
