//! The allocator as its users see it: requests in, owned blocks out.
//!
//! `request` is what to ask for, `allocator` the zones and their locks, `at_hand` the
//! way to what the CPU has without them, `drain` all that CPUs have, `block` the owned memory, `access` its bytes, `bulk` many blocks at a time,
//! `charges` who pays for it, `setup` the way from a boot map, `adopt` the way for memory that was used before, `report`
//! the counts.

mod access;
mod adopt;
mod allocator;
mod at_hand;
mod block;
mod bulk;
mod charges;
mod drain;
mod owned;
mod report;
mod request;
mod setup;
#[cfg(test)]
#[expect(unsafe_code, reason = "takes back what it gave up")]
mod tests;

pub use adopt::AdoptError;
pub use allocator::{AllocError, FreeError, PageAllocator};
pub use block::{Block, ContigRange};
pub use bulk::BlockBatch;
pub use report::{Acquisitions, PageblockReport};
pub use request::Request;
pub use setup::SetupError;
