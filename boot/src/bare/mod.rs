//! From the entry code to the kernel.

mod boot_info;
mod exceptions;
mod page_tables;
mod physical;
mod report;
mod switch;

use core::arch::global_asm;
use core::convert::Infallible;

use arrayvec::ArrayVec;
use boot::address_space::Entropy;
use boot::error::Error;
use boot::frames::FreeMemory;
use boot::kernel_image::{KernelImage, MAX_SEGMENTS, TlsImage};
use boot::layout::{Demand, Layout};
use boot::load::LoadedSegment;
use boot::memory_map::MemoryMap;
use boot::rsdp;
use boot::segment::{Access, LinkAddress, Slide};
use boot::start_info::{Extent, MemoryMapEntry, Module, StartInfo};
use bootloader_api::BootInfo;
use bootloader_api::info::TlsTemplate;
use x86_64::instructions::random::RdRand;
use x86_64::structures::idt::InterruptDescriptorTable;
use x86_64::{PhysAddr, VirtAddr};

use boot_info::BootInfoPlace;
use page_tables::PageTables;
use physical::PhysicalMemory;
use switch::Start;

global_asm!(include_str!("entry.s"), options(att_syntax));

/// Where the entry code goes, on the loader's stack with the first 4 GiB identity-mapped.
#[unsafe(no_mangle)]
extern "C" fn start(start_info: u32) -> ! {
    let mut table = InterruptDescriptorTable::new();
    exceptions::report(&mut table);
    // SAFETY: the entry code has mapped the first 4 GiB at their physical addresses, and calls this once.
    let physical = unsafe { PhysicalMemory::new() };
    let Err(error) = boot(&physical, PhysAddr::new(start_info.into()));
    report::fail(format_args!("{error}"))
}

fn boot(physical: &PhysicalMemory, start_info: PhysAddr) -> Result<Infallible, Error> {
    let head = Extent { start: start_info, length: StartInfo::SIZE };
    let info = StartInfo::parse(physical.read("start info", head)?)?;
    let modules = info.modules.ok_or(Error::NoModule)?;
    let Module(file) = Module::parse(physical.read("module list", modules)?)?;
    let entries = physical.read("memory map", info.memory_map)?;
    let map = MemoryMap::new(MemoryMapEntry::parse_all(entries))?;

    let mut free = FreeMemory::new(&map)?;
    for taken in [physical::loader(), head, modules, info.memory_map, file] {
        free.reserve(taken)?;
    }
    let image = KernelImage::parse(physical.read("kernel", file)?)?;
    let config = image.config()?;

    let boot_info_pages = BootInfoPlace::page_count(free.report_bound(&map));
    let demand = Demand { boot_info_pages, memory_end: map.memory_end(), entropy: entropy() };
    let layout = Layout::plan(&image, &config, demand, &mut free)?;
    let mut tables = PageTables::new(physical, &mut free)?;

    load(physical, &image, layout.slide, &mut tables, &mut free)?;
    let stack = free.allocate("kernel stack", layout.stack.page_count())?;
    tables.map_block(layout.stack.bottom, &stack, Access::ReadWrite, &mut free)?;
    let boot_info = free.allocate("boot info", boot_info_pages)?;
    tables.map_block(layout.boot_info, &boot_info, Access::ReadWrite, &mut free)?;
    let switch_address = VirtAddr::new(layout.switch.start().as_u64());
    tables.map_block(switch_address, &layout.switch, Access::Execute, &mut free)?;
    if let Some(address) = layout.physical_memory {
        tables.map_memory(address, map.memory_end(), Access::ReadWrite, &mut free)?;
    }
    if let Some(index) = layout.recursive {
        tables.map_recursively(index);
    }

    // Nothing is allocated from here on: what is free now is the kernel's.
    let mut place = BootInfoPlace::new(physical.open(boot_info), layout.boot_info);
    free.report(&map, |region| place.add(region));
    let mut filled = BootInfo::new(place.regions());
    filled.physical_memory_offset = layout.physical_memory.map(VirtAddr::as_u64).into();
    filled.recursive_index = layout.recursive.map(u16::from).into();
    filled.rsdp_addr = info.rsdp.or_else(|| find_rsdp(physical)).map(PhysAddr::as_u64).into();
    filled.tls_template = image.tls().map(|tls| tls_template(tls, layout.slide)).into();
    filled.kernel_addr = file.start.as_u64();
    filled.kernel_len = file.length;
    filled.kernel_image_offset = layout.slide.0;
    filled.kernel_stack_bottom = layout.stack.bottom.as_u64();
    filled.kernel_stack_len = layout.stack.length;
    let kernel = Start {
        boot_info: place.write(filled),
        level_4_table: tables.level_4_table(),
        stack_top: layout.stack.top(),
        entry: VirtAddr::new_truncate(image.entry().slid(layout.slide)),
    };
    switch::run(physical, layout.switch, kernel)
}

/// Loads, relocates and maps the kernel's segments.
fn load(
    physical: &PhysicalMemory,
    image: &KernelImage<'_>,
    slide: Slide,
    tables: &mut PageTables,
    free: &mut FreeMemory,
) -> Result<(), Error> {
    let mut loaded = ArrayVec::<LoadedSegment<'_, '_>, MAX_SEGMENTS>::new();
    for segment in image.segments() {
        let block = free.allocate("kernel segment", segment.page_count())?;
        let pages = (segment.pages().start.0..segment.pages().end.0).step_by(4096).map(LinkAddress);
        for (page, frame) in pages.zip(block.frames()) {
            tables.map_frame(VirtAddr::new_truncate(page.slid(slide)), frame, image.access(segment, page), free)?;
        }
        loaded.push(LoadedSegment::load(*segment, physical.open(block))?);
    }
    Ok(image.relocate(slide, &mut loaded)?)
}

fn tls_template(tls: TlsImage, slide: Slide) -> TlsTemplate {
    TlsTemplate { start_addr: tls.start.slid(slide), file_size: tls.file_size, mem_size: tls.memory_size }
}

/// The ACPI root pointer where BIOSes keep it: the extended data area's first KiB, then the ROM.
fn find_rsdp(physical: &PhysicalMemory) -> Option<PhysAddr> {
    let segment = physical.read("BIOS data", Extent { start: PhysAddr::new(0x40e), length: 2 }).ok()?;
    let extended = u64::from(u16::from_le_bytes(*segment.first_chunk()?)) << 4;
    let rom = rsdp::BIOS_AREA;
    [(extended, 1024), (rom.start, rom.end - rom.start)].into_iter().find_map(|(start, length)| {
        let start = PhysAddr::new(start);
        Some(start + rsdp::find(physical.read("BIOS area", Extent { start, length }).ok()?)?)
    })
}

fn entropy() -> Entropy {
    let random = RdRand::new().and_then(RdRand::get_u64);
    // SAFETY: every 64-bit CPU has the time-stamp counter, and nothing has forbidden it.
    Entropy(random.unwrap_or_else(|| unsafe { core::arch::x86_64::_rdtsc() }))
}
