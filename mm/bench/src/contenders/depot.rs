//! `frame-alloc`: a buddy allocator on summarized bitmaps, behind magazines for each CPU and a depot.
#![expect(unsafe_code, reason = "lends it memory, and gives blocks back")]

use std::num::NonZeroUsize;
use std::ptr::NonNull;
use std::sync::Arc;

use frame_alloc::{CpuId, DepotAllocator, PageSize, PhysicalAllocator as _, Provenance};
use frame_alloc::{RegionInit as _, SummaryBuddyAllocator};
use mm::migratetype::Migratetype;
use mm::units::{Order, PAGE_SHIFT};

use super::{Contender, Place, Shared};
use crate::machine::this_cpu;
use crate::memory::Memory;

const BASE: PageSize = PageSize::from_log2(12);
const _: () = assert!(PAGE_SHIFT == 12);

/// Addresses are the process's.
struct Mapped;

// SAFETY: its memory is mapped where it is said to be, and exposed below.
unsafe impl Provenance for Mapped {
    unsafe fn create(address: usize) -> NonNull<u8> {
        let pointer = std::ptr::with_exposed_provenance_mut(address);
        NonNull::new(pointer).unwrap_or(NonNull::dangling())
    }

    unsafe fn destroy<T>(pointer: NonNull<T>) -> usize {
        pointer.addr().get()
    }
}

/// A thread is a CPU.
struct Threads;

impl CpuId for Threads {
    #[inline]
    fn current_cpu() -> usize {
        usize::from(this_cpu().0)
    }
}

type Buddy = SummaryBuddyAllocator<11, Mapped>;

/// Its buddy allocator behind its depot, with as many magazines as there are CPUs.
pub(crate) struct Depot {
    frames: DepotAllocator<Buddy, Threads, 2>,
    _memory: Arc<Memory>,
}

impl Contender for Depot {
    fn new(memory: &Arc<Memory>) -> anyhow::Result<Self> {
        let base = memory.start().as_ptr().expose_provenance();
        let frames = DepotAllocator::new(BASE, Buddy::new(BASE));
        // SAFETY: all of it is mapped and this one's, and nobody uses the allocator yet.
        unsafe { frames.init_region(base, memory.len()) };
        Ok(Self { frames, _memory: memory.clone() })
    }
}

const fn count(order: Order) -> NonZeroUsize {
    match NonZeroUsize::new(1 << order.index()) {
        Some(pages) => pages,
        None => NonZeroUsize::MIN,
    }
}

impl Shared for Depot {
    #[inline]
    fn alloc(&self, order: Order, _: Migratetype) -> Option<Place> {
        self.frames.allocate_physical(BASE, count(order)).ok().map(Place)
    }

    #[inline]
    fn free(&self, Place(address): Place, order: Order) {
        // SAFETY: the block is the caller's, of that size, who gives it up.
        unsafe { self.frames.deallocate_physical(BASE, count(order), address) };
    }

    fn settle(&self) {
        self.frames.flush();
    }
}
