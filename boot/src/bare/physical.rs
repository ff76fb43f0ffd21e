//! Physical memory at its own addresses: the first 4 GiB, as the entry code mapped them.

use core::ptr;
use core::slice;

use boot::error::Error;
use boot::frames::Block;
use boot::start_info::Extent;
use x86_64::PhysAddr;

const MAPPED: u64 = 1 << 32;

// SAFETY: the linker script defines both; only their addresses are taken.
unsafe extern "C" {
    static loader_start: u8;
    static loader_end: u8;
}

/// Where the loader itself lies.
pub(super) fn loader() -> Extent {
    let (start, end) = ((&raw const loader_start).addr() as u64, (&raw const loader_end).addr() as u64);
    Extent { start: PhysAddr::new(start), length: end - start }
}

/// The right to look at physical memory.
///
/// # Invariants
/// The first 4 GiB are mapped at their physical addresses.
#[derive(Debug)]
pub(super) struct PhysicalMemory(());

impl PhysicalMemory {
    /// Takes the entry code's mapping into use.
    ///
    /// # Safety
    /// The first 4 GiB are mapped at their physical addresses, writable. Blocks are only ever allocated from memory
    /// from which the loader, and everything that [`read`](Self::read) gave out, have been reserved.
    pub(super) const unsafe fn new() -> Self {
        Self(())
    }

    /// The bytes at `extent`.
    ///
    /// # Errors
    /// [`Error::Unreachable`] if they do not all lie in the first 4 GiB, or at address 0.
    pub(super) fn read(&self, what: &'static str, extent: Extent) -> Result<&'static [u8], Error> {
        let (address, length) = (extent.start.as_u64(), extent.length);
        let end = address.checked_add(length).filter(|&end| end <= MAPPED && address > 0);
        let (Some(_), Ok(start), Ok(bytes)) = (end, usize::try_from(address), usize::try_from(length)) else {
            return Err(Error::Unreachable { what, address, length });
        };
        // SAFETY: mapped by this type's invariant; nobody writes there, by the contract of `new`.
        Ok(unsafe { slice::from_raw_parts(ptr::with_exposed_provenance(start), bytes) })
    }

    /// A block's memory, whatever it holds.
    pub(super) fn open(&self, block: Block) -> &'static mut [u8] {
        let frames = block.into_frames();
        let (start, length) = (frames.start.start_address().as_u64(), frames.size());
        let (Ok(start), Ok(length)) = (usize::try_from(start), usize::try_from(length)) else {
            return &mut [];
        };
        // SAFETY: a block lies below 4 GiB, so it is mapped by this type's invariant; it has no other user, and it is
        // consumed here.
        unsafe { slice::from_raw_parts_mut(ptr::with_exposed_provenance_mut(start), length) }
    }
}
