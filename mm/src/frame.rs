//! Where a frame stands for as long as somebody looks at it.
//!
//! Invariants: HIGH-1 (a highmem page is mapped exactly as long as it is looked at).
#![expect(unsafe_code, reason = "gives up slots")]

use core::ptr::NonNull;

use crate::machine::Machine;
use crate::units::Pfn;

#[cfg(all(test, not(loom)))]
mod tests;

/// Shows where a frame stands while `look` runs. What may be done there, its owner says.
pub(crate) fn with_mapped<M: Machine, R>(machine: &M, pfn: Pfn, look: impl FnOnce(NonNull<u8>) -> R) -> R {
    if pfn < machine.kmap_start() {
        return look(machine.direct_map(pfn));
    }
    let slot = Slot { machine, page: machine.kmap_local(pfn) };
    look(slot.page)
}

/// A slot, given up even if whoever looks panics and somebody goes on.
struct Slot<'m, M: Machine> {
    machine: &'m M,
    page: NonNull<u8>,
}

impl<M: Machine> Drop for Slot<'_, M> {
    fn drop(&mut self) {
        // SAFETY: HIGH-1, this is the youngest live slot: those that were mapped while somebody looked were given up inside.
        unsafe { self.machine.kunmap_local(self.page) };
    }
}
