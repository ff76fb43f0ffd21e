//! From regions in any order to extents in ascending order, without sorting or remembering anything.
//!
//! Usable regions are joined byte by byte before they shrink to whole frames, so two halves of a frame make a frame.
//! The sweep asks the caller's slice again for each step, so what it finds does not depend on the slice's order.

use crate::units::{NodeId, PAGE_SHIFT, PAGE_SIZE, Pfn, PfnRange};

use super::{BootMapError, Extent, NumberedRegion, Region, RegionKind};

/// Turns away what no boot map can hold.
pub(super) fn validate(regions: &[Region]) -> Result<(), BootMapError> {
    for (index, &region) in regions.iter().enumerate().filter(|(_, region)| region.len > 0) {
        let numbered = NumberedRegion { index, region };
        let last = region.last().ok_or(BootMapError::Wraps(numbered))?;
        if region.kind == RegionKind::Reserved {
            continue;
        }
        if last >= Pfn::LIMIT.address().0 {
            return Err(BootMapError::TooHigh(numbered));
        }
        let foreign = usable(&regions[..index]).find(|other| {
            other.region.node != region.node
                && other.region.start.0 <= last
                && other.region.last().is_some_and(|other_last| other_last >= region.start.0)
        });
        if let Some(first) = foreign {
            return Err(BootMapError::NodesOverlap { first, second: numbered });
        }
    }
    Ok(())
}

/// An extent and the region it begins in.
pub(super) struct Piece {
    pub(super) extent: Extent,
    pub(super) region: NumberedRegion,
}

/// The extents that `regions` make, ascending. The regions must be [valid](validate).
pub(super) fn pieces(regions: &[Region]) -> impl Iterator<Item = Piece> {
    runs(regions).flat_map(move |run| {
        let mut rest = run.frames;
        core::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            let (kind, end) = kind_and_end(regions, rest.start);
            let range = PfnRange::new(rest.start, end.min(rest.end));
            rest.start = range.end;
            Some(Piece { extent: Extent { range, node: run.node, kind }, region: run.region })
        })
    })
}

/// Whole frames that usable regions of one node cover.
struct Run {
    frames: PfnRange,
    node: NodeId,
    region: NumberedRegion,
}

/// The runs in ascending order; some may be empty.
fn runs(regions: &[Region]) -> impl Iterator<Item = Run> {
    let mut covered = 0;
    core::iter::from_fn(move || {
        // Runs are as long as they can be and nodes do not overlap: what ends above the last run starts above it.
        let first = usable(regions)
            .filter(|usable| usable.region.last().is_some_and(|last| last >= covered))
            .min_by_key(|usable| usable.region.start)?;
        let Region { start, node, .. } = first.region;
        // The regions are valid, so their ends are addresses too.
        let of_node = usable(regions)
            .filter(|usable| usable.region.node == node)
            .map(|usable| (usable.region.start.0, usable.region.start.0.saturating_add(usable.region.len)));
        covered = grow(start.0, &of_node);
        let frames =
            PfnRange::new(frame(start.0.div_ceil(PAGE_SIZE as u64)).max(Pfn::new(1)), frame(covered >> PAGE_SHIFT));
        Some(Run { frames, node, region: first })
    })
}

/// Whether a frame of usable memory is reserved, and up to where that stays so.
fn kind_and_end(regions: &[Region], start: Pfn) -> (RegionKind, Pfn) {
    let number = u64::from(start.number());
    let reserved = regions
        .iter()
        .filter(|region| region.kind == RegionKind::Reserved)
        .filter_map(|region| Some((region.start.0 >> PAGE_SHIFT, (region.last()? >> PAGE_SHIFT) + 1)));
    let end = grow(number, &reserved);
    if end > number {
        return (RegionKind::Reserved, frame(end));
    }
    let next = reserved.map(|(start, _)| start).filter(|&start| start > number).min();
    (RegionKind::Usable, next.map_or(Pfn::LIMIT, frame))
}

/// How far one gets from `end` by stepping on intervals that touch.
fn grow(mut end: u64, intervals: &(impl Iterator<Item = (u64, u64)> + Clone)) -> u64 {
    loop {
        let further = intervals.clone().filter(|&(start, _)| start <= end).map(|(_, end)| end).max();
        match further {
            Some(further) if further > end => end = further,
            _ => return end,
        }
    }
}

/// The usable regions that are not empty.
fn usable(regions: &[Region]) -> impl Iterator<Item = NumberedRegion> + Clone {
    regions
        .iter()
        .enumerate()
        .filter(|(_, region)| region.kind == RegionKind::Usable && region.len > 0)
        .map(|(index, &region)| NumberedRegion { index, region })
}

/// The frame with this number, or the limit.
fn frame(number: u64) -> Pfn {
    u32::try_from(number).map_or(Pfn::LIMIT, Pfn::new)
}
