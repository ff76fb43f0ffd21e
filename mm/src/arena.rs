//! A machine in ordinary heap memory: lowmem in one allocation, every highmem frame in one of its own that only a
//! slot hands out. No system calls, so states can be saved and restored by the million; and no mapping tricks, so
//! that an interpreter can run it.
//!
//! It is also the trap for FREE-5: entering the allocator while inside it is a failure.
#![expect(unsafe_code, reason = "a machine made of bare memory")]

use core::marker::PhantomData;
use core::num::NonZeroU16;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::alloc::{Layout, alloc_zeroed, dealloc};
#[cfg(not(loom))]
use std::boxed::Box;
use std::sync::Mutex;
use std::vec::Vec;

#[cfg(not(loom))]
use crate::boot_map::BootMap;
use crate::lock_order::{Context, HeldLocks, Interrupts, Work};
use crate::machine::{Geometry, Machine};
#[cfg(not(loom))]
use crate::page::{PageAllocator, SetupError};
#[cfg(not(loom))]
use crate::specification::{Entry, Specification};
use crate::units::{CpuId, NodeId, PAGE_SIZE, Pfn, PhysAddr};

#[cfg(not(loom))]
mod deep;

#[cfg(not(loom))]
pub(crate) use deep::Deep;

/// Of a machine around another one, its `machine`: what that does for both. Mapping and what has a default are left.
#[cfg(not(loom))]
macro_rules! passed_on_to_its_machine {
    () => {
        fn direct_map_end(&self) -> Pfn {
            self.machine.direct_map_end()
        }

        fn direct_map(&self, frame: Pfn) -> NonNull<u8> {
            self.machine.direct_map(frame)
        }

        fn physical(&self, address: NonNull<u8>) -> PhysAddr {
            self.machine.physical(address)
        }

        fn disable_interrupts(&self) -> Self::InterruptGuard<'_> {
            self.machine.disable_interrupts()
        }

        fn context(&self) -> Context {
            self.machine.context()
        }

        fn held_locks(&self) -> &HeldLocks {
            self.machine.held_locks()
        }

        fn cpu(&self) -> CpuId {
            self.machine.cpu()
        }

        fn cpus(&self) -> NonZeroU16 {
            self.machine.cpus()
        }

        fn heavy_barrier(&self) {
            self.machine.heavy_barrier();
        }
    };
}
#[cfg(not(loom))]
pub(crate) use passed_on_to_its_machine;

/// Words of a page that a shrunk geometry's nodes use: two pointers.
#[cfg(not(loom))]
const NODE_WORDS: usize = 2;

#[cfg(not(loom))]
const PAGE_WORDS: usize = PAGE_SIZE / 8;

#[derive(Debug)]
pub(crate) struct ArenaMachine<G> {
    lowmem: NonNull<u8>,
    highmem: Vec<NonNull<u8>>,
    direct_map_end: Pfn,
    slots: Mutex<Vec<NonNull<u8>>>,
    inside: AtomicBool,
    held: HeldLocks,
    cpus: NonZeroU16,
    /// The CPU that is played, and the node that all are near.
    cpu: AtomicU16,
    node: NodeId,
    #[cfg(not(loom))]
    specification: Option<Box<[Entry]>>,
    geometry: PhantomData<fn() -> G>,
}

// SAFETY: the pages are the allocator's, which guards them with its zone locks; all else here is atomic or locked.
unsafe impl<G> Sync for ArenaMachine<G> {}

/// Says that the allocator has been left again.
#[derive(Debug)]
pub(crate) struct Inside<'a>(&'a AtomicBool);

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

fn pages(count: usize) -> Layout {
    Layout::from_size_align(count * PAGE_SIZE, PAGE_SIZE).expect("a test's memory is small")
}

fn zeroed(count: usize) -> NonNull<u8> {
    // SAFETY: the layout is not empty.
    NonNull::new(unsafe { alloc_zeroed(pages(count)) }).expect("the host has memory for a test")
}

impl<G> ArenaMachine<G> {
    pub(crate) fn new(memory_end: Pfn, direct_map_end: Pfn) -> Self {
        Self {
            lowmem: zeroed(direct_map_end.index()),
            highmem: (direct_map_end.index()..memory_end.index()).map(|_| zeroed(1)).collect(),
            direct_map_end,
            slots: Mutex::new(Vec::new()),
            inside: AtomicBool::new(false),
            held: HeldLocks::none(),
            cpus: NonZeroU16::MIN,
            cpu: AtomicU16::new(0),
            node: NodeId(0),
            #[cfg(not(loom))]
            specification: None,
            geometry: PhantomData,
        }
    }

    fn frame(&self, pfn: Pfn) -> NonNull<u8> {
        match pfn.index().checked_sub(self.direct_map_end.index()) {
            // SAFETY: the frame lies in the lowmem allocation.
            None => unsafe { self.lowmem.add(pfn.index() * PAGE_SIZE) },
            Some(index) => self.highmem[index],
        }
    }
}

#[cfg(not(loom))]
impl<G> ArenaMachine<G> {
    /// The same machine, where one allocator runs beside its specification.
    pub(crate) fn specified(mut self) -> Self {
        let end = self.direct_map_end.index() + self.highmem.len();
        self.specification = Some((0..end).map(|_| Entry::default()).collect());
        self
    }

