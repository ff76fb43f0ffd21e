//! This machine, as `mm` sees it.
//!
//! HIGH-1 is asserted here: slots of a CPU nest, last in, first out, at most [`KMAP_SLOTS`] deep, and hold only frames that
//! have no permanent mapping, unless the command line wants all in slots.

use core::arch::asm;
use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
use core::fmt;
use core::num::NonZeroU16;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};

use kernel_core::acpi::Topology;
use kernel_core::cmdline::{CommandLine, KmapLocal};
use kernel_core::layout::{DIRECT_MAP, KMAP_SLOTS, kmap_address, kmap_entry};
use mm::faults::Faults;
use mm::hardening::Hardening;
use mm::lock_order::{Context, HeldLocks, Interrupts, Work};
use mm::machine::{Begun, Machine, Standard};
use mm::random::RandomSeed;
use mm::specification::{Entry, Specification};
use mm::units::{CpuId, Distance, NodeId, PAGE_SHIFT, Pfn, PfnRange, PhysAddr};
use spin::Once;
use x86_64::VirtAddr;
use x86_64::instructions::interrupts;

use crate::cpu_local::{PerCpu, per_cpu, this_cpu};
use crate::image::ro_after_init;
use crate::kmap::WINDOW;
use crate::nmi::{self, Errand};
use crate::paging::direct_map;
use crate::serial::println;

/// The machine's door for `mm`.
#[derive(Debug)]
pub(crate) struct Platform {
    direct_map_end: Pfn,
    kmap_start: Pfn,
    topology: Topology,
    hardening: Hardening,
    random_seed: RandomSeed,
}

/// Slots in use on each CPU: the lowest ones. Only the CPU itself touches its own.
static SLOTS: PerCpu<AtomicUsize> = per_cpu!(AtomicUsize::new(0));

/// The locks of `mm` that each CPU holds.
static HELD: PerCpu<HeldLocks> = per_cpu!(HeldLocks::none());

/// Whether each CPU is in an interrupt handler.
static HANDLING: PerCpu<AtomicBool> = per_cpu!(AtomicBool::new(false));

/// Handles an interrupt on this CPU, which are off until that is done.
pub(crate) fn handling<R>(handler: impl FnOnce() -> R) -> R {
    HANDLING.this().store(true, Ordering::Relaxed);
    let result = handler();
    HANDLING.this().store(false, Ordering::Relaxed);
    result
}

ro_after_init! {
    static PLATFORM: Once<Platform> = Once::new();
}

/// Allocations that are to fail; in builds that are measured, nothing is asked.
static FAULTS: Faults = Faults::none();

/// What the page allocator runs beside, if the command line asks; looked at only in builds that are not measured.
static SPECIFICATION: Once<&'static [Entry]> = Once::new();

/// How often something was told of that nobody was there to take as an error.
static REPORTS: AtomicUsize = AtomicUsize::new(0);

/// How often something was told of so far, whatever it was.
pub(crate) fn reports() -> usize {
    REPORTS.load(Ordering::Relaxed)
}

impl Platform {
    /// Makes the machine known, once the kernel runs on its own page tables. `kmap_local` counts in builds with checks.
    ///
    /// # Safety
    /// The live page tables map all memory below `direct_map_end` in the direct map's window, and the `kmap_local`
    /// window's table at its place.
    pub(crate) unsafe fn init(direct_map_end: Pfn, topology: Topology, words: &CommandLine) -> &'static Self {
        let kmap_start = match words.kmap_local {
            KmapLocal::Highmem => direct_map_end,
            KmapLocal::Always => Pfn::new(0),
        };
        let (hardening, random_seed) = (words.hardening, RandomSeed(words.seed.0));
        PLATFORM.call_once(|| Self { direct_map_end, kmap_start, topology, hardening, random_seed })
    }

    /// The CPUs and nodes that firmware lists.
    pub(crate) const fn topology(&self) -> &Topology {
        &self.topology
    }

    /// The machine; `None` before [`init`](Self::init).
    pub(crate) fn get() -> Option<&'static Self> {
        PLATFORM.get()
    }

    /// Has the page allocator, which there is none of yet, run beside a specification with this table.
    pub(crate) fn specify(&self, table: &'static [Entry]) {
        SPECIFICATION.call_once(|| table);
    }
}

/// Interrupts are off on this CPU until this drops; then they are as before.
#[derive(Debug)]
#[must_use = "interrupts are on again as soon as this drops"]
pub(crate) struct InterruptsOff {
    were_on: Flag,
}

/// The interrupt flag as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flag {
    Set,
    Clear,
}

impl Drop for InterruptsOff {
    #[inline(always)]
    fn drop(&mut self) {
        if self.were_on == Flag::Set {
            interrupts::enable();
        }
    }
}

// SAFETY: `init`'s caller vouches for the direct map and the window, and both stay as they are; a slot's entry is
// written and cleared by its own CPU only, and a frame's number is all that goes into an address.
unsafe impl Machine for Platform {
    type Geometry = Standard;
    type InterruptGuard<'a>
        = InterruptsOff
    where
        Self: 'a;

    fn direct_map_end(&self) -> Pfn {
        self.direct_map_end
    }

