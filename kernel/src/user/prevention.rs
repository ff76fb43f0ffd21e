//! What the processor keeps the kernel from doing with users' memory, and users with the kernel's tables, where it can.
//!
//! | | |
//! |---|---|
//! | SMEP | the kernel executes nothing that users can reach |
//! | SMAP | it reads and writes nothing there, unless AC is set in its flags |
//! | UMIP | users do not learn where the processor's tables are |
//!
//! Other CPUs begin with what the boot CPU has in CR4 ([`start`](crate::start)).
//!
//! Source: Intel SDM volume 3, section 5.6, "Access rights"; volume 2, CPUID, leaf 7.

use x86_64::registers::control::{Cr4, Cr4Flags};

use super::access;

const LEAF: u32 = 7;

/// What this CPU can do of it.
pub(crate) fn available() -> Cr4Flags {
    const SMEP: u32 = 1 << 7;
    const SMAP: u32 = 1 << 20;
    const UMIP: u32 = 1 << 2;
    let highest = core::arch::x86_64::__cpuid(0).eax;
    if highest < LEAF {
        return Cr4Flags::empty();
    }
    let found = core::arch::x86_64::__cpuid_count(LEAF, 0);
    let mut available = Cr4Flags::empty();
    available.set(Cr4Flags::SUPERVISOR_MODE_EXECUTION_PROTECTION, found.ebx & SMEP != 0);
    available.set(Cr4Flags::SUPERVISOR_MODE_ACCESS_PREVENTION, found.ebx & SMAP != 0);
    available.set(Cr4Flags::USER_MODE_INSTRUCTION_PREVENTION, found.ecx & UMIP != 0);
    available
}

/// Switches all of it on that this CPU can do.
///
/// # Safety
/// Users' memory is touched by nobody but [`access`], and no code of the kernel's is mapped as users' can be.
pub(crate) unsafe fn switch_on() {
    let available = available();
    if available.contains(Cr4Flags::SUPERVISOR_MODE_ACCESS_PREVENTION) {
        access::is_prevented();
    }
    // SAFETY: the processor has what is switched on, and the caller answers for what it then refuses.
    unsafe { Cr4::update(|flags| flags.insert(available)) };
}
