//! The local APIC: interrupts between CPUs, and each CPU's timer.
//!
//! Every CPU finds its own at one address. Nothing here waits for another CPU.
//!
//! Source: Intel SDM volume 3, chapter 11, "Advanced programmable interrupt controller".

use core::sync::atomic::{AtomicU32, Ordering};

use kernel_core::acpi::ApicId;
use kernel_core::layout::LOCAL_APIC;
use mm::units::{CpuId, PhysAddr};
use spin::Once;
use x86_64::VirtAddr;
use x86_64::instructions::interrupts;
use x86_64::instructions::port::Port;
use x86_64::registers::model_specific::Msr;

use crate::cpu_local::{PerCpu, per_cpu};
use crate::image::ro_after_init;

/// What an interrupt is taken by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct InterruptVector(pub(crate) u8);

impl InterruptVector {
    /// This CPU's timer.
    pub(crate) const TIMER: Self = Self(0x40);
    /// Another CPU has something to do for this one.
    pub(crate) const CALL: Self = Self(0x41);
    /// None: the APIC withdrew what it had announced. Its lower four bits must be set.
    pub(crate) const SPURIOUS: Self = Self(0xff);
}

/// Ticks of a local APIC's timer. What they count, the machine says: under QEMU nanoseconds of its virtual time, which
/// under `-icount shift=0` are instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ticks(pub(crate) u32);

/// What one CPU sends to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Message {
    /// Stop, and wait for [`Startup`](Self::Startup).
    Init,
    /// Begin, in real mode, at the page of that number.
    Startup(u8),
    /// An interrupt that cannot be turned off.
    NonMaskable,
    /// An interrupt.
    Interrupt(InterruptVector),
}

/// How the timer goes on when it has counted down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TimerMode {
    Once,
    Periodic,
}

#[derive(Clone, Copy, Debug)]
#[repr(u16)]
enum Register {
    TaskPriority = 0x80,
    EndOfInterrupt = 0xb0,
    SpuriousVector = 0xf0,
    ErrorStatus = 0x280,
    Command = 0x300,
    CommandTarget = 0x310,
    Timer = 0x320,
    Line0 = 0x350,
    Line1 = 0x360,
    Error = 0x370,
    TimerInitial = 0x380,
    TimerDivide = 0x3e0,
}

const ENABLE: u32 = 1 << 8;
const MASKED: u32 = 1 << 16;
const PERIODIC: u32 = 1 << 17;
const NON_MASKABLE: u32 = 4 << 8;
const INIT: u32 = 5 << 8;
const STARTUP: u32 = 6 << 8;
const ASSERT: u32 = 1 << 14;
const SENDING: u32 = 1 << 12;
const DIVIDE_BY_ONE: u32 = 0b1011;

/// Looks that are taken at a message that is being sent; a machine whose messages take longer has lost them.
const PATIENCE: u32 = 1_000_000;

/// The right to use this CPU's local APIC.
///
/// # Invariants
/// APIC-1: its registers are mapped at [`LOCAL_APIC`], uncached, for ever.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LocalApic(());

ro_after_init! {
    static MAPPED: Once<LocalApic> = Once::new();
}

ro_after_init! {
    /// Whose APIC is whose.
    static IDS: PerCpu<AtomicU32> = per_cpu!(AtomicU32::new(0));
}

/// The local APIC of the CPU this runs on, as its instruction set says.
pub(crate) fn own_id() -> ApicId {
    ApicId(core::arch::x86_64::__cpuid(1).ebx >> 24)
}

/// What about the local APIC keeps this kernel from using it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoApic {
    #[error("there is no local APIC")]
    Missing,
    #[error("firmware has turned the local APIC off, or to a mode without memory-mapped registers")]
    NotMapped,
    #[error("firmware's table and the CPU have the local APIC at different addresses")]
    Elsewhere,
}

/// Makes sure that the registers are where firmware's table says.
///
/// # Errors
/// See [`NoApic`].
pub(crate) fn probe(listed: PhysAddr) -> Result<(), NoApic> {
    const APIC: u32 = 1 << 9;
    const BASE: Msr = Msr::new(0x1b);
    const GLOBAL_ENABLE: u64 = 1 << 11;
    const X2APIC: u64 = 1 << 10;
    const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
    if core::arch::x86_64::__cpuid(1).edx & APIC == 0 {
        return Err(NoApic::Missing);
    }
    // SAFETY: every CPU with a local APIC has this register; reading it changes nothing.
    let base = unsafe { BASE.read() };
    if base & (GLOBAL_ENABLE | X2APIC) != GLOBAL_ENABLE {
        return Err(NoApic::NotMapped);
    }
    if PhysAddr(base & ADDRESS) == listed { Ok(()) } else { Err(NoApic::Elsewhere) }
}

