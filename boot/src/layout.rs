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
            stack: place_stack(stack, config.kernel_stack_size.max(PAGE), &mut space)?,
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

/// A stack of `length` bytes in the room for it, whose first page is not mapped.
fn place_stack(room: Request, length: u64, space: &mut AddressSpace) -> Result<Stack, Error> {
    let start = room.address(space)?;
    let bottom = start + PAGE;
    // A stack pointer starts at the end, so that has to be an address, too.
    if bottom.as_u64().checked_add(length).is_none_or(|end| VirtAddr::try_new(end).is_err()) {
        let Extent { what, length, .. } = room.extent;
        let reason = "ends where no address is";
        return Err(Error::Placement { what, at: Some(start.as_u64()), length, reason });
    }
    Ok(Stack { bottom, length })
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory_map::tests::map;
    use crate::test_elf::{R, RX};
    use crate::test_elf::{TestElf, load};

    const MEMORY: [(u64, u64, u32); 2] = [(0, 0x9_f000, 1), (0x10_0000, 0x100_0000, 1)];

    fn plan(elf: &TestElf) -> Result<Layout, Error> {
        let file = elf.bytes();
        let image = KernelImage::parse(&file)?;
        let memory_end = PhysAddr::new(5 << 30);
        let demand = Demand { boot_info_pages: 1, memory_end, entropy: Entropy(42) };
        Layout::plan(&image, &image.config()?, demand, &mut FreeMemory::new(&map(&MEMORY)).unwrap())
    }

    #[test]
    fn dynamic_mappings_start_at_512_gib_and_leave_a_page_below_the_stack() {
        let mut elf = TestElf::kernel();
        elf.config.mappings.physical_memory = Some(Mapping::Dynamic);
        elf.config.mappings.page_table_recursive = Some(Mapping::Dynamic);
        elf.config.kernel_stack_size = 0x4008;
        let layout = plan(&elf).unwrap();
        assert_eq!(layout.slide, Slide(0x80_0000_0000));
        let kernel_end = 0x80_0000_6000;
        assert_eq!(layout.stack, Stack { bottom: VirtAddr::new(kernel_end + PAGE), length: 0x4008 });
        assert_eq!((layout.stack.page_count(), layout.stack.top().as_u64()), (5, kernel_end + PAGE + 0x4000));
        assert_eq!(layout.boot_info.as_u64(), kernel_end + 6 * PAGE);
        assert_eq!(layout.recursive.map(u16::from), Some(2));
        assert_eq!(layout.physical_memory, Some(VirtAddr::new(0x80_4000_0000)));
    }

    #[test]
    fn fixed_places_are_kept_and_their_collisions_refused() {
        let mut elf = TestElf::kernel();
        elf.config.mappings.kernel_base = Mapping::FixedAddress(0xffff_ffff_8000_0000);
        elf.config.mappings.kernel_stack = Mapping::FixedAddress(0xf_0000_0000);
        elf.config.mappings.page_table_recursive = Some(Mapping::FixedAddress(0xffff_ff00_0000_0000));
        let layout = plan(&elf).unwrap();
        assert_eq!(layout.slide, Slide(0xffff_ffff_8000_0000));
        assert_eq!(layout.stack.bottom.as_u64(), 0xf_0000_1000);
        assert_eq!(layout.recursive.map(u16::from), Some(510));
        for at in [0xffff_ffff_8000_5000, 0xf_0000_0800, 0, 0xffff_ff12_3456_7000, 1 << 47] {
            elf.config.mappings.boot_info = Mapping::FixedAddress(at);
            assert!(matches!(plan(&elf), Err(Error::Placement { .. })), "{at:#x}");
        }
    }

    #[test]
    fn a_kernel_with_fixed_addresses_stays_there_and_cannot_be_moved() {
        let mut elf = TestElf::fixed(0xffff_ffff_8020_0000);
        assert_eq!(plan(&elf).unwrap().slide, Slide(0));
        elf.config.mappings.kernel_base = Mapping::FixedAddress(0xffff_ffff_9000_0000);
        assert!(matches!(plan(&elf), Err(Error::Placement { what: "kernel image", .. })));
        assert!(plan(&TestElf::fixed(1 << 47)).is_err());
        assert!(plan(&TestElf::fixed(0)).is_err(), "a kernel over the first page");
    }

    #[test]
    fn the_switching_page_avoids_a_kernel_that_lies_where_free_memory_starts() {
        let layout = plan(&TestElf::fixed(0x10_0000)).unwrap();
        assert_eq!(layout.switch.start().as_u64(), 0x10_3000);
    }

    #[test]
    fn the_slide_keeps_the_largest_alignment_of_the_segments() {
        let mut elf = TestElf::kernel();
        elf.kind = 3;
        elf.entry = 0x60_1200;
        elf.headers = vec![load(0x60_0000, 0x60_0000, 0x60_1000, R), load(0x60_0000, 0x60_1200, 0x60_2e00, RX)];
        elf.headers[0].align = 1 << 21;
        elf.config.mappings.dynamic_range_start = Some(0x7f_ffff_f000);
        elf.content.clear();
        assert_eq!(plan(&elf).unwrap().slide, Slide(0x80_0000_0000 - 0x60_0000));
        elf.config.mappings.kernel_base = Mapping::FixedAddress(0x7000);
        assert!(matches!(plan(&elf), Err(Error::Placement { what: "kernel image", .. })));
    }

    #[test]
    fn what_cannot_fit_is_an_error() {
        for stack in [u64::MAX, 1 << 47, 1 << 63] {
            let mut elf = TestElf::kernel();
            elf.config.kernel_stack_size = stack;
            elf.config.mappings.dynamic_range_end = Some(1 << 46);
            assert!(matches!(plan(&elf), Err(Error::Placement { what: "kernel stack", .. })), "{stack:#x}");
        }
    }

    #[test]
    fn a_stack_that_ends_where_no_address_is_is_refused_and_one_that_ends_a_page_below_is_not() {
        for end in [1_u64 << 47, 0] {
            let mut elf = TestElf::kernel();
            elf.config.kernel_stack_size = PAGE;
            elf.config.mappings.kernel_stack = Mapping::FixedAddress(end.wrapping_sub(2 * PAGE));
            assert!(matches!(plan(&elf), Err(Error::Placement { what: "kernel stack", .. })), "{end:#x}");
            elf.config.mappings.kernel_stack = Mapping::FixedAddress(end.wrapping_sub(3 * PAGE));
            assert_eq!(plan(&elf).unwrap().stack.top().as_u64(), end.wrapping_sub(PAGE));
        }
    }

    #[test]
    fn aslr_moves_what_has_no_fixed_place() {
        let mut elf = TestElf::kernel();
        elf.config.mappings.aslr = true;
        let layout = plan(&elf).unwrap();
        assert_ne!(layout.slide, Slide(0x80_0000_0000));
        assert!(layout.slide.0.is_multiple_of(PAGE));
    }

    #[test]
    fn no_single_damaged_byte_of_the_headers_does_more_than_fail() {
        let whole = TestElf::kernel().bytes();
        let tail = whole.len() - 512;
        let free = FreeMemory::new(&map(&MEMORY)).unwrap();
        for at in (0..64 + 56 * 6).chain(0x800..0x840).chain(0xa00..0xa18).chain(tail..whole.len()) {
            for byte in [0, 1, 7, 0x7f, 0x80, 0xff] {
                let mut file = whole.clone();
                file[at] = byte;
                let Ok(image) = KernelImage::parse(&file) else { continue };
                let Ok(config) = image.config() else { continue };
                let demand = Demand { boot_info_pages: 1, memory_end: PhysAddr::new(1 << 32), entropy: Entropy(1) };
                if let Ok(layout) = Layout::plan(&image, &config, demand, &mut free.clone()) {
                    let _ = image.relocate(layout.slide, &mut []);
                }
            }
        }
    }
}
