//! `buddy_system_allocator`: the frame allocator that rCore began with, sets of free blocks in balanced trees.

use std::sync::Arc;

use buddy_system_allocator::FrameAllocator;
use mm::migratetype::Migratetype;
use mm::units::{Order, PAGE_SIZE};

use super::{Contender, Pages, Place};
use crate::memory::Memory;

/// Its frame allocator, which keeps its sets on the process's heap.
pub(crate) struct BuddySystem(FrameAllocator<11>);

impl Contender for BuddySystem {
    fn new(memory: &Arc<Memory>) -> anyhow::Result<Self> {
        let mut frames = FrameAllocator::new();
        frames.add_frame(0, memory.len() / PAGE_SIZE);
        Ok(Self(frames))
    }
}

impl Pages for BuddySystem {
    #[inline]
    fn alloc(&mut self, order: Order, _: Migratetype) -> Option<Place> {
        self.0.alloc(1 << order.index()).map(Place)
    }

    #[inline]
    fn free(&mut self, Place(frame): Place, order: Order) {
        self.0.dealloc(frame, 1 << order.index());
    }
}
