//! A machine inside a process: for tests, searches and native benchmarks.
//!
//! Physical memory is an anonymous file, so a machine of a terabyte takes up what is touched of it. Lowmem is mapped
//! for good; where highmem would follow there is only reserved address space, and touching it is a segmentation
//! fault. A `kmap_local` slot shows one frame, between two pages that fault (HIGH-1).
//!
//! Any number of machines may exist at once. A thread plays CPU 0 unless it runs [`on_cpu`]; no two threads may play
//! the same CPU of one machine at the same time: where they meet in the middle of something, that is a panic, but they need
//! not meet (MACHINE-CPU is the test's to keep). Interrupts come where a test says: at once ([`HostMachine::interrupt`]),
//! or in front of any instruction (`stepping`).
//!
//! What the allocator must never do is a panic that says so: slots given up out of order, a fourth slot (in a handler
//! a seventh), a slot for lowmem, a frame that does not exist, a slot still live when the machine goes.
//!
//! In an interpreter memory is the process's heap (`heap`): nothing faults there, but each pointer knows what it may reach.
//!
//! Cost: `direct_map` one compare and an addition; mapping a slot and giving it up one system call each.

use core::cell::Cell;
use core::fmt;
use core::marker::PhantomData;
use core::num::NonZeroU16;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::boxed::Box;
use std::io;
use std::string::{String, ToString};
use std::thread::{self, ThreadId};
#[cfg(not(shuttle))]
use std::thread_local;
use std::vec::Vec;

use arrayvec::ArrayVec;
#[cfg(shuttle)]
use shuttle::thread_local;
use spin::Mutex;

use crate::faults::Faults;
use crate::hardening::Hardening;
use crate::lock_order::{Context, HeldLocks, Work};
use crate::machine::{Begun, Fence, Geometry, Machine, Standard};
use crate::random::RandomSeed;
use crate::specification::{Entry, Specification};
#[cfg(asan)]
use crate::units::Bytes;
use crate::units::{CpuId, Distance, NodeId, Pfn, PfnRange, PhysAddr};

mod barrier;
#[cfg(miri)]
mod heap;
mod interrupts;
mod lend;
#[cfg(all(test, not(loom)))]
mod meeting;
#[cfg(not(miri))]
mod memory;
mod mmu;
#[cfg(all(test, not(loom)))]
mod panicking;
#[cfg(asan)]
mod sanitizer;
mod scale;
#[cfg(all(test, not(loom)))]
mod shared_store;
#[cfg(all(target_arch = "x86_64", not(miri)))]
pub mod stepping;
#[cfg(all(test, not(loom)))]
pub(crate) mod sweep;
mod topology;

#[cfg(miri)]
use heap::{Access, Memory};
pub use interrupts::InterruptsOff;
use interrupts::State;
#[cfg(all(test, not(loom)))]
pub(crate) use meeting::{Meeting, SlowStore};
#[cfg(not(miri))]
use memory::{Access, Memory};
pub use mmu::HostMmu;
#[cfg(all(test, not(loom)))]
pub(crate) use panicking::{all_memory, panicking_when_short};
pub use scale::scaled;
#[cfg(all(test, not(loom)))]
pub(crate) use scale::{at_each_step, ballast, orders_that_take_all};
pub use topology::Topology;

/// Slots that a task may have live at once.
const TASK_SLOTS: usize = 3;

/// Slots of a CPU: an interrupt handler may have as many again.
const SLOTS: usize = 2 * TASK_SLOTS;

/// A machine with its own physical memory, gone when dropped.
pub struct HostMachine<G: Geometry = Standard> {
    memory: Memory,
    cpus: Box<[PerCpu]>,
    cpu_count: NonZeroU16,
    topology: Topology,
    faults: Faults,
    reports: Mutex<Vec<String>>,
    specification: Option<Box<[Entry]>>,
    kmap_start: Pfn,
    is_lent: AtomicBool,
    hardening: Hardening,
    random_seed: RandomSeed,
    #[cfg(asan)]
    fenced: sanitizer::Fenced,
    geometry: PhantomData<fn() -> G>,
}

/// What belongs to one CPU.
#[derive(Default)]
struct PerCpu {
    slots: Mutex<Slots>,
    interrupts: State,
}

