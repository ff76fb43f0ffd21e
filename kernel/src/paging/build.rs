//! Builds the kernel's page tables and leaves the loader's.
//!
//! The direct map covers what the loader's memory map lists below the boundary, in the largest pages that fit, or in the
//! smallest there are if free ones are to be taken out one by one (`direct_map`); holes stay unmapped. Reserved regions are
//! in it too, as firmware keeps its tables there; where such a region belongs to a device, the memory type registers keep it
//! uncached. Cost: at most one table for each GiB, or for each 2 MiB of the smallest pages, plus a few.

use core::fmt;
use core::ops::Range;

use kernel_core::boot_regions::touched_frames;
use kernel_core::layout::{DIRECT_MAP, Guard, KMAP_LOCAL, ROOT_ENTRY, VMAP};
use mm::boot_map::{BootMap, CarveError, Region};
use mm::units::{PAGE_SHIFT, PAGE_SIZE, Pfn, PfnRange};
use x86_64::instructions::interrupts;
use x86_64::registers::control::{Cr0, Cr0Flags, Cr3, Cr3Flags};
use x86_64::registers::model_specific::{Efer, EferFlags};
use x86_64::structures::paging::mapper::{MapToError, Translate};
use x86_64::structures::paging::page_table::PageTableEntry;
use x86_64::structures::paging::{
    FrameAllocator, Mapper, OffsetPageTable, Page, PageSize, PageTable, PageTableFlags, PhysFrame, Size1GiB, Size2MiB,
    Size4KiB,
};
use x86_64::{PhysAddr, VirtAddr};

use super::entry::{TABLE, page_flags};
use crate::image::{Protection, Segments};
use crate::kmap::WINDOW;
use crate::stacks;

/// Why the page tables could not be built.
#[derive(Clone, Copy, Debug)]
pub(crate) enum BuildError {
    /// No frame below the lowmem boundary is left for a table.
    OutOfFrames(CarveError),
    /// The loader has not mapped this page of the kernel.
    NotLoaded(u64),
    /// Two mappings meet at this page.
    Overlap(u64),
    /// What is to be the guard page of this stack is mapped.
    Unguarded(&'static str),
    /// The kernel's ELF header is odd.
    Image(&'static str),
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfFrames(error) => write!(f, "no memory is left for a table: {error}"),
            Self::NotLoaded(page) => write!(f, "the loader has not mapped the kernel's page {page:#x}"),
            Self::Overlap(page) => write!(f, "two mappings meet at {page:#x}"),
            Self::Unguarded(stack) => write!(f, "something is mapped where the {stack} has a guard page"),
            Self::Image(what) => write!(f, "the kernel's ELF header: {what}"),
        }
    }
}

/// What the loader has left that the new tables are made from.
#[derive(Debug)]
pub(crate) struct Loader<'r> {
    /// Where the loader maps physical memory.
    pub(crate) physical_memory: u64,
    /// The stack that the kernel runs on.
    pub(crate) stack: Range<u64>,
    /// The machine's memory map.
    pub(crate) regions: &'r [Region],
}

/// The pages of which the direct map consists.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum DirectMapPages {
    /// The largest that fit.
    Largest,
    /// One for each frame.
    Smallest,
}

/// Page tables that map all the kernel needs.
#[derive(Debug)]
#[must_use = "these tables are not in use yet"]
pub(crate) struct KernelTables {
    root: PhysFrame,
}

/// Builds the kernel's page tables, with a direct map of the memory below `direct_map_end`.
///
/// # Errors
/// See [`BuildError`].
///
/// The tables' frames are carved out of `map`, below the boundary.
///
/// # Safety
/// The loader's page tables are live and map all physical memory at `loader.physical_memory`, and what `map` calls
/// usable has no user.
pub(crate) unsafe fn build(
    loader: &Loader<'_>,
    direct_map_end: Pfn,
    pages: DirectMapPages,
    map: &mut BootMap,
) -> Result<KernelTables, BuildError> {
    let offset = VirtAddr::new_truncate(loader.physical_memory);
    let mut frames = TableFrames { map, direct_map_end };
    let root = frames.take()?;
    // SAFETY: the frame is fresh, so nothing else refers to it, and the loader maps it.
    let new = unsafe { &mut *table_at::<PageTable>(offset, root) };
    new.zero();
    // SAFETY: the loader's root is live and mapped, and this is the only reference to it.
    let old = unsafe { &mut *table_at::<PageTable>(offset, Cr3::read().0) };

    let mut builder = Builder {
        // SAFETY: all tables that the loader's root leads to are mapped at the offset.
        loaded: unsafe { OffsetPageTable::new(old, offset) },
        // SAFETY: the new root is empty, and the tables it will lead to come from frames that are mapped alike.
        tables: unsafe { OffsetPageTable::new(new, offset) },
        frames,
    };
    builder.map_image()?;
    builder.map_stack(&loader.stack)?;
    builder.map_window(offset)?;
    builder.complete_root(offset)?;
    for run in touched_frames(loader.regions, direct_map_end) {
        builder.map_directly(run, pages)?;
    }
    builder.check_guards()?;
    Ok(KernelTables { root })
}

