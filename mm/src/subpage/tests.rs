//! What users of buffers see.

use core::num::NonZeroU16;
use core::pin::{Pin, pin};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::vec;
use std::vec::Vec;

use spin::Mutex;

use super::{BlockIndex, BufferCache, BufferError, BufferFlags, BufferMapping, BufferSize};
use crate::boot_map::{BootMap, Region, RegionKind};
use crate::cache::{PageCache, Store, StoreError};
use crate::faults::{Faults, Fired};
use crate::host::{HostMachine, orders_that_take_all, scaled};
use crate::owner::Owners;
use crate::page::{Block, Request};
use crate::shrinker::{Shortage, Shrinker};
use crate::slab::{KmemCaches, NoMemory};
use crate::units::{Count, FileOffset, NodeId, Order, PAGE_SIZE, Pfn, PhysAddr};

mod crowd;
mod model;

const CPUS: u16 = 4;

type Caches<'a> = KmemCaches<'a, HostMachine>;

const END: Pfn = Pfn::new(scaled(0x1000, 0x400));
const LOWMEM_END: Pfn = Pfn::new(scaled(0x800, 0x200));

/// A machine with lowmem and highmem.
fn with_caches<R>(test: impl FnOnce(&Caches<'_>) -> R) -> R {
    let cpus = NonZeroU16::new(CPUS).expect("not zero");
    let machine = HostMachine::new(END, LOWMEM_END, cpus).expect("the host lends memory");
    let memory = Region { start: PhysAddr(0), len: END.address().0, kind: RegionKind::Usable, node: NodeId(0) };
    let mut map: BootMap = BootMap::new(&[memory]).expect("the map is sound");
    let pages = machine.allocator(&mut map).expect("the tables fit");
    let free = pages.free_pages();
    let caches = KmemCaches::new(&pages).expect("there is memory");
    let result = pages.with_shrinker(&caches, || test(&caches)).expect("there is room");
    caches.verify().expect("the caches are sound");
    drop(caches);
    pages.verify().expect("the page allocator is sound");
    assert_eq!(pages.free_pages(), free, "pages were lost");
    result
}

/// A store that can fail, and whose end can be moved.
struct Bytes {
    bytes: Mutex<Vec<u8>>,
    faults: Faults,
}

impl Bytes {
    fn new(bytes: Vec<u8>) -> Arc<Self> {
        Arc::new(Self { bytes: Mutex::new(bytes), faults: Faults::none() })
    }

    fn resize(&self, size: usize) {
        self.bytes.lock().resize(size, 0);
    }

    fn run<R>(&self, offset: FileOffset, len: usize, work: impl FnOnce(&mut [u8]) -> R) -> Result<R, StoreError> {
        let mut bytes = self.bytes.lock();
        if self.faults.next().is_some() {
            return Err(StoreError::Failed(offset));
        }
        let start = usize::try_from(offset.0).map_err(|_| StoreError::Beyond(offset))?;
        bytes.get_mut(start..start + len).map(work).ok_or(StoreError::Beyond(offset))
    }
}

impl Store for Bytes {
    fn size(&self) -> FileOffset {
        FileOffset(self.bytes.lock().len() as u64)
    }

    fn read(&self, offset: FileOffset, bytes: &mut [u8]) -> Result<(), StoreError> {
        bytes.fill(0xee);
        self.run(offset, bytes.len(), |stored| bytes.copy_from_slice(stored))
    }

    fn write(&self, offset: FileOffset, bytes: &[u8]) -> Result<(), StoreError> {
        self.run(offset, bytes.len(), |stored| stored.copy_from_slice(bytes))
    }
}

/// A byte that says where it stands.
fn pattern(offset: usize) -> u8 {
    u8::try_from((offset / 512 * 7 + offset % 251) % 256).expect("below 256")
}

fn patterned(size: usize) -> Vec<u8> {
    (0..size).map(pattern).collect()
}

fn read(mapping: &BufferMapping<'_, HostMachine>, offset: usize, len: usize) -> Result<Vec<u8>, BufferError> {
    let mut bytes = vec![0; len];
    mapping.read(FileOffset(offset as u64), &mut bytes)?;
    Ok(bytes)
}

/// Which of these indexes have a buffer.
fn present(mapping: &BufferMapping<'_, HostMachine>, indexes: core::ops::Range<u64>) -> Vec<u64> {
    indexes.filter(|&index| mapping.lookup(BlockIndex(index)).is_some()).collect()
}

/// Takes all memory that such requests get, but for some pages of lowmem.
fn all_but<'c>(caches: &'c Caches<'_>, pages: usize, page: Request) -> Vec<Block<'c, HostMachine>> {
    let left: Vec<_> = (0..pages).map(|_| caches.pages.alloc(Request::new(Order::ZERO))).collect();
    let blocks = |order| core::iter::from_fn(move || caches.pages.alloc(page.with_order(order)).ok());
    let held = orders_that_take_all().flat_map(blocks).collect();
    assert!(left.iter().all(Result::is_ok), "there is memory");
    held
}

#[test]
fn several_buffers_share_a_page_and_the_page_goes_back_with_the_last() {
    const PAGES: usize = scaled(64, 12);
    for size in BufferSize::ALL {
        with_caches(|caches| {
            let each = PAGE_SIZE / size.bytes();
            let store = Bytes::new(patterned(PAGES * PAGE_SIZE));
            let cache = pin!(BufferCache::new(caches, size).expect("there is memory"));
            let cache = cache.into_ref();
            let mapping = cache.mapping(Arc::clone(&store)).expect("there is memory");
            let all = read(&mapping, 0, PAGES * PAGE_SIZE).expect("the store gives it");
            assert_eq!(all, patterned(PAGES * PAGE_SIZE));
            mapping.verify().expect("sound");
            let count = (PAGES * each) as u64;
            assert_eq!(mapping.buffers().0 as usize, PAGES * each);
            let buffers: Vec<_> = (0..count).filter_map(|index| mapping.lookup(BlockIndex(index))).collect();
            let pages: BTreeSet<_> = buffers.iter().map(|buffer| buffer.data().addr().get() / PAGE_SIZE).collect();
            assert_eq!(pages.len(), PAGES, "{} buffers are to share {PAGES} pages", buffers.len());
            let slabs: BTreeSet<_> = buffers
                .iter()
                .map(|buffer| caches.slab_pages(buffer.data()).expect("the bytes lie in a slab").start)
                .collect();
            assert!(slabs.len() <= PAGES);
            assert!(buffers.iter().all(|buffer| buffer.data().addr().get() % size.bytes() == 0));
            // Whoever is referred to keeps its page; the others go.
            let held = buffers.into_iter().nth(5).expect("there are more");
            assert_eq!(cache.reclaim(Count(u32::MAX)).0 as usize, PAGES * each);
            assert_eq!(mapping.buffers(), Count(0));
            cache.shrink(&Shortage::of(Count(u32::MAX)));
            let slab = caches.slab_pages(held.data()).expect("still a slab");
            assert_eq!(cache.report().pages.0, slab.pages());
            drop(held);
            assert!(cache.shrink(&Shortage::of(Count(1))) >= Count(1));
            assert_eq!(cache.report().pages, Count(0));
            assert_eq!(cache.descriptors.report().pages(), Count(0));
        });
    }
}

#[test]
fn what_was_used_once_goes_first_and_in_the_order_in_which_it_came() {
    with_caches(|caches| {
        let store = Bytes::new(patterned(16 * 512));
        let cache = pin!(BufferCache::new(caches, BufferSize::Bytes512).expect("there is memory"));
        let cache = cache.into_ref();
        let mapping = cache.mapping(Arc::clone(&store)).expect("there is memory");
        let used = |index: usize| drop(read(&mapping, index * 512 + 17, 8).expect("the store gives it"));
        (0..16).for_each(used);
        [3, 9, 12].into_iter().for_each(used);
        let report = cache.report();
        assert_eq!((report.inactive, report.active), (Count(13), Count(3)));
        assert_eq!(cache.reclaim(Count(5)), Count(5));
        assert_eq!(present(&mapping, 0..16), [3, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]);
        assert_eq!(cache.reclaim(Count(5)), Count(5));
        // Active ones are not more than the others, so that those are not all that goes: 3 was not used again.
        assert_eq!(present(&mapping, 0..16), [3, 9, 12, 13, 14, 15]);
        used(9);
        used(12);
        assert_eq!(cache.reclaim(Count(3)), Count(3));
        assert_eq!(present(&mapping, 0..16), [3, 9, 12]);
        assert_eq!(cache.reclaim(Count(1)), Count(1));
        assert_eq!(present(&mapping, 0..16), [9, 12], "3 was not used lately");
        assert_eq!(cache.reclaim(Count(u32::MAX)), Count(2));
        // Where all are used all the time, they go in the order in which they became active.
        (0..4).chain(0..4).chain(0..4).for_each(used);
        assert_eq!(cache.report().inactive, Count(0));
        assert_eq!(cache.reclaim(Count(1)), Count(1));
        assert_eq!(present(&mapping, 0..16), [1, 2, 3]);
        mapping.verify().expect("sound");
    });
}

#[test]
fn buffers_used_again_and_again_outlive_a_scan_larger_than_memory() {
    with_caches(|caches| {
        const BLOCKS: usize = scaled(1024, 128);
        const LEFT: usize = scaled(100, 22);
        let all = patterned(BLOCKS << 10);
        let store = Bytes::new(all.clone());
        let cache = pin!(BufferCache::new(caches, BufferSize::Kib1).expect("there is memory"));
        let cache = cache.into_ref();
        let mapping = cache.mapping(Arc::clone(&store)).expect("there is memory");
        // All memory but some pages is somebody else's.
        let _held = all_but(caches, LEFT, Request::new(Order::ZERO));
        let scan = || {
            for block in 0..BLOCKS {
                for hot in [0, BLOCKS / 2 - 1, BLOCKS - 1] {
                    assert_eq!(read(&mapping, hot << 10, 1).expect("there is memory"), [pattern(hot << 10)]);
                    let there = mapping.lookup(BlockIndex(hot as u64)).expect("just read");
                    let flags = there.flags();
                    assert!(block < 2 || flags.contains(BufferFlags::ACTIVE), "{hot} fell out at {block}");
                }
                let bytes = read(&mapping, block << 10, 1024).expect("what was read before goes");
                assert!(bytes == all[block << 10..(block + 1) << 10]);
            }
        };
        caches.pages.with_shrinker(&*cache, scan).expect("there is room");
        assert!(cache.report().pages.0 as usize <= LEFT);
        mapping.verify().expect("sound");
    });
}

#[test]
fn a_failed_store_leaves_what_is_dirty_dirty_and_what_was_not_read_unread() {
    with_caches(|caches| {
        let store = Bytes::new(patterned(8 * 2048));
        let cache = pin!(BufferCache::new(caches, BufferSize::Kib2).expect("there is memory"));
        let cache = cache.into_ref();
        let mapping = cache.mapping(Arc::clone(&store)).expect("there is memory");
        let failed = |offset| BufferError::Store(StoreError::Failed(FileOffset(offset)));
        store.faults.fail_nth(2);
        assert_eq!(read(&mapping, 100, 6000), Err(failed(2048)));
        assert_eq!(read(&mapping, 100, 6000).expect("once only"), patterned(6100)[100..]);
        for block in [1, 4, 6] {
            mapping.write(FileOffset(block * 2048 + 5), &[9; 7]).expect("the store gives the rest");
        }
        store.faults.fail_nth(2);
        assert_eq!(mapping.write_back(), Err(StoreError::Failed(FileOffset(4 * 2048))));
        mapping.verify().expect("sound");
        // The same when it is reclaim that wants to write.
        store.faults.fail_nth(1);
        assert_eq!(cache.reclaim(Count(u32::MAX)), Count(5), "what could not be written is tried again");
        assert_eq!((store.faults.stop(), mapping.write_back()), (Fired::Yes, Ok(Count(0))));
        for block in [1, 4, 6] {
            assert_eq!(store.bytes.lock()[block * 2048 + 5..][..7], [9; 7]);
        }
        // A buffer that is written from end to end is not read.
        store.faults.fail_nth(1);
        mapping.write(FileOffset(2048), &[3; 2048]).expect("nothing is read");
        assert_eq!(mapping.write(FileOffset(4096), &[3; 2047]), Err(failed(4096)));
        let beyond = BufferError::Store(StoreError::Beyond(FileOffset(8 * 2048 - 1)));
        assert_eq!(mapping.write(FileOffset(8 * 2048 - 1), &[3; 2]), Err(beyond));
        assert_eq!(mapping.read(FileOffset(u64::MAX), &mut [0]).map_err(|_| ()), Err(()));
    });
}

#[test]
fn with_no_memory_at_all_a_buffer_is_refused() {
    with_caches(|caches| {
        let store = Bytes::new(patterned(4096));
        let cache = pin!(BufferCache::new(caches, BufferSize::Bytes512).expect("there is memory"));
        let cache = cache.into_ref();
        let mapping = cache.mapping(Arc::clone(&store)).expect("there is memory");
        caches.shrink();
        let mut held = Vec::new();
        while let Ok(block) = caches.pages.alloc(Request::new(Order::ZERO)) {
            held.push(block);
        }
        assert_eq!(read(&mapping, 0, 1), Err(BufferError::NoMemory(NoMemory)));
        mapping.verify().expect("sound");
        drop(held);
        assert_eq!(read(&mapping, 0, 4096).expect("there is memory again"), patterned(4096));
    });
}

#[test]
fn the_page_cache_gets_memory_that_buffers_can_do_without() {
    with_caches(|caches| {
        let (store, file) = (Bytes::new(patterned(1 << 20)), Bytes::new(patterned(48 * PAGE_SIZE)));
        let buffers = pin!(BufferCache::new(caches, BufferSize::Kib2).expect("there is memory"));
        let buffers = buffers.into_ref();
        let mapping = buffers.mapping(Arc::clone(&store)).expect("there is memory");
        let owners = Owners::new(caches).expect("there is memory");
        let both = |cache: Pin<&PageCache<'_, HostMachine>>| {
            let folios = cache.file(Arc::clone(&file), Order::ZERO).expect("there is memory");
            let _held = all_but(caches, 112, Request::movable(Order::ZERO));
            mapping.write(FileOffset(0), &[7; 512 << 10]).expect("what was written before goes");
            let before = buffers.report().pages;
            assert!(before.0 > 40, "buffers are to have most of it, not {before:?}");
            let mut seen = vec![0; 48 * PAGE_SIZE];
            folios.read(FileOffset(0), &mut seen).expect("buffers give way");
            assert!(seen == patterned(48 * PAGE_SIZE));
            assert!(buffers.report().pages.0 < before.0);
            mapping.verify().expect("sound");
            assert_eq!(read(&mapping, 0, 512 << 10), Ok(vec![7; 512 << 10]));
        };
        let with_folios = || PageCache::with(&owners, None, both).expect("there is memory");
        caches.pages.with_shrinker(&*buffers, with_folios).expect("there is room");
    });
}
