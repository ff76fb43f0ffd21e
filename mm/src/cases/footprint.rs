//! What a case must leave as it was.

use arrayvec::ArrayVec;

use super::Failure;
use crate::machine::{Geometry, Machine};
use crate::page::PageAllocator;
use crate::shrinker::Shortage;
use crate::units::Count;
use crate::zone::ZoneKind;

/// One zone's share.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Zone {
    free: u32,
    nodes: u32,
    largest: u32,
}

/// How much of each zone is free, and how whole.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Footprint {
    zones: ArrayVec<Zone, { u8::MAX as usize + 1 }>,
}

impl Footprint {
    /// As of now, once nothing is at hand of any CPU.
    pub(super) fn of<M: Machine>(allocator: &PageAllocator<'_, M>) -> Self {
        allocator.drain();
        let zone = |report: crate::zone::ZoneReport| Zone {
            free: report.free,
            nodes: report.nodes,
            largest: report.blocks_of(M::Geometry::MAX_ORDER),
        };
        Self { zones: allocator.zones().map(zone).collect() }
    }

    /// As of now, once others have given back what they would in a shortage, and CPUs what they have at hand: for what may
    /// make memory short, and would find more of it free in the end.
    pub(super) fn settled<M: Machine>(allocator: &PageAllocator<'_, M>) -> Self {
        allocator.reclaim(Shortage { wanted: Count(u32::MAX), highest: ZoneKind::Highmem, node: None });
        allocator.drain();
        Self::of(allocator)
    }

    /// Fails unless the allocator is as free and as whole as it was. Where nodes stand now or stood then, the largest
    /// blocks that it takes to hold them may differ (FREE-6).
    pub(super) fn check_restored<M: Machine>(&self, allocator: &PageAllocator<'_, M>) -> Result<(), Failure> {
        for (before, after) in self.zones.iter().zip(Self::of(allocator).zones) {
            Failure::unless_equal(before.free, after.free, "free pages in the zone as before")?;
            let broken_by_nodes = before.nodes.max(after.nodes).div_ceil(M::Geometry::MAX_ORDER.pages());
            if before.largest.abs_diff(after.largest) > broken_by_nodes {
                Failure::unless_equal(before.largest, after.largest, "largest blocks in the zone as before")?;
            }
        }
        Ok(())
    }

    /// Fails unless nothing at all has changed.
    pub(super) fn check_unchanged<M: Machine>(&self, allocator: &PageAllocator<'_, M>) -> Result<(), Failure> {
        Failure::unless(*self == Self::of(allocator), "a request that fails changes nothing")
    }
}
