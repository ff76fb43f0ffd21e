//! What is seen through mappings, against plain bytes.

use core::num::NonZeroU16;
use core::pin::Pin;
use std::fmt::Display;
use std::format;
use std::string::String;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::vec;
use std::vec::Vec;

use super::*;
use crate::OwnerKind;
use crate::boot_map::{BootMap, Region, RegionKind};
use crate::folio::{SplitError, SplitTo};
use crate::host::{HostMachine, ballast, scaled};
use crate::owner::{FolioFlags, FolioRef, Owners};
use crate::page::{Block, Request};
use crate::shrinker::{Shortage, Shrinker};
use crate::slab::{Counted, KmemCaches};
use crate::units::{Count, FileOffset, NodeId, Order, PAGE_SIZE, PageIndex, Pfn, PhysAddr};
use crate::zone::ZoneKind;

mod foreign;
mod given;
mod going;
mod meanwhile;
mod model;
mod stress;
mod unwound;

type Cache<'a> = Pin<&'a PageCache<'a, HostMachine>>;

/// A file of the host's, which may fail.
struct HostFile {
    bytes: Mutex<Vec<u8>>,
    /// Accesses until one fails; none does at 0.
    fails_in: AtomicU32,
    /// Whether it panics then.
    panics: AtomicBool,
}

impl HostFile {
    fn of(bytes: Vec<u8>) -> Arc<Self> {
        Arc::new(Self { bytes: Mutex::new(bytes), fails_in: AtomicU32::new(0), panics: AtomicBool::new(false) })
    }

    fn pages(pages: usize) -> Arc<Self> {
        let period: Vec<u8> = (0..251).collect();
        let mut bytes = period.repeat((pages * PAGE_SIZE).div_ceil(period.len()));
        bytes.truncate(pages * PAGE_SIZE);
        Self::of(bytes)
    }

    fn access(&self, offset: FileOffset, len: usize) -> Result<core::ops::Range<usize>, StoreError> {
        let left = self.fails_in.load(Ordering::Relaxed);
        if left > 0 {
            self.fails_in.store(left - 1, Ordering::Relaxed);
            if left == 1 {
                assert!(!self.panics.load(Ordering::Relaxed), "the store is broken");
                return Err(StoreError::Failed(offset));
            }
        }
        let start = usize::try_from(offset.0).expect("small");
        Ok(start..start + len)
    }
}

impl Store for HostFile {
    fn size(&self) -> FileOffset {
        FileOffset(self.bytes.lock().expect("no test fails with the lock").len() as u64)
    }

    fn read(&self, offset: FileOffset, bytes: &mut [u8]) -> Result<(), StoreError> {
        let range = self.access(offset, bytes.len())?;
        bytes.copy_from_slice(&self.bytes.lock().expect("as above")[range]);
        Ok(())
    }

    fn write(&self, offset: FileOffset, bytes: &[u8]) -> Result<(), StoreError> {
        let range = self.access(offset, bytes.len())?;
        self.bytes.lock().expect("as above")[range].copy_from_slice(bytes);
        Ok(())
    }
}

