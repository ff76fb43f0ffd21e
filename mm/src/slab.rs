//! Objects smaller than a page: caches of one size each, on slabs that are blocks with an owner of their own.
//!
//! ```text
//!   alloc, free ──> this CPU's sheaf ──empty, full──> the cache: sheaves, slabs by place ──> page allocator
//!                   no lock, no atomic                 one lock for a sheaf of objects         a slab at a time
//! ```
//!
//! `layout` is how objects lie in a slab, `descriptor` a slab, `lists` a cache's slabs, `sheaf` and `cpu` what stands in
//! front of them, `cache` one cache, `caches` all of them and the way to any by an address, `bootstrap` the first ones,
//! `refill` and `grow` the long ways, `kmalloc` the classes of sizes, `shrink` the way back, `object` owned memory,
//! `verify` the checker, `debug` caches that are watched.
//!
//! Invariants: SLAB-1 (an object is in one place: its slab, a sheaf, or a user's hands), SLAB-2 (a slab's counts are
//! right), SLAB-3 (a slab is on the list of its place, and it and its pages name each other), SHEAF-1 (`cpu`), SLAB-4 (`debug`).
//! Source: J. Bonwick, "The Slab Allocator", USENIX 1994; J. Bonwick, J. Adams, "Magazines and Vmem", USENIX 2001.

mod bootstrap;
mod cache;
mod caches;
mod cpu;
mod debug;
mod descriptor;
mod grow;
mod kmalloc;
mod layout;
mod lists;
mod object;
mod refill;
mod report;
mod sheaf;
mod shrink;
#[cfg(test)]
#[expect(unsafe_code, reason = "frees what must not be freed, and reads what was written")]
mod tests;
mod verify;

pub(crate) use bootstrap::descriptors;
pub use cache::{CacheName, Constructor};
pub use caches::{CacheSpec, CreateError, FreeObjectError, KmemCaches, NoMemory};
pub use debug::{Byte, Corruption, DebugFlags, History, Part, SlabDebug, SlabDebugError, Track};
pub use descriptor::Slab;
pub use kmalloc::{ReallocError, size_for};
pub use object::{KmemCache, LeakedObjects, Object, Prefilled};
pub use report::{CacheReport, Census};
