//! Where everything goes in the kernel's address space.
//!
//! Fixed places first, then the page that switches the page tables (mapped at its physical address, so a frame is
//! chosen whose address is free), then what may lie anywhere.

use bootloader_api::BootloaderConfig;
use bootloader_api::config::Mapping;
use x86_64::structures::paging::PageTableIndex;
use x86_64::{PhysAddr, VirtAddr};

use crate::address_space::{AddressSpace, Entropy, Extent};
use crate::error::Error;
use crate::frames::{Block, FreeMemory};
use crate::kernel_image::{KernelImage, Position};
use crate::segment::{PAGE, Slide};

const LARGE_PAGE: u64 = 1 << 21;
const HUGE_PAGE: u64 = 1 << 30;
const LEVEL_4_ENTRY: u64 = 1 << 39;

/// The kernel's first stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stack {
    /// Its lowest byte; the page below is not mapped.
    pub bottom: VirtAddr,
    /// Its length in bytes, as configured.
    pub length: u64,
}

impl Stack {
    /// Pages to map from the bottom on.
    pub fn page_count(&self) -> u64 {
        self.length.div_ceil(PAGE)
    }

    /// Where the stack pointer starts: 16-byte aligned.
    pub fn top(&self) -> VirtAddr {
        (self.bottom + self.length).align_down(16_u64)
    }
}

/// What the layout has to hold besides the kernel's image.
#[derive(Debug, Clone, Copy)]
pub struct Demand {
    /// Pages of boot info.
    pub boot_info_pages: u64,
    /// Where the physical-memory mapping ends, if the kernel asks for it.
    pub memory_end: PhysAddr,
    /// Random bits, used if the kernel asks for `aslr`.
    pub entropy: Entropy,
}

/// The plan of the kernel's address space.
#[derive(Debug)]
pub struct Layout {
    /// From where the kernel was linked to where it runs.
    pub slide: Slide,
    /// The stack.
    pub stack: Stack,
    /// Where the boot info is mapped.
    pub boot_info: VirtAddr,
    /// Where physical address 0 is mapped, if the kernel asks for it.
    pub physical_memory: Option<VirtAddr>,
    /// The level-4 entry that maps the page tables themselves, if the kernel asks for it.
    pub recursive: Option<PageTableIndex>,
    /// The page that switches the page tables.
    pub switch: Block,
}

impl Layout {
    /// Plans for `image` and its `config`; takes the switching page from `free`.
    ///
    /// # Errors
    /// [`Error::Placement`] if something does not fit or collides, [`Error::OutOfMemory`] without a frame.
    pub fn plan(
        image: &KernelImage<'_>,
        config: &BootloaderConfig,
        demand: Demand,
        free: &mut FreeMemory,
    ) -> Result<Self, Error> {
        let mappings = &config.mappings;
        let entropy = mappings.aslr.then_some(demand.entropy);
        let mut space = AddressSpace::new(mappings.dynamic_range_start, mappings.dynamic_range_end, entropy);

        let kernel = kernel_request(image, mappings.kernel_base, &mut space)?;
        let stack_pages = config.kernel_stack_size.div_ceil(PAGE).max(1);
        let stack_length = stack_pages.checked_add(1).and_then(|pages| pages.checked_mul(PAGE)).unwrap_or(u64::MAX);
        let stack = Request::new("kernel stack", mappings.kernel_stack, stack_length, PAGE);
        let boot_info = Request::new("boot info", mappings.boot_info, demand.boot_info_pages * PAGE, PAGE);
        let memory_length = demand.memory_end.align_up(LARGE_PAGE).as_u64();
        let physical = mappings.physical_memory.map(|mapping| {
            let align = if mapping == Mapping::Dynamic { HUGE_PAGE } else { PAGE };
            Request::new("physical memory", mapping, memory_length, align)
        });
        let recursive = mappings
            .page_table_recursive
            .map(|mapping| Request::new("recursive page tables", mapping, LEVEL_4_ENTRY, LEVEL_4_ENTRY));

        let requests = [kernel, Some(stack), Some(boot_info), physical, recursive];
        for request in requests.iter().flatten() {
            request.claim_fixed(&mut space)?;
        }
        let switch = switching_page(&mut space, free)?;
        let slide = match kernel {
            Some(kernel) => {
                Slide(kernel.address(&mut space)?.as_u64().wrapping_sub(kernel_start(image, kernel.mapping)))
            }
            None => Slide(0),
        };
        Ok(Self {
            slide,
            stack: Stack { bottom: stack.address(&mut space)? + PAGE, length: config.kernel_stack_size.max(PAGE) },
            boot_info: boot_info.address(&mut space)?,
            recursive: recursive.map(|request| request.address(&mut space)).transpose()?.map(VirtAddr::p4_index),
            physical_memory: physical.map(|request| request.address(&mut space)).transpose()?,
            switch,
        })
    }
}

