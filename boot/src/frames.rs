//! Memory that nobody has taken yet, and what the kernel is told about it.
//!
//! One sorted list of whole free frames: what must not be touched is cut out first, then blocks are taken from the
//! lowest range that holds them, from its start, so that what the loader takes stays in one piece behind the loader.
//! What is left at the end is the kernel's; memory that is not left is the loader's.
//!
//! Blocks lie between 1 MiB (below are the BIOS's areas and the pages where other CPUs start) and 4 GiB (the loader's
//! own mapping).
//!
//! Cost: O(ranges) a block.

use arrayvec::ArrayVec;
use bootloader_api::info::{MemoryRegion, MemoryRegionKind};
use x86_64::PhysAddr;
use x86_64::structures::paging::frame::PhysFrameRange;
use x86_64::structures::paging::{PageSize, PhysFrame, Size4KiB};

use crate::error::Error;
use crate::memory_map::{FirmwareKind, LIMIT, MAX_REGIONS, MemoryMap, reported};
use crate::start_info::Extent;

/// Free ranges: a region of memory each, one more for every reservation inside one and for the cut at 1 MiB.
const MAX_RANGES: usize = MAX_REGIONS + 16;

const FIRST_BLOCK: u64 = 1 << 20;
const REACHABLE: u64 = 1 << 32;

/// Frames that nobody else has: whoever holds one may write to them.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "dropping a block loses its frames"]
pub struct Block {
    frames: PhysFrameRange,
}

impl Block {
    /// Its frames, in ascending order.
    pub fn frames(&self) -> PhysFrameRange {
        self.frames
    }

    /// Its frames, for whoever uses them up.
    pub fn into_frames(self) -> PhysFrameRange {
        self.frames
    }

    /// Its first byte.
    pub fn start(&self) -> PhysAddr {
        self.frames.start.start_address()
    }
}

/// The free frames.
///
/// # Invariants
/// Ranges are sorted, disjoint and not empty; none crosses 1 MiB.
#[derive(Debug, Clone)]
pub struct FreeMemory {
    ranges: ArrayVec<PhysFrameRange, MAX_RANGES>,
}

impl FreeMemory {
    /// All whole frames of the machine's memory, without frame 0: the BIOS's data and null pointers are there.
    ///
    /// # Errors
    /// [`Error::MemoryMapTooLong`] if the map is too ragged.
    pub fn new(map: &MemoryMap) -> Result<Self, Error> {
        let mut ranges = ArrayVec::new();
        for region in map.ram() {
            let start = PhysFrame::containing_address(region.start.align_up(Size4KiB::SIZE));
            let end = PhysFrame::containing_address(region.end);
            if start < end {
                ranges.try_push(PhysFrameRange { start, end }).map_err(|_| Error::MemoryMapTooLong)?;
            }
        }
        let mut free = Self { ranges };
        free.reserve(Extent { start: PhysAddr::zero(), length: 1 })?;
        // INVARIANT: no range crosses 1 MiB, so that taking from a range's start never splits it.
        free.cut_at(PhysFrame::containing_address(PhysAddr::new(FIRST_BLOCK)))?;
        Ok(free)
    }

    /// Takes every frame out that the extent touches.
    ///
    /// # Errors
    /// [`Error::MemoryMapTooLong`] if there are too many.
    pub fn reserve(&mut self, extent: Extent) -> Result<(), Error> {
        let end = extent.start.as_u64().saturating_add(extent.length).min(LIMIT);
        if end <= extent.start.as_u64() {
            return Ok(());
        }
        let taken_start = PhysFrame::containing_address(extent.start);
        let taken_end = PhysFrame::containing_address(PhysAddr::new(end).align_up(Size4KiB::SIZE));
        self.cut_at(taken_start)?;
        self.cut_at(taken_end)?;
        self.ranges.retain(|range| range.end <= taken_start || taken_end <= range.start);
        Ok(())
    }

    /// Takes `pages` frames in one piece.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`], which says what they were for.
    pub fn allocate(&mut self, what: &'static str, pages: u64) -> Result<Block, Error> {
        self.take(pages).ok_or(Error::OutOfMemory { what, pages })
    }

    /// What is left.
    pub fn ranges(&self) -> &[PhysFrameRange] {
        &self.ranges
    }

    /// How many regions [`report`](Self::report) can yield, now and after any number of allocations.
    pub fn report_bound(&self, map: &MemoryMap) -> usize {
        // INVARIANT: an allocation never adds a range, and every range splits one region in two and adds itself.
        map.regions().len() + 2 * self.ranges.len()
    }

    /// The memory map for the kernel, in ascending order: what is left is usable, other memory is the loader's, and
    /// the rest is what the firmware says.
    pub fn report(&self, map: &MemoryMap, mut each: impl FnMut(MemoryRegion)) {
        for &region in map.regions() {
            if region.kind != FirmwareKind::RAM {
                each(reported(region));
                continue;
            }
            let (start, end) = (region.start.as_u64(), region.end.as_u64());
            let inside = self.ranges.iter().map(bounds).filter(|&(low, high)| start <= low && high <= end);
            let mut told = start;
            for (low, high) in inside {
                if told < low {
                    each(MemoryRegion { start: told, end: low, kind: MemoryRegionKind::Bootloader });
                }
                each(MemoryRegion { start: low, end: high, kind: MemoryRegionKind::Usable });
                told = high;
            }
            if told < end {
                each(MemoryRegion { start: told, end, kind: MemoryRegionKind::Bootloader });
            }
        }
    }

