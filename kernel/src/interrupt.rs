//! Interrupts: where the processor goes for each, and who does what there.
//!
//! They run on the interrupted stack with interrupts off, one at a time, but for those that cannot be masked, which have a
//! stack of their own and may come at any point.

use core::arch::naked_asm;

use kernel_core::exception::Vector;

use crate::apic::{InterruptVector, LocalApic};
use crate::fatal::{Registers, report_because, save_call_and_return};
use crate::nmi::{self, Origin};
use crate::timer;

/// What is interrupted by, and where it is taken.
pub(crate) const ENTRIES: [(InterruptVector, extern "C" fn()); 3] = [
    (InterruptVector::TIMER, entry::<{ InterruptVector::TIMER.0 }>),
    (InterruptVector::CALL, entry::<{ InterruptVector::CALL.0 }>),
    (InterruptVector::SPURIOUS, entry::<{ InterruptVector::SPURIOUS.0 }>),
];

/// Where the processor goes for `VECTOR`.
#[unsafe(naked)]
extern "C" fn entry<const VECTOR: u8>() {
    naked_asm!("push 0", "push {vector}", "push rax", "jmp {handle}", vector = const VECTOR, handle = sym handle_and_return)
}

#[unsafe(naked)]
extern "C" fn handle_and_return() {
    save_call_and_return!(handle)
}

extern "sysv64" fn handle(registers: &mut Registers) {
    nmi::resume();
    // The APIC does not wait for an end of what it has withdrawn.
    if registers.vector == u64::from(InterruptVector::SPURIOUS.0) {
        return;
    }
    // INVARIANT: nothing else interrupts, so there is a local APIC.
    let Some(apic) = LocalApic::get() else { return };
    if registers.vector == u64::from(InterruptVector::TIMER.0) {
        timer::tick(apic, registers);
    }
    // A call need do no more than wake: whoever idles looks for work.
    apic.end_of_interrupt();
}

/// Where the processor goes for interrupts that cannot be masked, on their own stack.
#[unsafe(naked)]
pub(crate) extern "C" fn non_maskable() {
    naked_asm!(
        "push 0",
        "push {vector}",
        "push rax",
        "jmp {handle}",
        vector = const Vector::NMI.0,
        handle = sym handle_non_maskable_and_return,
    )
}

#[unsafe(naked)]
extern "C" fn handle_non_maskable_and_return() {
    save_call_and_return!(handle_non_maskable)
}

/// Returns if it was another CPU's.
extern "sysv64" fn handle_non_maskable(registers: &mut Registers) {
    if nmi::handle() == Origin::Machine {
        report_because(registers, None);
    }
}
