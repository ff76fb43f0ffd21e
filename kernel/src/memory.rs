//! Where the machine's memory goes to `mm`: the one place that knows both.

use core::pin::Pin;
use core::{fmt, mem};

use kernel_core::acpi::Topology;
use kernel_core::cmdline::{Beside, CommandLine};
use mm::boot_map::BootMap;
use mm::cache::PageCache;
use mm::machine::{Geometry, Machine};
use mm::owner::Owners;
use mm::page::PageAllocator;
use mm::shrinker::Shrinker;
use mm::slab::KmemCaches;
use mm::units::{Order, PAGE_SHIFT, Pfn, PfnRange};
use mm::{OwnerKind, PageState};
use spin::Once;

use crate::clock::Stopwatch;
use crate::ktest::{check, diagnostic, ktest};
use crate::platform::Platform;
use crate::serial::println;

/// The page allocator of this machine.
pub(crate) type Allocator = PageAllocator<'static, Platform>;

/// The caches of this machine.
pub(crate) type Caches = KmemCaches<'static, Platform>;

/// The typed owners of this machine's blocks.
pub(crate) type MachineOwners = Owners<'static, Platform>;

/// The page cache of this machine: there is no disk, so nothing is swapped out.
pub(crate) type MachineCache = PageCache<'static, Platform>;

const MAX_ORDER: Order = <<Platform as Machine>::Geometry as Geometry>::MAX_ORDER;

/// What setting the allocator up came to.
#[derive(Debug)]
pub(crate) struct Setup {
    /// What it took.
    pub(crate) ticks: u64,
    /// The memory it was given, what it has kept for itself included.
    pub(crate) usable_pages: u32,
}

static ALLOCATOR: Once<(Allocator, Setup)> = Once::new();
static CACHES: Once<Caches> = Once::new();
static OWNERS: Once<MachineOwners> = Once::new();
static PAGE_CACHE: Once<MachineCache> = Once::new();

/// The map and the CPUs split into nodes, if the command line asks, whatever nodes firmware lists.
pub(crate) fn split_nodes(map: BootMap, topology: Topology, words: &CommandLine) -> (BootMap, Topology) {
    let Some(nodes) = words.nodes else { return (map, topology) };
    // A pageblock has one migratetype and its pages one zone, so no node begins inside one.
    match map.split_nodes(nodes, <<Platform as Machine>::Geometry as Geometry>::PAGEBLOCK_ORDER) {
        Ok(split) => (split, topology.split(nodes)),
        Err(error) => {
            println!("cmdline: ignored: numa=fake={nodes} ({error})");
            (map, topology)
        }
    }
}

/// Gives all memory that `map` calls usable to the page allocator, and makes the caches on it.
///
/// # Panics
/// If the two cannot be set up in this memory: there is nothing to go on with.
pub(crate) fn init(
    platform: &'static Platform,
    mut map: BootMap,
    words: &CommandLine,
) -> (&'static Allocator, &'static Caches) {
    #[cfg(asan)]
    // SAFETY: other CPUs are started later.
    unsafe {
        crate::sanitizer::start(platform, &mut map);
    }
    if words.specification == Beside::Runs {
        match Allocator::carve_specification(platform, &mut map) {
            Ok(table) => platform.specify(table),
            Err(error) => println!("specification: none, {error}"),
        }
    }
    let (usable_pages, end) = (map.usable_pages(), map.usable_end().address());
    // SAFETY: MACHINE-MEMORY, the map is made of what the loader says, less all that is in use, and only once.
    let make = || unsafe { PageAllocator::new(platform, &mut map) };
    let (allocator, ticks) = Stopwatch::calibrated().time(make);
    let allocator = allocator.unwrap_or_else(|error| panic!("page allocator: {error}"));
    println!(
        "memory: {} KiB to {:#x}, direct map to {:#x}, {} KiB of tables",
        u64::from(usable_pages) << PAGE_SHIFT >> 10,
        end.0,
        platform.direct_map_end().address().0,
        allocator.metadata().total() >> 10,
    );
    let allocator = &ALLOCATOR.call_once(|| (allocator, Setup { ticks, usable_pages })).0;
    let caches = CACHES.call_once(|| {
        KmemCaches::new_with(allocator, words.slab_debug).unwrap_or_else(|error| panic!("slab: {error}"))
    });
    let owners = OWNERS.call_once(|| Owners::new(caches).unwrap_or_else(|error| panic!("owners: {error}")));
    let cache =
        PAGE_CACHE.call_once(|| PageCache::new(owners, None).unwrap_or_else(|error| panic!("page cache: {error}")));
    // What can be read again goes before what may soon be needed.
    for shrinker in [cache as &dyn Shrinker, caches] {
        match allocator.register_shrinker(shrinker) {
            // For as long as the machine runs.
            Ok(registration) => mem::forget(registration),
            Err(error) => panic!("shrinkers: {error}"),
        }
    }
    (allocator, caches)
}

/// The machine's caches of objects; `None` before [`init`].
pub(crate) fn caches() -> Option<&'static Caches> {
    CACHES.get()
}

