//! Typed memory before there is an allocator: tables cut out of the boot map, in the direct map, for good.
//!
//! What is carved here belongs to the allocator for as long as the machine is borrowed, and its pages stay reserved.
//! Cost: the size of what is asked for, rounded up to whole pages.
#![expect(unsafe_code, reason = "makes typed slices out of the machine's bare memory")]

use core::ptr::NonNull;
use core::slice;

use crate::boot_map::{BootMap, CarveError};
use crate::machine::Machine;
use crate::units::{NodeId, PAGE_SIZE};

/// Bytes carved out, by what for: the price of the allocator.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct MetadataBytes {
    /// Page descriptors, sixteen bytes each.
    pub descriptors: u64,
    /// The tables that lead from a frame number to its descriptor.
    pub tables: u64,
    /// Zones with the inline parts of their freelists.
    pub zones: u64,
    /// The counters of the charge groups.
    pub groups: u64,
    /// The lists of pages that CPUs have at hand.
    pub cpu_caches: u64,
}

impl MetadataBytes {
    /// All of it.
    pub const fn total(self) -> u64 {
        self.descriptors + self.tables + self.zones + self.groups + self.cpu_caches
    }
}

/// Carves a slice of `len` values, each made by `value` from its index.
///
/// # Errors
/// The boot map has no such run in the direct map.
#[expect(clippy::mut_from_ref, reason = "what is carved has no other user; the machine only lends its lifetime")]
pub(crate) fn carve_slice<'m, T: 'm, M: Machine, const CAPACITY: usize>(
    machine: &'m M,
    boot_map: &mut BootMap<CAPACITY>,
    node: NodeId,
    len: usize,
    mut value: impl FnMut(usize) -> T,
) -> Result<(&'m mut [T], u64), CarveError> {
    const { assert!(align_of::<T>() <= PAGE_SIZE) };
    let pages = size_of::<T>().saturating_mul(len).div_ceil(PAGE_SIZE);
    let range = boot_map.carve(u32::try_from(pages).unwrap_or(u32::MAX), machine.direct_map_end(), Some(node))?;
    let start: NonNull<T> = if pages == 0 { NonNull::dangling() } else { machine.direct_map(range.start).cast() };
    for index in 0..len {
        // SAFETY: MACHINE-MEMORY, the carved frames are one run of the direct map, `index` lies in it.
        let slot = unsafe { start.add(index) };
        // SAFETY: the run is writable, page-aligned, and nobody else's since it was carved.
        unsafe { slot.write(value(index)) };
    }
    // SAFETY: all `len` values were just written; carved memory is never given back while the machine is borrowed.
    let slice = unsafe { slice::from_raw_parts_mut(start.as_ptr(), len) };
    Ok((slice, u64::from(range.pages()) * PAGE_SIZE as u64))
}
