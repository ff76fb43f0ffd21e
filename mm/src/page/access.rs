//! The bytes of allocated pages, lent to their owner.
//!
//! Invariants: HIGH-1 (a highmem page is mapped exactly as long as it is looked at).
#![expect(unsafe_code, reason = "turns an owned frame into the bytes it holds")]

use core::ptr::NonNull;
use core::slice;

use super::allocator::PageAllocator;
use super::block::{Block, ContigRange};
use crate::frame::with_mapped;
use crate::machine::Machine;
use crate::units::{PAGE_SIZE, Pfn, PfnRange};

/// Shows the bytes of a frame to `look`.
///
/// # Safety
/// The frame is allocated, and nobody but the caller reaches its bytes while `look` runs.
unsafe fn with_frame<M: Machine, R>(machine: &M, pfn: Pfn, look: impl FnOnce(&mut [u8; PAGE_SIZE]) -> R) -> R {
    // SAFETY: the page is mapped until `look` is done, and the caller's alone.
    with_mapped(machine, pfn, |page| look(unsafe { page.cast().as_mut() }))
}

impl<M: Machine> PageAllocator<'_, M> {
    /// Shows where a frame stands, wherever it lies, while `look` runs. What may be done there, its owner says.
    pub(crate) fn with_mapped<R>(&self, pfn: Pfn, look: impl FnOnce(NonNull<u8>) -> R) -> R {
        with_mapped(self.machine(), pfn, look)
    }
}

/// The bytes of a run of frames, if all of it lies in the direct map.
///
/// # Safety
/// The frames are allocated, and nobody but the holder of the result reaches their bytes.
#[expect(clippy::mut_from_ref, reason = "the caller owns the frames; the machine only lends its lifetime")]
unsafe fn bytes<M: Machine>(machine: &M, range: PfnRange) -> Option<&mut [u8]> {
    if range.end > machine.direct_map_end() {
        return None;
    }
    let start = machine.direct_map(range.start);
    // SAFETY: MACHINE-MEMORY, neighbours in the direct map, and the caller's alone.
    Some(unsafe { slice::from_raw_parts_mut(start.as_ptr(), range.pages() as usize * PAGE_SIZE) })
}

impl<M: Machine> Block<'_, M> {
    /// Shows the bytes of the page at `pfn`, wherever it lies: highmem is mapped for as long as `look` runs. What a
    /// fresh page holds is whatever its last owner left there. `None` if the frame is not the block's.
    ///
    /// Looks at highmem do not nest: a machine has slots for one, and what the allocator needs above it.
    pub fn with_page<R>(&mut self, pfn: Pfn, look: impl FnOnce(&mut [u8; PAGE_SIZE]) -> R) -> Option<R> {
        let machine = self.allocator().machine();
        // SAFETY: DESC-1, the block owns the frame, and is borrowed for as long as the bytes are.
        self.range().contains(pfn).then(|| unsafe { with_frame(machine, pfn, look) })
    }

    /// All bytes of the block; `None` if it is highmem.
    pub fn bytes_mut(&mut self) -> Option<&mut [u8]> {
        // SAFETY: DESC-1, the block owns its frames, and is borrowed for as long as the bytes are.
        unsafe { bytes(self.allocator().machine(), self.range()) }
    }
}

impl<M: Machine> ContigRange<'_, M> {
    /// Shows the bytes of the page at `pfn`, as [`Block::with_page`] does.
    pub fn with_page<R>(&mut self, pfn: Pfn, look: impl FnOnce(&mut [u8; PAGE_SIZE]) -> R) -> Option<R> {
        let machine = self.allocator().machine();
        // SAFETY: DESC-1, the range owns the frame, and is borrowed for as long as the bytes are.
        self.range().contains(pfn).then(|| unsafe { with_frame(machine, pfn, look) })
    }

    /// All bytes of the range; `None` if it reaches into highmem.
    pub fn bytes_mut(&mut self) -> Option<&mut [u8]> {
        // SAFETY: DESC-1, the range owns its frames, and is borrowed for as long as the bytes are.
        unsafe { bytes(self.allocator().machine(), self.range()) }
    }
}