/// The live slots of one CPU, oldest first.
#[derive(Default)]
struct Slots {
    live: ArrayVec<Pfn, SLOTS>,
    /// Who mapped them; nobody if there are none.
    thread: Option<ThreadId>,
}

/// What stood in a run of frames at one time.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Snapshot {
    range: PfnRange,
    bytes: Vec<u8>,
}

thread_local! {
    static CPU: Cell<CpuId> = const { Cell::new(CpuId(0)) };
}

/// Runs `work` with this thread playing `cpu`, on every machine.
pub fn on_cpu<R>(cpu: CpuId, work: impl FnOnce() -> R) -> R {
    struct Restore(CpuId);
    impl Drop for Restore {
        fn drop(&mut self) {
            CPU.with(|cpu| cpu.set(self.0));
        }
    }
    let _restore = Restore(CPU.with(|this| this.replace(cpu)));
    work()
}

impl<G: Geometry> HostMachine<G> {
    /// A machine of zeroed frames from 0 up to `memory_end`, of which those from `direct_map_end` on are highmem.
    ///
    /// # Errors
    /// The operating system grants no file or no address space of that size, or has pages of another size.
    pub fn new(memory_end: Pfn, direct_map_end: Pfn, cpus: NonZeroU16) -> io::Result<Self> {
        barrier::register()?;
        let memory = Memory::new(memory_end, direct_map_end, usize::from(cpus.get()) * SLOTS)?;
        let all = (0..cpus.get()).map(|_| PerCpu::default()).collect();
        Ok(Self {
            memory,
            cpus: all,
            cpu_count: cpus,
            topology: Topology::default(),
            faults: Faults::none(),
            reports: Mutex::default(),
            specification: None,
            kmap_start: direct_map_end,
            is_lent: AtomicBool::new(false),
            hardening: Hardening::empty(),
            random_seed: RandomSeed::default(),
            #[cfg(asan)]
            fenced: sanitizer::Fenced::default(),
            geometry: PhantomData,
        })
    }

    /// The same machine, with its CPUs on other nodes.
    #[must_use]
    pub fn with_topology(mut self, topology: Topology) -> Self {
        self.topology = topology;
        self
    }

    /// The same machine, where all memory is looked at through slots.
    #[must_use]
    pub fn kmapped(mut self) -> Self {
        self.kmap_start = Pfn::new(0);
        self
    }

    /// The same machine, where one allocator runs beside its specification: in builds with debug assertions.
    #[must_use]
    pub fn specified(mut self) -> Self {
        self.specification = Some((0..self.memory_end().index()).map(|_| Entry::default()).collect());
        self
    }

    /// The same machine, with this done to its free memory.
    #[must_use]
    pub fn hardened(mut self, hardening: Hardening) -> Self {
        self.hardening = hardening;
        self
    }

    /// The same machine, whose random choices start from this.
    #[must_use]
    pub fn seeded(mut self, seed: RandomSeed) -> Self {
        self.random_seed = seed;
        self
    }

    /// The allocations that are to fail.
    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    /// Takes what was reported so far.
    pub fn take_reports(&self) -> Vec<String> {
        let _interrupts = self.disable_interrupts();
        core::mem::take(&mut self.reports.lock())
    }

    /// One past the last frame.
    pub fn memory_end(&self) -> Pfn {
        self.memory.end()
    }

    /// Slots of this CPU that are mapped now.
    pub fn live_slots(&self) -> usize {
        let _interrupts = self.disable_interrupts();
        self.this_cpu().slots.lock().live.len()
    }

    /// A copy of what stands in `range`, highmem included: one system call and a copy of all its bytes.
    ///
    /// # Panics
    /// If the range ends above the machine's memory.
    pub fn save(&self, range: PfnRange) -> Snapshot {
        Snapshot { range, bytes: self.memory.read(range) }
    }

    /// Puts back what stood in the snapshot's frames, whatever machine of this size it was taken on.
    ///
    /// # Safety
    /// Nothing borrows from those frames, and what keeps addresses in them fits what is put back.
    ///
    /// # Panics
    /// If the snapshot's frames end above the machine's memory.
    pub unsafe fn restore(&self, snapshot: &Snapshot) {
        self.memory.write(snapshot.range, &snapshot.bytes);
        // What the allocator says of it is not in the snapshot.
        self.fence_pages(snapshot.range, Fence::Open);
    }

