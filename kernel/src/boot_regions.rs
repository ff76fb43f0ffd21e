//! The machine's memory as the loader lists it, before `mm` makes sense of it: what there is at all.

use alloc::vec::Vec;

use mm::boot_map::Region;
use mm::units::{PAGE_SIZE, Pfn, PfnRange, PhysAddr};

/// The frames below `end` that any region touches, usable or not, as runs in ascending order that neither meet nor
/// overlap. The regions may be in any order, unaligned, empty or overlapping.
pub fn touched_frames(regions: &[Region], end: Pfn) -> Vec<PfnRange> {
    let touched = |region: &Region| {
        let frame = |address| Pfn::containing(PhysAddr(address)).unwrap_or(Pfn::LIMIT).min(end);
        let behind = region.start.0.saturating_add(region.len);
        PfnRange::new(frame(region.start.0), frame(behind.saturating_add(PAGE_SIZE as u64 - 1)))
    };
    let mut runs: Vec<PfnRange> = regions.iter().filter(|region| region.len > 0).map(touched).collect();
    runs.retain(|run| !run.is_empty());
    runs.sort_by_key(|run| run.start);
    runs.dedup_by(|next, run| {
        let meets = next.start <= run.end;
        if meets {
            run.end = run.end.max(next.end);
        }
        meets
    });
    runs
}

#[cfg(test)]
mod tests {
    use mm::boot_map::RegionKind;
    use mm::units::NodeId;

    use super::*;

    fn region(start: u64, end: u64, kind: RegionKind) -> Region {
        Region { start: PhysAddr(start), len: end - start, kind, node: NodeId(0) }
    }

    fn runs(regions: &[Region], end: u32) -> Vec<(u32, u32)> {
        touched_frames(regions, Pfn::new(end)).iter().map(|run| (run.start.number(), run.end.number())).collect()
    }

    #[test]
    fn frames_that_meet_or_overlap_are_one_run_and_the_boundary_cuts() {
        let regions = [
            region(0x9_fc00, 0xa_0000, RegionKind::Reserved),
            region(0x30_0000, 0x40_0000, RegionKind::Usable),
            region(0, 0x9_fc00, RegionKind::Usable),
            region(0x10_0000, 0x20_0000, RegionKind::Usable),
            region(0x18_0000, 0x28_0001, RegionKind::Reserved),
            region(0x50_0000, 0x50_0000, RegionKind::Usable),
        ];
        assert_eq!(runs(&regions, 0x350), [(0, 0xa0), (0x100, 0x281), (0x300, 0x350)]);
        assert_eq!(runs(&regions, 0x300), [(0, 0xa0), (0x100, 0x281)]);
        assert_eq!(runs(&regions, 0), []);
    }

    #[test]
    fn a_region_beyond_what_a_frame_number_reaches_is_cut_and_not_wrapped() {
        let regions = [region(u64::MAX - 1, u64::MAX, RegionKind::Usable), region(0, u64::MAX, RegionKind::Reserved)];
        assert_eq!(runs(&regions, u32::MAX), [(0, u32::MAX)]);
        assert_eq!(runs(&regions[..1], u32::MAX), []);
    }
}
