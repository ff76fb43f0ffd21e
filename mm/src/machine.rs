//! The one door between the allocator and the machine it runs on.
//!
//! A kernel implements [`Machine`] with its page tables and interrupt flag; the hosted machine (`host`, feature
//! `host`) with memory of the process. Memory below the direct map's end is always reachable; everything above is
//! highmem, reachable only through a `kmap_local` slot (HIGH-1).
#![expect(unsafe_code, reason = "the door itself: implementing it is a promise")]

use core::fmt;
use core::num::NonZeroU16;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, Ordering};

use crate::faults::Faults;
use crate::hardening::Hardening;
use crate::lock_order::{Context, HeldLocks};
use crate::random::RandomSeed;
use crate::specification::Specification;
use crate::units::{Bytes, CpuId, Distance, NodeId, Order, Pfn, PfnRange, PhysAddr};

/// Sizes that tests shrink, so that small memory has deep trees; [`Standard`] is the one to run with.
pub trait Geometry: 'static {
    /// The order of the largest block.
    const MAX_ORDER: Order;
    /// The order of a pageblock, the unit that has one migratetype.
    const PAGEBLOCK_ORDER: Order;
    /// log2 of the frame numbers in a freelist leaf; 10 fills a page.
    const LEAF_SHIFT: u32;
    /// log2 of the pointers in a freelist's interior node; 9 fills a page.
    const NODE_SHIFT: u32;
    /// Entries that each end of a freelist keeps inline in the zone: a power of two from 2 to 16.
    const INLINE: u32;
    /// The most single pages that a CPU keeps at hand, of each zone and migratetype; 0 if it keeps none.
    const CPU_CACHE: u32 = 0;
    /// All CPUs together keep at hand at most one page in so many, of each zone and migratetype.
    const CPU_CACHE_SHARE: u32 = 16;
    /// A zone keeps no more than one page in so many for requests that may use reserves, and sets no more than that aside
    /// for large blocks; if zero, it keeps nothing, and the last page is anybody's.
    const RESERVE_SHARE: u32;
}

/// The sizes to run with: 4 MiB blocks, 2 MiB pageblocks, nodes that fill a page.
#[derive(Debug)]
pub struct Standard;

impl Geometry for Standard {
    const MAX_ORDER: Order = Order::of(10);
    const PAGEBLOCK_ORDER: Order = Order::of(9);
    const LEAF_SHIFT: u32 = 10;
    const NODE_SHIFT: u32 = 9;
    const INLINE: u32 = 16;
    const CPU_CACHE: u32 = 8192;
    const RESERVE_SHARE: u32 = 64;
}

/// When a CPU began what it is busy with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Begun {
    /// Just now.
    Here,
    /// Before: this is its interrupt handler, and has changed nothing.
    Before,
}

/// Who may touch memory, as a machine is told that looks at every access.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fence {
    /// Whoever has it.
    Open,
    /// Nobody.
    Closed,
}

/// What the allocator needs of the machine.
///
/// # Safety
/// * [`direct_map`](Self::direct_map) and [`kmap_local`](Self::kmap_local) give 4 KiB-aligned addresses at which the
///   whole page may be read and written; for one frame they always lead to the same memory, for two frames never.
///   Neighbouring frames are neighbours in the direct map, and frame 0 would stand at a multiple of the largest block's size
///   there: a block is aligned to its size where it is seen as well.
/// * MACHINE-MEMORY: the direct map's end never changes, what it maps stays mapped while the machine is borrowed, but for what
///   is [unmapped](Self::unmap_pages) and not mapped again. (Whose memory that is, whoever makes
///   [an allocator](crate::page::PageAllocator::new) answers for.)
/// * While an interrupt guard lives, no interrupt handler runs on this CPU. [`context`](Self::context) says what the CPU
///   does, and [`held_locks`](Self::held_locks) is one for each CPU.
/// * A kmap slot belongs to the CPU that mapped it (HIGH-1).
/// * MACHINE-CPU: [`cpu`](Self::cpu) is below [`cpus`](Self::cpus), which never changes, and while an operation of this
///   crate runs, it stays on its CPU, and nothing else runs there but interrupt handlers.
/// * [`heavy_barrier`](Self::heavy_barrier) does what it says.
pub unsafe trait Machine: Sync {
    /// The sizes of blocks, nodes and lists.
    type Geometry: Geometry;

    /// Keeps interrupts off on this CPU until dropped.
    type InterruptGuard<'a>
    where
        Self: 'a;

    /// The first frame that has no permanent mapping: highmem starts here.
    fn direct_map_end(&self) -> Pfn;

    /// Where a frame below [`direct_map_end`](Self::direct_map_end) stands in the kernel's address space.
    ///
    /// # Panics
    /// May panic if the frame lies above: the allocator never asks.
    fn direct_map(&self, frame: Pfn) -> NonNull<u8>;

    /// The physical address of what stands at `address` in the direct map: the inverse of
    /// [`direct_map`](Self::direct_map). Of an address outside of it, any at which there is no lowmem.
    fn physical(&self, address: NonNull<u8>) -> PhysAddr;

