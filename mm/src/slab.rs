//! Objects smaller than a page: caches of one size each, on slabs that are blocks with an owner of their own.
//!
//! ```text
//!   alloc, free ──> this CPU's sheaf ──empty, full──> the cache: sheaves, slabs by place ──> page allocator
//!                   no lock, no atomic                 one lock for a sheaf of objects         a slab at a time
//! ```
//!
//! `layout` is how objects lie in a slab, `descriptor` a slab, `lists` a cache's slabs, `sheaf` and `cpu` what stands in
//! front of them, `cache` one cache, `spec` what it is to be, `caches` all of them, `roster` their list, `bootstrap` the
//! first ones, `refill` and `grow` the long ways, `free` the way back by an address, `kmalloc` the classes of sizes,
//! `sides` all CPUs' of a cache, `shrink` the way back to pages, `object` owned memory, `counted` a counted value in it,
//! `verify` the checker, `debug` caches that are watched, `init` caches whose objects are zeroed.
//!
//! Invariants: SLAB-1 (an object is in one place: its slab, a sheaf, or a user's hands), SLAB-2 (a slab's counts are
//! right), SLAB-3 (a slab is on the list of its place, and it and its pages name each other), SLAB-4 (`debug`),
//! SHEAF-1 (`cpu`).
//!
//! Locks (`lock_order`): the list of all caches; then, of one cache at a time, whose turn it is to close CPUs; then its
//! slabs. Under the last two nothing is allocated and no page given back; nor while a CPU is busy.
//!
//! **Interrupt handlers** may allocate and free, whatever they interrupt: [`KmemCache::alloc`], `alloc_raw`, `free_raw`, a
//! dropped [`Object`], [`Prefilled::alloc`], [`KmemCaches::kmalloc`], `kfree`, `krealloc` and `ksize`. What they may meet
//! half done is either out of reach (a slab on no list, a block that no page names yet), says so (a CPU that is busy or
//! closed), or is only touched with interrupts off (what a cache's lock guards). They find what is in their CPU's sheaves,
//! in those of all and in slabs, and grow a cache, but close no CPU: so an allocation may fail that a task's would not, and
//! what bears the mark of a free object is taken for free (`free`). Everything else, from [`KmemCaches::create`] to
//! [`KmemCaches::shrink`], is for tasks.
//!
//! A task may have interrupts off, but then holds no lock for which a handler waits: when memory is short it waits for CPUs that
//! may be in such a handler. Who frees asks nobody to give memory up, whatever locks he holds.
//! Source: J. Bonwick, "The Slab Allocator", USENIX 1994; J. Bonwick, J. Adams, "Magazines and Vmem", USENIX 2001.

mod bootstrap;
mod cache;
mod caches;
mod counted;
mod cpu;
mod debug;
mod descriptor;
mod free;
mod grow;
mod init;
mod kmalloc;
mod layout;
mod lists;
mod object;
#[cfg(all(test, not(loom), not(miri)))]
#[expect(unsafe_code, reason = "looks at slabs on their lists")]
mod parts;
mod refill;
mod report;
mod roster;
mod sheaf;
mod shrink;
mod sides;
mod spec;
#[cfg(all(test, not(loom)))]
#[expect(unsafe_code, reason = "frees what must not be freed, and reads what was written")]
mod tests;
mod verify;

pub(crate) use bootstrap::descriptors;
pub use cache::{CacheName, Constructor};
pub use caches::{KmemCaches, NoMemory};
pub use counted::Counted;
pub use debug::{Byte, Corruption, DebugFlags, History, Part, SlabDebug, SlabDebugError, Track};
pub use descriptor::Slab;
pub use free::FreeObjectError;
pub use kmalloc::{ReallocError, size_for};
pub use object::{KmemCache, LeakedObjects, Object, Prefilled};
pub use report::{CacheReport, Census, PlaceInSlab};
pub use spec::{CacheSpec, CreateError};
