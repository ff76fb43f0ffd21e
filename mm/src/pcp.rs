//! Pages at hand: for each CPU and zone, blocks that are free and that the CPU has without the zone's lock.
//!
//! ```text
//!   alloc, free ──> this CPU's list ──empty: refill, full: drain──> the zone: freelists, buddy
//!                   no lock, no atomic RMW    many blocks for one lock      or its shelf: other CPUs' blocks, as they are
//! ```
//!
//! There is a list for each order up to a pageblock's and for each migratetype that is asked for. A block goes to the list
//! of the CPU that frees it, whichever CPU had it and whichever node its zone is of: so a remote free costs what a local
//! one does, and the zone's lock is taken once for a whole batch.
//!
//! `list` is one list and how large it wants to be, `gate` whose the lists are at the moment, `caches` all of them.
//!
//! Invariants: PCP-1 (a block at hand is on one list, of the zone and order that its head says, of one CPU or the zone's shelf;
//! it counts as free, and its head's second word says which frame that is), GATE-1 (a CPU's lists are its own while it is busy, or
//! whoever's who has closed them and seen it idle).
//!
//! Source: Linux's per-CPU page lists, `mm/page_alloc.c`; J. Bonwick, J. Adams, "Magazines and Vmem", USENIX 2001.

mod caches;
mod gate;
mod list;
#[cfg(all(test, loom))]
#[expect(unsafe_code, reason = "shares a cell that says who is in the lists")]
mod loom;
#[cfg(all(test, not(loom)))]
mod tests;

pub(crate) use caches::{AtHand, ClosedCaches, CpuCache, CpuCaches};
pub(crate) use list::{List, Relief, Supply};