impl KernelTables {
    /// Leaves the loader's tables for these.
    ///
    /// # Safety
    /// Nothing refers to memory that only the loader has mapped, and nothing will.
    pub(crate) unsafe fn switch(self) {
        interrupts::without_interrupts(|| {
            // SAFETY: long mode allows no-execute pages, and the loader's tables set no reserved bit.
            unsafe { Efer::update(|flags| flags.insert(EferFlags::NO_EXECUTE_ENABLE)) };
            // SAFETY: the kernel writes to no page that is mapped read-only.
            unsafe { Cr0::update(|flags| flags.insert(Cr0Flags::WRITE_PROTECT)) };
            // SAFETY: these tables map the image and the stack where the loader's do; the rest is the caller's word.
            unsafe { Cr3::write(self.root, Cr3Flags::empty()) };
        });
    }
}

struct Builder<'t, 'f> {
    loaded: OffsetPageTable<'t>,
    tables: OffsetPageTable<'t>,
    frames: TableFrames<'f>,
}

impl<'t> Builder<'t, '_> {
    /// Maps the image where it is, except for the guard pages of the stacks in it.
    fn map_image(&mut self) -> Result<(), BuildError> {
        let guarded = |address| stacks::guards().any(|guard| guard.page == address);
        for segment in Segments::of_kernel().map_err(BuildError::Image)?.iter() {
            let segment = segment.map_err(BuildError::Image)?;
            let flags = page_flags(segment.protection);
            for address in pages(&(segment.start..segment.end)).filter(|&address| !guarded(address)) {
                self.keep(address, flags)?;
            }
        }
        Ok(())
    }

    /// The loader has chosen what stands beside its stack.
    fn check_guards(&self) -> Result<(), BuildError> {
        let mapped = |guard: &Guard| self.tables.translate_addr(VirtAddr::new_truncate(guard.page)).is_some();
        match stacks::guards().find(mapped) {
            Some(guard) => Err(BuildError::Unguarded(guard.stack)),
            None => Ok(()),
        }
    }

    fn map_stack(&mut self, stack: &Range<u64>) -> Result<(), BuildError> {
        for address in pages(stack) {
            self.keep(address, page_flags(Protection::ReadWrite))?;
        }
        Ok(())
    }

    /// Hangs the window's page table, which is part of the image, into tables of its own.
    fn map_window(&mut self, offset: VirtAddr) -> Result<(), BuildError> {
        let window = (&raw const WINDOW).addr() as u64;
        let table = self.loaded_frame(window)?;
        let start = VirtAddr::new_truncate(KMAP_LOCAL);
        let level_3 = self.tables.level_4_table_mut()[start.p4_index()].new_table(offset, &mut self.frames)?;
        let level_2 = level_3[start.p3_index()].new_table(offset, &mut self.frames)?;
        level_2[start.p2_index()].set_addr(table.start_address(), TABLE);
        Ok(())
    }

    /// Hangs in, empty, all tables that the root will ever lead to: address spaces copy its entries, and would not notice
    /// another.
    fn complete_root(&mut self, offset: VirtAddr) -> Result<(), BuildError> {
        for address in VMAP.step_by(1 << ROOT_ENTRY.trailing_zeros()) {
            let index = VirtAddr::new_truncate(address).p4_index();
            self.tables.level_4_table_mut()[index].new_table(offset, &mut self.frames)?;
        }
        Ok(())
    }

    /// Maps a run of frames in the direct map, in the largest pages that its alignment and the caller allow.
    fn map_directly(&mut self, run: PfnRange, pages: DirectMapPages) -> Result<(), BuildError> {
        let mut address = run.start.address().0;
        let end = run.end.address().0;
        let fits = |address: u64, size: u64| {
            pages == DirectMapPages::Largest && address.is_multiple_of(size) && end - address >= size
        };
        let flags = page_flags(Protection::ReadWrite);
        let gigabyte_pages = has_gigabyte_pages();
        while address < end {
            let (virt, phys) = (VirtAddr::new_truncate(DIRECT_MAP + address), PhysAddr::new_truncate(address));
            address += if gigabyte_pages && fits(address, Size1GiB::SIZE) {
                self.map::<Size1GiB>(virt, phys, flags)?
            } else if fits(address, Size2MiB::SIZE) {
                self.map::<Size2MiB>(virt, phys, flags)?
            } else {
                self.map::<Size4KiB>(virt, phys, flags)?
            };
        }
        Ok(())
    }

    /// Maps a page to the frame that the loader has there.
    fn keep(&mut self, address: u64, flags: PageTableFlags) -> Result<(), BuildError> {
        let frame = self.loaded_frame(address)?;
        self.map::<Size4KiB>(VirtAddr::new_truncate(address), frame.start_address(), flags)?;
        Ok(())
    }

    fn loaded_frame(&self, address: u64) -> Result<PhysFrame, BuildError> {
        let loaded = self.loaded.translate_addr(VirtAddr::new_truncate(address));
        loaded.map(PhysFrame::containing_address).ok_or(BuildError::NotLoaded(address))
    }

    /// Maps one page and gives its size.
    fn map<S: PageSize>(&mut self, virt: VirtAddr, phys: PhysAddr, flags: PageTableFlags) -> Result<u64, BuildError>
    where
        OffsetPageTable<'t>: Mapper<S>,
    {
        let (page, frame) = (Page::<S>::containing_address(virt), PhysFrame::containing_address(phys));
        // SAFETY: the tables are not in use yet, and what they will map is what the loader maps, or the direct map,
        // which only `Machine` hands out.
        let mapped = unsafe { self.tables.map_to_with_table_flags(page, frame, flags, TABLE, &mut self.frames) };
        match mapped {
            Ok(flush) => {
                flush.ignore();
                Ok(S::SIZE)
            }
            // The frame allocator's interface has no room for the reason; asking again gives it.
            Err(MapToError::FrameAllocationFailed) => self.frames.take().and(Err(BuildError::Overlap(virt.as_u64()))),
            Err(MapToError::ParentEntryHugePage | MapToError::PageAlreadyMapped(_)) => {
                Err(BuildError::Overlap(virt.as_u64()))
            }
        }
    }
}

