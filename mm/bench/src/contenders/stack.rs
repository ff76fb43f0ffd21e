//! The floor: a stack of frames, and sixteen bytes of descriptor written for each. No allocator that keeps descriptors does
//! less, and this one does nothing else: no other orders, no other threads, no checks.

use std::sync::Arc;

use mm::migratetype::Migratetype;
use mm::units::{Order, PAGE_SIZE};

use super::{Contender, Pages, Place};
use crate::memory::Memory;

/// Free frames, and all frames' descriptors.
pub(crate) struct Stack {
    free: Vec<u32>,
    descriptors: Vec<[u64; 2]>,
}

impl Contender for Stack {
    fn new(memory: &Arc<Memory>) -> anyhow::Result<Self> {
        let frames = u32::try_from(memory.len() / PAGE_SIZE)?;
        Ok(Self { free: (0..frames).rev().collect(), descriptors: vec![[0; 2]; frames as usize] })
    }
}

impl Pages for Stack {
    #[inline]
    fn alloc(&mut self, order: Order, _: Migratetype) -> Option<Place> {
        if order > Order::ZERO {
            return None;
        }
        let frame = self.free.pop()? as usize;
        self.descriptors[frame] = [1, frame as u64];
        Some(Place(frame))
    }

    #[inline]
    fn free(&mut self, Place(frame): Place, _: Order) {
        self.descriptors[frame] = [0, self.free.len() as u64];
        #[expect(clippy::cast_possible_truncation, reason = "it came out of a u32")]
        self.free.push(frame as u32);
    }
}