/// A machine of so many MiB, the upper half of them highmem, with a cache that swaps to `swap`. Afterwards nothing is left.
fn with_cache<R>(mib: u32, swap: &dyn Store, test: impl FnOnce(Cache<'_>) -> R) -> R {
    with_cache_of(mib, 1, swap, test)
}

/// The same with so many CPUs.
fn with_cache_of<R>(mib: u32, cpus: u16, swap: &dyn Store, test: impl FnOnce(Cache<'_>) -> R) -> R {
    let cpus = NonZeroU16::new(cpus).expect("a machine has a CPU");
    let (end, direct_map_end) = (Pfn::new(mib << 8), Pfn::new(mib << 7));
    let machine = HostMachine::new(end, direct_map_end, cpus).expect("the host lends memory");
    let memory = Region { start: PhysAddr(0), len: u64::from(mib) << 20, kind: RegionKind::Usable, node: NodeId(0) };
    let mut map: BootMap = BootMap::new(&[memory]).expect("the map is sound");
    let pages = machine.allocator(&mut map).expect("the tables fit");
    let free = pages.free_pages();
    let caches = KmemCaches::new(&pages).expect("there is memory");
    let owners = Owners::new(&caches).expect("there is memory");
    let result = PageCache::with(&owners, Some(swap), |cache| {
        let with_both = || pages.with_shrinker(&caches, || test(cache));
        let result = pages.with_shrinker(&*cache, with_both).flatten().expect("there is room for two");
        assert_eq!(cache.report().swapped, Count(0), "places in the swap store were lost");
        assert_eq!((cache.report().inactive, cache.report().active), (Count(0), Count(0)), "folios were forgotten");
        result
    });
    let result = result.expect("there is memory");
    owners.verify().expect("every page leads to its owner");
    let folios = owners.reports().find(|report| report.kind == OwnerKind::Folio).expect("there is a line for folios");
    assert_eq!(folios.blocks, Count(0), "folios are left");
    drop(owners);
    drop(caches);
    pages.verify().expect("the page allocator is sound");
    assert_eq!(pages.free_pages(), free, "pages were lost");
    result
}

fn text<E: Display>(error: E) -> String {
    format!("{error}")
}

#[test]
fn a_file_is_read_in_ever_larger_folios_as_long_as_reads_go_on_in_order() {
    let (file, swap) = (HostFile::pages(256), HostFile::pages(16));
    with_cache(16, &swap, |cache| {
        let mapping = cache.file(Arc::clone(&file), Order::of(5)).expect("there is memory");
        let mut orders = Vec::new();
        for page in 0..256 {
            let folio = mapping.read_folio(PageIndex(page)).expect("the file is read");
            assert!(folio.flags().contains(FolioFlags::UPTODATE));
            if folio.index() == PageIndex(page) {
                orders.push(folio.order().number());
            }
        }
        assert_eq!(orders[..4], [2, 2, 3, 4], "{orders:?}");
        assert!(orders[4..].iter().all(|&order| order == 5), "{orders:?}");
        assert_eq!((mapping.pages(), cache.report().read), (256, 256));
        mapping.verify().expect("all is well");
        // The last page that can be read is the last one there is.
        assert!(matches!(mapping.read_folio(PageIndex(256)), Err(CacheError::Beyond(PageIndex(256)))));
    });
}

#[test]
fn readahead_makes_do_with_smaller_folios_where_memory_or_the_file_is_in_pieces() {
    let (file, swap) = (HostFile::pages(23), HostFile::pages(16));
    with_cache(8, &swap, |cache| {
        let mapping = cache.file(Arc::clone(&file), Order::of(4)).expect("there is memory");
        // Something stands in the way of anything but pages.
        drop(mapping.read_folio(PageIndex(22)).expect("the last page is read"));
        drop(mapping.read_folio(PageIndex(20)).expect("its neighbours are"));
        let last = mapping.lookup(PageIndex(21)).expect("it came with its neighbour");
        assert_eq!((last.index(), last.order()), (PageIndex(20), Order::of(1)));
        drop(last);
        let pages = cache.owners().pages();
        // Every block of more than a page is taken.
        let pair = Request::movable(Order::of(1)).from_reserve();
        let pairs: Vec<_> = core::iter::from_fn(|| pages.alloc(pair).ok()).collect();
        // Of every eighth, one page comes free, which is no buddy of anything free.
        let mut held = Vec::new();
        for (number, pair) in pairs.into_iter().enumerate() {
            let (low, high) = pair.split().expect("a pair has halves");
            held.push(low);
            held.extend((number % 8 > 0).then_some(high));
        }
        let folio = mapping.read_folio(PageIndex(0)).expect("there is a page");
        assert_eq!(folio.order(), Order::ZERO);
        drop((folio, held));
        mapping.verify().expect("all is well");
    });
}

#[test]
fn what_cannot_be_read_says_so_and_is_read_when_it_can_be() {
    let (file, swap) = (HostFile::pages(8), HostFile::pages(16));
    with_cache(8, &swap, |cache| {
        let mapping = cache.file(Arc::clone(&file), Order::of(3)).expect("there is memory");
        // The folio's third page fails, and then the page itself, once.
        file.fails_in.store(3, Ordering::Relaxed);
        drop(mapping.read_folio(PageIndex(0)).expect("the page is read alone"));
        assert_eq!(mapping.pages(), 1);
        file.fails_in.store(1, Ordering::Relaxed);
        let mut byte = [0];
        let last = FileOffset(8 * PAGE_SIZE as u64 - 1);
        let before = mapping.pages();
        // Four pages fail at the first, which is then read alone; the next failure is the page's own.
        let _ = mapping.read(last, &mut byte);
        file.fails_in.store(0, Ordering::Relaxed);
        mapping.read(last, &mut byte).expect("the device is well again");
        assert_eq!(usize::from(byte[0]), (8 * PAGE_SIZE - 1) % 251);
        assert!(mapping.pages() > before);
        mapping.verify().expect("all is well");
    });
}

#[test]
fn what_is_read_once_goes_and_what_is_used_again_stays() {
    let (file, swap) = (HostFile::pages(512), HostFile::pages(16));
    with_cache(16, &swap, |cache| {
        let mapping = cache.file(Arc::clone(&file), Order::ZERO).expect("there is memory");
        let hot: Vec<u64> = (0..512).step_by(8).collect();
        for turn in 0..2 {
            for page in (0..512).filter(|page| turn == 0 || page % 8 == 0) {
                drop(mapping.read_folio(PageIndex(page)).expect("it is read"));
            }
        }
        assert_eq!((cache.report().active, cache.report().inactive), (Count(64), Count(448)));
        assert_eq!(cache.reclaim(Count(400)), Count(400));
        assert!(hot.iter().all(|&page| mapping.lookup(PageIndex(page)).is_some()), "what is used again has gone");
        // Those that were read first went first.
        let left: Vec<_> =
            (0..512).filter(|page| page % 8 != 0 && mapping.lookup(PageIndex(*page)).is_some()).collect();
        assert_eq!(left.len(), 48);
        assert!(left.iter().all(|&page| page > 512 - 64), "{left:?}");
        // When there is nothing else, the active ones age, and go too.
        assert_eq!(cache.reclaim(Count(1000)), Count(112));
        assert_eq!(mapping.pages(), 0);
    });
}

#[test]
fn whoever_is_referred_to_locked_or_pinned_is_not_reclaimed() {
    let (file, swap) = (HostFile::pages(4), HostFile::pages(16));
    with_cache(8, &swap, |cache| {
        let mapping = cache.file(Arc::clone(&file), Order::ZERO).expect("there is memory");
        let folio = |page| mapping.read_folio(PageIndex(page)).expect("it is read");
        let referred = folio(0);
        let locked = folio(1).lock();
        let pinned = crate::owner::PinnedFolio::new(folio(2));
        drop(folio(3));
        assert_eq!(cache.reclaim(Count(4)), Count(1));
        assert!(mapping.lookup(PageIndex(3)).is_none());
        drop((referred, locked));
        assert_eq!(cache.reclaim(Count(4)), Count(2));
        assert!(mapping.lookup(PageIndex(2)).is_some());
        drop(pinned);
        assert_eq!(cache.reclaim(Count(4)), Count(1));
    });
}

#[test]
fn a_large_anonymous_folio_is_written_out_and_comes_back_whole_or_in_pages() {
    let swap = HostFile::pages(64);
    with_cache(8, &swap, |cache| {
        let mapping = cache.anonymous(Order::of(4)).expect("there is memory");
        let contents: Vec<u8> = (0..=252).rev().cycle().take(16 * PAGE_SIZE).collect();
        mapping.write(FileOffset(0), &contents).expect("there is memory");
        assert_eq!(mapping.lookup(PageIndex(9)).expect("it stands there").order(), Order::of(4));
        let mut seen = vec![0; contents.len()];
        for whole in [true, false] {
            assert_eq!(cache.reclaim(Count(16)), Count(16));
            assert_eq!((mapping.pages(), cache.report().swapped), (0, Count(16)));
            let pages = cache.owners().pages();
            let mut held = Vec::new();
            let left = if whole { u32::MAX } else { 500 };
            let _ballast = ballast(pages, Request::movable(Order::of(4)).from_reserve(), left);
            if !whole {
                while let Ok(page) = pages.alloc(Request::movable(Order::ZERO).from_reserve()) {
                    held.push(page);
                }
                // Enough pages, no two of which are buddies.
                held.sort_by_key(Block::head);
                let mut apart = 0;
                held.retain(|page| {
                    apart += u32::from(page.head().number() % 4 == 1);
                    page.head().number() % 4 != 1 || apart > 200
                });
            }
            mapping.read(FileOffset(0), &mut seen).expect("it is read back");
            assert_eq!(seen, contents);
            assert_eq!(cache.report().swapped, Count(0));
            let order = mapping.lookup(PageIndex(9)).expect("it stands there").order();
            assert_eq!(order, if whole { Order::of(4) } else { Order::ZERO });
            mapping.verify().expect("all is well");
        }
    });
}

#[test]
fn when_the_swap_store_is_full_or_fails_anonymous_memory_stays() {
    let swap = HostFile::pages(2);
    with_cache(8, &swap, |cache| {
        let mapping = cache.anonymous(Order::ZERO).expect("there is memory");
        let contents = vec![0xa5; 4 * PAGE_SIZE];
        mapping.write(FileOffset(0), &contents).expect("there is memory");
        swap.fails_in.store(1, Ordering::Relaxed);
        assert_eq!(cache.reclaim(Count(4)), Count(2));
        assert_eq!((mapping.pages(), cache.report().swapped), (2, Count(2)));
        mapping.verify().expect("all is well");
        let mut seen = vec![0; contents.len()];
        mapping.read(FileOffset(0), &mut seen).expect("it is read back");
        assert_eq!(seen, contents);
    });
}

#[test]
fn without_a_swap_store_what_was_written_to_anonymous_memory_stays_whole() {
    let swap = HostFile::pages(1);
    with_cache(8, &swap, |swapping| {
        let made = PageCache::with(swapping.owners(), None, |cache| {
            let mapping = cache.anonymous(Order::of(4)).expect("there is memory");
            mapping.write(FileOffset(0), &[1]).expect("there is memory");
            assert_eq!(cache.reclaim(Count(16)), Count(0));
            assert_eq!(mapping.lookup(PageIndex(9)).map(|folio| folio.order()), Some(Order::of(4)));
        });
        made.expect("there is memory");
    });
}

#[test]
fn both_sides_of_a_fork_see_what_there_was_and_their_own_changes_and_the_last_one_has_it_all() {
    let swap = HostFile::pages(64);
    with_cache(8, &swap, |cache| {
        let first = cache.anonymous(Order::ZERO).expect("there is memory");
        let page = |number: u64| PageIndex(number).start();
        for number in 0..8 {
            first.write(page(number), &[1]).expect("there is memory");
        }
        let byte = |mapping: &Mapping<'_, _>, number| {
            let mut byte = [0];
            mapping.read(page(number), &mut byte).expect("it is read");
            byte[0]
        };
        let Fork { parent, child } = Mapping::fork(&first).expect("there is memory");
        drop(first);
        parent.write(page(1), &[2]).expect("there is memory");
        child.write(page(2), &[3]).expect("there is memory");
        assert_eq!((0..4).map(|number| byte(&parent, number)).collect::<Vec<_>>(), [1, 2, 1, 1]);
        assert_eq!((0..4).map(|number| byte(&child, number)).collect::<Vec<_>>(), [1, 1, 3, 1]);
        assert_eq!((parent.pages(), child.pages(), cache.report().copied), (1, 1, 2));
        // Some of what is behind was written out when the child becomes the only one who sees it.
        cache.reclaim(Count(4));
        drop(parent);
        assert_eq!((0..8).map(|number| byte(&child, number)).collect::<Vec<_>>(), [1, 1, 3, 1, 1, 1, 1, 1]);
        child.write(page(5), &[4]).expect("there is memory");
        assert_eq!(cache.report().copied, 2, "what is nobody else's was copied");
        assert_eq!(child.pages() + u64::from(cache.report().swapped.0), 8, "what nobody sees is kept");
        child.verify().expect("all is well");
        let grandchild = Mapping::fork(&child).expect("there is memory");
        let great = Mapping::fork(&grandchild.child).expect("there is memory");
        assert!(Counted::is(&great.parent, &grandchild.child), "a mapping without contents was put behind another");
        assert_eq!(byte(&great.child, 5), 4);
    });
}

#[test]
fn a_private_view_of_a_file_leaves_the_file_alone_and_sees_its_changes_until_it_has_its_own() {
    let (file, swap) = (HostFile::pages(8), HostFile::pages(16));
    with_cache(8, &swap, |cache| {
        let shared = cache.file(Arc::clone(&file), Order::of(2)).expect("there is memory");
        let private = Mapping::shadow(&shared).expect("there is memory");
        let mut byte = [0];
        private.read(FileOffset(5000), &mut byte).expect("it is read");
        assert_eq!(usize::from(byte[0]), 5000 % 251);
        shared.write(FileOffset(5000), &[1]).expect("it is written");
        private.read(FileOffset(5000), &mut byte).expect("it is read");
        assert_eq!(byte, [1]);
        private.write(FileOffset(5001), &[2]).expect("it is copied");
        shared.write(FileOffset(5000), &[3]).expect("it is written");
        private.read(FileOffset(5000), &mut byte).expect("it is read");
        assert_eq!(byte, [1]);
        assert!(matches!(private.write(FileOffset(8 * PAGE_SIZE as u64), &[0]), Err(CacheError::Beyond(_))));
        assert_eq!(shared.write_back().map_err(text), Ok(Count(4)));
        assert_eq!(shared.write_back().map_err(text), Ok(Count(0)));
        let bytes = file.bytes.lock().expect("nobody has failed");
        assert_eq!((bytes[5000], usize::from(bytes[5001])), (3, 5001 % 251));
    });
}

#[test]
fn a_folio_of_2_mib_splits_where_it_stands_whole_or_not_at_all() {
    const PLACES: usize = scaled(600, 40);
    let swap = HostFile::pages(PLACES);
    with_cache(scaled(32, 8), &swap, |cache| {
        let order = Order::of(scaled(10, 6));
        let end = 0x1000 + u64::from(order.pages());
        let at = PageIndex(scaled(0x1234, 0x1034));
        let mapping = cache.anonymous(order).expect("there is memory");
        mapping.write(at.start(), &[7]).expect("there is memory");
        let folio = mapping.lookup(at).expect("it stands there");
        assert_eq!((folio.index(), folio.order()), (PageIndex(0x1000), order));
        let page = folio.head().plus(scaled(0x234, 0x34));
        let folio = folio.lock();
        // Somebody else refers to it, or pins it.
        let other = mapping.lookup(PageIndex(0x1000)).expect("it stands there");
        let (folio, why) = cache.split(folio, SplitTo::Uniform(Order::ZERO)).expect_err("it is referred to");
        assert_eq!(why, SplitError::Referred);
        let pinned = crate::owner::PinnedFolio::new(other);
        let (folio, why) = cache.split(folio, SplitTo::Uniform(Order::ZERO)).expect_err("it is pinned");
        assert_eq!(why, SplitError::Pinned);
        drop(pinned);
        assert_eq!(mapping.pages(), u64::from(order.pages()));
        cache
            .split(folio, SplitTo::Around(page, Order::ZERO))
            .map_err(|(_, error)| error)
            .expect("nobody refers to it");
        mapping.verify().expect("all is well");
        let orders = |mapping: &Mapping<'_, _>| {
            let (mut orders, mut at) = (Vec::new(), 0x1000);
            while at < end {
                let folio = mapping.lookup(PageIndex(at)).expect("it stands there");
                assert_eq!(folio.index(), PageIndex(at));
                orders.push(folio.order().number());
                at += u64::from(folio.order().pages());
            }
            orders
        };
        assert_eq!(orders(&mapping), scaled(&[9, 5, 4, 2, 0, 0, 1, 3, 6, 7, 8][..], &[5, 4, 2, 0, 0, 1, 3]));
        let large = mapping.lookup(PageIndex(0x1000)).expect("it stands there").lock();
        cache.split(large, SplitTo::Uniform(Order::ZERO)).map_err(|(_, error)| error).expect("nobody refers to it");
        mapping.verify().expect("all is well");
        assert_eq!(orders(&mapping).len(), scaled(512 + 10, 32 + 6));
        let mut byte = [0];
        mapping.read(at.start(), &mut byte).expect("it is read");
        assert_eq!(byte, [7]);
        // The swap store has no place for the next largest folio in a row after this, so that folio goes in pages.
        assert_eq!((cache.reclaim(Count(2000)).0 + cache.reclaim(Count(2000)).0) as usize, PLACES);
        mapping.read(at.start(), &mut byte).expect("it is read back");
        assert_eq!(byte, [7]);
        mapping.verify().expect("all is well");
    });
}