    /// Copies bytes of a frame out as a device does, past all mappings. Together they are no longer than a page.
    pub(crate) fn read(&self, frame: Pfn, offset: usize, bytes: &mut [u8]) {
        self.memory.read_at(frame, offset, bytes);
    }

    /// Copies bytes into a frame as a device does.
    pub(crate) fn write(&self, frame: Pfn, offset: usize, bytes: &[u8]) {
        self.memory.write_at(frame, offset, bytes);
    }

    /// An interrupt comes on this CPU: runs `handler`, unless interrupts are off.
    pub fn interrupt<R>(&self, handler: impl FnOnce() -> R) -> Option<R> {
        self.this_cpu().interrupts.interrupt(handler)
    }

    /// This CPU is busy already.
    #[cold]
    fn found_busy(&self) {
        let (cpu, is_handler) = (self.cpu_index(), self.context().work == Work::Handler);
        assert!(is_handler, "two threads use CPU {cpu} at once: one finds it busy, and has interrupted nobody");
    }

    #[inline]
    fn this_cpu(&self) -> &PerCpu {
        &self.cpus[self.cpu_index()]
    }

    #[inline]
    fn cpu_index(&self) -> usize {
        let CpuId(cpu) = self.cpu();
        usize::from(cpu)
    }
}

// SAFETY: lowmem is mapped once, for the machine's life, each frame at its own place; a slot shows the very frame of
// the same file until it is given up, and no other slot shows it at that address. The direct map's end is never
// written after `new`. Handlers run only with interrupts on. Slots belong to a CPU, and a second thread on it panics.
unsafe impl<G: Geometry> Machine for HostMachine<G> {
    type Geometry = G;
    type InterruptGuard<'a>
        = InterruptsOff<'a>
    where
        Self: 'a;

    #[inline]
    fn direct_map_end(&self) -> Pfn {
        self.memory.lowmem_end()
    }

    #[inline]
    fn kmap_start(&self) -> Pfn {
        self.kmap_start
    }

    #[inline]
    fn direct_map(&self, frame: Pfn) -> NonNull<u8> {
        self.memory.lowmem(frame)
    }

    #[inline]
    fn physical(&self, address: NonNull<u8>) -> PhysAddr {
        self.memory.physical(address)
    }

    fn kmap_local(&self, frame: Pfn) -> NonNull<u8> {
        assert!(frame >= self.kmap_start, "a slot for {frame:?}, which the direct map reaches");
        assert!(frame < self.memory_end(), "a slot for {frame:?}, but memory ends at {:?}", self.memory_end());
        let cpu = self.cpu_index();
        let _interrupts = self.disable_interrupts();
        let mut slots = self.cpus[cpu].slots.lock();
        slots.claim(cpu);
        let level = slots.live.len();
        let most = if self.context().work == Work::Handler { SLOTS } else { TASK_SLOTS };
        assert!(level < most, "CPU {cpu} already has {most} live slots");
        slots.live.push(frame);
        let slot = cpu * SLOTS + level;
        // SAFETY: the slot was not live, so nothing refers to it.
        if let Err(error) = unsafe { self.memory.show_in_slot(frame, slot) } {
            panic!("no mapping for {frame:?}: {error}");
        }
        self.memory.slot(slot)
    }

    unsafe fn kunmap_local(&self, address: NonNull<u8>) {
        let cpu = self.cpu_index();
        let _interrupts = self.disable_interrupts();
        let mut slots = self.cpus[cpu].slots.lock();
        slots.claim(cpu);
        let Some(level) = slots.live.len().checked_sub(1) else { panic!("CPU {cpu} has no live slot") };
        let youngest = cpu * SLOTS + level;
        assert!(
            address == self.memory.slot(youngest),
            "slots given up out of order on CPU {cpu}: {address:?} is not the youngest of {:?}",
            slots.live
        );
        // SAFETY: the caller promises that nothing refers to the youngest slot any more, and this is it.
        if let Err(error) = unsafe { self.memory.hide_slot(youngest) } {
            panic!("a slot cannot be unmapped: {error}");
        }
        slots.live.pop();
        if slots.live.is_empty() {
            slots.thread = None;
        }
    }

