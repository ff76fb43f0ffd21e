//! A page allocator whose page descriptor is two words.
#![no_std]
#![deny(unsafe_code)]

#[cfg(test)]
extern crate std;

pub mod boot_map;
mod buddy;
mod desc;
mod early;
#[cfg(test)]
mod exhaustive;
mod freelist;
pub mod invariant;
pub mod machine;
pub mod migratetype;
pub mod page;
pub mod units;
pub mod zone;

pub use buddy::ContigError;
pub use desc::word::PageState;
pub use early::MetadataBytes;
