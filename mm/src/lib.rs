//! A page allocator whose page descriptor is two words.
#![no_std]
#![deny(unsafe_code)]

#[cfg(any(test, feature = "host"))]
extern crate std;

#[cfg(test)]
mod arena;
mod block;
pub mod boot_map;
mod buddy;
#[cfg(feature = "cases")]
pub mod cases;
mod desc;
mod early;
#[cfg(test)]
mod exhaustive;
mod freelist;
#[cfg(feature = "host")]
#[expect(unsafe_code, reason = "it maps memory, and answers for the Machine it is")]
pub mod host;
pub mod invariant;
pub mod machine;
pub mod migratetype;
#[cfg(test)]
mod model;
pub mod page;
pub mod trace;
pub mod units;
pub mod zone;

pub use buddy::ContigError;
pub use desc::word::PageState;
pub use early::MetadataBytes;
