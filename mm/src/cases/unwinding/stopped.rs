//! How a script ends early: for want of memory, which is what it is for, or because something is wrong.

use thiserror::Error;

use super::super::Failure;
use crate::buddy::ContigError;
use crate::cache::{CacheError, GiveError, MemoryStoreError};
use crate::folio::SplitError;
use crate::invariant::Violation;
use crate::owner::OwnError;
use crate::page::AllocError;
use crate::slab::{CreateError, NoMemory, ReallocError};
use crate::space::{FaultError, GupError, MapError, RegionError, SpaceError};
use crate::subpage::BufferError;

/// How a script ends early.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum Stopped {
    /// Somebody said that there is no memory.
    #[error("there is no memory")]
    NoMemory,
    /// Something else than that.
    #[error("{0}")]
    Wrong(&'static str),
    /// An invariant is broken.
    #[error("{0}")]
    Broken(#[from] Violation),
}

impl Stopped {
    /// Where nothing was told to fail.
    pub(super) fn failure(self) -> Failure {
        match self {
            Self::NoMemory => Failure::Expected("what was not told to fail does not"),
            Self::Wrong(what) => Failure::Expected(what),
            Self::Broken(violation) => violation.into(),
        }
    }
}

impl From<NoMemory> for Stopped {
    fn from(_: NoMemory) -> Self {
        Self::NoMemory
    }
}

impl From<AllocError> for Stopped {
    fn from(error: AllocError) -> Self {
        match error {
            AllocError::Exhausted(_) => Self::NoMemory,
            AllocError::OrderTooLarge(_) => Self::Wrong("there are blocks of this order"),
            AllocError::Charge(_) => Self::Wrong("a group without a limit can pay"),
        }
    }
}

impl From<ContigError> for Stopped {
    fn from(error: ContigError) -> Self {
        match error {
            ContigError::NoSuchRun => Self::NoMemory,
            _ => Self::Wrong("a range that is free can be had"),
        }
    }
}

impl From<CreateError> for Stopped {
    fn from(error: CreateError) -> Self {
        match error {
            CreateError::NoMemory(_) => Self::NoMemory,
            CreateError::Impossible { .. } => Self::Wrong("there are objects of this size"),
        }
    }
}

impl From<ReallocError> for Stopped {
    fn from(error: ReallocError) -> Self {
        match error {
            ReallocError::NoMemory(_) => Self::NoMemory,
            ReallocError::NotAllocated(_) => Self::Wrong("memory that is somebody's can have another size"),
        }
    }
}

impl From<OwnError> for Stopped {
    fn from(error: OwnError) -> Self {
        match error {
            OwnError::Descriptor(error) => error.into(),
            OwnError::Pages(error) => error.into(),
            OwnError::Foreign => Self::Wrong("a block is this allocator's"),
        }
    }
}

impl From<SplitError> for Stopped {
    fn from(error: SplitError) -> Self {
        match error {
            SplitError::NoMemory(error) => error.into(),
            SplitError::NoSuchPieces | SplitError::Referred | SplitError::Pinned | SplitError::Nowhere => {
                Self::Wrong("a folio that nobody refers to can be split")
            }
        }
    }
}

impl From<MemoryStoreError> for Stopped {
    fn from(error: MemoryStoreError) -> Self {
        match error {
            MemoryStoreError::Pages(error) => error.into(),
            MemoryStoreError::List(error) => error.into(),
        }
    }
}

impl From<CacheError> for Stopped {
    fn from(error: CacheError) -> Self {
        match error {
            CacheError::Folio(error) => error.into(),
            CacheError::Node(error) => error.into(),
            CacheError::Store(_) | CacheError::Beyond(_) => Self::Wrong("a store takes and gives its contents"),
            CacheError::Lost(_) => Self::Wrong("no memory fails"),
        }
    }
}

impl From<GiveError> for Stopped {
    fn from(error: GiveError) -> Self {
        match error {
            GiveError::NoMemory(error) => error.into(),
            GiveError::Foreign | GiveError::Referred => Self::Wrong("a folio is the giver's alone"),
            GiveError::NoPlace(_) | GiveError::Occupied(_) => Self::Wrong("a folio has a place in a mapping"),
        }
    }
}

impl From<BufferError> for Stopped {
    fn from(error: BufferError) -> Self {
        match error {
            BufferError::NoMemory(error) => error.into(),
            BufferError::Store(_) => Self::Wrong("a store takes and gives its contents"),
        }
    }
}

impl From<SpaceError> for Stopped {
    fn from(error: SpaceError) -> Self {
        match error {
            SpaceError::Table(error) => error.into(),
            SpaceError::NoMemory(error) => error.into(),
            SpaceError::TooMany => Self::Wrong("there may be another space"),
        }
    }
}

impl From<RegionError> for Stopped {
    fn from(error: RegionError) -> Self {
        match error {
            RegionError::NoMemory(error) => error.into(),
            RegionError::Map(MapError::NoTable(error)) => error.into(),
            _ => Self::Wrong("a region can be made and changed"),
        }
    }
}

impl From<FaultError> for Stopped {
    fn from(error: FaultError) -> Self {
        match error {
            FaultError::Contents(error) => error.into(),
            FaultError::Map(MapError::NoTable(error)) => error.into(),
            _ => Self::Wrong("a user may access what is his"),
        }
    }
}

impl From<GupError> for Stopped {
    fn from(error: GupError) -> Self {
        match error {
            GupError::Fault(error) => error.into(),
            _ => Self::Wrong("a user's page can be pinned"),
        }
    }
}
