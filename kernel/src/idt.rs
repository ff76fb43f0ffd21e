//! Where the processor goes for every exception and interrupt, on all CPUs alike. Exceptions end the kernel with a report,
//! but for page faults that can be resolved ([`fault`]) and interrupts that other CPUs send ([`nmi`](crate::nmi)).
//!
//! The stubs are naked functions, as the interrupt ABI is not stable: each pushes what the processor did not, so that
//! one [`Registers`](crate::fatal::Registers) describes all.

use core::arch::naked_asm;

use kernel_core::exception::{ErrorCode, Vector};
use spin::Once;
use x86_64::VirtAddr;
use x86_64::structures::idt::{Entry, InterruptDescriptorTable};

use crate::apic::InterruptVector;
use crate::fatal::save_and_report;
use crate::image::ro_after_init;
use crate::interrupt;
use crate::stacks::ExceptionStack;
use crate::user::fault;

ro_after_init! {
    static TABLE: Once<InterruptDescriptorTable> = Once::new();
}

/// Loads the exception table on this CPU. The kernel's own segments are loaded already.
pub(crate) fn init() {
    TABLE.call_once(build).load();
}

fn build() -> InterruptDescriptorTable {
    let mut table = InterruptDescriptorTable::new();
    set(&mut table.divide_error, entry::<0>, None);
    set(&mut table.debug, entry::<1>, None);
    set(&mut table.non_maskable_interrupt, interrupt::non_maskable, Some(ExceptionStack::NonMaskable));
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
    set(&mut table.page_fault, fault::entry, Some(ExceptionStack::PageFault));
    set(&mut table.x87_floating_point, entry::<16>, None);
    set(&mut table.alignment_check, entry::<17>, None);
    set(&mut table.machine_check, entry::<{ Vector::MACHINE_CHECK.0 }>, Some(ExceptionStack::MachineCheck));
    set(&mut table.simd_floating_point, entry::<19>, None);
    set(&mut table.virtualization, entry::<20>, None);
    set(&mut table.cp_protection_exception, entry::<21>, None);
    set(&mut table.hv_injection_exception, entry::<28>, None);
    set(&mut table.vmm_communication_exception, entry::<29>, None);
    set(&mut table.security_exception, entry::<30>, None);
    for (vector, stub) in interrupt::ENTRIES {
        let InterruptVector(number) = vector;
        set(&mut table[number], stub, None);
    }
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
        save = sym save_and_report,
    )
}
