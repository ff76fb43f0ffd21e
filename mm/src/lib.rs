//! A page allocator whose page descriptor is two words.
#![no_std]

pub mod machine;
pub mod migratetype;
pub mod units;