    /// The same machine with so many CPUs, all near a node.
    pub(crate) fn with_cpus(mut self, cpus: NonZeroU16, node: NodeId) -> Self {
        (self.cpus, self.node) = (cpus, node);
        self
    }

    /// What is done from here on, this CPU does.
    pub(crate) fn play(&self, CpuId(cpu): CpuId) {
        self.cpu.store(cpu, Ordering::Relaxed);
    }

    /// Copies what the allocator can have in its pages: all of lowmem up to `tables_end`, where its tables are, and the
    /// beginning of every page behind it.
    pub(crate) fn save(&self, tables_end: Pfn, memory_end: Pfn) -> Vec<u64> {
        let mut words = Vec::with_capacity(memory_end.index() * PAGE_WORDS);
        for (pfn, len) in Self::parts(tables_end, memory_end) {
            // SAFETY: the part lies in the frame, and no operation is under way.
            words.extend_from_slice(unsafe { core::slice::from_raw_parts(self.frame(pfn).cast().as_ptr(), len) });
        }
        words
    }

    /// Brings back what [`save`](Self::save) copied.
    pub(crate) fn restore(&self, saved: &[u64], tables_end: Pfn, memory_end: Pfn) {
        let mut saved = saved;
        for (pfn, len) in Self::parts(tables_end, memory_end) {
            let (part, rest) = saved.split_at(len);
            // SAFETY: the part lies in the frame, and no operation is under way.
            unsafe { self.frame(pfn).cast::<u64>().as_ptr().copy_from_nonoverlapping(part.as_ptr(), len) };
            saved = rest;
        }
    }

    fn parts(tables_end: Pfn, memory_end: Pfn) -> impl Iterator<Item = (Pfn, usize)> {
        let len = move |pfn| if pfn < tables_end { PAGE_WORDS } else { NODE_WORDS };
        (0..memory_end.number()).map(Pfn::new).map(move |pfn| (pfn, len(pfn)))
    }
}

#[cfg(not(loom))]
impl<G: Geometry> ArenaMachine<G> {
    /// The allocator of what a boot map calls usable of this machine's memory. A machine is asked once.
    pub(crate) fn allocator<const CAPACITY: usize>(
        &self,
        map: &mut BootMap<CAPACITY>,
    ) -> Result<PageAllocator<'_, Self>, SetupError> {
        // SAFETY: MACHINE-MEMORY, a test's machine has one allocator, and its memory is touched by nobody else.
        unsafe { PageAllocator::new(self, map) }
    }
}

impl<G> Drop for ArenaMachine<G> {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout.
        unsafe { dealloc(self.lowmem.as_ptr(), pages(self.direct_map_end.index())) };
        for frame in &self.highmem {
            // SAFETY: as above.
            unsafe { dealloc(frame.as_ptr(), pages(1)) };
        }
    }
}

// SAFETY: frames are distinct, page-aligned, live as long as the machine; lowmem is one allocation. A slot leads to the
// frame's own allocation. Entering twice is refused, so no handler can.
unsafe impl<G: Geometry> Machine for ArenaMachine<G> {
    type Geometry = G;
    type InterruptGuard<'a>
        = Inside<'a>
    where
        G: 'a;

    fn direct_map_end(&self) -> Pfn {
        self.direct_map_end
    }

    fn direct_map(&self, frame: Pfn) -> NonNull<u8> {
        assert!(frame < self.direct_map_end, "HIGH-1: {frame:?} is not in the direct map");
        self.frame(frame)
    }

    fn physical(&self, address: NonNull<u8>) -> PhysAddr {
        PhysAddr(address.addr().get().wrapping_sub(self.lowmem.addr().get()) as u64)
    }

    fn kmap_local(&self, frame: Pfn) -> NonNull<u8> {
        let mut slots = self.slots.lock().expect("no test panics with it held");
        assert!(frame >= self.direct_map_end, "{frame:?} needs no slot");
        assert!(slots.len() < 3, "kmap_local nests too deep");
        let address = self.frame(frame);
        assert!(!slots.contains(&address), "{frame:?} is mapped twice");
        slots.push(address);
        address
    }

    unsafe fn kunmap_local(&self, address: NonNull<u8>) {
        let youngest = self.slots.lock().expect("no test panics with it held").pop();
        assert_eq!(youngest, Some(address), "slots are given up last in, first out");
    }

    fn disable_interrupts(&self) -> Inside<'_> {
        let entered = self.inside.swap(true, Ordering::Relaxed);
        assert!(!entered, "invariant FREE-5 broken: the allocator entered itself");
        Inside(&self.inside)
    }

    fn context(&self) -> Context {
        let interrupts = if self.inside.load(Ordering::Relaxed) { Interrupts::Off } else { Interrupts::On };
        Context { work: Work::Task, interrupts }
    }

    fn held_locks(&self) -> &HeldLocks {
        &self.held
    }

    fn cpu(&self) -> CpuId {
        CpuId(self.cpu.load(Ordering::Relaxed))
    }

    fn cpus(&self) -> NonZeroU16 {
        self.cpus
    }

    fn node_of(&self, _cpu: CpuId) -> NodeId {
        self.node
    }

    fn heavy_barrier(&self) {}

    #[cfg(not(loom))]
    fn specification(&self) -> Option<Specification<'_>> {
        self.specification.as_deref().map(Specification::new)
    }
}
