//! Why a list of regions cannot become a boot map.

use core::fmt;

use thiserror::Error;

use super::Region;

/// A region and where it stands in the caller's list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NumberedRegion {
    /// The index in the slice that was passed in.
    pub index: usize,
    /// What stands there.
    pub region: Region,
}

impl fmt::Display for NumberedRegion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "region {} ({})", self.index, self.region)
    }
}

/// Why there is no boot map, and which region is to blame.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum BootMapError {
    /// The region ends past the last address there is.
    #[error("{0} wraps around the address space")]
    Wraps(NumberedRegion),
    /// The region is usable and ends above the 16 TiB that a frame number reaches.
    #[error("{0} ends above the 16 TiB that a frame number reaches")]
    TooHigh(NumberedRegion),
    /// Two usable regions of different nodes share memory.
    #[error("{first} and {second} overlap, but are of different nodes")]
    NodesOverlap {
        /// The one that comes first in the list.
        first: NumberedRegion,
        /// The other.
        second: NumberedRegion,
    },
    /// The map has more extents than there is room for.
    #[error("{region} does not fit: the map has room for {capacity} extents")]
    TooManyExtents {
        /// The usable region in which the first extent without room begins.
        region: NumberedRegion,
        /// How many fit.
        capacity: usize,
    },
    /// No frame is usable.
    #[error("no region leaves a usable frame")]
    NoUsableMemory,
}