#[derive(Clone, Copy)]
struct Request {
    mapping: Mapping,
    extent: Extent,
}

impl Request {
    fn new(what: &'static str, mapping: Mapping, length: u64, align: u64) -> Self {
        Self { mapping, extent: Extent { what, length, align } }
    }

    fn claim_fixed(&self, space: &mut AddressSpace) -> Result<(), Error> {
        match self.mapping {
            Mapping::FixedAddress(address) => space.claim(self.extent, address).map(|_| ()),
            Mapping::Dynamic => Ok(()),
        }
    }

    /// The place of a dynamic mapping, or that of a fixed one, which has it already.
    fn address(&self, space: &mut AddressSpace) -> Result<VirtAddr, Error> {
        match self.mapping {
            Mapping::FixedAddress(address) => Ok(VirtAddr::new_truncate(address)),
            Mapping::Dynamic => space.place(self.extent),
        }
    }
}

/// The room that a position-independent kernel needs; one with fixed addresses claims them at once.
fn kernel_request(image: &KernelImage<'_>, base: Mapping, space: &mut AddressSpace) -> Result<Option<Request>, Error> {
    let what = "kernel image";
    match (image.position(), base) {
        (Position::Fixed, Mapping::FixedAddress(at)) => {
            let reason = "kernel_base is set, but the kernel is not position-independent";
            let length = image.span().end.0 - image.span().start.0;
            Err(Error::Placement { what, at: Some(at), length, reason })
        }
        (Position::Fixed, Mapping::Dynamic) => {
            for segment in image.segments() {
                let extent = Extent { what, length: segment.page_count() * PAGE, align: PAGE };
                space.claim(extent, segment.pages().start.0)?;
            }
            Ok(None)
        }
        (Position::Independent, _) => {
            let start = kernel_start(image, base);
            let length = image.span().end.0 - start;
            if let Mapping::FixedAddress(at) = base
                && at.wrapping_sub(start) % image.align() != 0
            {
                let reason = "kernel_base does not keep the segments' alignment";
                return Err(Error::Placement { what, at: Some(at), length, reason });
            }
            let align = if base == Mapping::Dynamic { image.align() } else { PAGE };
            Ok(Some(Request::new(what, base, length, align)))
        }
    }
}

/// The link address that lands at the start of the kernel's room: for a dynamic place, one that is as aligned as the
/// place.
fn kernel_start(image: &KernelImage<'_>, base: Mapping) -> u64 {
    let start = image.span().start.0;
    if base == Mapping::Dynamic { start - start % image.align() } else { start }
}

fn switching_page(space: &mut AddressSpace, free: &mut FreeMemory) -> Result<Block, Error> {
    let extent = Extent { what: "page-table switch", length: PAGE, align: PAGE };
    loop {
        // A frame whose address the kernel uses itself is given up; there are at most as many as the kernel has pages.
        let block = free.allocate(extent.what, 1)?;
        if space.is_free(block.start().as_u64(), PAGE) {
            space.claim(extent, block.start().as_u64())?;
            return Ok(block);
        }
    }
}
