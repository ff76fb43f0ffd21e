//! What a machine that fences memory off is told: nobody has more of it open than was asked for.

use core::fmt;
use core::mem::MaybeUninit;
use core::num::NonZeroU16;
use core::ptr::NonNull;
use std::vec;
use std::vec::Vec;

use self::fenced::{Fenced, MEMORY};
use crate::boot_map::{BootMap, Region, RegionKind};
use crate::page::PageAllocator;
use crate::slab::{CacheSpec, FreeObjectError, KmemCache, KmemCaches};
use crate::units::{Bytes, NodeId, PhysAddr};

mod fenced;

type Caches<'c> = KmemCaches<'c, Fenced>;

fn with_caches(test: impl FnOnce(&Caches<'_>)) {
    let machine = Fenced::new(NonZeroU16::MIN);
    let memory = Region { start: PhysAddr(0), len: MEMORY.address().0, kind: RegionKind::Usable, node: NodeId(0) };
    let mut map: BootMap = BootMap::new(&[memory]).expect("the map is sound");
    // SAFETY: MACHINE-MEMORY, the machine was made for this test.
    let pages = unsafe { PageAllocator::new(&machine, &mut map) }.expect("the tables fit");
    let caches = KmemCaches::new(&pages).expect("there is memory");
    test(&caches);
    caches.verify().expect("all is well at last");
}

/// The stretches that are open of the slab that an object lies in: how far from the object they begin, and how long they are.
fn open(caches: &Caches<'_>, object: NonNull<u8>) -> Vec<(i64, u64)> {
    let machine = caches.pages.machine();
    let slab = caches.slab_pages(object).expect("it is in a slab");
    machine.open(slab, object)
}

fn kfree(caches: &Caches<'_>, object: NonNull<u8>) -> Result<(), FreeObjectError> {
    // SAFETY: every caller is done with the object.
    unsafe { caches.kfree(object) }
}

fn construct(bytes: &mut [MaybeUninit<u8>]) {
    bytes.fill(MaybeUninit::new(0x77));
}

/// Whoever writes past what he asked for is caught, be there room in the class or not; so is who uses what was freed, or never
/// given out.
#[test]
fn of_a_slab_just_what_was_asked_for_is_open_and_nothing_once_that_is_freed() {
    with_caches(|caches| {
        for size in [1, 5, 8, 9, 24, 60, 96, 100, 190, 1000, 5000, 8192] {
            let object = caches.kmalloc(Bytes(size)).expect("there is memory");
            assert_eq!(open(caches, object), [(0, size as u64)], "{size} bytes");
            assert_eq!(kfree(caches, object), Ok(()));
            assert_eq!(open(caches, object), [], "{size} bytes, freed");
            let twice = kfree(caches, object);
            assert!(matches!(twice, Err(FreeObjectError::DoubleFree { .. })), "{size}: {twice:?}");
            assert_eq!(open(caches, object), [], "{size} bytes, freed twice");
            // By way of the slab and not of a CPU's sheaf.
            caches.gather_all();
            let again = caches.kmalloc(Bytes(size)).expect("there is memory");
            assert_eq!(open(caches, again), [(0, size as u64)], "{size} bytes, again");
            assert_eq!(kfree(caches, again), Ok(()));
        }
    });
}

#[test]
fn an_allocation_that_changes_its_size_is_open_to_its_new_end() {
    with_caches(|caches| {
        let mut object = caches.kmalloc(Bytes(100)).expect("there is memory");
        for size in [128, 97, 120, 40, 2000, 1500] {
            let old = object;
            // SAFETY: the old place is not used again.
            object = unsafe { caches.krealloc(object, Bytes(size)) }.expect("there is memory");
            assert_eq!(open(caches, object), [(0, size as u64)], "{size} bytes");
            if old != object {
                assert_eq!(open(caches, old), [], "{size} bytes: where it was");
            }
        }
        assert_eq!(kfree(caches, object), Ok(()));
    });
}

#[test]
fn of_a_large_block_just_what_was_asked_for_is_open() {
    with_caches(|caches| {
        let machine = caches.pages.machine();
        let block = caches.kmalloc(Bytes(9000)).expect("there is memory");
        let pages = machine.pages(block, 4);
        assert_eq!(machine.open(pages, block), [(0, 9000)]);
        for size in [16_384, 12_001] {
            // SAFETY: nobody uses it meanwhile.
            assert_eq!(unsafe { caches.krealloc(block, Bytes(size)) }, Ok(block));
            assert_eq!(machine.open(pages, block), [(0, size as u64)]);
        }
        assert_eq!(kfree(caches, block), Ok(()));
        assert_eq!(machine.open(pages, block), []);
    });
}

/// What a cache keeps behind an object is nobody's but the cache's.
#[test]
fn nothing_between_constructed_objects_is_open() {
    with_caches(|caches| {
        let plain = |size| CacheSpec::new("fenced", size).constructed(construct);
        for spec in [plain(56), plain(61), plain(64).aligned(64), plain(60).aligned(64).keeping(16)] {
            let cache = caches.create(spec).expect("it fits");
            let [object, other] = [(); 2].map(|()| cache.alloc_raw().expect("there is memory"));
            let (size, apart) = (u64::from(spec.size), i64::try_from(cache.report().stride.0).expect("it is small"));
            // The lower one is given out last, out of what a CPU was given.
            assert_eq!(open(caches, other), [(0, size), (apart, size)], "{spec:?}");
            free(&cache, object);
            assert_eq!(open(caches, other), [(0, size)], "{spec:?}");
            free(&cache, other);
            assert_eq!(open(caches, other), [], "{spec:?}");
        }
    });
}

fn free(cache: &KmemCache<'_, Fenced>, object: NonNull<u8>) {
    // SAFETY: every caller is done with the object.
    unsafe { cache.free_raw(object) }.expect("it is allocated");
}

/// Who walks over pages may look at the life of a descriptor that is free by now.
#[test]
fn of_a_free_descriptor_what_walkers_look_at_is_open() {
    with_caches(|caches| {
        let spec = CacheSpec::new("descriptors", 48).aligned(64).constructed(construct).keeping(16).type_stable();
        let cache = caches.create(spec).expect("it fits");
        let object = cache.alloc_raw().expect("there is memory");
        let open_now = |at: i64| open(caches, object).into_iter().find(|&(start, _)| start == at);
        assert_eq!((open_now(0), open_now(-64)), (Some((0, 48)), Some((-64, 16))));
        free(&cache, object);
        assert_eq!(open_now(0), Some((0, 16)));
    });
}
