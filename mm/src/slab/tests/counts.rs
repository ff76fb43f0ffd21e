//! What caches say of themselves, and how many pages they give back.

use core::ptr::NonNull;
use std::string::ToString;
use std::vec::Vec;

use super::{free, with_pages};
use crate::host::{HostMachine, scaled};
use crate::machine::Machine;
use crate::shrinker::{Shortage, Shrinker};
use crate::slab::lists::Place;
use crate::slab::{CacheReport, CacheSpec, Census, KmemCache, KmemCaches, SlabDebug};
use crate::units::{Bytes, Count};

type Caches<'c> = KmemCaches<'c, HostMachine>;
type Cache<'c> = KmemCache<'c, HostMachine>;

/// Empty slabs that a cache keeps.
const KEPT: u32 = 2;
/// Objects that come to many slabs.
const OBJECTS: u32 = scaled(2000, 200);

fn with_caches(debug: &str, test: impl FnOnce(&Caches<'_>)) {
    with_pages(|pages| {
        let debug = SlabDebug::parse(debug).expect("these are flags");
        let caches = KmemCaches::new_with(pages, debug).expect("there is memory");
        test(&caches);
        caches.verify().expect("all is well");
    });
}

fn alloc(cache: &Cache<'_>, count: u32) -> Vec<NonNull<u8>> {
    (0..count).map(|_| cache.alloc_raw().expect("there is memory")).collect()
}

fn free_all(cache: &Cache<'_>, objects: impl IntoIterator<Item = NonNull<u8>>) {
    for object in objects {
        assert_eq!(free(cache, object), Ok(()));
    }
}

fn reports(caches: &Caches<'_>) -> Vec<CacheReport> {
    let mut reports = Vec::new();
    caches.for_each_report(|report| reports.push(report));
    reports
}

#[test]
fn a_report_counts_the_slabs_that_are_used_and_of_the_others_few_are_kept() {
    // A cache that is watched has no sheaves: what is freed is in its slab.
    with_caches("F", |caches| {
        let cache = caches.create(CacheSpec::new("counted", 512)).expect("it fits");
        let (each, slabs) = (cache.report().objects_per_slab.0, 5);
        let mut held = alloc(&cache, each * slabs);
        let report = cache.report();
        assert_eq!((report.active, report.objects), (Count(each * slabs), Count(each * slabs)));
        assert_eq!((report.active_slabs, report.slabs), (Count(slabs), Count(slabs)));
        assert_eq!(report.pages(), Count(slabs * report.order.pages()));
        held.sort_unstable();
        for left in (0..slabs).rev() {
            free_all(&cache, held.drain(left as usize * each as usize..));
            let report = cache.report();
            assert_eq!(report.active_slabs, Count(left));
            assert_eq!(report.slabs, Count(slabs.min(left + KEPT)), "{left} are used");
        }
        assert_eq!(cache.shrink(), Count(KEPT * report.order.pages()));
        assert_eq!(cache.report().slabs, Count(0));
    });
}

#[test]
fn of_slabs_that_become_empty_few_are_kept_where_there_are_sheaves_too() {
    with_caches("-", |caches| {
        let cache = caches.create(CacheSpec::new("counted", 1024)).expect("it fits");
        // More than sheaves hold.
        let many = 3 * OBJECTS;
        let held = alloc(&cache, many);
        free_all(&cache, held);
        assert!(cache.report().slabs.0 < many / cache.report().objects_per_slab.0);
        caches.gather_all();
        let empty = caches.with_slabs(cache.cache(), |slabs| slabs.count_of(Place::Empty));
        assert_eq!((cache.report().slabs, empty), (Count(KEPT), KEPT));
    });
}

#[test]
fn what_the_caches_hold_is_what_the_page_allocator_lacks_and_shrinking_says_how_much_of_it_came_back() {
    with_caches("-", |caches| {
        caches.shrink();
        let available = || {
            caches.pages.drain();
            caches.pages.free_pages()
        };
        let (held_first, free_first) = (caches.pages_held().0, available());
        let caches_made = [24, 512, 4096].map(|size| caches.create(CacheSpec::new("held", size)).expect("it fits"));
        let objects = caches_made.each_ref().map(|cache| alloc(cache, OBJECTS));
        let large = caches.kmalloc(Bytes(100_000)).expect("there is memory");
        let grown = caches.pages_held().0 - held_first;
        assert_eq!(grown, free_first - available());
        assert!(grown > OBJECTS + OBJECTS / 8 + 25, "{grown}");
        for (cache, objects) in caches_made.iter().zip(objects) {
            free_all(cache, objects);
        }
        // SAFETY: nobody uses it any more.
        assert_eq!(unsafe { caches.kfree(large) }, Ok(()));
        let (before, free_before) = (caches.pages_held().0, available());
        let Count(shrunk) = caches.shrink();
        assert_eq!((before - caches.pages_held().0, available() - free_before), (shrunk, shrunk));
        assert_eq!(caches_made.each_ref().map(|cache| cache.report().pages()), [Count(0); 3]);
        drop(caches_made);
        caches.shrink();
        assert_eq!(caches.pages_held().0, held_first);
    });
}

#[test]
fn a_slab_of_slabs_descriptors_goes_when_it_describes_nothing_but_itself() {
    with_caches("F", |caches| {
        let of_slabs =
            || reports(caches).into_iter().find(|report| report.name.as_str() == "slab").expect("it is there");
        let cache = caches.create(CacheSpec::new("many", scaled(4096, 1024))).expect("it fits");
        caches.shrink();
        let (before, first) = (of_slabs(), caches.pages_held());
        let held = alloc(&cache, before.objects_per_slab.0 * 3 * cache.report().objects_per_slab.0);
        assert!(of_slabs().slabs.0 >= before.slabs.0 + 3);
        free_all(&cache, held);
        caches.shrink();
        assert_eq!((of_slabs(), caches.pages_held()), (before, first));
    });
}

#[test]
fn what_caches_are_made_of_is_in_no_sheaf() {
    with_caches("-", |caches| {
        let mut without = reports(caches);
        without.retain(|report| report.sheaf_objects == Count(0));
        let names: Vec<_> = without.iter().map(|report| report.name.as_str()).collect();
        assert_eq!(names, ["sheaf", "kmem_cache_cpu", "slab", "kmem_cache"]);
    });
}

#[test]
fn a_census_reads_as_a_sentence_does() {
    let census = Census { objects: Count(3), bytes: Bytes(4288) };
    assert_eq!(census.to_string(), "4288 bytes in 3 objects");
}

#[test]
fn an_address_in_a_slab_has_a_place_in_an_object_up_to_the_last_one() {
    with_caches("-", |caches| {
        let cache = caches.create(CacheSpec::new("placed", 1500)).expect("it fits");
        let object = cache.alloc_raw().expect("there is memory");
        let report = cache.report();
        let (stride, objects) = (report.stride.0, report.objects_per_slab.0 as usize);
        let start = caches.pages.machine().direct_map(caches.slab_pages(object).expect("it is in a slab").start);
        let slab = caches.slab_of(object).expect("it is in a slab");
        // SAFETY: an object of the slab is allocated, so it stays.
        let slab = unsafe { slab.as_ref() };
        // SAFETY: as above.
        let slab = unsafe { slab.owner() };
        let place = |at: usize| {
            let address = start.map_addr(|start| start.saturating_add(at));
            caches.place_in(slab, address).map(|place| (place.cache, place.offset.0, place.size.0))
        };
        for nth in 0..objects {
            for offset in [0, 1, 1499, stride - 1] {
                assert_eq!(place(nth * stride + offset), Some((report.name, offset, 1500)), "{nth}: {offset}");
            }
        }
        let pages = report.order.pages() as usize * crate::units::PAGE_SIZE;
        assert!(objects * stride < pages, "there is nothing behind the last object");
        for behind in [objects * stride, objects * stride + 1, pages - 1] {
            assert_eq!(place(behind), None, "{behind}");
        }
        assert_eq!(free(&cache, object), Ok(()));
    });
}

/// Whoever looks through all caches may lack memory meanwhile, and must not wait for himself.
#[test]
fn as_a_shrinker_caches_offer_all_they_hold_unless_somebody_looks_through_them() {
    with_caches("-", |caches| {
        let cache = caches.create(CacheSpec::new("shrunk", 512)).expect("it fits");
        let held = alloc(&cache, 100);
        free_all(&cache, held);
        let shortage = Shortage::of(Count(1));
        assert_eq!(Shrinker::reclaimable(caches), caches.pages_held());
        let (mut reclaimable, mut shrunk) = (Vec::new(), Vec::new());
        caches.for_each_report(|_| {
            reclaimable.push(Shrinker::reclaimable(caches));
            shrunk.push(Shrinker::shrink(caches, &shortage));
        });
        assert!(!reclaimable.is_empty() && reclaimable.iter().chain(&shrunk).all(|&pages| pages == Count(0)));
        let before = caches.pages_held().0;
        let Count(shrunk) = Shrinker::shrink(caches, &shortage);
        assert!(shrunk >= cache.report().order.pages());
        assert_eq!(before - caches.pages_held().0, shrunk);
    });
}
