//! The kernel's page tables, built while the loader's are in use.
//!
//! Invariant: no page is writable and executable, because no [`Access`] is.

use boot::error::Error;
use boot::frames::{Block, FreeMemory};
use boot::segment::Access;
use x86_64::structures::paging::mapper::{MapToError, MapperFlush};
use x86_64::structures::paging::{
    FrameAllocator, Mapper, OffsetPageTable, Page, PageSize, PageTable, PageTableFlags, PageTableIndex, PhysFrame,
    Size1GiB, Size2MiB, Size4KiB,
};
use x86_64::{PhysAddr, VirtAddr};

use super::physical::PhysicalMemory;

/// CPUID 0x8000_0001, edx: 1 GiB pages.
const HUGE_PAGES: u32 = 1 << 26;

/// Tables that are not in use yet.
#[derive(Debug)]
pub(super) struct PageTables {
    frame: PhysFrame,
    tables: OffsetPageTable<'static>,
}

/// Frames for tables.
struct TableFrames<'f>(&'f mut FreeMemory);

// SAFETY: a block has no other user, and its frame is used for nothing but a table.
unsafe impl FrameAllocator<Size4KiB> for TableFrames<'_> {
    fn allocate_frame(&mut self) -> Option<PhysFrame> {
        self.0.allocate("page table", 1).ok().map(|block| block.frames().start)
    }
}

impl PageTables {
    /// Tables that map nothing.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub(super) fn new(physical: &PhysicalMemory, free: &mut FreeMemory) -> Result<Self, Error> {
        let block = free.allocate("page table", 1)?;
        let frame = block.frames().start;
        let memory: *mut [u8] = physical.open(block);
        // SAFETY: the block is one page, aligned as a table is, and leaked into this reference.
        let level_4 = unsafe { &mut *memory.cast::<PageTable>() };
        level_4.zero();
        // SAFETY: tables come from blocks, which are mapped at their physical addresses.
        let tables = unsafe { OffsetPageTable::new(level_4, VirtAddr::zero()) };
        Ok(Self { frame, tables })
    }

    /// Where the level-4 table is.
    pub(super) fn level_4_table(&self) -> PhysFrame {
        self.frame
    }

    /// Maps a whole block from `start` on.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`], or [`Error::Mapping`] if there is a mapping already.
    pub(super) fn map_block(
        &mut self,
        start: VirtAddr,
        block: &Block,
        access: Access,
        free: &mut FreeMemory,
    ) -> Result<(), Error> {
        for (index, frame) in (0..).zip(block.frames()) {
            self.map_frame(start + index * Size4KiB::SIZE, frame, access, free)?;
        }
        Ok(())
    }

    /// Maps one frame.
    ///
    /// # Errors
    /// As [`map_block`](Self::map_block).
    pub(super) fn map_frame<S: PageSize>(
        &mut self,
        at: VirtAddr,
        frame: PhysFrame<S>,
        access: Access,
        free: &mut FreeMemory,
    ) -> Result<(), Error>
    where
        OffsetPageTable<'static>: Mapper<S>,
    {
        let page = Page::containing_address(at);
        // SAFETY: these tables are not in use, so nothing that runs now sees the mapping.
        let mapped = unsafe { self.tables.map_to(page, frame, flags(access), &mut TableFrames(free)) };
        mapped.map(MapperFlush::ignore).map_err(|error| match error {
            MapToError::FrameAllocationFailed => Error::OutOfMemory { what: "page tables", pages: 1 },
            _ => Error::Mapping { address: at.as_u64() },
        })
    }

    /// Maps physical memory from 0 to `end`, rounded up to 2 MiB, from `start` on, in the largest pages that the CPU
    /// and the alignment of `start` allow.
    ///
    /// # Errors
    /// As [`map_block`](Self::map_block).
    pub(super) fn map_memory(
        &mut self,
        start: VirtAddr,
        end: PhysAddr,
        access: Access,
        free: &mut FreeMemory,
    ) -> Result<(), Error> {
        let has_huge_pages = core::arch::x86_64::__cpuid(0x8000_0001).edx & HUGE_PAGES != 0;
        let end = end.align_up(Size2MiB::SIZE);
        let mut done = PhysAddr::zero();
        while done < end {
            let at = start + done.as_u64();
            let aligned = |size| at.is_aligned(size) && done.is_aligned(size) && end - done >= size;
            done += if has_huge_pages && aligned(Size1GiB::SIZE) {
                self.map_frame(at, PhysFrame::<Size1GiB>::containing_address(done), access, free)?;
                Size1GiB::SIZE
            } else if aligned(Size2MiB::SIZE) {
                self.map_frame(at, PhysFrame::<Size2MiB>::containing_address(done), access, free)?;
                Size2MiB::SIZE
            } else {
                self.map_frame(at, PhysFrame::<Size4KiB>::containing_address(done), access, free)?;
                Size4KiB::SIZE
            };
        }
        Ok(())
    }

    /// Maps the level-4 table into its own entry `index`.
    pub(super) fn map_recursively(&mut self, index: PageTableIndex) {
        self.tables.level_4_table_mut()[index].set_frame(self.frame, flags(Access::ReadWrite));
    }
}

fn flags(access: Access) -> PageTableFlags {
    let common = PageTableFlags::PRESENT;
    match access {
        Access::ReadOnly => common | PageTableFlags::NO_EXECUTE,
        Access::ReadWrite => common | PageTableFlags::NO_EXECUTE | PageTableFlags::WRITABLE,
        Access::Execute => common,
    }
}
