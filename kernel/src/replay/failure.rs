//! Why a replay does not come to a good end.

use mm::charge::TooManyGroups;
use mm::invariant::Violation;
use mm::page::AllocError;
use mm::slab::NoMemory;
use mm::trace::{BadEnd, HeaderError, RecordError};
use mm::units::Order;
use thiserror::Error;

use super::held::Id;
use super::pattern::Broken;
use crate::fw_cfg::FileError;
use crate::memory::Wholeness;

/// What is wrong with the trace, the machine or the allocator. Operations count from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(super) enum Failure {
    #[error("no trace: {0}")]
    File(FileError),
    #[error("malformed trace: {0}")]
    Header(HeaderError),
    #[error("malformed trace: {0}")]
    Record(RecordError),
    #[error("malformed trace: {0}")]
    End(BadEnd),
    #[error("malformed trace: operation {operation} allocates block {}, which is allocated", id.0)]
    Taken { operation: u64, id: Id },
    #[error("malformed trace: operation {operation} frees block {}, which is not allocated", id.0)]
    NotLive { operation: u64, id: Id },
    #[error("malformed trace: operation {operation} frees block {} of {allocated:?} as one of {freed:?}", id.0)]
    OtherOrder { operation: u64, id: Id, freed: Order, allocated: Order },
    #[error("malformed trace: at most {seen} pages are live at one time, but {announced} were announced")]
    OtherPeak { announced: u32, seen: u32 },
    #[error("no room for a table of {blocks} blocks")]
    Table { blocks: u32 },
    #[error("no mapping for folios: {0}")]
    Mapping(NoMemory),
    #[error("no group to charge: {0}")]
    Group(TooManyGroups),
    #[error("after {operations} operations the group is charged {charged} pages, and {live} charged pages are live")]
    Charges { operations: u64, charged: u32, live: u32 },
    #[error("operation {operation}: {error}, while {live_pages} pages of the trace are live")]
    Alloc { operation: u64, error: AllocError, live_pages: u32 },
    #[error("operation {operation}: block {}: {broken}", id.0)]
    Pattern { operation: u64, id: Id, broken: Broken },
    #[error("after {operations} operations: {violation}")]
    Invariant { operations: u64, violation: Violation },
    #[error("memory has not coalesced: before the replay {before}, after it {after}")]
    NotCoalesced { before: Wholeness, after: Wholeness },
}
