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
}
