//! A page allocator whose page descriptor is two words.
#![no_std]

#[cfg(test)]
extern crate std;

pub mod boot_map;
pub mod machine;
pub mod migratetype;
pub mod units;
