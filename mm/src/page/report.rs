//! What the allocator says about itself.

use core::ptr::NonNull;

use super::allocator::{PageAllocator, ZoneCell};
use crate::desc::allocator_word::PageState;
use crate::image::{Note, NoteFull, layout};
use crate::lock::Mutex;
use crate::lock_order::class;
use crate::machine::{Geometry, Machine};
use crate::migratetype::Migratetype;
use crate::units::{NodeId, Pfn, PfnRange, PhysAddr, ZoneId};
use crate::zone::{Zone, ZoneKind, ZoneReport};

/// A zone at one moment, and how its pageblocks were divided among the migratetypes then.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PageblockReport {
    /// The zone.
    pub zone: ZoneReport,
    /// Pageblocks with a page of the zone in them, by migratetype.
    pub pageblocks: [u32; Migratetype::ALL.len()],
}

/// How often locks were taken.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Acquisitions(pub u64);

impl<M: Machine> PageAllocator<'_, M> {
    /// Where the two words of a page stand, for who looks at memory from outside: a debugger. `None` where there is no table.
    pub fn descriptor_place(&self, pfn: Pfn) -> Option<PhysAddr> {
        let page = NonNull::from(self.map.get(pfn)?);
        Some(self.machine.physical(page.cast()))
    }

    /// Says for who reads an image of memory where all of this is.
    ///
    /// # Errors
    /// The note has no room for it.
    pub fn write_note(&self, note: &mut Note) -> Result<(), NoteFull> {
        note.place("max_order", M::Geometry::MAX_ORDER.index())?;
        note.place("pageblock_order", M::Geometry::PAGEBLOCK_ORDER.index())?;
        note.number("leaf_shift", M::Geometry::LEAF_SHIFT.into())?;
        note.number("node_shift", M::Geometry::NODE_SHIFT.into())?;
        note.number("inline", M::Geometry::INLINE.into())?;
        note.number("direct_map.end", self.machine.direct_map_end().number().into())?;
        note.place("draining", core::ptr::from_ref(&self.draining).addr())?;
        note.place("zones", self.zones.as_ptr().addr())?;
        note.place("zones.count", self.zones.len())?;
        layout!(note, ZoneCell<M::Geometry> as "ZoneCell": zone)?;
        let span = PfnRange::new(Pfn::new(0), Pfn::new(0));
        let zone = Zone::<M::Geometry>::new(ZoneId(0), NodeId(0), ZoneKind::Normal, span, 0);
        zone.write_note(note)?;
        let places = Mutex::<class::Zone, _>::new(zone).places();
        note.place("ZoneCell.zone.value", places.value)?;
        note.place("ZoneCell.zone.held", places.held)?;
        self.map.write_note(note)?;
        self.cpu_caches.write_note(note)?;
        self.groups.write_note(note)
    }

    /// Every zone, by node. Each is looked at under its lock, one after the other.
    pub fn zones(&self) -> impl Iterator<Item = ZoneReport> + Clone {
        self.zones.iter().map(|cell| self.report_zone(cell))
    }

    /// Every zone with its pageblocks, as [`zones`](Self::zones). Cost, under the zone's lock: a few loads a pageblock
    /// of the span, and one more for each page that a pageblock begins with and that was never free.
    pub fn pageblocks(&self) -> impl Iterator<Item = PageblockReport> + Clone {
        self.zones.iter().map(|cell| {
            self.with_buddy(cell, |buddy| {
                let zone = buddy.report(self.cached_pages(cell.id));
                PageblockReport { zone, pageblocks: self.count_pageblocks(zone.id, zone.span) }
            })
        })
    }

    /// A zone, looked at under its lock. What CPUs have at hand is exact while nobody allocates or frees.
    pub(super) fn report_zone(&self, cell: &ZoneCell<M::Geometry>) -> ZoneReport {
        let cached = self.cached_pages(cell.id);
        self.with_buddy(cell, |buddy| buddy.report(cached))
    }

    /// How often the locks of all zones were taken since boot, these times among them.
    pub fn zone_lock_acquisitions(&self) -> Acquisitions {
        Acquisitions(self.zones.iter().map(|cell| self.with_buddy(cell, |buddy| buddy.zone().acquisitions)).sum())
    }

    /// Free pages in all zones, those that CPUs have at hand among them.
    pub fn free_pages(&self) -> u32 {
        self.zones().map(|zone| zone.free).sum()
    }

    /// A pageblock at the zone's edge may hold pages of another zone as well, and counts for both; one without a page
    /// that was ever free is nobody's. The caller holds the zone's lock, so that no block of it is in flight.
    fn count_pageblocks(&self, zone: ZoneId, span: PfnRange) -> [u32; Migratetype::ALL.len()] {
        let order = M::Geometry::PAGEBLOCK_ORDER;
        let mut counts = [0; Migratetype::ALL.len()];
        let mut at = span.start.align_down(order);
        while at < span.end {
            if !self.map.is_populated(at) {
                at = at.plus(1).align_up(M::Geometry::MAX_ORDER);
                continue;
            }
            let pageblock = PfnRange::new(at, at.plus(order.pages()));
            if pageblock.frames().any(|pfn| self.zone_around(pfn) == Some(zone)) {
                counts[self.map.known_section(at).migratetype(at).index()] += 1;
            }
            at = pageblock.end;
        }
        counts
    }

    /// The zone that the block around `pfn` names.
    pub(crate) fn zone_around(&self, pfn: Pfn) -> Option<ZoneId> {
        let word = self.map.get(self.map.head_of(pfn)?)?.word();
        match word.state()? {
            PageState::Free | PageState::Node | PageState::Allocated | PageState::Isolated | PageState::Cached => {
                Some(word.zone())
            }
            PageState::Hole | PageState::Reserved | PageState::Tail | PageState::Offline => None,
        }
    }

    /// What the descriptors of a range say, and what CPUs have at hand: for two allocators of one machine in the same state, or
    /// in states that differ in nothing but which CPU is which, the same words.
    #[cfg(all(test, not(loom)))]
    pub(crate) fn fingerprint(&self, range: PfnRange) -> std::vec::Vec<u64> {
        let words = range.frames().filter_map(|pfn| self.map.get(pfn)).flat_map(crate::desc::word::Page::fingerprint);
        let types = range.frames().filter_map(|pfn| Some(self.map.section(pfn)?.migratetype(pfn) as u64));
        let stuck = self.zones.iter().map(|cell| self.with_buddy(cell, |buddy| buddy.stuck()));
        words.chain(types).chain(stuck).chain(self.cpu_caches.fingerprint()).collect()
    }
}
