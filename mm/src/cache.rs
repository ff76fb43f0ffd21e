//! The page cache: memory objects whose contents stand in folios, and what becomes of folios that nobody uses.
//!
//! ```text
//!   file mapping ─────────────> store          anonymous mapping ──> nothing yet: zeroes; written out: the swap store
//!       ▲                                            ▲
//!       └── shadow: what was written privately ──────┴── shadows of a fork, in front of what nobody writes any more
//! ```
//!
//! A mapping is a radix tree from a page's index to the folio that holds it, or to its place in the swap store. Files and
//! anonymous memory differ in where contents come from and go to, and in nothing else. Page tables only remember what
//! mappings say: an entry can be dropped at any time, and whoever faults finds the folio again. So to reclaim, split or
//! move a folio is to lock it, take its entries away ([`reverse_map`](self)), freeze it, and change it.
//!
//! `store` is what stands behind a mapping, `memory_store` one in memory, `swap` the places in the one for anonymous
//! memory; `page_cache` what all mappings share, `lru` who goes next, `mapping` one of them, `standing` how folios come into it and leave it, `lookup` the way to a folio
//! without a lock, `fill` getting contents, `given` folios made elsewhere, `fault` what a user's access needs, `shadow` copy-on-write, `reverse_map`
//! who maps a folio, `bytes` reading and writing without mapping, `write_back` and `reclaim` the ways out, `split` folios
//! made smaller where they stand, `failure` what becomes of one whose memory lies, `verify` the checker.
//!
//! Invariants: CACHE-1 (a folio stands in one mapping at most, at its index, in every slot that its size covers, and says
//! so), CACHE-2 (who is marked in the tree is dirty, and the other way round), CACHE-3 (an entry that lets users write
//! leads to a dirty folio), CACHE-4 (a place in the swap store is taken by one entry of one tree, by one locked folio that is
//! written there or read from there, or by nobody), CACHE-5 (no mapping outlives its cache, see `page_cache`), LRU-1, MAP-1.
//!
//! Lock order: a folio; a family, and under it a space's tables; apart from that a mapping's tree; then the lists of
//! `lru`. Under none of them is anything allocated that could be reclaimed.
//! Source: M. Wilcox, "The XArray data structure", LSFMM 2018; R. Rashid et al., "Machine-Independent Virtual Memory
//! Management", ASPLOS 1987 (memory objects and shadows).

mod bytes;
mod failure;
mod fault;
mod fill;
mod given;
mod lookup;
mod lru;
mod mapping;
mod memory_store;
mod page_cache;
mod reclaim;
mod reverse_map;
mod shadow;
mod split;
mod standing;
mod store;
mod swap;
#[cfg(all(test, not(loom)))]
mod tests;
mod verify;
mod write_back;

pub use fault::{Faulted, Intent, Writable};
pub use fill::CacheError;
pub use given::GiveError;
pub(crate) use lookup::Shown;
pub use lru::Generation;
pub use mapping::{Mapping, MappingRef};
pub use memory_store::{MemoryStore, MemoryStoreError};
pub use page_cache::{CacheReport, PageCache};
pub use reverse_map::{Accessed, Family, Leave, Listed, MapsFolios};
pub use shadow::Fork;
pub use store::{Store, StoreError};
pub(crate) use store::{StoreRef, any_store};
