//! The allocator as its users see it: requests in, owned blocks out.
//!
//! `request` is what to ask for, `allocator` the zones and their locks, `at_hand` the way to what the CPU has without them,
//! `slowpath` the search for a zone that can serve, in the order of `zonelist` and counted in `numa`, `reclaim` how others
//! are asked to give something up, `drain` all that CPUs have at hand, `bulk` many blocks at a time, `block` the owned memory,
//! `access` its bytes,
//! `charges` who pays for it, `hwpoison` what becomes of memory that lies, `hotplug` sections that go out of use, `claim` what somebody has of an area, `specified` what it is held against, `setup` the way from a boot map, `adopt` the way for memory that was used before, `report`
//! the counts.

mod access;
mod adopt;
mod allocator;
#[cfg(all(test, not(loom), not(miri)))]
mod anatomy;
mod at_hand;
mod block;
mod bulk;
mod charges;
mod claim;
mod drain;
mod hotplug;
mod hwpoison;
mod numa;
mod owned;
mod reclaim;
mod report;
mod request;
mod setup;
mod slowpath;
mod specified;
#[cfg(all(test, not(loom)))]
#[expect(unsafe_code, reason = "takes back what it gave up")]
mod tests;
mod zonelist;

pub use adopt::AdoptError;
pub use allocator::{AllocError, FreeError, PageAllocator};
#[cfg(all(test, not(loom), not(miri)))]
pub(crate) use anatomy::Place;
pub use block::{Block, ContigRange};
pub use bulk::BlockBatch;
pub(crate) use claim::Claim;
pub use drain::CpuDown;
pub use hotplug::NotOffline;
pub use hwpoison::{FailedPage, FailureError, FailureOutcome, MemoryFailure, UnpoisonError};
pub use numa::NumaEvents;
pub use report::{Acquisitions, PageblockReport};
#[cfg(all(test, not(loom)))]
pub(crate) use request::Policy;
pub use request::Request;
pub use setup::SetupError;
