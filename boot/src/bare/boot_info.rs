//! The boot info's pages: the structure, then the memory regions, as the kernel will see them.

use core::mem::{self, MaybeUninit};

use bootloader_api::BootInfo;
use bootloader_api::info::{MemoryRegion, MemoryRegions};
use x86_64::VirtAddr;

const PAGE: usize = 4096;

/// The offset of the first region: behind the structure.
const REGIONS: usize = size_of::<BootInfo>().next_multiple_of(align_of::<MemoryRegion>());

/// [`MemoryRegions`], whose fields are its crate's: a slice as C has it.
#[repr(C)]
struct RawRegions {
    first: *mut MemoryRegion,
    count: usize,
}

/// Memory that becomes the boot info.
///
/// # Invariants
/// `info` lies at the start of the pages that the kernel finds at `seen_at`, `regions` at [`REGIONS`] in them; the
/// first `count` regions have been written.
pub(super) struct BootInfoPlace {
    info: &'static mut MaybeUninit<BootInfo>,
    regions: &'static mut [MaybeUninit<MemoryRegion>],
    count: usize,
    seen_at: VirtAddr,
}

impl BootInfoPlace {
    /// Pages that hold the structure and `regions` regions.
    pub(super) fn page_count(regions: usize) -> u64 {
        (REGIONS + regions * size_of::<MemoryRegion>()).div_ceil(PAGE) as u64
    }

    /// Takes pages that the kernel finds at `seen_at`.
    pub(super) fn new(pages: &'static mut [u8], seen_at: VirtAddr) -> Self {
        let (head, tail) = pages.split_at_mut(REGIONS);
        // SAFETY: any bytes are an uninitialised value.
        let (_, info, _) = unsafe { head.align_to_mut::<MaybeUninit<BootInfo>>() };
        // SAFETY: any bytes are uninitialised values.
        let (_, regions, _) = unsafe { tail.align_to_mut::<MaybeUninit<MemoryRegion>>() };
        // INVARIANT: pages are aligned beyond both types, so nothing was cut off in front.
        Self { info: &mut info[0], regions, count: 0, seen_at }
    }

    /// Adds a region.
    pub(super) fn add(&mut self, region: MemoryRegion) {
        self.regions[self.count].write(region);
        self.count += 1;
    }

    /// The regions added so far, at the address where the kernel finds them.
    pub(super) fn regions(&self) -> MemoryRegions {
        let first = (self.seen_at + REGIONS as u64).as_mut_ptr();
        let raw = RawRegions { first, count: self.count };
        // SAFETY: both are `repr(C)` structures of a pointer and a count; the pointer is good where the kernel runs, and
        // nobody follows it before.
        unsafe { mem::transmute::<RawRegions, MemoryRegions>(raw) }
    }

    /// Writes the structure; where the kernel finds it.
    pub(super) fn write(self, info: BootInfo) -> VirtAddr {
        self.info.write(info);
        self.seen_at
    }
}