#[test]
fn memory_is_taken_from_folios_that_lie_where_it_is_lacking_and_only_from_those() {
    const HALF: u32 = scaled(256, 64);
    let pages = usize::try_from(2 * HALF).expect("small");
    let (file, swap) = (HostFile::pages(pages), HostFile::pages(16));
    with_cache(scaled(16, 8), &swap, |cache| {
        let pages = cache.pages();
        let free = |highest: bool| -> u32 {
            let zones = pages.zones().filter(|zone| (zone.kind == ZoneKind::Highmem) == highest);
            zones.map(|zone| zone.free).sum()
        };
        let mapping = cache.file(Arc::clone(&file), Order::ZERO).expect("there is memory");
        let read =
            |from, to| (from..to).for_each(|page| drop(mapping.read_folio(PageIndex(page)).expect("it is read")));
        read(0, u64::from(HALF));
        let bound = Request::movable(Order::ZERO).from_reserve();
        // A page takes an interpreter milliseconds, and so does a block.
        let large = || (scaled(0, free(true)) > 100).then(|| pages.alloc(bound.with_order(Order::of(4))));
        let single = || (free(true) > 0).then(|| pages.alloc(bound));
        let mut held: Vec<_> = core::iter::from_fn(large).chain(core::iter::from_fn(single)).collect();
        assert!(held.iter().all(Result::is_ok));
        read(u64::from(HALF), u64::from(2 * HALF));
        let (high, low) = (free(true), free(false));
        assert_eq!(high, 0);
        let lacking = Shortage { wanted: Count(50), highest: ZoneKind::Normal, node: None };
        assert_eq!(cache.shrink(&lacking), Count(50));
        assert!(free(false) >= low + 50 && free(true) == high);
        let elsewhere = Shortage { node: Some(NodeId(1)), ..lacking };
        assert_eq!(cache.shrink(&elsewhere), Count(0), "nothing is there");
        let all = cache.shrink(&Shortage { wanted: Count(1000), ..lacking });
        assert_eq!(
            (all, free(true), mapping.pages()),
            (Count(HALF - 50), high, u64::from(HALF)),
            "what lies elsewhere stays"
        );
        assert_eq!(cache.shrink(&Shortage::of(Count(1000))), Count(HALF));
        held.clear();
    });
}

