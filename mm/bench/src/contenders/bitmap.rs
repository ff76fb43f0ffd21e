//! `bitmap-allocator`: a tree of sixteen-bit words, first fit.

use std::sync::Arc;

use bitmap_allocator::{BitAlloc as _, BitAlloc1M};
use mm::migratetype::Migratetype;
use mm::units::{Order, PAGE_SIZE};

use super::{Contender, Pages, Place};
use crate::memory::Memory;

/// Its allocator for up to a million frames.
pub(crate) struct Bitmap(Box<BitAlloc1M>);

impl Contender for Bitmap {
    fn new(memory: &Arc<Memory>) -> anyhow::Result<Self> {
        let frames = memory.len() / PAGE_SIZE;
        anyhow::ensure!(frames <= BitAlloc1M::CAP, "it has {} frames at most", BitAlloc1M::CAP);
        let mut bits = Box::new(BitAlloc1M::DEFAULT);
        bits.insert(0..frames);
        Ok(Self(bits))
    }
}

impl Pages for Bitmap {
    #[inline]
    fn alloc(&mut self, order: Order, _: Migratetype) -> Option<Place> {
        let frame = match order {
            Order::ZERO => self.0.alloc(),
            _ => self.0.alloc_contiguous(None, 1 << order.index(), order.index()),
        };
        frame.map(Place)
    }

    #[inline]
    fn free(&mut self, Place(frame): Place, order: Order) {
        match order {
            Order::ZERO => self.0.dealloc(frame),
            _ => self.0.dealloc_contiguous(frame, 1 << order.index()),
        };
    }
}
