//! Caches that are watched: what is written where nobody may write, what is freed twice, and whose it was.
//!
//! A cache with any flag is *closed*: no CPU has a sheaf of it, so that every object goes the long way, out of its slab
//! and back, and is checked there under the cache's lock. So its bitmaps say exactly what is free, and the way that
//! other caches go costs nothing more.
//!
//! `spec` is which caches, `anatomy` what stands around an object, `track` who had it, `corruption` what is found,
//! `watch` writes and reads the bytes, `long_way` allocates, frees and checks.
//!
//! A free object that was written to is taken out of circulation (*isolated*): whoever wrote may write again. What is
//! found is told once; then the bytes are put right.
//!
//! Invariants: SLAB-4 (no byte of a debugged slab is written but by its cache, and by owners of objects in them).
//! Cost: a pass over an object's bytes, its surroundings included, each time it is allocated or freed.
//! Source: Linux, `mm/slub.c` (flags, bytes and the order of checks).

mod anatomy;
mod corruption;
mod long_way;
mod spec;
#[cfg(all(test, not(loom)))]
#[expect(unsafe_code, reason = "writes where nobody may")]
mod tests;
mod track;
mod watch;

pub(super) use anatomy::Anatomy;
pub use corruption::{Byte, Corruption, Part};
pub(super) use spec::Growth;
pub use spec::{DebugFlags, SlabDebug, SlabDebugError};
pub use track::{History, Track};
pub(super) use watch::Watch;