    /// The first frame that is looked at through a slot: the direct map's end, unless slots are to be tried on all memory,
    /// as with Linux's `CONFIG_DEBUG_KMAP_LOCAL_FORCE_MAP`. It never changes, and lies no higher than the direct map's end.
    #[inline(always)]
    fn kmap_start(&self) -> Pfn {
        self.direct_map_end()
    }

    /// Maps a frame into a slot of this CPU. Slots are given up last in, first out. Of this crate at most three are live at
    /// once in a task: two for a copy, or one that its user looks at and two inside the allocator. As many may be live in an
    /// interrupt handler above it, so a CPU needs six; where there are no handlers, three. Users who look at one page from within a
    /// look at another one would need more: who has none left says so and stops, and never shares one.
    fn kmap_local(&self, frame: Pfn) -> NonNull<u8>;

    /// Gives up the slot mapped last.
    ///
    /// # Safety
    /// `address` is what the youngest live [`kmap_local`](Self::kmap_local) of this CPU returned, and nothing refers
    /// to it any more.
    unsafe fn kunmap_local(&self, address: NonNull<u8>);

    /// Turns interrupts off on this CPU until the guard drops.
    fn disable_interrupts(&self) -> Self::InterruptGuard<'_>;

    /// What this CPU is doing.
    fn context(&self) -> Context;

    /// The locks that this CPU holds, which [`lock`](crate::lock) counts in builds with debug assertions. Handlers share it
    /// with what they interrupt.
    fn held_locks(&self) -> &HeldLocks;

    /// The CPU this runs on.
    fn cpu(&self) -> CpuId;

    /// Begins some work of this CPU's by setting a flag that only it sets and clears. A handler that comes in between clears
    /// what it has set. A machine that can do so in one instruction spares the look before.
    #[inline(always)]
    fn begin_local(&self, busy: &AtomicU32) -> Begun {
        if busy.load(Ordering::Relaxed) != 0 {
            return Begun::Before;
        }
        busy.store(1, Ordering::Relaxed);
        Begun::Here
    }

    /// How many CPUs there may be.
    fn cpus(&self) -> NonZeroU16;

    /// The node whose memory is nearest to a CPU. It never changes.
    fn node_of(&self, cpu: CpuId) -> NodeId {
        let _ = cpu;
        NodeId(0)
    }

    /// How far the memory of `to` is from the CPUs of `from`. It never changes.
    fn distance(&self, from: NodeId, to: NodeId) -> Distance {
        if from == to { Distance::LOCAL } else { Distance::REMOTE }
    }

    /// A full memory barrier on every CPU: what any of them did before, in program order, is seen by whoever calls once
    /// this returns, and what the caller did before is seen by whatever any of them does after. A non-maskable
    /// interprocessor interrupt, or membarrier(2): it is called with interrupts off and locks held, for which other CPUs
    /// may be waiting with interrupts off.
    fn heavy_barrier(&self);

    /// Told that a line will be read or written soon: a hint, for what waits for memory.
    #[inline(always)]
    fn prefetch(&self, line: NonNull<u8>) {
        let _ = line;
    }

    /// Told what is wrong where nobody is there to take an error: who reads it can find a bug. It must not
    /// allocate, nor call back: locks may be held.
    fn report(&self, report: &dyn fmt::Display) {
        let _ = report;
    }

    /// What is done to memory that nobody uses. It never changes.
    #[inline(always)]
    fn hardening(&self) -> Hardening {
        Hardening::empty()
    }

    /// Takes free pages out of the direct map: once this returns, whoever uses one faults, on any CPU. Asked for only where
    /// [`hardening`](Self::hardening) has [`DEBUG_PAGEALLOC`](Hardening::DEBUG_PAGEALLOC); with locks held, perhaps in a handler.
    ///
    /// # Safety
    /// The pages are in the direct map, nobody's, and nothing refers to them.
    unsafe fn unmap_pages(&self, pages: PfnRange) {
        let _ = pages;
    }

    /// Puts pages that were taken out of the direct map back where they were. When it is asked for, see
    /// [`unmap_pages`](Self::unmap_pages).
    ///
    /// # Safety
    /// The pages were taken out, and nobody else puts them back.
    unsafe fn map_pages(&self, pages: PfnRange) {
        let _ = pages;
    }

    /// Told of pages that are nobody's from now on, or somebody's, those of highmem too: for an address sanitizer, which looks at
    /// every access. Freelists' nodes are open. With locks held, perhaps in a handler.
    #[inline(always)]
    fn fence_pages(&self, pages: PfnRange, fence: Fence) {
        let _ = (pages, fence);
    }

    /// Told the same of an object's place, which begins and ends at multiples of eight: of its bytes the first `open` may be
    /// touched, and no others.
    #[inline(always)]
    fn fence_object(&self, place: NonNull<[u8]>, open: Bytes) {
        let _ = (place, open);
    }

    /// What random choices start from, where [`hardening`](Self::hardening) has any made. It never changes.
    fn random_seed(&self) -> RandomSeed {
        RandomSeed::default()
    }

    /// What every step of the page allocator is held against, if anything is: asked before or after each.
    #[inline(always)]
    fn specification(&self) -> Option<Specification<'_>> {
        None
    }

    /// What is to fail of all allocations of pages and objects, if anything ever is: asked before each.
    #[inline(always)]
    fn injected_faults(&self) -> Option<&Faults> {
        None
    }
}
