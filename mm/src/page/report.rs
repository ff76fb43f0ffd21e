//! What the allocator says about itself.

use super::allocator::PageAllocator;
use crate::machine::Machine;
use crate::zone::ZoneReport;

impl<M: Machine> PageAllocator<'_, M> {
    /// Every zone, by node. Each is looked at under its lock, one after the other.
    pub fn zones(&self) -> impl Iterator<Item = ZoneReport> {
        self.zones.iter().map(|cell| self.with_buddy(cell, |buddy| buddy.report()))
    }

    /// Free pages in all zones.
    pub fn free_pages(&self) -> u32 {
        self.zones().map(|zone| zone.free).sum()
    }

    /// What the descriptors of a range say: for two allocators of one machine in the same state, the same words.
    #[cfg(test)]
    pub(crate) fn fingerprint(&self, range: crate::units::PfnRange) -> std::vec::Vec<u64> {
        let words = range.frames().filter_map(|pfn| self.map.get(pfn)).flat_map(crate::desc::word::Page::fingerprint);
        let types = range.frames().filter_map(|pfn| Some(self.map.section(pfn)?.migratetype(pfn) as u64));
        let stuck = self.zones.iter().map(|cell| self.with_buddy(cell, |buddy| buddy.stuck()));
        words.chain(types).chain(stuck).collect()
    }
}
