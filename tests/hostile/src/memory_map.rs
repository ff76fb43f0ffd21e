//! What the loader is started with: the start info, a module, and the firmware's memory map.
//!
//! Input: the start info, one module's entry, and then entries of the map. What becomes of each byte of memory is asked
//! of the entries themselves.

use std::collections::BTreeSet;

use boot::frames::{Block, FreeMemory};
use boot::memory_map::{FirmwareKind, MAX_ENTRIES, MemoryMap};
use boot::start_info::{Extent, MemoryMapEntry, Module, StartInfo};
use bootloader_api::info::{MemoryRegion, MemoryRegionKind};

const PAGE: u64 = 4096;
/// What is above is left out of every map.
const LIMIT: u64 = 1 << 51;
const START_INFO: usize = 56;
const MODULE: usize = 32;

/// See the module.
pub fn check(bytes: &[u8]) {
    let (start_info, rest) = bytes.split_at(bytes.len().min(START_INFO));
    let (module, entries) = rest.split_at(rest.len().min(MODULE));
    let start_info = StartInfo::parse(start_info).ok();
    let module = Module::parse(module).ok();
    let entries: Vec<_> = MemoryMapEntry::parse_all(entries).collect();
    let firmware = Firmware(&entries);
    let not_empty = entries.iter().filter(|entry| range(entry).is_some()).count();
    let Ok(map) = MemoryMap::new(entries.iter().copied()) else {
        return assert!(not_empty > MAX_ENTRIES, "{not_empty} entries are not too many");
    };
    assert!(not_empty <= MAX_ENTRIES);
    firmware.agrees(&map);

    let mut taken = Vec::new();
    let mut free = FreeMemory::new(&map).expect("a map has fewer runs of memory than there is room for");
    let told = [
        start_info.and_then(|info| info.modules),
        start_info.map(|info| info.memory_map),
        module.map(|module| module.0),
    ];
    for extent in told.into_iter().flatten() {
        free.reserve(extent).expect("three reservations are not too many");
        taken.push(extent);
    }
    let bound = free.report_bound(&map);
    firmware.is_told(&free, &map, &taken);
    for pages in [1, 7, 300] {
        if let Ok(block) = free.allocate("a test", pages) {
            taken.push(extent_of(&block));
            let (start, length) = (block.start().as_u64(), pages * PAGE);
            assert!(start >= 1 << 20 && start + length <= 1 << 32, "{block:?}");
            firmware.is_told(&free, &map, &taken);
        }
    }
    let mut regions = 0;
    free.report(&map, |_| regions += 1);
    assert!(regions <= bound, "{regions} regions, at most {bound} were announced");
}

fn extent_of(block: &Block) -> Extent {
    Extent { start: block.start(), length: block.frames().size() }
}

/// First byte and one past the last, as far as they are looked at.
fn range(entry: &MemoryMapEntry) -> Option<(u64, u64)> {
    let (start, end) = (entry.start.min(LIMIT), entry.start.saturating_add(entry.length).min(LIMIT));
    (start < end).then_some((start, end))
}

struct Firmware<'e>(&'e [MemoryMapEntry]);

impl Firmware<'_> {
    /// What the byte is called by whoever may call it that: anything beats memory, then the larger number wins.
    fn kind(&self, byte: u64) -> Option<u32> {
        let holds = |entry: &&MemoryMapEntry| range(entry).is_some_and(|(start, end)| start <= byte && byte < end);
        let kinds = self.0.iter().filter(holds).map(|entry| entry.kind);
        kinds.max_by_key(|&kind| (kind != FirmwareKind::RAM.0, kind))
    }

    /// All bytes between which nothing changes.
    fn places(&self, others: impl Iterator<Item = u64>) -> BTreeSet<u64> {
        let edges = self.0.iter().filter_map(range).flat_map(|(start, end)| [start, end]);
        let near = |edge: u64| [edge.saturating_sub(1), edge, edge.saturating_add(1)];
        edges.chain(others).flat_map(near).filter(|&byte| byte < LIMIT).collect()
    }

    fn agrees(&self, map: &MemoryMap) {
        let regions = map.regions();
        for pair in regions.windows(2) {
            let touch = pair[0].end == pair[1].start && pair[0].kind != pair[1].kind;
            assert!(pair[0].end < pair[1].start || touch, "{regions:?}");
        }
        assert!(regions.iter().all(|region| region.start < region.end));
        for byte in self.places(regions.iter().flat_map(|region| [region.start.as_u64(), region.end.as_u64()])) {
            let holds = |start: u64, end: u64| start <= byte && byte < end;
            let found = regions.iter().find(|region| holds(region.start.as_u64(), region.end.as_u64()));
            assert_eq!(found.map(|region| region.kind.0), self.kind(byte), "byte {byte:#x} of {:?}", self.0);
            if self.kind(byte).is_some_and(|kind| kind != FirmwareKind::RESERVED.0) {
                assert!(byte < map.memory_end().as_u64());
            }
        }
        assert!(map.memory_end().as_u64() >= 1 << 32);
    }

    /// Whether all of the byte's page is memory that nobody has.
    fn is_free(&self, byte: u64, taken: &[Extent]) -> bool {
        let start = byte / PAGE * PAGE;
        let touched = |extent: &Extent| {
            let first = extent.start.as_u64();
            extent.length > 0 && first < start + PAGE && start < first.saturating_add(extent.length)
        };
        let edges = self.places([start, start + PAGE].into_iter());
        let mut page = edges.into_iter().filter(|byte| byte / PAGE * PAGE == start);
        start > 0 && page.all(|byte| self.kind(byte) == Some(FirmwareKind::RAM.0)) && !taken.iter().any(touched)
    }

    fn is_told(&self, free: &FreeMemory, map: &MemoryMap, taken: &[Extent]) {
        let mut regions = Vec::new();
        free.report(map, |region| regions.push(region));
        assert!(regions.iter().all(|region| region.start < region.end), "{regions:?}");
        assert!(regions.windows(2).all(|pair| pair[0].end <= pair[1].start), "{regions:?}");
        let edges = regions.iter().flat_map(|region| [region.start, region.end]);
        let reserved = taken
            .iter()
            .flat_map(|extent| [extent.start.as_u64(), extent.start.as_u64().saturating_add(extent.length)]);
        let pages = reserved.flat_map(|edge| [edge / PAGE * PAGE, edge.div_ceil(PAGE).saturating_mul(PAGE)]);
        for byte in self.places(edges.chain(pages)) {
            let holds = |region: &&MemoryRegion| region.start <= byte && byte < region.end;
            let told = regions.iter().find(holds).map(|region| region.kind);
            let right = match self.kind(byte) {
                None => None,
                Some(1) if self.is_free(byte, taken) => Some(MemoryRegionKind::Usable),
                Some(1) => Some(MemoryRegionKind::Bootloader),
                Some(kind) => Some(MemoryRegionKind::UnknownBios(kind)),
            };
            assert_eq!(told, right, "byte {byte:#x} of {:?} without {taken:?}", self.0);
        }
    }
}
