//! Copying to and from users' addresses, which may fail: nothing there is ever referred to.
//!
//! One instruction does all of it. Where it faults, the fault is resolved and it goes on; where that cannot be, the handler
//! makes it end early ([`end_of_failed`]), and what is left to copy stands in the counter. It is also the only one of the
//! kernel's that SMAP does not keep from users' memory: AC is set right before it and cleared right behind, also where
//! it ends early. Handlers that come in between begin without AC, and give it back on return.
//!
//! Source: Linux, `arch/x86/lib/copy_user_64.S` and its exception tables.

use core::arch::naked_asm;
use core::sync::atomic::{AtomicU8, Ordering};

use kernel_core::layout::USERS;
use mm::units::{Bytes, VirtualAddress};
use thiserror::Error;
use x86_64::VirtAddr;

use crate::image::ro_after_init;

/// Users' memory that cannot be accessed so.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error("{left} at users' addresses cannot be accessed")]
pub(crate) struct Inaccessible {
    /// What was not copied: the last ones.
    pub(crate) left: Bytes,
}

/// Copies from the live space.
///
/// # Errors
/// Some of it cannot be read. What is before that was copied.
pub(crate) fn copy_from_user(from: VirtualAddress, to: &mut [u8]) -> Result<(), Inaccessible> {
    check(from, to.len())?;
    // The instruction writes there, of which the compiler is not told otherwise.
    let (start, len) = (to.as_mut_ptr().expose_provenance() as u64, to.len());
    // SAFETY: the slice has room, and nothing of users' is ever a Rust object.
    outcome(unsafe { copy(start, from.0, len) })
}

/// Copies to the live space.
///
/// # Errors
/// Some of it cannot be written. What is before that was copied.
pub(crate) fn copy_to_user(to: VirtualAddress, from: &[u8]) -> Result<(), Inaccessible> {
    check(to, from.len())?;
    // As above, it reads.
    let (start, len) = (from.as_ptr().expose_provenance() as u64, from.len());
    // SAFETY: the slice is so long, and nothing of users' is ever a Rust object.
    outcome(unsafe { copy(to.0, start, len) })
}

fn check(start: VirtualAddress, len: usize) -> Result<(), Inaccessible> {
    let inside = USERS.contains(&start.0) && USERS.end - start.0 >= len as u64;
    if inside { Ok(()) } else { Err(Inaccessible { left: Bytes(len) }) }
}

const fn outcome(left: usize) -> Result<(), Inaccessible> {
    if left == 0 { Ok(()) } else { Err(Inaccessible { left: Bytes(left) }) }
}

/// Where an instruction that cannot access users' memory is to go on instead; `None` if it is none that may fail.
pub(super) fn end_of_failed(instruction: u64) -> Option<u64> {
    let address = |function: extern "C" fn()| VirtAddr::from_ptr(function as *const ()).as_u64();
    (instruction == address(access)).then(|| address(end))
}

ro_after_init! {
    /// 1 once SMAP is on: only then there are instructions that set AC and clear it.
    static PREVENTED: AtomicU8 = AtomicU8::new(0);
}

/// Says that SMAP is on, or about to be.
pub(super) fn is_prevented() {
    PREVENTED.store(1, Ordering::Relaxed);
}

/// Copies bytes upwards, and says how many are left.
///
/// # Safety
/// Either range is users', the other may be read or written.
#[unsafe(naked)]
unsafe extern "sysv64" fn copy(to: u64, from: u64, len: usize) -> usize {
    naked_asm!(
        "mov rcx, rdx",
        "cmp byte ptr [rip + {prevented}], 0",
        "je {access}",
        "stac",
        "jmp {access}",
        prevented = sym PREVENTED,
        access = sym access,
    )
}

/// The one instruction that may fail: its first.
#[unsafe(naked)]
extern "C" fn access() {
    naked_asm!("rep movsb", "jmp {end}", end = sym end)
}

#[unsafe(naked)]
extern "C" fn end() {
    naked_asm!(
        "cmp byte ptr [rip + {prevented}], 0",
        "je 2f",
        "clac",
        "2:",
        "mov rax, rcx",
        "ret",
        prevented = sym PREVENTED,
    )
}
