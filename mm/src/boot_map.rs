//! The boot memory map: what firmware said, made fit to build an allocator on.
//!
//! A loader's list of [`Region`]s may be in any order, overlapping, unaligned, adjacent, empty or absurdly large. Out
//! of it comes an ascending list of [`Extent`]s: whole frames, disjoint, each usable or reserved, each of one node.
//!
//! * A frame is *usable* if usable regions of one node cover all its bytes and no reserved region touches it.
//! * A frame is *reserved* if usable regions of one node cover all its bytes and a reserved region touches it, or if
//!   it was [carved out](BootMap::carve). Reserved regions elsewhere leave no trace, however large: what is not in an
//!   extent is a hole.
//! * Frame 0 is always a hole, so that no block has the number that looks like "none".
//!
//! Invariants: extents ascend, are disjoint and not empty; two that touch differ in node or kind; at least one is
//! usable when the map is made.
//!
//! Cost: for `r` regions and `e` extents, making the map takes O(r² + r·e) steps and no memory beside the map itself,
//! which is 12 bytes an extent.

use core::fmt;

use arrayvec::ArrayVec;

use crate::units::{NodeId, Pfn, PfnRange, PhysAddr};

mod carve;
mod error;
mod split_nodes;
mod sweep;

pub use carve::CarveError;
pub use error::{BootMapError, NumberedRegion};
pub use split_nodes::SplitError;

/// What a region or an extent may be used for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum RegionKind {
    /// Memory that nobody else uses.
    Usable,
    /// Not to be handed out: firmware, the kernel's image, devices, or what an early layer has taken.
    Reserved,
}

/// One line of a loader's memory map.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Region {
    /// The first byte.
    pub start: PhysAddr,
    /// The size in bytes.
    pub len: u64,
    /// Whether the bytes may be used. Reserved wins where regions overlap.
    pub kind: RegionKind,
    /// The node the memory belongs to; without meaning for reserved regions.
    pub node: NodeId,
}

impl Region {
    /// The last byte; `None` if the region is empty or does not end inside the address space.
    fn last(self) -> Option<u64> {
        self.start.0.checked_add(self.len.checked_sub(1)?)
    }
}

impl fmt::Display for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            RegionKind::Usable => "usable",
            RegionKind::Reserved => "reserved",
        };
        write!(f, "{kind}, node {}, {:#x} bytes at {:#x}", self.node.0, self.len, self.start.0)
    }
}

/// A run of frames of one node and one kind.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Extent {
    /// The frames.
    pub range: PfnRange,
    /// The node they belong to.
    pub node: NodeId,
    /// Whether they are free to use.
    pub kind: RegionKind,
}

impl Extent {
    /// Whether `next` goes on where this one ends, as the same thing.
    fn continues_in(self, next: Self) -> bool {
        self.range.end == next.range.start && self.node == next.node && self.kind == next.kind
    }
}

/// The sanitised memory map, with room for `CAPACITY` extents.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BootMap<const CAPACITY: usize = 512> {
    extents: ArrayVec<Extent, CAPACITY>,
}

/// There is no room for another extent.
#[derive(Debug)]
struct Full;

impl<const CAPACITY: usize> BootMap<CAPACITY> {
    /// Makes sense of a loader's list of regions.
    ///
    /// # Errors
    /// Names the region at fault if one wraps around the address space, offers memory that a frame number cannot
    /// reach, overlaps usable memory of another node, or needs more extents than fit; or there is no usable frame.
    /// Reserved regions are never too high: what they cover up there is of no interest.
    pub fn new(regions: &[Region]) -> Result<Self, BootMapError> {
        sweep::validate(regions)?;
        let mut map = Self { extents: ArrayVec::new() };
        for piece in sweep::pieces(regions) {
            map.append(piece.extent)
                .map_err(|Full| BootMapError::TooManyExtents { region: piece.region, capacity: CAPACITY })?;
        }
        if map.usable_pages() == 0 {
            return Err(BootMapError::NoUsableMemory);
        }
        Ok(map)
    }

    /// All extents in ascending order.
    pub fn extents(&self) -> &[Extent] {
        &self.extents
    }

    /// The usable runs in ascending order, each with its node.
    pub fn usable(&self) -> impl DoubleEndedIterator<Item = (PfnRange, NodeId)> + Clone {
        self.extents.iter().filter(|extent| extent.kind == RegionKind::Usable).map(|extent| (extent.range, extent.node))
    }

    /// Usable frames in all.
    pub fn usable_pages(&self) -> u32 {
        self.usable().map(|(range, _)| range.pages()).sum()
    }

    /// One past the highest usable frame; frame 0 if nothing is usable any more.
    pub fn usable_end(&self) -> Pfn {
        self.usable().next_back().map_or(Pfn::new(0), |(range, _)| range.end)
    }

    /// Adds an extent above all others.
    fn append(&mut self, extent: Extent) -> Result<(), Full> {
        match self.extents.last_mut() {
            Some(last) if last.continues_in(extent) => {
                last.range.end = extent.range.end;
                Ok(())
            }
            _ => self.extents.try_push(extent).map_err(|_| Full),
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