#[test]
fn who_lacks_lowmem_looks_at_no_folio_in_highmem() {
    let (file, swap) = (HostFile::pages(64), HostFile::pages(16));
    with_cache(16, &swap, |cache| {
        let mapping = cache.file(Arc::clone(&file), Order::ZERO).expect("there is memory");
        let used = mapping.read_folio(PageIndex(0)).expect("it is read");
        (0..2).for_each(|_| mapping.mark_accessed(&used));
        mapping.mark_accessed(&used);
        (1..64).for_each(|page| drop(mapping.read_folio(PageIndex(page)).expect("it is read")));
        let lowmem = Shortage { wanted: Count(32), highest: ZoneKind::Normal, node: None };
        let kind = || cache.pages().kind_at(used.head());
        assert_eq!((kind(), cache.shrink(&lowmem)), (ZoneKind::Highmem, Count(0)));
        let marks = FolioFlags::ACTIVE | FolioFlags::REFERENCED;
        assert!(used.flags().contains(marks), "{:?}: nobody has asked it whether it was used", used.flags());
        assert_eq!(cache.shrink(&Shortage::of(Count(63))), Count(63), "all can go but what is referred to");
    });
}

#[test]
fn whoever_wants_pages_gets_those_that_the_cache_can_do_without() {
    const FRAMES: usize = scaled(4096, 2048);
    const WANTED: usize = scaled(1500, 700);
    let (file, swap) = (HostFile::pages(FRAMES), HostFile::pages(16));
    with_cache(scaled(16, 8), &swap, |cache| {
        let pages = cache.pages();
        let mapping = cache.file(Arc::clone(&file), Order::of(4)).expect("there is memory");
        for page in (0..FRAMES as u64).step_by(scaled(1, 8)) {
            drop(mapping.read_folio(PageIndex(page)).expect("it is read, and others go"));
        }
        assert!(mapping.pages() > scaled(2500, 1000), "{} pages are cached", mapping.pages());
        assert!(pages.zones().all(|zone| zone.free >= zone.watermarks.min));
        // Nobody but the cache has given anything up for these.
        let mut held = Vec::new();
        const PIECE: Order = Order::of(scaled(0, 2));
        for request in [Request::new(PIECE), Request::movable(PIECE)] {
            let wanted = WANTED >> PIECE.number();
            let more: Vec<_> = (0..wanted).map_while(|_| pages.alloc(request).ok()).collect();
            let zones: Vec<_> =
                pages.zones().map(|zone| (zone.kind, zone.managed, zone.free, zone.watermarks)).collect();
            assert_eq!(more.len(), wanted, "{request:?}: {:?}, {zones:?}", cache.report());
            held.extend(more);
        }
        mapping.verify().expect("all is well");
    });
}
