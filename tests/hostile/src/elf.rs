//! The kernel's file: headers, configuration, layout, loading and relocation, as the loader goes about it on a machine
//! of 4 MiB.

use boot::address_space::Entropy;
use boot::frames::FreeMemory;
use boot::kernel_image::{KernelImage, Position};
use boot::layout::{Demand, Layout};
use boot::load::LoadedSegment;
use boot::memory_map::MemoryMap;
use boot::segment::Access;
use boot::start_info::MemoryMapEntry;
use x86_64::VirtAddr;

const PAGE: u64 = 4096;
const BOOT_INFO_PAGES: u64 = 2;
const LARGE_PAGE: u64 = 1 << 21;
const LEVEL_4_ENTRY: u64 = 1 << 39;

/// See the module.
pub fn check(file: &[u8]) {
    let Ok(image) = KernelImage::parse(file) else { return };
    check_segments(&image);
    let Ok(config) = image.config() else { return };
    let memory =
        [(0, 0x9_f000), (0x10_0000, 0x30_0000)].map(|(start, length)| MemoryMapEntry { start, length, kind: 1 });
    let map = MemoryMap::new(memory.into_iter()).expect("two entries are not too many");
    let mut free = FreeMemory::new(&map).expect("two runs are not too many");
    let demand =
        Demand { boot_info_pages: BOOT_INFO_PAGES, memory_end: map.memory_end(), entropy: Entropy(file.len() as u64) };
    let Ok(layout) = Layout::plan(&image, &config, demand, &mut free) else { return };
    check_layout(&image, &layout, demand);
    load(&image, &layout, &mut free, file);
}

fn check_segments(image: &KernelImage<'_>) {
    let segments = image.segments();
    let meet = |one: usize, other: usize| {
        let (one, other) = (segments[one].pages(), segments[other].pages());
        one.start < other.end && other.start < one.end
    };
    assert!(!segments.is_empty());
    assert!((0..segments.len()).all(|one| (0..one).all(|other| !meet(one, other))), "{segments:?}");
    let entry = image.entry();
    let holds = |segment: &&boot::segment::Segment<'_>| segment.pages().contains(&entry);
    let code = segments.iter().find(holds).expect("the entry point is in a segment");
    assert_eq!(image.access(code, code.pages().start), Access::Execute);
    assert!(image.align().is_power_of_two() && image.align() >= PAGE);
}

/// Nothing is mapped where something else is, at null, or where there are no addresses.
fn check_layout(image: &KernelImage<'_>, layout: &Layout, demand: Demand) {
    let mut mapped: Vec<(&str, u64, u64)> = Vec::new();
    for segment in image.segments() {
        mapped.push(("segment", segment.pages().start.slid(layout.slide), segment.page_count() * PAGE));
    }
    let stack = layout.stack;
    mapped.push(("stack", stack.bottom.as_u64() - PAGE, (stack.page_count() + 1) * PAGE));
    mapped.push(("boot info", layout.boot_info.as_u64(), BOOT_INFO_PAGES * PAGE));
    mapped.push(("switch", layout.switch.start().as_u64(), PAGE));
    let memory = demand.memory_end.as_u64().next_multiple_of(LARGE_PAGE);
    mapped.extend(layout.physical_memory.map(|start| ("memory", start.as_u64(), memory)));
    let recursive = layout.recursive.map(|index| VirtAddr::new_truncate(u64::from(index) * LEVEL_4_ENTRY));
    mapped.extend(recursive.map(|start| ("recursive", start.as_u64(), LEVEL_4_ENTRY)));
    mapped.sort_by_key(|&(_, start, _)| start);
    for &(what, start, length) in &mapped {
        let last = start.checked_add(length - 1).expect("a mapping ends in the address space");
        let are_addresses = [start, last].map(VirtAddr::try_new).iter().all(Result::is_ok);
        assert!(start >= PAGE && are_addresses && start >> 47 == last >> 47, "{what} at {start:#x}");
    }
    for pair in mapped.windows(2) {
        assert!(pair[0].1 + (pair[0].2 - 1) < pair[1].1, "{pair:x?}");
    }
    let top = stack.top();
    assert!(top.is_aligned(16_u64) && top > stack.bottom && top - stack.bottom <= stack.page_count() * PAGE);
    match image.position() {
        Position::Fixed => assert_eq!(layout.slide.0, 0),
        Position::Independent => assert!(layout.slide.0.is_multiple_of(image.align())),
    }
}

fn load(image: &KernelImage<'_>, layout: &Layout, free: &mut FreeMemory, file: &[u8]) {
    let mut memories = Vec::new();
    for segment in image.segments() {
        let Ok(block) = free.allocate("kernel segment", segment.page_count()) else { return };
        let length = usize::try_from(block.frames().size()).expect("a block is in 4 MiB");
        memories.push(vec![0xa5; length]);
    }
    let load = |memory: &mut [u8], segment| LoadedSegment::load(segment, memory).map(drop);
    for ((segment, memory), header) in image.segments().iter().zip(&mut memories).zip(load_headers(file)) {
        load(memory, *segment).expect("a segment fits into its own pages");
        let start = usize::try_from(header.address % PAGE).expect("less than a page");
        let bytes = &file[header.offset..][..header.length];
        let (front, rest) = memory.split_at(start);
        let (loaded, behind) = rest.split_at(bytes.len());
        assert!(loaded == bytes && front.iter().chain(behind).all(|&byte| byte == 0));
        for page in (segment.pages().start.0..segment.pages().end.0).step_by(4096) {
            let whole = image.access(segment, segment.pages().start);
            let access = image.access(segment, boot::segment::LinkAddress(page));
            assert!(access == whole || access == Access::ReadOnly || whole == Access::ReadOnly);
        }
    }
    let loaded = image.segments().iter().zip(&mut memories);
    let loaded: Result<Vec<_>, _> = loaded.map(|(segment, memory)| LoadedSegment::load(*segment, memory)).collect();
    // Whether it can be relocated is the file's word.
    _ = image.relocate(layout.slide, &mut loaded.expect("it fitted before"));
}

/// What is to be loaded, by the file's program headers.
struct LoadHeader {
    offset: usize,
    address: u64,
    length: usize,
}

fn load_headers(file: &[u8]) -> impl Iterator<Item = LoadHeader> {
    const SIZE: usize = 56;
    const LOAD: u64 = 1;
    let word = |at: usize| u64::from_le_bytes(*file[at..].first_chunk().expect("a header is whole"));
    let size = move |at: usize| usize::try_from(word(at)).expect("what was loaded is in the file");
    let count = usize::from(u16::from_le_bytes([file[56], file[57]]));
    // There may be more than that field can say; those that follow are not looked at.
    (0..count).map(move |index| size(32) + SIZE * index).filter_map(move |at| {
        let is_loaded = word(at) & u64::from(u32::MAX) == LOAD && word(at + 40) > 0;
        is_loaded.then(|| LoadHeader { offset: size(at + 8), address: word(at + 16), length: size(at + 32) })
    })
}