    #[inline]
    fn disable_interrupts(&self) -> InterruptsOff<'_> {
        self.this_cpu().interrupts.disable()
    }

    #[inline]
    fn context(&self) -> Context {
        self.this_cpu().interrupts.context()
    }

    #[inline]
    fn held_locks(&self) -> &HeldLocks {
        &self.this_cpu().interrupts.held
    }

    #[inline]
    fn cpu(&self) -> CpuId {
        let CpuId(cpu) = CPU.with(Cell::get);
        assert!(usize::from(cpu) < self.cpus.len(), "CPU {cpu} on a machine of {} CPUs", self.cpus.len());
        CpuId(cpu)
    }

    #[inline(always)]
    fn begin_local(&self, busy: &AtomicU32) -> Begun {
        if busy.load(Ordering::Relaxed) != 0 {
            self.found_busy();
            return Begun::Before;
        }
        busy.store(1, Ordering::Relaxed);
        Begun::Here
    }

    fn cpus(&self) -> NonZeroU16 {
        self.cpu_count
    }

    fn node_of(&self, cpu: CpuId) -> NodeId {
        self.topology.node_of(cpu)
    }

    fn distance(&self, from: NodeId, to: NodeId) -> Distance {
        self.topology.distance(from, to)
    }

    fn heavy_barrier(&self) {
        if let Err(error) = barrier::heavy() {
            panic!("no barrier on every thread, though it was registered: {error}");
        }
    }

    fn report(&self, report: &dyn fmt::Display) {
        let _interrupts = self.disable_interrupts();
        self.reports.lock().push(report.to_string());
    }

    #[inline(always)]
    fn specification(&self) -> Option<Specification<'_>> {
        if cfg!(debug_assertions) { self.specification.as_deref().map(Specification::new) } else { None }
    }

    #[inline(always)]
    fn hardening(&self) -> Hardening {
        self.hardening
    }

    unsafe fn unmap_pages(&self, pages: PfnRange) {
        // SAFETY: the caller's promise: nothing borrows from them.
        if let Err(error) = unsafe { self.memory.set_access(pages, Access::None) } {
            panic!("{pages:?} cannot be unmapped: {error}");
        }
    }

    unsafe fn map_pages(&self, pages: PfnRange) {
        // SAFETY: nothing borrows from what cannot be reached.
        if let Err(error) = unsafe { self.memory.set_access(pages, Access::All) } {
            panic!("{pages:?} cannot be mapped: {error}");
        }
    }

    #[cfg(asan)]
    fn fence_pages(&self, pages: PfnRange, fence: Fence) {
        let lowmem = pages.intersection(PfnRange::new(Pfn::new(0), self.direct_map_end()));
        if !lowmem.is_empty() {
            let _interrupts = self.disable_interrupts();
            self.fenced.fence(lowmem, self.direct_map(lowmem.start), fence);
        }
    }

    #[cfg(asan)]
    fn fence_object(&self, place: NonNull<[u8]>, open: Bytes) {
        sanitizer::fence_object(place, open);
    }

    fn random_seed(&self) -> RandomSeed {
        self.random_seed
    }

    #[inline]
    fn injected_faults(&self) -> Option<&Faults> {
        Some(&self.faults)
    }
}

impl Slots {
    /// Makes sure that the CPU's live slots are this thread's.
    fn claim(&mut self, cpu: usize) {
        let this = thread::current().id();
        let owner = *self.thread.get_or_insert(this);
        assert!(owner == this, "two threads use CPU {cpu} at once: {owner:?} holds slots, {this:?} wants one");
    }
}

impl<G: Geometry> Drop for HostMachine<G> {
    fn drop(&mut self) {
        for (cpu, this) in self.cpus.iter_mut().enumerate() {
            let live = &this.slots.get_mut().live;
            assert!(live.is_empty() || thread::panicking(), "a machine goes while CPU {cpu} has slots: {live:?}");
        }
        // The addresses are somebody else's then.
        #[cfg(asan)]
        for pages in self.fenced.take() {
            self.fence_pages(pages, Fence::Open);
        }
    }
}

impl<G: Geometry> fmt::Debug for HostMachine<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostMachine")
            .field("memory_end", &self.memory_end())
            .field("direct_map_end", &self.memory.lowmem_end())
            .field("cpus", &self.cpus.len())
            .finish_non_exhaustive()
    }
}

impl Snapshot {
    /// The contents, frame after frame.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Snapshot of {:?}", self.range)
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