    fn take(&mut self, pages: u64) -> Option<Block> {
        let fits = |range: &PhysFrameRange| {
            let (low, high) = bounds(range);
            FIRST_BLOCK <= low && high.min(REACHABLE).saturating_sub(low) / Size4KiB::SIZE >= pages
        };
        let index = self.ranges.iter().position(fits)?;
        let range = &mut self.ranges[index];
        let start = range.start;
        range.start += pages;
        let frames = PhysFrameRange { start, end: range.start };
        if range.is_empty() {
            self.ranges.remove(index);
        }
        Some(Block { frames })
    }

    fn cut_at(&mut self, at: PhysFrame) -> Result<(), Error> {
        let Some(index) = self.ranges.iter().position(|range| range.start < at && at < range.end) else {
            return Ok(());
        };
        let upper = PhysFrameRange { start: at, end: self.ranges[index].end };
        self.ranges.try_insert(index + 1, upper).map_err(|_| Error::MemoryMapTooLong)?;
        self.ranges[index].end = at;
        Ok(())
    }
}

fn bounds(range: &PhysFrameRange) -> (u64, u64) {
    (range.start.start_address().as_u64(), range.end.start_address().as_u64())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory_map::tests::map;
    use MemoryRegionKind::{Bootloader, UnknownBios, Usable};

    fn extent(start: u64, end: u64) -> Extent {
        Extent { start: PhysAddr::new(start), length: end - start }
    }

    fn told(free: &FreeMemory, map: &MemoryMap) -> Vec<(u64, u64, MemoryRegionKind)> {
        let mut told = Vec::new();
        free.report(map, |region| told.push((region.start, region.end, region.kind)));
        assert!(told.len() <= free.report_bound(map));
        assert!(told.windows(2).all(|pair| pair[0].1 <= pair[1].0), "out of order: {told:x?}");
        told
    }

    fn pc() -> MemoryMap {
        map(&[(0, 0x9_fc00, 1), (0x9_fc00, 0xa_0000, 2), (0xf_0000, 0x10_0000, 2), (0x10_0000, 0x100_0000, 1)])
    }

    #[test]
    fn frame_0_and_a_broken_last_frame_are_not_usable() {
        let (map, free) = (pc(), FreeMemory::new(&pc()).unwrap());
        let low: Vec<_> = told(&free, &map).into_iter().take(4).collect();
        let (usable, broken) = ((0x1000, 0x9_f000, Usable), (0x9_f000, 0x9_fc00, Bootloader));
        assert_eq!(low, [(0, 0x1000, Bootloader), usable, broken, (0x9_fc00, 0xa_0000, UnknownBios(2))]);
    }

    #[test]
    fn blocks_follow_each_other_and_go_around_what_is_reserved() {
        let map = pc();
        let mut free = FreeMemory::new(&map).unwrap();
        free.reserve(extent(0x10_0000, 0x12_3456)).unwrap();
        free.reserve(extent(0x12_6800, 0x12_6801)).unwrap();
        let starts: Vec<_> = [2, 4, 1].map(|pages| free.allocate("a test", pages).unwrap().start().as_u64()).into();
        assert_eq!(starts, [0x12_4000, 0x12_7000, 0x12_b000]);
        let upper: Vec<_> = told(&free, &map).into_iter().filter(|region| region.0 >= 0x10_0000).collect();
        assert_eq!(upper, [(0x10_0000, 0x12_c000, Bootloader), (0x12_c000, 0x100_0000, Usable)]);
    }

    #[test]
    fn no_block_starts_below_1_mib_or_ends_above_4_gib() {
        let map = map(&[(0, 0x10_2000, 1), (0xffff_f000, 0x1_0010_0000, 1)]);
        let mut free = FreeMemory::new(&map).unwrap();
        assert_eq!(free.allocate("a test", 3), Err(Error::OutOfMemory { what: "a test", pages: 3 }));
        assert_eq!(free.allocate("a test", 2).unwrap().start().as_u64(), 0x10_0000);
        assert_eq!(free.allocate("a test", 1).unwrap().start().as_u64(), 0xffff_f000);
        assert!(free.allocate("a test", 1).is_err());
    }

    #[test]
    fn an_impossible_size_is_an_error() {
        let mut free = FreeMemory::new(&pc()).unwrap();
        assert!(free.allocate("a test", u64::MAX).is_err());
        assert!(free.allocate("a test", 0xf00).is_ok());
        assert!(free.allocate("a test", 1).is_err());
    }

    #[test]
    fn a_reservation_may_cover_ranges_holes_and_nothing_at_all() {
        let map = pc();
        let mut free = FreeMemory::new(&map).unwrap();
        free.reserve(extent(0x5000, 0x80_0001)).unwrap();
        free.reserve(Extent { start: PhysAddr::new(LIMIT + 0x1000), length: u64::MAX }).unwrap();
        free.reserve(extent(0x90_0000, 0x90_0000)).unwrap();
        let usable: Vec<_> = told(&free, &map).into_iter().filter(|region| region.2 == Usable).collect();
        assert_eq!(usable, [(0x1000, 0x5000, Usable), (0x80_1000, 0x100_0000, Usable)]);
    }

    #[test]
    fn the_bound_on_the_report_holds_before_and_after_any_allocation() {
        let map = pc();
        let mut free = FreeMemory::new(&map).unwrap();
        for frame in (0x20_0000..0x40_0000).step_by(0x10_0000) {
            free.reserve(extent(frame, frame + 1)).unwrap();
        }
        let bound = free.report_bound(&map);
        while free.allocate("a test", 7).is_ok() {
            assert!(told(&free, &map).len() <= bound);
        }
    }
}
