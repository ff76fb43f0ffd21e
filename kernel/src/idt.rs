//! Every exception, with a report that a person can read. None of them is recovered from.
//!
//! The stubs are naked functions, as the interrupt ABI is not stable: each pushes what the processor did not, so that
//! one [`Registers`] describes all.

use core::arch::naked_asm;
use core::fmt::{self, Write};

use kernel_core::exception::{ErrorCode, Vector};
use kernel_core::layout::Place;
use mm::machine::Machine;
use mm::units::Pfn;
use spin::Once;
use x86_64::VirtAddr;
use x86_64::registers::control::Cr2;
use x86_64::structures::idt::{Entry, InterruptDescriptorTable};

use crate::backtrace::{self, FramePointer};
use crate::panic::die;
use crate::platform::Platform;
use crate::stacks::ExceptionStack;
use crate::{image, stacks};

/// What the processor and the stub push, from the lowest address upwards.
#[derive(Debug)]
#[repr(C)]
struct Registers {
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
    vector: u64,
    error_code: u64,
    rip: u64,
    cs: u64,
    rflags: u64,
    rsp: u64,
    ss: u64,
}

static TABLE: Once<InterruptDescriptorTable> = Once::new();

/// Loads the exception table on this CPU. The kernel's own segments are loaded already.
pub(crate) fn init() {
    TABLE.call_once(build).load();
}

fn build() -> InterruptDescriptorTable {
    let mut table = InterruptDescriptorTable::new();
    set(&mut table.divide_error, entry::<0>, None);
    set(&mut table.debug, entry::<1>, None);
    set(&mut table.non_maskable_interrupt, entry::<{ Vector::NMI.0 }>, Some(ExceptionStack::NonMaskable));
    set(&mut table.breakpoint, entry::<3>, None);
    set(&mut table.overflow, entry::<4>, None);
    set(&mut table.bound_range_exceeded, entry::<5>, None);
    set(&mut table.invalid_opcode, entry::<6>, None);
    set(&mut table.device_not_available, entry::<7>, None);
    set(&mut table.double_fault, entry::<{ Vector::DOUBLE_FAULT.0 }>, Some(ExceptionStack::DoubleFault));
    set(&mut table.invalid_tss, entry::<10>, None);
    set(&mut table.segment_not_present, entry::<11>, None);
    set(&mut table.stack_segment_fault, entry::<12>, None);
    set(&mut table.general_protection_fault, entry::<13>, None);
    set(&mut table.page_fault, entry::<{ Vector::PAGE_FAULT.0 }>, Some(ExceptionStack::PageFault));
    set(&mut table.x87_floating_point, entry::<16>, None);
    set(&mut table.alignment_check, entry::<17>, None);
    set(&mut table.machine_check, entry::<{ Vector::MACHINE_CHECK.0 }>, Some(ExceptionStack::MachineCheck));
    set(&mut table.simd_floating_point, entry::<19>, None);
    set(&mut table.virtualization, entry::<20>, None);
    set(&mut table.cp_protection_exception, entry::<21>, None);
    set(&mut table.hv_injection_exception, entry::<28>, None);
    set(&mut table.vmm_communication_exception, entry::<29>, None);
    set(&mut table.security_exception, entry::<30>, None);
    table
}

fn set<F>(entry: &mut Entry<F>, stub: extern "C" fn(), stack: Option<ExceptionStack>) {
    // SAFETY: the stub is made for this vector: it knows whether the processor pushes an error code.
    let options = unsafe { entry.set_handler_addr(VirtAddr::from_ptr(stub as *const ())) };
    if let Some(stack) = stack {
        // SAFETY: the task state segment has every exception stack at its number, each used by one vector.
        unsafe { options.set_stack_index(stack as u16) };
    }
}

/// Where the processor goes for `VECTOR`, whose error code it has pushed if there is one.
#[unsafe(naked)]
extern "C" fn entry<const VECTOR: u8>() {
    naked_asm!(
        ".if {coded} == 0",
        "push 0",
        ".endif",
        "push {vector}",
        "jmp {save}",
        coded = const !matches!(Vector(VECTOR).error_code(), ErrorCode::None) as u8,
        vector = const VECTOR,
        save = sym save,
    )
}

/// Completes the [`Registers`] and reports them, with a frame pointer at which a backtrace ends.
#[unsafe(naked)]
extern "C" fn save() {
    naked_asm!(
        "push rax",
        "push rbx",
        "push rcx",
        "push rdx",
        "push rsi",
        "push rdi",
        "push rbp",
        "push r8",
        "push r9",
        "push r10",
        "push r11",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "cld",
        "mov rdi, rsp",
        "xor ebp, ebp",
        "and rsp, -16",
        "call {report}",
        "ud2",
        report = sym report,
    )
}

extern "sysv64" fn report(registers: &Registers) -> ! {
    die(|serial| {
        write_headline(serial, registers)?;
        write!(serial, "{registers}")?;
        if let Some(linked) = image::as_linked(registers.rip) {
            writeln!(serial, "  backtrace: {linked:#x}")?;
        }
        backtrace::write(serial, FramePointer(registers.rbp))
    })
}

fn write_headline(serial: &mut impl Write, registers: &Registers) -> fmt::Result {
    let vector = Vector(u8::try_from(registers.vector).unwrap_or(u8::MAX));
    let explained = vector.explain(registers.error_code);
    if vector != Vector::PAGE_FAULT {
        return writeln!(serial, "\nEXCEPTION: {vector}, error code {explained}");
    }
    let address = Cr2::read_raw();
    let place = Place::of(address, Platform::get().map_or(Pfn::new(0), Platform::direct_map_end), stacks::guards());
    writeln!(serial, "\nEXCEPTION: {vector} at {address:#x}, in {place}; error code {explained}")
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
