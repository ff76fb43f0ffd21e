//! Buffers: contents of a store in pieces smaller than a page, for what is read and written in pieces that small.
//!
//! A piece of 512 bytes to 2 KiB is an object of a slab, next to others of the same page, whosever they are. What a page
//! cache says of a folio is said of each: a descriptor, allocated apart and of 64 bytes, has its lock, its state, its
//! generation, and where it stands. So it is read, written out and reclaimed by itself, and a page goes back when the
//! last of its pieces has gone. What buffer heads did, without the block device: what is behind is a
//! [`Store`](crate::cache::Store).
//!
//! `buffer` is one of them, `lru` who goes next, `buffer_cache` what all of one size share, `mapping` those of one store
//! and the way to them, `bytes` reading and writing, `write_back` and `reclaim` the ways out, `verify` the checker.
//!
//! Invariants: BUF-1 (a buffer stands in one mapping at most, at its index, and says so; it is in a generation exactly
//! as long), BUF-2 (which is marked in the tree is dirty, and the other way round), BUF-3 (a buffer's bytes, and where
//! it stands, are touched only under its lock), BUF-4 (no mapping outlives its cache, see `buffer_cache`).
//!
//! Lock order: a buffer; its mapping's tree; the generations. Under none of them is anything allocated, but that a
//! buffer that nobody sees yet is locked.
//! Source: M. Bach, "The Design of the UNIX Operating System", 1986, chapter 3 (the buffer cache).

mod buffer;
mod buffer_cache;
mod bytes;
mod lru;
mod mapping;
mod reclaim;
#[cfg(all(test, not(loom)))]
mod tests;
mod verify;
mod write_back;

pub use buffer::{Buffer, BufferFlags, BufferRef};
pub use buffer_cache::{BufferCache, BufferReport, BufferSize};
pub use mapping::{BlockIndex, BufferError, BufferMapping, BufferMappingRef};
