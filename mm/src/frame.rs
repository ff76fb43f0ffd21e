//! Where a frame stands for as long as somebody looks at it.
//!
//! Invariants: HIGH-1 (a highmem page is mapped exactly as long as it is looked at).
#![expect(unsafe_code, reason = "gives up slots")]

use core::ptr::NonNull;

use crate::machine::Machine;
use crate::units::Pfn;

/// Shows where a frame stands while `look` runs. What may be done there, its owner says.
pub(crate) fn with_mapped<M: Machine, R>(machine: &M, pfn: Pfn, look: impl FnOnce(NonNull<u8>) -> R) -> R {
    let direct = pfn < machine.kmap_start();
    let page = if direct { machine.direct_map(pfn) } else { machine.kmap_local(pfn) };
    let seen = look(page);
    if !direct {
        // SAFETY: HIGH-1, this is the youngest live slot: those that `look` mapped were given up inside it.
        unsafe { machine.kunmap_local(page) };
    }
    seen
}
