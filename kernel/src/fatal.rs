//! The report of an exception that ends the kernel, in a form that a person can read.

use core::arch::naked_asm;
use core::fmt::{self, Write};

use kernel_core::exception::{PageFault, PageFaultCause, Vector};
use kernel_core::layout::Place;
use kernel_core::violation::Violation;
use mm::PageState;
use mm::hardening::Hardening;
use mm::machine::Machine;
use mm::units::Pfn;
use x86_64::registers::control::{Cr2, Cr4};
use x86_64::registers::rflags::RFlags;

use crate::backtrace::{self, FramePointer};
use crate::panic::die;
use crate::platform::Platform;
use crate::{image, memory, stacks};

/// What the processor and an exception's entry push, from the lowest address upwards.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Registers {
    r15: u64,
    r14: u64,
    r13: u64,
    r12: u64,
    r11: u64,
    r10: u64,
    r9: u64,
    r8: u64,
    rbp: u64,
    rdi: u64,
    rsi: u64,
    rdx: u64,
    rcx: u64,
    rbx: u64,
    rax: u64,
    pub(crate) vector: u64,
    pub(crate) error_code: u64,
    pub(crate) rip: u64,
    cs: u64,
    rflags: u64,
    rsp: u64,
    ss: u64,
}

impl Registers {
    /// The flags of whoever was interrupted.
    pub(crate) const fn flags(&self) -> RFlags {
        RFlags::from_bits_truncate(self.rflags)
    }
}

/// Pushes what is behind `rax` in [`Registers`].
macro_rules! push_behind_rax {
    () => {
        "push rbx
        push rcx
        push rdx
        push rsi
        push rdi
        push rbp
        push r8
        push r9
        push r10
        push r11
        push r12
        push r13
        push r14
        push r15"
    };
}

/// Clears what flags whoever was interrupted had set: AC, with which it may use users' memory, and DF. Interrupts are off
/// in every handler.
macro_rules! reset_flags {
    () => {
        "push 2
        popfq"
    };
}

/// Hands the [`Registers`], which are complete down to `rax`, to a function, and goes on where they say. A backtrace goes
/// on with whoever was interrupted.
macro_rules! save_call_and_return {
    ($handler:path) => {
        core::arch::naked_asm!(
            $crate::fatal::push_behind_rax!(),
            $crate::fatal::reset_flags!(),
            "mov rdi, rsp",
            "push qword ptr [rsp + {rip}]",
            "push rbp",
            "mov rbp, rsp",
            "call {handler}",
            "add rsp, 16",
            "pop r15",
            "pop r14",
            "pop r13",
            "pop r12",
            "pop r11",
            "pop r10",
            "pop r9",
            "pop r8",
            "pop rbp",
            "pop rdi",
            "pop rsi",
            "pop rdx",
            "pop rcx",
            "pop rbx",
            "pop rax",
            "add rsp, 16",
            "iretq",
            rip = const core::mem::offset_of!($crate::fatal::Registers, rip),
            handler = sym $handler,
        )
    };
}

pub(crate) use {push_behind_rax, reset_flags, save_call_and_return};

/// Completes the [`Registers`], down to the vector, and reports them, with a frame pointer at which a backtrace ends.
#[unsafe(naked)]
pub(crate) extern "C" fn save_and_report() {
    naked_asm!(
        "push rax",
        push_behind_rax!(),
        reset_flags!(),
        "mov rdi, rsp",
        "xor ebp, ebp",
        "and rsp, -16",
        "call {report}",
        "ud2",
        report = sym report,
    )
}

/// Ends the kernel with what it was doing when an exception came.
extern "sysv64" fn report(registers: &Registers) -> ! {
    report_because(registers, None)
}

/// As [`report`], with why a handler could not help.
pub(crate) fn report_because(registers: &Registers, reason: Option<&dyn fmt::Display>) -> ! {
    die(|serial| {
        write_headline(serial, registers)?;
        write_cpu(serial)?;
        if let Some(reason) = reason {
            writeln!(serial, "  not resolved: {reason}")?;
        }
        write!(serial, "{registers}")?;
        if let Some(linked) = image::as_linked(registers.rip) {
            writeln!(serial, "  backtrace: {linked:#x}")?;
        }
        backtrace::write(serial, FramePointer(registers.rbp))
    })
}

/// Says which CPU it was, where there are several.
fn write_cpu(serial: &mut impl Write) -> fmt::Result {
    match Platform::get() {
        Some(platform) if platform.cpus().get() > 1 => writeln!(serial, "  on CPU {}", platform.cpu().0),
        _ => Ok(()),
    }
}

fn write_headline(serial: &mut impl Write, registers: &Registers) -> fmt::Result {
    let vector = Vector(u8::try_from(registers.vector).unwrap_or(u8::MAX));
    let explained = vector.explain(registers.error_code);
    if vector != Vector::PAGE_FAULT {
        return writeln!(serial, "\nEXCEPTION: {vector}, error code {explained}");
    }
    let address = Cr2::read_raw();
    let place = Place::of(address, Platform::get().map_or(Pfn::new(0), Platform::direct_map_end), stacks::guards());
    writeln!(serial, "\nEXCEPTION: {vector} at {address:#x}, in {place}; error code {explained}")?;
    let fault = PageFault::of(registers.error_code);
    let violation = Violation::of(fault, place, registers.flags(), Cr4::read());
    match free_page(place, fault).or(violation) {
        Some(violation) => writeln!(serial, "  violated: {violation}"),
        None => Ok(()),
    }
}

/// What a fault in the direct map has violated, if free pages are taken out of it and this is one.
fn free_page(place: Place, fault: PageFault) -> Option<Violation> {
    let takes_out = Platform::get()?.hardening().contains(Hardening::DEBUG_PAGEALLOC);
    let Place::DirectMap(pfn) = place else { return None };
    if !takes_out || fault.cause() != PageFaultCause::NotPresent {
        return None;
    }
    let allocator = memory::allocator()?;
    let head = allocator.block_of(pfn)?;
    match allocator.page_state(head) {
        (PageState::Free | PageState::Isolated, order) => Some(Violation::FreePage(head, order)),
        _ => None,
    }
}

impl fmt::Display for Registers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { r15, r14, r13, r12, r11, r10, r9, r8, rbp, rdi, rsi, rdx, rcx, rbx, rax, .. } = self;
        let Self { vector: _, error_code: _, rip, cs, rflags, rsp, ss, .. } = self;
        writeln!(f, "  rip {rip:016x}  rsp {rsp:016x}  rflags {rflags:x}  cs {cs:x}  ss {ss:x}")?;
        writeln!(f, "  rax {rax:016x}  rbx {rbx:016x}  rcx {rcx:016x}  rdx {rdx:016x}")?;
        writeln!(f, "  rsi {rsi:016x}  rdi {rdi:016x}  rbp {rbp:016x}  r8  {r8:016x}")?;
        writeln!(f, "  r9  {r9:016x}  r10 {r10:016x}  r11 {r11:016x}  r12 {r12:016x}")?;
        writeln!(f, "  r13 {r13:016x}  r14 {r14:016x}  r15 {r15:016x}")
    }
}