    fn direct_map(&self, frame: Pfn) -> NonNull<u8> {
        debug_assert!(frame < self.direct_map_end, "HIGH-1: direct map of {frame:?}, which is highmem");
        let page = VirtAddr::new_truncate(DIRECT_MAP).as_mut_ptr::<u8>().wrapping_add(frame.index() << PAGE_SHIFT);
        // SAFETY: the window lies in the upper half and ends 16 TiB on, below the end of the address space.
        unsafe { NonNull::new_unchecked(page) }
    }

    #[inline(always)]
    fn kmap_start(&self) -> Pfn {
        if cfg!(debug_assertions) { self.kmap_start } else { self.direct_map_end }
    }

    #[inline(always)]
    fn physical(&self, address: NonNull<u8>) -> PhysAddr {
        PhysAddr((address.addr().get() as u64).wrapping_sub(DIRECT_MAP))
    }

    fn kmap_local(&self, frame: Pfn) -> NonNull<u8> {
        assert!(frame >= self.kmap_start(), "HIGH-1: kmap_local of {frame:?}, which has a permanent mapping");
        let slots = SLOTS.this();
        let slot = slots.load(Ordering::Relaxed);
        assert!(slot < KMAP_SLOTS, "HIGH-1: kmap_local of {frame:?}, but all {KMAP_SLOTS} slots are in use");
        // The slot is this one's before its entry is: an interrupt in between takes the next.
        slots.store(slot + 1, Ordering::Relaxed);
        WINDOW.map(kmap_entry(self.cpu(), slot), frame)
    }

    unsafe fn kunmap_local(&self, address: NonNull<u8>) {
        let slots = SLOTS.this();
        let slot = slots.load(Ordering::Relaxed).checked_sub(1);
        let slot = slot.unwrap_or_else(|| panic!("HIGH-1: kunmap_local of {address:p}, but no slot is in use"));
        let entry = kmap_entry(self.cpu(), slot);
        let youngest = kmap_address(entry);
        let given = address.addr().get() as u64;
        assert!(given == youngest, "HIGH-1: kunmap_local of {given:#x}, but the youngest slot is at {youngest:#x}");
        // The entry is gone before the slot is anyone's: an interrupt in between takes the next.
        WINDOW.unmap(entry);
        slots.store(slot, Ordering::Relaxed);
    }

    #[inline(always)]
    fn disable_interrupts(&self) -> InterruptsOff {
        let were_on = if interrupts::are_enabled() { Flag::Set } else { Flag::Clear };
        interrupts::disable();
        InterruptsOff { were_on }
    }

    fn context(&self) -> Context {
        let work = if HANDLING.this().load(Ordering::Relaxed) { Work::Handler } else { Work::Task };
        let interrupts = if interrupts::are_enabled() { Interrupts::On } else { Interrupts::Off };
        Context { work, interrupts }
    }

    fn held_locks(&self) -> &HeldLocks {
        HELD.this()
    }

    #[inline(always)]
    fn begin_local(&self, busy: &AtomicU32) -> Begun {
        // SAFETY: sets a bit of what is borrowed, in one instruction, which no interrupt divides; only this CPU writes it.
        unsafe {
            asm!(
                "bts dword ptr [{}], 0",
                "jc {}",
                in(reg) busy.as_ptr(),
                label { return Begun::Before },
                options(nostack),
            );
        }
        Begun::Here
    }

    #[inline(always)]
    fn cpu(&self) -> CpuId {
        this_cpu()
    }

    fn cpus(&self) -> NonZeroU16 {
        self.topology.cpus()
    }

    fn node_of(&self, cpu: CpuId) -> NodeId {
        self.topology.node_of(cpu)
    }

    fn distance(&self, from: NodeId, to: NodeId) -> Distance {
        self.topology.distance(from, to)
    }

    #[inline(always)]
    fn injected_faults(&self) -> Option<&Faults> {
        if cfg!(debug_assertions) { Some(&FAULTS) } else { None }
    }

    fn report(&self, report: &dyn fmt::Display) {
        REPORTS.fetch_add(1, Ordering::Relaxed);
        println!("# mm: {report}");
    }

    #[inline(always)]
    fn hardening(&self) -> Hardening {
        self.hardening
    }

    unsafe fn unmap_pages(&self, pages: PfnRange) {
        direct_map::take_out(self, pages);
    }

    unsafe fn map_pages(&self, pages: PfnRange) {
        direct_map::put_back(self, pages);
    }

    #[cfg(asan)]
    fn fence_pages(&self, pages: PfnRange, fence: mm::machine::Fence) {
        crate::sanitizer::fence_pages(self, pages, fence);
    }

    #[cfg(asan)]
    fn fence_object(&self, place: NonNull<[u8]>, open: mm::units::Bytes) {
        crate::sanitizer::fence_object(place, open);
    }

    fn random_seed(&self) -> RandomSeed {
        self.random_seed
    }

    fn prefetch(&self, line: NonNull<u8>) {
        // SAFETY: a hint, which faults nowhere.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast()) };
    }

    #[inline(always)]
    fn specification(&self) -> Option<Specification<'_>> {
        if cfg!(debug_assertions) { SPECIFICATION.get().map(|table| Specification::new(table)) } else { None }
    }

    fn heavy_barrier(&self) {
        nmi::send_others(Errand::Barrier, |_| true);
    }
}
