//! A page allocator whose page descriptor is two words.
//!
//! Every 4 KiB page has sixteen bytes: one word that belongs to the allocator, one that belongs to whoever owns the
//! page. Free blocks stand on freelists that are radix trees of frame numbers, and the trees' nodes are free pages
//! themselves, also those that the kernel has no permanent mapping for. Freeing needs nothing but the page; what was
//! never allocated, or is freed twice, or is the inside of a block, is turned away by the words alone.
//!
//! The crate knows nothing of any machine, has no statics and needs no heap. A kernel implements
//! [`machine::Machine`], hands its memory map to [`boot_map::BootMap`], and makes a [`page::PageAllocator`]:
//!
//! ```
//! use mm::boot_map::{BootMap, Region, RegionKind};
//! use mm::machine::Standard;
//! use mm::page::{PageAllocator, Request};
//! use mm::units::{NodeId, Order, Pfn, PhysAddr};
//!
//! // 64 MiB, of which the upper half has no permanent mapping. A kernel has a machine of its own.
//! let (end, direct_map_end) = (Pfn::new(0x4000), Pfn::new(0x2000));
//! let machine = mm::host::HostMachine::<Standard>::new(end, direct_map_end, core::num::NonZeroU16::MIN)?;
//! let memory = Region { start: PhysAddr(0), len: 64 << 20, kind: RegionKind::Usable, node: NodeId(0) };
//! let mut map: BootMap = BootMap::new(&[memory])?;
//! // SAFETY: nobody else uses that memory.
//! let allocator = unsafe { PageAllocator::new(&machine, &mut map) }?;
//!
//! let before = allocator.free_pages();
//! let mut block = allocator.alloc(Request::movable(Order::of(3)))?;
//! let first = block.head();
//! block.with_page(first, |bytes| bytes.fill(0x5a)).ok_or("the first page is the block's")?;
//! assert_eq!(allocator.free_pages(), before - 8);
//! drop(block);
//! assert_eq!(allocator.free_pages(), before);
//! allocator.verify()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Layers
//!
//! One way: each module imports only from those above it.
//!
//! | module | what it is |
//! |---|---|
//! | [`units`], [`migratetype`], [`invariant`], [`lock_order`] | quantities, names, and which lock may be taken where |
//! | [`image`] | what a reader of an image of memory must know |
//! | [`specification`] | what the page allocator is to do, and nothing of how |
//! | [`hardening`], [`random`] | what is done to memory that nobody uses, and choices that nobody foresees |
//! | [`machine`], [`faults`] | the door to the machine, and how it lets allocations fail |
//! | `sync` | atomics that a model checker can take the place of, and barriers |
//! | `undo` | what is undone unless it is finished, should others' code panic |
//! | `frame`, [`poison`] | where a frame stands while it is looked at, and what free ones hold |
//! | [`lock`] | locks that are checked against their order |
//! | [`boot_map`] | firmware's memory map made fit to build on |
//! | `early` | typed memory before there is an allocator |
//! | [`charge`] | who pays for how many pages |
//! | `desc` | the two words, and where a frame's descriptor is |
//! | `descriptor` | owners' descriptors: their life, and the gate of those who walk |
//! | `block` | free blocks on their way between lists |
//! | `freelist` | two stacks a list, on trees of freed pages |
//! | [`zone`] | memory that serves the same requests, and how low it may fall |
//! | `buddy` | split, merge, fall back, relocate, contiguous ranges, the checker |
//! | `pcp` | blocks at hand of each CPU |
//! | [`shrinker`] | who gives memory back when there is too little |
//! | [`page`] | requests in, owned blocks out |
//! | [`slab`] | objects smaller than a page |
//! | [`owner`] | typed owners of blocks, and the walk over all pages |
//! | `tree` | radix trees from a page's index in a mapping to what stands there |
//! | [`folio`] | what is done with folios: their bytes, splits and joins |
//! | [`cache`] | memory objects whose contents stand in folios, and what becomes of folios that nobody uses |
//! | [`subpage`] | the same for contents in pieces smaller than a page |
//! | [`space`] | users' page tables and regions, faults, pins |
//! | [`compact`] | pages that move, and large blocks out of what they leave |
//! | [`report`] | what memory is used for, in the columns of Linux's `/proc` |
//! | `host`, `cases`, [`trace`] | a machine in a process, test cases for any machine, recorded traces |
//!
//! # Features
//!
//! `host` is the hosted machine, for tests and native benchmarks; `cases` the test cases that a kernel can run on its
//! live allocator.
#![no_std]
#![deny(unsafe_code)]

#[cfg(any(test, loom, feature = "host"))]
extern crate std;

#[cfg(test)]
mod arena;
mod block;
pub mod boot_map;
mod buddy;
pub mod cache;
#[cfg(feature = "cases")]
pub mod cases;
pub mod charge;
pub mod compact;
#[cfg(all(test, not(loom), not(miri)))]
mod corruption;
mod desc;
mod descriptor;
mod early;
#[cfg(all(test, not(loom)))]
mod exhaustive;
pub mod faults;
pub mod folio;
mod frame;
mod freelist;
pub mod hardening;
#[cfg(feature = "host")]
#[expect(unsafe_code, reason = "it maps memory, and answers for the Machine it is")]
pub mod host;
pub mod image;
pub mod invariant;
pub mod lock;
pub mod lock_order;
pub mod machine;
pub mod migratetype;
#[cfg(all(test, not(loom)))]
mod model;
pub mod owner;
pub mod page;
mod pcp;
pub mod poison;
pub mod random;
pub mod report;
pub mod shrinker;
pub mod slab;
pub mod space;
pub mod specification;
pub mod subpage;
mod sync;
pub mod trace;
mod tree;
mod undo;
pub mod units;
pub mod zone;

pub use buddy::ContigError;
pub use desc::allocator_word::PageState;
pub use desc::owner_word::OwnerKind;
pub use early::MetadataBytes;