/// Masks the two PICs, which the local APIC replaces.
pub(crate) fn mask_pics() {
    for port in [0x21, 0xa1] {
        // SAFETY: the interrupt masks of a PC's PICs; nothing of this kernel is interrupted by them.
        unsafe { Port::<u8>::new(port).write(0xff) };
    }
}

impl LocalApic {
    /// Says that the registers are mapped.
    ///
    /// # Safety
    /// APIC-1.
    pub(crate) unsafe fn announce() -> Self {
        *MAPPED.call_once(|| Self(()))
    }

    /// `None` before [`announce`](Self::announce).
    #[inline]
    pub(crate) fn get() -> Option<Self> {
        MAPPED.get().copied()
    }

    /// Turns this CPU's on: it takes messages, its timer stands still.
    pub(crate) fn init(self, cpu: CpuId, id: ApicId) {
        IDS.of(cpu).store(id.0, Ordering::Release);
        self.write(Register::TaskPriority, 0);
        self.write(Register::SpuriousVector, ENABLE | u32::from(InterruptVector::SPURIOUS.0));
        self.write(Register::Timer, MASKED);
        self.write(Register::TimerDivide, DIVIDE_BY_ONE);
        self.write(Register::Line0, MASKED);
        // What the machine's own alarm is wired to: it need not ring twice.
        self.write(Register::Line1, if cpu == CpuId(0) { NON_MASKABLE } else { MASKED | NON_MASKABLE });
        self.write(Register::Error, MASKED);
        self.write(Register::ErrorStatus, 0);
        self.end_of_interrupt();
    }

    /// Sends a message to another CPU, which has been up.
    pub(crate) fn send(self, to: CpuId, message: Message) {
        self.send_to(ApicId(IDS.of(to).load(Ordering::Acquire)), message);
    }

    /// Sends a message to another CPU.
    pub(crate) fn send_to(self, to: ApicId, message: Message) {
        let command = match message {
            Message::Init => INIT,
            Message::Startup(page) => STARTUP | u32::from(page),
            Message::NonMaskable => NON_MASKABLE,
            Message::Interrupt(vector) => u32::from(vector.0),
        };
        // A handler that sends, too, comes before the first of the two writes or behind the second.
        interrupts::without_interrupts(|| {
            self.wait_until_sent();
            self.write(Register::CommandTarget, to.0 << 24);
            self.write(Register::Command, command | ASSERT);
        });
    }

    fn wait_until_sent(self) {
        let sending = || self.read(Register::Command) & SENDING != 0;
        let _ = (0..PATIENCE).take_while(|_| sending()).map(|_| core::hint::spin_loop()).count();
    }

    /// Says that the handler of an interrupt is done.
    #[inline]
    pub(crate) fn end_of_interrupt(self) {
        self.write(Register::EndOfInterrupt, 0);
    }

    /// Lets this CPU's timer count down from `ticks`; at 0 it interrupts.
    pub(crate) fn start_timer(self, ticks: Ticks, mode: TimerMode) {
        let mode = if mode == TimerMode::Periodic { PERIODIC } else { 0 };
        self.write(Register::Timer, mode | u32::from(InterruptVector::TIMER.0));
        self.write(Register::TimerInitial, ticks.0);
    }

    /// Stops this CPU's timer. An interrupt that it has announced may still come.
    pub(crate) fn stop_timer(self) {
        self.write(Register::Timer, MASKED);
        self.write(Register::TimerInitial, 0);
    }

    fn register(register: Register) -> *mut u32 {
        VirtAddr::new_truncate(LOCAL_APIC + register as u64).as_mut_ptr()
    }

    fn read(self, register: Register) -> u32 {
        // SAFETY: APIC-1, and reading any of these changes nothing.
        unsafe { Self::register(register).read_volatile() }
    }

    fn write(self, register: Register, value: u32) {
        // SAFETY: APIC-1; no register here reaches memory.
        unsafe { Self::register(register).write_volatile(value) };
    }
}
