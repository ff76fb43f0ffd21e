//! The firmware's memory map, put in order.
//!
//! Firmware may list regions out of order, overlapping or empty. Here they are sorted, disjoint and coalesced; where
//! two overlap, anything beats RAM and otherwise the larger type number wins, so that memory is never called usable
//! on one line's word against another's.
//!
//! Cost: O(n²) in the entries, of which there are at most [`MAX_ENTRIES`].

use arrayvec::ArrayVec;
use bootloader_api::info::{MemoryRegion, MemoryRegionKind};
use x86_64::PhysAddr;

use crate::error::Error;
use crate::start_info::MemoryMapEntry;

/// Most entries a firmware may list (an E820 table has at most 128).
pub const MAX_ENTRIES: usize = 256;

/// Most regions that the entries can be cut into: every boundary starts at most one.
pub const MAX_REGIONS: usize = 2 * MAX_ENTRIES;

/// Nothing above 2 PiB is looked at: no CPU has memory there, and every address below can be rounded up.
pub(crate) const LIMIT: u64 = 1 << 51;

/// A region's type in the firmware's own numbers (E820).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct FirmwareKind(pub u32);

impl FirmwareKind {
    /// Memory for the operating system.
    pub const RAM: Self = Self(1);
    /// Address space that is no memory, or none of ours.
    pub const RESERVED: Self = Self(2);

    fn beats(self, other: Self) -> bool {
        (self != Self::RAM, self) > (other != Self::RAM, other)
    }
}

/// A run of one type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Region {
    /// The first byte.
    pub start: PhysAddr,
    /// One past the last byte.
    pub end: PhysAddr,
    /// What it is.
    pub kind: FirmwareKind,
}

/// Sorted, disjoint regions; neighbours that touch differ in type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryMap {
    regions: ArrayVec<Region, MAX_REGIONS>,
}

impl MemoryMap {
    /// Puts the firmware's entries in order.
    ///
    /// # Errors
    /// [`Error::MemoryMapTooLong`] beyond [`MAX_ENTRIES`].
    pub fn new(entries: impl Iterator<Item = MemoryMapEntry>) -> Result<Self, Error> {
        let mut listed = ArrayVec::<Region, MAX_ENTRIES>::new();
        let mut boundaries = ArrayVec::<PhysAddr, MAX_REGIONS>::new();
        for entry in entries {
            let start = PhysAddr::new(entry.start.min(LIMIT));
            let end = PhysAddr::new(entry.start.saturating_add(entry.length).min(LIMIT));
            if start < end {
                let region = Region { start, end, kind: FirmwareKind(entry.kind) };
                listed.try_push(region).map_err(|_| Error::MemoryMapTooLong)?;
                boundaries.push(start);
                boundaries.push(end);
            }
        }
        boundaries.sort_unstable();
        let mut regions = ArrayVec::<Region, MAX_REGIONS>::new();
        for (&start, &end) in boundaries.iter().zip(boundaries.iter().skip(1)).filter(|(start, end)| start < end) {
            let covering = listed.iter().filter(|region| region.start <= start && end <= region.end);
            let strongest = covering.map(|region| region.kind).reduce(|a, b| if b.beats(a) { b } else { a });
            match (strongest, regions.last_mut()) {
                (Some(kind), Some(last)) if last.end == start && last.kind == kind => last.end = end,
                (Some(kind), _) => regions.push(Region { start, end, kind }),
                (None, _) => {}
            }
        }
        Ok(Self { regions })
    }

    /// The regions in ascending order.
    pub fn regions(&self) -> &[Region] {
        &self.regions
    }

    /// The memory in ascending order.
    pub fn ram(&self) -> impl Iterator<Item = Region> {
        self.regions.iter().copied().filter(|region| region.kind == FirmwareKind::RAM)
    }

    /// How far a mapping of all memory must reach: to the end of the last region that is more than reserved address
    /// space, at least to 4 GiB.
    pub fn memory_end(&self) -> PhysAddr {
        let memory = self.regions.iter().filter(|region| region.kind != FirmwareKind::RESERVED);
        memory.map(|region| region.end).fold(PhysAddr::new(1 << 32), Ord::max)
    }
}

/// What a region of the firmware's is to the kernel, memory aside.
pub(crate) fn reported(region: Region) -> MemoryRegion {
    let kind = MemoryRegionKind::UnknownBios(region.kind.0);
    MemoryRegion { start: region.start.as_u64(), end: region.end.as_u64(), kind }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn map(entries: &[(u64, u64, u32)]) -> MemoryMap {
        let entries = entries.iter();
        MemoryMap::new(entries.map(|&(start, end, kind)| MemoryMapEntry { start, length: end - start, kind })).unwrap()
    }

    fn plain(map: &MemoryMap) -> Vec<(u64, u64, u32)> {
        map.regions().iter().map(|r| (r.start.as_u64(), r.end.as_u64(), r.kind.0)).collect()
    }

    #[test]
    fn disorder_and_touching_neighbours_become_one_sorted_run() {
        let map = map(&[(0x4000, 0x6000, 1), (0, 0x1000, 1), (0x1000, 0x4000, 1), (0x9000, 0x9000, 1)]);
        assert_eq!(plain(&map), [(0, 0x6000, 1)]);
    }

    #[test]
    fn a_reservation_inside_memory_cuts_it_in_two() {
        let map = map(&[(0, 0x10000, 1), (0x4000, 0x5000, 2), (0x4800, 0x6000, 4)]);
        let cut = [(0, 0x4000, 1), (0x4000, 0x4800, 2), (0x4800, 0x6000, 4), (0x6000, 0x10000, 1)];
        assert_eq!(plain(&map), cut);
    }

    #[test]
    fn an_entry_that_wraps_around_is_clipped_and_one_beyond_everything_is_dropped() {
        let wrap = MemoryMapEntry { start: LIMIT - 0x1000, length: u64::MAX, kind: 1 };
        let beyond = MemoryMapEntry { start: u64::MAX - 1, length: 5, kind: 1 };
        let map = MemoryMap::new([wrap, beyond].into_iter()).unwrap();
        assert_eq!(plain(&map), [(LIMIT - 0x1000, LIMIT, 1)]);
    }

    #[test]
    fn too_many_entries_are_an_error_and_the_most_allowed_are_not() {
        let entry = |index: usize| MemoryMapEntry { start: 0x2000 * index as u64, length: 0x1000, kind: 1 };
        assert_eq!(MemoryMap::new((0..MAX_ENTRIES).map(entry)).unwrap().regions().len(), MAX_ENTRIES);
        assert_eq!(MemoryMap::new((0..=MAX_ENTRIES).map(entry)), Err(Error::MemoryMapTooLong));
    }

    #[test]
    fn the_mapping_ends_with_memory_not_with_a_reservation_near_a_tebibyte() {
        let small = map(&[(0, 0x100_0000, 1), (0xfd_0000_0000, 0x100_0000_0000, 2)]);
        assert_eq!(small.memory_end(), PhysAddr::new(1 << 32));
        let large = map(&[(0x1_0000_0000, 0x2_8000_0000, 1), (0xfd_0000_0000, 0x100_0000_0000, 2)]);
        assert_eq!(large.memory_end(), PhysAddr::new(0x2_8000_0000));
    }
}
