//! Users' address spaces.
//!
//! `mmu` is the door to the machine that walks page tables.

mod gather;
mod map;
mod mmu;
mod range;
mod rewrite;
mod tables;
#[cfg(test)]
mod tests;
mod verify;
mod walk;

pub use map::MapError;
pub use mmu::{Access, Accessed, Mmu, PageEntry, PageProtection, TableEntry};
pub use range::AddressRange;
pub use rewrite::UnmapHow;
pub use tables::TooManyTables;
