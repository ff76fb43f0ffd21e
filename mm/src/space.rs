//! Users' address spaces: page tables that remember what memory objects say.
//!
//! ```text
//!   Spaces ── number ──> Tables <──────────────┐
//!     └─> Space ─> regions, by address ─> Region ─> mapping ─> folios ─> pages
//!           └────> Tables ─> entries ·························· lead to ···┘
//! ```
//!
//! A space is its regions: which mapping is shown at which addresses. Entries of its tables only remember where that led,
//! and any of them may go at any time; whoever needs it faults, and finds the page again. An entry needs no more than a
//! frame and a protection, so any piece of a folio can stand anywhere, and a folio is allocated in one size and mapped in
//! another; its one mapcount says how many entries lead to it, and whether they are all one space's.
//!
//! `mmu` is the door to the machine that walks tables. `tables` are those of one space and their lock, `walk` the look at
//! them, `map` and `rewrite` what puts entries in and takes them out, `gather` what waits for processors to forget, all of
//! them in terms of [`AddressRange`] (`range`). `region` is a part of a space and what the reverse map sees of it,
//! `regions` all of them by address, `spaces` how spaces come and go, `registry` their numbers. On these stand `fault`,
//! `fork`, `gup`, tables that move (`relocate`), and the checker (`verify`).
//!
//! Lock order: a space's regions; then a folio; then a family of mappings; then a space's tables; then the cache's lists.
//! What may reclaim is done under no other lock than that of regions.
//!
//! Invariants: SPACE-1 (`walk`), SPACE-2 (`region`), SPACE-3 (`spaces`), CACHE-3, MAP-1.
//! Source: R. Rashid et al., "Machine-Independent Virtual Memory Management", ASPLOS 1987 (page tables as a cache).

mod fault;
mod fork;
mod gather;
mod gup;
mod map;
mod mmu;
mod range;
mod region;
mod regions;
mod registry;
mod relocate;
mod rewrite;
mod spaces;
mod tables;
#[cfg(all(test, not(loom)))]
#[expect(unsafe_code, reason = "frees objects that it took raw")]
mod tests;
mod verify;
mod walk;

pub use fault::FaultError;
pub use gup::{GupError, UserPages, UserRun};
pub use map::MapError;
pub use mmu::{Access, Accessed, Mmu, PageEntry, PageProtection, TableEntry};
pub use range::AddressRange;
pub use region::{RegionError, Sharing};
pub use relocate::TableStays;
pub use spaces::{Space, SpaceError, SpaceRef, Spaces};
pub use tables::TooManyTables;
