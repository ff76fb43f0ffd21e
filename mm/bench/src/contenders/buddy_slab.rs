//! `buddy-slab-allocator`: ArceOS's buddy allocator, lists through an array of descriptors. Blocks are aligned within its region.
#![expect(unsafe_code, reason = "lends it memory")]

use std::slice;
use std::sync::Arc;

use anyhow::anyhow;
use buddy_slab_allocator::BuddyAllocator;
use mm::migratetype::Migratetype;
use mm::units::{Order, PAGE_SIZE};

use super::{Contender, Pages, Place};
use crate::memory::Memory;

/// Its buddy allocator, and the memory that it has.
pub(crate) struct BuddySlab {
    buddy: BuddyAllocator<PAGE_SIZE>,
    _memory: Arc<Memory>,
}

// SAFETY: it points into its own memory only.
unsafe impl Send for BuddySlab {}

impl Contender for BuddySlab {
    fn new(memory: &Arc<Memory>) -> anyhow::Result<Self> {
        // SAFETY: the memory is mapped, zeroed, and this one's.
        let region = unsafe { slice::from_raw_parts_mut(memory.start().as_ptr(), memory.len()) };
        let mut buddy = BuddyAllocator::new();
        // SAFETY: the memory lives as long as the allocator.
        unsafe { buddy.init(region) }.map_err(|error| anyhow!("{error:?}"))?;
        Ok(Self { buddy, _memory: memory.clone() })
    }
}

impl Pages for BuddySlab {
    #[inline]
    fn alloc(&mut self, order: Order, _: Migratetype) -> Option<Place> {
        self.buddy.alloc_pages(1 << order.index(), PAGE_SIZE).ok().map(Place)
    }

    #[inline]
    fn free(&mut self, Place(address): Place, order: Order) {
        self.buddy.dealloc_pages(address, 1 << order.index());
    }
}
