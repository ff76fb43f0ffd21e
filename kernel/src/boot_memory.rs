//! The loader's memory map in the kernel's own words.

use alloc::vec::Vec;

use bootloader_api::info::{MemoryRegion, MemoryRegionKind};
use mm::boot_map::{Region, RegionKind};
use mm::units::{NodeId, PhysAddr};

/// Everything that the loader lists: what it does not call usable is reserved, its own data and the kernel among it.
pub(crate) fn collect(regions: &[MemoryRegion]) -> Vec<Region> {
    let kind = |kind| if kind == MemoryRegionKind::Usable { RegionKind::Usable } else { RegionKind::Reserved };
    let region = |region: &MemoryRegion| Region {
        start: PhysAddr(region.start),
        len: region.end.saturating_sub(region.start),
        kind: kind(region.kind),
        node: NodeId(0),
    };
    regions.iter().map(region).collect()
}
