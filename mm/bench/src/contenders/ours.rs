//! `mm`, as a kernel calls it: bare blocks, every free checked, 16-byte descriptors, blocks at hand of each CPU.
#![expect(unsafe_code, reason = "frees what it was given, and lends a machine that stays where it is")]

use std::ptr::NonNull;
use std::sync::Arc;

use anyhow::Context as _;
use mm::boot_map::{BootMap, Region, RegionKind};
use mm::migratetype::Migratetype;
use mm::page::{PageAllocator, Request};
use mm::units::{NodeId, Order, Pfn, PhysAddr};

use super::{Contender, Place, Shared};
use crate::machine::Native;
use crate::memory::Memory;

/// The allocator and its machine.
pub(crate) struct Ours {
    // Dropped first, since it borrows the machine.
    allocator: PageAllocator<'static, Native>,
    machine: NonNull<Native>,
}

// SAFETY: both are `Send`, and the one that borrows goes with what it borrows.
unsafe impl Send for Ours {}
// SAFETY: both are `Sync`.
unsafe impl Sync for Ours {}

impl Ours {
    /// The allocator itself, for what is built on it.
    pub(crate) const fn allocator(&self) -> &PageAllocator<'_, Native> {
        &self.allocator
    }
}

impl Drop for Ours {
    fn drop(&mut self) {
        // SAFETY: it was leaked by `new`; the allocator has nothing to do when it goes, and is not used any more.
        drop(unsafe { Box::from_raw(self.machine.as_ptr()) });
    }
}

#[inline]
const fn request(order: Order, migratetype: Migratetype) -> Request {
    match migratetype {
        Migratetype::Movable => Request::movable(order),
        _ => Request::new(order).with_migratetype(migratetype),
    }
}

impl Contender for Ours {
    fn new(memory: &Arc<Memory>) -> anyhow::Result<Self> {
        let machine = NonNull::from(Box::leak(Box::new(Native::new(memory)?)));
        // SAFETY: it stays until `drop`.
        let borrowed: &'static Native = unsafe { machine.as_ref() };
        let all = Region { start: PhysAddr(0), len: memory.len() as u64, kind: RegionKind::Usable, node: NodeId(0) };
        let mut map: BootMap = BootMap::new(&[all]).context("the map is sound")?;
        // SAFETY: nobody else uses the memory, or has another allocator of it.
        let allocator = unsafe { PageAllocator::new(borrowed, &mut map) }?;
        Ok(Self { allocator, machine })
    }

    fn metadata(&self) -> Option<u64> {
        Some(self.allocator.metadata().total())
    }
}

impl Shared for Ours {
    #[inline]
    fn alloc(&self, order: Order, migratetype: Migratetype) -> Option<Place> {
        self.allocator.alloc_raw(request(order, migratetype)).ok().map(|head| Place(head.index()))
    }

    #[inline]
    fn free(&self, Place(head): Place, _: Order) {
        #[expect(clippy::cast_possible_truncation, reason = "it came out of a frame number")]
        // SAFETY: the block is the caller's, who gives it up.
        let freed = unsafe { self.allocator.free_raw(Pfn::new(head as u32)) };
        debug_assert_eq!(freed, Ok(()));
    }

    fn settle(&self) {
        self.allocator.drain();
    }
}
