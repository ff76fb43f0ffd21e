//! Typed owners of blocks, and the way from any frame to its owner, at any time and without a lock.
//!
//! ```text
//!   alloc(request, owner) ─> descriptor ─> pages ─> publish ─┐            ┌─> Sighting: state, head, order, kind
//!                                                            ▼            │
//!   Block ─adopt──────────> descriptor ──────────> publish ─> Owned<T>    walk ─> look(any frame) ─> get ─> Reference
//!     ▲                                                        │ │                                            │
//!     └──────────── into_block, if nobody else refers ─────────┘ └─ drop ─> the last one frees <─── drop ─────┘
//! ```
//!
//! The owner's kind stands in the second word of the block's head, beside the address of a descriptor that was allocated
//! apart from the pages (`desc::owner_word` has the table of kinds, `descriptor` the life of descriptors). Nothing is
//! visible before it is whole: a descriptor is had first, then pages, then the two are made known to each other; what
//! fails in between gives back what there was, the owner's value too.
//!
//! `kinds`, `folio` with its `mapcount`, and `page_table` are what owners keep, `owners` the descriptors and the ways in,
//! `owned`, `raw` and `reference` what is held, `frozen` what nobody refers to while it changes, `walker` the look at any
//! frame, `blocks` the walk over all, `verify` the checker.
//!
//! Invariants: DESC-1 (an allocated page has exactly one owner; a descriptor and its pages name each other), DESC-2 (an
//! owner is looked at only under a reference).
//! Cost: an owned block costs an object and a handful of stores more than a plain one, whatever its order.
//!
//! Source: M. Wilcox, "State Of The Page", LSFMM 2024 (memory descriptors).

mod blocks;
mod folio;
#[cfg(all(test, loom))]
pub(crate) use folio::loom as flag_models;
mod frozen;
mod kinds;
mod mapcount;
mod owned;
mod owners;
mod page_table;
mod raw;
mod reference;
#[cfg(all(test, not(loom)))]
#[expect(unsafe_code, reason = "frees what must not be freed, and what it took raw")]
mod tests;
mod verify;
mod walker;

pub use blocks::{Blocks, PageTypes, Tally};
pub use folio::{Folio, FolioFlags, FolioRef, PinnedFolio};
pub(crate) use frozen::{Descriptors, Frozen};
pub use kinds::{CompressedStore, KernelStack, PerCpuArea, TaskId};
pub use mapcount::{MappedBy, Mappings, TooManyMappings};
pub use owned::Owned;
pub use owners::{OwnError, Owner, OwnerReport, Owners};
pub use page_table::{PageTable, TableGuard, TableLevel, TablePlace, TablesOfLevel, UsedEntries};
pub use reference::{Reference, Shared};
pub use walker::{Seen, Sighting, Walker};