/// The machine's owners of blocks; `None` before [`init`].
pub(crate) fn owners() -> Option<&'static MachineOwners> {
    OWNERS.get()
}

/// The machine's page cache; `None` before [`init`].
pub(crate) fn page_cache() -> Option<Pin<&'static MachineCache>> {
    PAGE_CACHE.get().map(Pin::static_ref)
}

/// The machine's page allocator; `None` before [`init`].
pub(crate) fn allocator() -> Option<&'static Allocator> {
    ALLOCATOR.get().map(|(allocator, _)| allocator)
}

/// What setting it up took; `None` before [`init`].
pub(crate) fn setup() -> Option<&'static Setup> {
    ALLOCATOR.get().map(|(_, setup)| setup)
}

/// Memory that nobody but the caches has, and how whole it is.
///
/// A *place* is where a block of the largest order can be: aligned, all memory, in one zone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Wholeness {
    pub(crate) free_pages: u32,
    pub(crate) cache_pages: u32,
    pub(crate) largest_blocks: u32,
    /// Places in which some page is in use, if only as a node.
    pub(crate) used_places: u32,
    places: u32,
}

impl Wholeness {
    /// As of now, once caches and CPUs have given back what they need not have. Cost: a look at every block in a place.
    pub(crate) fn now(allocator: &Allocator) -> Self {
        let cache_pages = caches().map_or(0, |caches| {
            caches.shrink();
            caches.pages_held().0
        });
        allocator.drain();
        let mut whole = Self { free_pages: 0, cache_pages, largest_blocks: 0, used_places: 0, places: 0 };
        for zone in allocator.zones() {
            whole.free_pages += zone.free;
            whole.largest_blocks += zone.blocks_of(MAX_ORDER);
            let place = |start: Pfn| PfnRange::new(start, start.plus(MAX_ORDER.pages()));
            let next = |last: &PfnRange| Some(place(last.end));
            let places = core::iter::successors(Some(place(zone.span.start.align_up(MAX_ORDER))), next);
            for place in places.take_while(|place| place.end <= zone.span.end) {
                let Some(used) = used_pages(allocator, place) else { continue };
                whole.places += 1;
                whole.used_places += u32::from(used > 0);
            }
        }
        whole
    }

    /// Whether all memory that is free has coalesced, and exactly as many pages are somebody else's as then.
    pub(crate) fn is_restored(&self, then: &Self) -> bool {
        let pages = |whole: &Self| whole.free_pages + whole.cache_pages;
        pages(self) == pages(then) && self.largest_blocks + self.used_places == self.places
    }
}

impl fmt::Display for Wholeness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { free_pages, cache_pages, largest_blocks, used_places, places } = self;
        write!(
            f,
            "{free_pages} pages free and {cache_pages} in caches, {largest_blocks} blocks of the largest order and \
             {used_places} places for one in use, of {places}"
        )
    }
}

/// Pages of a place that are not free; `None` if some frame of it is reserved or no memory.
fn used_pages(allocator: &Allocator, place: PfnRange) -> Option<u32> {
    let (mut used, mut at) = (0, place.start);
    while at < place.end {
        let (state, order) = allocator.page_state(at);
        let pages = match state {
            PageState::Free | PageState::Cached | PageState::Allocated => order.pages(),
            PageState::Node => 1,
            PageState::Hole | PageState::Reserved | PageState::Tail | PageState::Isolated | PageState::Offline => {
                return None;
            }
        };
        used += if matches!(state, PageState::Free | PageState::Cached) { 0 } else { pages };
        at = at.plus(pages);
    }
    Some(used)
}

/// Pages of owners that are no slabs.
pub(crate) fn owned_pages(owners: &MachineOwners) -> u32 {
    owners.reports().filter(|report| report.kind != OwnerKind::Slab).map(|report| report.pages.0).sum()
}

ktest!(
    "memory",
    fn every_page_that_is_not_free_is_the_caches_or_has_an_owner_and_every_invariant_holds() {
        let (allocator, caches) = allocator().zip(caches()).ok_or("the allocators are not up")?;
        allocator.verify()?;
        allocator.verify_specified()?;
        allocator.verify_charges()?;
        caches.verify()?;
        let (managed, free) =
            allocator.zones().fold((0, 0), |(managed, free), zone| (managed + zone.managed, free + zone.free));
        let owners = owners().ok_or("there are no owners")?;
        owners.verify()?;
        let (held, owned) = (caches.pages_held().0, owned_pages(owners));
        check!(
            managed > 0 && free + held + owned == managed,
            "of {managed} pages {free} are free, {held} the caches' and {owned} of other owners"
        );
        Ok(())
    }
);

// Tests run in the order of their names, so this one comes behind all that allocate.
ktest!(
    "zones",
    fn every_place_for_a_largest_block_is_one_but_for_those_that_live_memory_keeps_apart() {
        let allocator = allocator().ok_or("the page allocator is not up")?;
        let whole = Wholeness::now(allocator);
        diagnostic!("{whole}");
        check!(whole.is_restored(&whole), "memory has not coalesced: {whole}");
        Ok(())
    }
);
