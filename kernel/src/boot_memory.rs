//! The loader's memory map in the kernel's own words.

use alloc::vec::Vec;
use core::ops::Range;

use bootloader_api::BootInfo;
use bootloader_api::info::{MemoryRegion, MemoryRegionKind};
use mm::boot_map::{Region, RegionKind};
use mm::units::{NodeId, PhysAddr};

use crate::image::Segments;

/// Everything that the loader lists: what it does not call usable is reserved, its own data and the kernel among it,
/// but for what is [left over](leftover) of the kernel's file. The loader's own is memory nevertheless, and what of it
/// is in use now may be handed in later.
pub(crate) fn collect(boot_info: &BootInfo) -> Vec<Region> {
    let leftover = leftover(boot_info);
    boot_info.memory_regions.iter().flat_map(|region| pieces(region, &leftover)).collect()
}

/// The end of the kernel's ELF file, which is most of it: symbols and debug information. The kernel never reads them,
/// since backtraces get their names on the host, and no loader maps them. The segments in front of them stay, as a
/// loader may have mapped them where they are in the file.
fn leftover(boot_info: &BootInfo) -> Range<u64> {
    // Without an ELF header there is no telling what is in use.
    let in_use = Segments::of_kernel().map_or(u64::MAX, |segments| segments.loaded_file_len());
    boot_info.kernel_addr.saturating_add(in_use)..boot_info.kernel_addr.saturating_add(boot_info.kernel_len)
}

/// A region of the loader's, cut at the edges of `leftover`, which is usable if the region is the loader's own.
fn pieces(region: &MemoryRegion, leftover: &Range<u64>) -> impl Iterator<Item = Region> + use<> {
    let from = leftover.start.clamp(region.start, region.end.max(region.start));
    let to = leftover.end.clamp(from, region.end.max(from));
    let (kind, inside) = match region.kind {
        MemoryRegionKind::Usable => (RegionKind::Usable, RegionKind::Usable),
        MemoryRegionKind::Bootloader => (RegionKind::Reserved, RegionKind::Usable),
        _ => (RegionKind::Reserved, RegionKind::Reserved),
    };
    let piece = |start, end: u64, kind| Region {
        start: PhysAddr(start),
        len: end.saturating_sub(start),
        kind,
        node: NodeId(0),
    };
    // Where regions overlap, being reserved wins.
    let memory = (region.kind == MemoryRegionKind::Bootloader).then(|| piece(region.start, region.end, inside));
    [piece(region.start, from, kind), piece(from, to, inside), piece(to, region.end, kind)]
        .into_iter()
        .chain(memory)
        .filter(|piece| piece.len > 0)
}
