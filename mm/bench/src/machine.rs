//! A machine for measuring: threads are CPUs, nobody interrupts them, and all of memory is lowmem. The hosted machine of
//! `mm`'s tests checks what its users do; this one does what a kernel's does, and no more.
#![expect(unsafe_code, reason = "a machine made of bare memory")]

use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
use std::cell::Cell;
use std::io;
use std::num::NonZeroU16;
use std::ptr::NonNull;
use std::sync::Arc;

use mm::lock_order::{Context, HeldLocks, Interrupts, Work};
use mm::machine::{Machine, Standard};
use mm::units::{CpuId, PAGE_SHIFT, Pfn, PhysAddr};

use crate::memory::Memory;

thread_local! {
    static CPU: Cell<CpuId> = const { Cell::new(CpuId(0)) };
}

/// Lets this thread be a CPU from now on.
pub(crate) fn be_cpu(cpu: CpuId) {
    CPU.set(cpu);
}

/// The CPU that this thread is.
#[inline]
pub(crate) fn this_cpu() -> CpuId {
    CPU.get()
}

/// A machine of two CPUs.
#[derive(Debug)]
pub(crate) struct Native {
    memory: Arc<Memory>,
    held: [HeldLocks; 2],
}

impl Native {
    /// A machine with this memory, from frame 0.
    ///
    /// # Errors
    /// The operating system knows no barriers.
    pub(crate) fn new(memory: &Arc<Memory>) -> io::Result<Self> {
        // SAFETY: the call takes no memory.
        let registered =
            unsafe { libc::syscall(libc::SYS_membarrier, libc::MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0) };
        if registered != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { memory: memory.clone(), held: [HeldLocks::none(), HeldLocks::none()] })
    }
}

// SAFETY: all of memory is mapped once, as long as the machine lives, frame behind frame; there are no handlers; a thread
// is one CPU, and measures on no other.
unsafe impl Machine for Native {
    type Geometry = Standard;
    type InterruptGuard<'a> = ();

    #[inline]
    fn direct_map_end(&self) -> Pfn {
        Pfn::LIMIT
    }

    #[inline]
    fn direct_map(&self, frame: Pfn) -> NonNull<u8> {
        // SAFETY: the allocator asks for frames of its memory.
        unsafe { self.memory.start().add(frame.index() << PAGE_SHIFT) }
    }

    #[inline]
    fn physical(&self, address: NonNull<u8>) -> PhysAddr {
        PhysAddr((address.addr().get().wrapping_sub(self.memory.start().addr().get())) as u64)
    }

    fn kmap_local(&self, frame: Pfn) -> NonNull<u8> {
        panic!("{frame:?} is lowmem, as all of this machine")
    }

    unsafe fn kunmap_local(&self, address: NonNull<u8>) {
        panic!("{address:?} is in no slot")
    }

    #[inline]
    fn disable_interrupts(&self) {}

    #[inline]
    fn context(&self) -> Context {
        Context { work: Work::Task, interrupts: Interrupts::Off }
    }

    #[inline]
    fn held_locks(&self) -> &HeldLocks {
        let CpuId(cpu) = self.cpu();
        &self.held[usize::from(cpu)]
    }

    #[inline]
    fn cpu(&self) -> CpuId {
        this_cpu()
    }

    fn cpus(&self) -> NonZeroU16 {
        const { NonZeroU16::new(2).expect("not zero") }
    }

    #[inline]
    fn prefetch(&self, line: NonNull<u8>) {
        // SAFETY: a hint, which faults nowhere.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast()) };
    }

    fn heavy_barrier(&self) {
        // SAFETY: the call takes no memory.
        let done = unsafe { libc::syscall(libc::SYS_membarrier, libc::MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0) };
        assert_eq!(done, 0, "it was registered");
    }
}