/// A table entry that leads to a fresh table.
trait NewTable {
    fn new_table(&mut self, offset: VirtAddr, frames: &mut TableFrames<'_>) -> Result<&mut PageTable, BuildError>;
}

impl NewTable for PageTableEntry {
    fn new_table(&mut self, offset: VirtAddr, frames: &mut TableFrames<'_>) -> Result<&mut PageTable, BuildError> {
        debug_assert!(self.is_unused(), "the window and the vmap area are nobody else's");
        let frame = frames.take()?;
        self.set_addr(frame.start_address(), TABLE);
        // SAFETY: the frame is fresh and mapped at the offset; only this entry leads to it.
        let table = unsafe { &mut *table_at::<PageTable>(offset, frame) };
        table.zero();
        Ok(table)
    }
}

/// Carves frames for tables below the lowmem boundary, so that the tables can be reached for ever.
struct TableFrames<'f> {
    map: &'f mut BootMap,
    direct_map_end: Pfn,
}

impl TableFrames<'_> {
    fn take(&mut self) -> Result<PhysFrame, BuildError> {
        let run = self.map.carve(1, self.direct_map_end, None).map_err(BuildError::OutOfFrames)?;
        Ok(PhysFrame::containing_address(PhysAddr::new_truncate(run.start.address().0)))
    }
}

// SAFETY: what is carved is usable memory, handed out once, and has no other user.
unsafe impl FrameAllocator<Size4KiB> for TableFrames<'_> {
    fn allocate_frame(&mut self) -> Option<PhysFrame> {
        self.take().ok()
    }
}

fn table_at<T>(offset: VirtAddr, frame: PhysFrame) -> *mut T {
    (offset + frame.start_address().as_u64()).as_mut_ptr()
}

fn pages(range: &Range<u64>) -> impl Iterator<Item = u64> + use<> {
    range.clone().step_by(1 << PAGE_SHIFT)
}

fn has_gigabyte_pages() -> bool {
    const EXTENDED_FEATURES: u32 = 0x8000_0001;
    const PAGE_1GIB: u32 = 1 << 26;
    let highest = core::arch::x86_64::__cpuid(0x8000_0000).eax;
    highest >= EXTENDED_FEATURES && core::arch::x86_64::__cpuid(EXTENDED_FEATURES).edx & PAGE_1GIB != 0
}

const _: () = assert!(PAGE_SIZE as u64 == Size4KiB::SIZE);
