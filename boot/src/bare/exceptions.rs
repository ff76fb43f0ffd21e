//! Exceptions of the loader's own: none are expected, each is reported instead of resetting the machine.

use x86_64::VirtAddr;
use x86_64::registers::control::Cr2;
use x86_64::structures::idt::InterruptDescriptorTable;

use super::report;

// SAFETY: the assembly of this module defines it; it is never called from Rust.
unsafe extern "C" {
    fn exception_entry();
}

/// Has the CPU report every exception through `table`, until the kernel brings its own.
///
/// Others than these three find no gate and become a double fault.
pub(super) fn report(table: &mut InterruptDescriptorTable) {
    let entry = VirtAddr::from_ptr(exception_entry as *const ());
    // SAFETY: the entry code never returns, so its calling convention does not matter.
    unsafe { table.page_fault.set_handler_addr(entry) };
    // SAFETY: as above.
    unsafe { table.general_protection_fault.set_handler_addr(entry) };
    // SAFETY: as above.
    unsafe { table.double_fault.set_handler_addr(entry) };
    // SAFETY: the table lies on the stack of a function that never returns, and interrupts stay off.
    unsafe { table.load_unsafe() };
}

#[unsafe(no_mangle)]
extern "C" fn exception() -> ! {
    report::fail(format_args!("internal: unexpected exception (last page fault at {:#x})", Cr2::read_raw()))
}
