//! Which CPU this is, and what each has for itself.
//!
//! GS leads to a word that holds the CPU's number, so asking is one instruction. It stands there times a cache line's size,
//! as it mostly serves to find something that has a line for each CPU. The boot CPU's GS is set before anything
//! else runs, that of another before its first Rust function. A task never changes its CPU, so the answer may be kept.

use core::arch::asm;
use core::hint;

use kernel_core::layout::CPUS;
use mm::units::CpuId;
use x86_64::VirtAddr;
use x86_64::registers::model_specific::GsBase;

/// What GS leads to.
#[derive(Debug)]
#[repr(C, align(64))]
pub(crate) struct Head {
    scaled: u64,
}

/// What numbers are multiplied by.
const SCALE: u64 = 64;
const END: u64 = CPUS as u64 * SCALE;

static HEADS: [Head; CPUS] = {
    let mut heads = [const { Head { scaled: 0 } }; CPUS];
    let mut cpu = 0;
    let mut scaled = 0;
    while cpu < CPUS {
        heads[cpu].scaled = scaled;
        cpu += 1;
        scaled += SCALE;
    }
    heads
};

/// Makes this CPU the one that boots.
///
/// # Safety
/// It is, and has not asked who it is: the compiler may do so anywhere in a function that asks.
pub(crate) unsafe fn init() {
    GsBase::write(VirtAddr::from_ptr(&raw const HEADS[0]));
}

/// What GS is to lead to on a CPU.
pub(crate) fn head(cpu: CpuId) -> &'static Head {
    &HEADS[usize::from(cpu.0)]
}

/// The CPU this runs on.
#[inline(always)]
pub(crate) fn this_cpu() -> CpuId {
    let scaled: u64;
    // SAFETY: GS leads to a head, and reading its number changes nothing.
    unsafe { asm!("mov {}, gs:[0]", out(reg) scaled, options(pure, nomem, nostack, preserves_flags)) };
    // SAFETY: there are so many heads, each with its place as its number; what is indexed with it need not be checked.
    unsafe { hint::assert_unchecked(scaled < END) };
    // SAFETY: as above; so it can be scaled again for nothing.
    unsafe { hint::assert_unchecked(scaled & (SCALE - 1) == 0) };
    CpuId(((scaled / SCALE) & 0xffff) as u16)
}

/// One of a kind for each CPU, no two in one cache line.
#[derive(Debug)]
pub(crate) struct PerCpu<T>(pub(crate) [Apart<T>; CPUS]);

/// Fills cache lines of its own.
#[derive(Debug)]
#[repr(align(64))]
pub(crate) struct Apart<T>(pub(crate) T);

/// One for each CPU, each begun alike.
macro_rules! per_cpu {
    ($each:expr) => {
        $crate::cpu_local::PerCpu([const { $crate::cpu_local::Apart($each) }; kernel_core::layout::CPUS])
    };
}

pub(crate) use per_cpu;

impl<T> PerCpu<T> {
    /// This CPU's.
    #[inline(always)]
    pub(crate) fn this(&self) -> &T {
        self.of(this_cpu())
    }

    /// A CPU's.
    #[inline(always)]
    pub(crate) fn of(&self, cpu: CpuId) -> &T {
        &self.0[usize::from(cpu.0)].0
    }
}
