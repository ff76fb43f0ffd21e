//! Where the machine's memory goes to `mm`: the one place that knows both.

use alloc::vec::Vec;

use kernel_core::cmdline::CommandLine;
use mm::boot_map::BootMap;
use mm::machine::{Geometry, Machine};
use mm::page::PageAllocator;
use mm::slab::KmemCaches;
use mm::units::PAGE_SHIFT;
use spin::Once;

use crate::clock::Stopwatch;
use crate::ktest::{check, ktest};
use crate::platform::Platform;
use crate::serial::println;

/// The page allocator of this machine.
pub(crate) type Allocator = PageAllocator<'static, Platform>;

/// The caches of this machine.
pub(crate) type Caches = KmemCaches<'static, Platform>;

/// What setting the allocator up came to.
#[derive(Debug)]
pub(crate) struct Setup {
    /// What it took.
    pub(crate) ticks: u64,
    /// The memory it was given, what it has kept for itself included.
    pub(crate) usable_pages: u32,
    /// Free blocks of the largest order that each zone came up with.
    largest_blocks: Vec<u32>,
}

static ALLOCATOR: Once<(Allocator, Setup)> = Once::new();
static CACHES: Once<Caches> = Once::new();

/// Gives all memory that `map` calls usable to the page allocator, split into nodes if the command line asks.
///
/// # Panics
/// If the allocator cannot be set up in this memory: there is nothing to go on with.
pub(crate) fn init(platform: &'static Platform, mut map: BootMap, words: &CommandLine) -> &'static Allocator {
    if let Some(nodes) = words.nodes {
        // A pageblock has one migratetype and its pages one zone, so no node begins inside one.
        match map.split_nodes(nodes, <<Platform as Machine>::Geometry as Geometry>::PAGEBLOCK_ORDER) {
            Ok(split) => map = split,
            Err(error) => println!("cmdline: ignored: numa=fake={nodes} ({error})"),
        }
    }
    let (usable_pages, end) = (map.usable_pages(), map.usable_end().address());
    let (allocator, ticks) = Stopwatch::calibrated().time(|| PageAllocator::new(platform, &mut map));
    let allocator = allocator.unwrap_or_else(|error| panic!("page allocator: {error}"));
    println!(
        "memory: {} KiB to {:#x}, direct map to {:#x}, {} KiB of tables",
        u64::from(usable_pages) << PAGE_SHIFT >> 10,
        end.0,
        platform.direct_map_end().address().0,
        allocator.metadata().total() >> 10,
    );
    let largest_blocks = largest_blocks(&allocator);
    let allocator = &ALLOCATOR.call_once(|| (allocator, Setup { ticks, usable_pages, largest_blocks })).0;
    CACHES.call_once(|| KmemCaches::new(allocator).unwrap_or_else(|error| panic!("slab: {error}")));
    allocator
}

/// The machine's caches of objects; `None` before [`init`].
pub(crate) fn caches() -> Option<&'static Caches> {
    CACHES.get()
}

/// The machine's page allocator; `None` before [`init`].
pub(crate) fn allocator() -> Option<&'static Allocator> {
    ALLOCATOR.get().map(|(allocator, _)| allocator)
}

/// What setting it up took; `None` before [`init`].
pub(crate) fn setup() -> Option<&'static Setup> {
    ALLOCATOR.get().map(|(_, setup)| setup)
}

fn largest_blocks(allocator: &Allocator) -> Vec<u32> {
    allocator.zones().map(|zone| zone.blocks_of(<<Platform as Machine>::Geometry as Geometry>::MAX_ORDER)).collect()
}

ktest!(
    "memory",
    fn every_page_that_is_nobodys_is_free_and_every_invariant_holds() {
        let allocator = allocator().ok_or("the page allocator is not up")?;
        allocator.verify()?;
        let (managed, free) =
            allocator.zones().fold((0, 0), |(managed, free), zone| (managed + zone.managed, free + zone.free));
        check!(managed > 0 && free == managed, "of {managed} pages {free} are free, and no test holds one");
        Ok(())
    }
);

// Tests run in the order of their names, so this one comes behind all that allocate.
ktest!(
    "zones",
    fn the_largest_blocks_are_those_of_boot_whatever_was_allocated_and_freed() {
        let allocator = allocator().ok_or("the page allocator is not up")?;
        let at_boot = &setup().ok_or("the page allocator is not up")?.largest_blocks;
        let now = largest_blocks(allocator);
        check!(now == *at_boot, "the zones have {now:?} of the largest blocks free, and had {at_boot:?}");
        Ok(())
    }
);
