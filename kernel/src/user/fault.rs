//! Page faults: those at users' addresses are resolved by the live space, and the access is tried again.
//!
//! The processor enters every page fault on a stack of its own, as the interrupted one may be full: then the fault is at that
//! stack's guard. But only one fault at a time can be on that stack, and resolving takes locks, memory, room. So
//! the entry asks where the fault is. One in the kernel's half stays where it is and is reported. For one in users'
//! half, which nobody's stack is in, the entry copies what the processor pushed to the interrupted stack and goes on
//! there, as if there were no other. If there is no room, that faults in the kernel's half, and the report names the guard.
//!
//! Interrupts stay off while a fault is resolved, and users' memory is out of reach, whatever the interrupted one might do.
//! What the kernel does there outside of the routines for it ([`access`]) is not resolved, but reported.

use core::arch::naked_asm;

use kernel_core::exception::{PageFault, PageFaultCause, Vector};
use kernel_core::violation::Violation;
use mm::units::VirtualAddress;
use x86_64::registers::control::{Cr2, Cr4};

use super::access;
use super::live::{self, Unresolved};
use crate::fatal::{self, Registers, reset_flags, save_and_report, save_call_and_return};

/// Where the processor goes for a page fault, on the page faults' own stack.
#[unsafe(naked)]
pub(crate) extern "C" fn entry() {
    naked_asm!(
        reset_flags!(),
        "push rax",
        "push rbx",
        "mov rax, cr2",
        "test rax, rax",
        "js 2f",
        // From here: rbx, rax, error code, rip, cs, rflags, rsp, ss.
        "mov rax, [rsp + 48]",
        "and rax, -16",
        "mov rbx, [rsp + 56]",
        "mov [rax - 8], rbx",
        "mov rbx, [rsp + 48]",
        "mov [rax - 16], rbx",
        "mov rbx, [rsp + 40]",
        "mov [rax - 24], rbx",
        "mov rbx, [rsp + 32]",
        "mov [rax - 32], rbx",
        "mov rbx, [rsp + 24]",
        "mov [rax - 40], rbx",
        "mov rbx, [rsp + 16]",
        "mov [rax - 48], rbx",
        "mov qword ptr [rax - 56], {vector}",
        "mov rbx, [rsp + 8]",
        "mov [rax - 64], rbx",
        "pop rbx",
        "lea rsp, [rax - 64]",
        "jmp {resolve}",
        "2:",
        "pop rbx",
        "pop rax",
        "push {vector}",
        "jmp {report}",
        vector = const Vector::PAGE_FAULT.0,
        resolve = sym resolve_and_return,
        report = sym save_and_report,
    )
}

/// Completes the [`Registers`], down to `rax`, on the interrupted stack; resolves the fault, and tries again.
#[unsafe(naked)]
extern "C" fn resolve_and_return() {
    save_call_and_return!(resolve)
}

/// Returns if the access may be tried again, or failed where it may fail.
extern "sysv64" fn resolve(registers: &mut Registers) {
    let address = VirtualAddress(Cr2::read_raw());
    let fault = PageFault::of(registers.error_code);
    // Whether or not the space has such a page: the kernel was not to look.
    if Violation::of_users_memory(fault, registers.flags(), Cr4::read()).is_some() {
        fatal::report_because(registers, None);
    }
    let outcome = match fault.cause() {
        PageFaultCause::NotPresent | PageFaultCause::Protection => live::resolve(address, fault.access()),
        PageFaultCause::ReservedBit | PageFaultCause::ProtectionKey | PageFaultCause::ShadowStack => {
            Err(Unresolved::Malformed)
        }
    };
    let Err(unresolved) = outcome else { return };
    match access::end_of_failed(registers.rip) {
        Some(end) => registers.rip = end,
        None => fatal::report_because(registers, Some(&unresolved)),
    }
}
