//! Many blocks at a time: allocated into a slice, and freed from one.
//!
//! Cost: that of the lists at hand, without going in and out for each block.

use arrayvec::ArrayVec;
use core::fmt;
use core::mem::{self, ManuallyDrop};

use super::allocator::{FreeError, PageAllocator};
use super::block::Block;
use super::request::Request;
use crate::machine::Machine;
use crate::units::{Count, Pfn};

impl<M: Machine> PageAllocator<'_, M> {
    /// Allocates up to as many blocks as there are places in `heads`, and writes their bare heads there, to be given to
    /// [`free_bulk_raw`](Self::free_bulk_raw) or one by one to [`free_raw`](Self::free_raw). Says how many: fewer than asked
    /// for only if no more can be had. Linux's `alloc_pages_bulk`.
    pub fn alloc_bulk_raw(&self, request: Request, heads: &mut [Pfn]) -> Count {
        let mut filling = Filling { allocator: self, heads, had: Count(0) };
        while !filling.left().is_empty() && self.should_fail_alloc_page(request).is_none() {
            let Count(filled) = self.fill_at_hand(request, filling.left());
            filling.had.0 += filled;
            // What is not at hand comes with a batch that is.
            if !filling.left().is_empty() {
                let Ok(head) = self.alloc_raw(request) else { break };
                filling.left()[0] = head;
                filling.had.0 += 1;
            }
        }
        let had = filling.had;
        mem::forget(filling);
        had
    }

    /// Frees the blocks that these frames head, each as [`free_raw`](Self::free_raw) does.
    ///
    /// # Errors
    /// Says what the first that is no such block is instead; all others are free.
    ///
    /// # Safety
    /// As for [`free_raw`](Self::free_raw), for each of them.
    #[expect(unsafe_code, reason = "the caller vouches for what the words cannot say: that nobody uses the pages")]
    pub unsafe fn free_bulk_raw(&self, heads: &[Pfn]) -> Result<(), FreeError> {
        let mut outcome = Ok(());
        let mut left = heads;
        while !left.is_empty() {
            let Count(freed) = self.put_all_at_hand(left);
            left = &left[freed as usize..];
            if let [first, rest @ ..] = left {
                // SAFETY: the caller's promise.
                let freed = unsafe { self.free_raw(*first) };
                outcome = outcome.and(freed);
                left = rest;
            }
        }
        outcome
    }

    /// Allocates up to `N` blocks: fewer only if no more can be had.
    pub fn alloc_bulk<const N: usize>(&self, request: Request) -> BlockBatch<'_, M, N> {
        let mut heads = [Pfn::LIMIT; N];
        let Count(had) = self.alloc_bulk_raw(request, &mut heads);
        let mut heads = ArrayVec::from(heads);
        heads.truncate(had as usize);
        BlockBatch { allocator: self, heads, request }
    }
}

/// The blocks that are had so far. They go back if somebody's shrinker panics before the others are.
struct Filling<'f, 'm, M: Machine> {
    allocator: &'f PageAllocator<'m, M>,
    heads: &'f mut [Pfn],
    had: Count,
}

impl<M: Machine> Filling<'_, '_, M> {
    fn left(&mut self) -> &mut [Pfn] {
        &mut self.heads[self.had.0 as usize..]
    }
}

impl<M: Machine> Drop for Filling<'_, '_, M> {
    #[expect(unsafe_code, reason = "frees what nobody has been told of")]
    fn drop(&mut self) {
        // SAFETY: DESC-1, they were just allocated, and nobody else knows them.
        let freed = unsafe { self.allocator.free_bulk_raw(&self.heads[..self.had.0 as usize]) };
        debug_assert_eq!(freed, Ok(()), "they were just allocated");
    }
}

/// Up to `N` allocated blocks of one size. Dropping it frees them, a batch at a time.
///
/// # Invariants
/// Each head heads an allocated block of the request's order, which nobody else frees (DESC-1).
#[must_use = "dropping a batch frees its blocks"]
pub struct BlockBatch<'a, M: Machine, const N: usize> {
    allocator: &'a PageAllocator<'a, M>,
    heads: ArrayVec<Pfn, N>,
    request: Request,
}

impl<'a, M: Machine, const N: usize> BlockBatch<'a, M, N> {
    /// The first frames of the blocks.
    pub fn heads(&self) -> &[Pfn] {
        &self.heads
    }

    /// Gives the batch up as single blocks. Those that are not taken are freed.
    pub fn into_blocks(self) -> impl Iterator<Item = Block<'a, M>> {
        let (allocator, order) = (self.allocator, self.request.order);
        let mut batch = self;
        core::iter::from_fn(move || Some(Block::own(allocator, batch.heads.pop()?, order)))
    }

    /// Gives up ownership: the blocks stay allocated until their heads are given to
    /// [`free_bulk_raw`](PageAllocator::free_bulk_raw).
    #[must_use = "nobody else frees the blocks"]
    pub fn into_raw(self) -> ArrayVec<Pfn, N> {
        ManuallyDrop::new(self).heads.clone()
    }
}

impl<M: Machine, const N: usize> Drop for BlockBatch<'_, M, N> {
    #[expect(unsafe_code, reason = "frees what it owns")]
    fn drop(&mut self) {
        // SAFETY: DESC-1, the batch owns the blocks, and goes.
        let freed = unsafe { self.allocator.free_bulk_raw(&self.heads) };
        if let Err(error) = freed {
            panic!("invariant DESC-1 broken: an owned block cannot be freed: {error}");
        }
    }
}

impl<M: Machine, const N: usize> fmt::Debug for BlockBatch<'_, M, N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BlockBatch({:?}, {} blocks)", self.request.order, self.heads.len())
    }
}
