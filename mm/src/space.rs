//! Users' address spaces.
//!
//! `mmu` is the door to the machine that walks page tables.

mod mmu;

pub use mmu::{Access, Accessed, Mmu, PageEntry, PageProtection, TableEntry};
