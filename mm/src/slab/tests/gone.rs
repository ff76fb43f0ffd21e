//! What goes, when it may go and when it must not: slabs, caches, all of them.

use core::mem::{MaybeUninit, forget};
use core::sync::atomic::{AtomicBool, Ordering};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::string::String;
use std::thread;
use std::time::Duration;
use std::vec::Vec;

use super::init::with_machine;
use super::{free, report_of, with_pages};
use crate::OwnerKind;
use crate::desc::owner_word::OwnerWord;
use crate::host::{HostMachine, on_cpu, scaled};
use crate::slab::lists::Place;
use crate::slab::{CacheSpec, KmemCaches, SlabDebug};
use crate::units::{CpuId, Pfn, PfnRange};

type Caches<'c> = KmemCaches<'c, HostMachine>;

fn construct(bytes: &mut [MaybeUninit<u8>]) {
    bytes.fill(MaybeUninit::new(0));
}

/// A cache of objects that walkers may look at.
fn descriptors() -> CacheSpec<'static> {
    CacheSpec::new("descriptors", 64).constructed(construct).keeping(16).type_stable()
}

#[test]
fn a_cache_of_descriptors_stays_as_long_as_anybody_walks() {
    with_pages(|pages| {
        let caches = Caches::new(pages).expect("there is memory");
        let cache = caches.create(descriptors()).expect("it fits");
        drop(cache.alloc().expect("there is memory"));
        let walking = pages.gate().enter();
        assert_eq!(cache.shrink().0, 0, "somebody may look at its slab");
        let gone = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                let destroyed = on_cpu(CpuId(1), || cache.destroy().map_err(|leaked| leaked.objects));
                gone.store(true, Ordering::Release);
                assert_eq!(destroyed, Ok(()));
            });
            // Time enough for whoever does not wait.
            thread::sleep(Duration::from_millis(50));
            assert!(!gone.load(Ordering::Acquire), "it did not wait for who walks");
            drop(walking);
        });
        caches.verify().expect("all is well");
        let mut left = 0;
        caches.for_each_report(|report| left += u32::from(report.name.as_str() == "descriptors"));
        assert_eq!(left, 0);
    });
}

/// Then no page leads to a descriptor in it; [`with_pages`] counts the pages.
#[test]
fn with_all_caches_the_empty_slabs_of_a_forgotten_one_go_too() {
    with_pages(|pages| {
        for spec in [descriptors(), CacheSpec::new("plain", 64)] {
            let caches = Caches::new(pages).expect("there is memory");
            let cache = caches.create(spec).expect("it fits");
            drop(cache.alloc().expect("there is memory"));
            caches.gather_all();
            let empty = caches.with_slabs(cache.cache(), |slabs| slabs.count_of(Place::Empty));
            assert_eq!(empty, 1);
            forget(cache);
        }
    });
}

/// Whoever still has one may be asked for it by who walks over pages.
#[test]
fn the_slab_of_a_descriptor_that_somebody_has_outlives_all_caches() {
    with_machine(
        |machine| machine,
        SlabDebug::NONE,
        |caches| {
            let pages = caches.pages;
            let free = pages.free_pages();
            let others = Caches::new(pages).expect("there is memory");
            let cache = others.create(descriptors()).expect("it fits");
            let object = cache.alloc_raw().expect("there is memory");
            let slab = others.slab_pages(object).expect("it is in a slab");
            forget(cache);
            drop(others);
            assert_eq!(pages.free_pages(), free - slab.pages());
        },
    );
}

/// What is said of a slab and of its pages must agree before the pages are anybody's.
#[test]
fn no_slab_goes_whose_first_or_last_page_leads_elsewhere() {
    with_machine(
        |machine| machine,
        SlabDebug::NONE,
        |caches| {
            for last in [false, true] {
                let cache = caches.create(CacheSpec::new("broken", 1500)).expect("it fits");
                let object = cache.alloc_raw().expect("there is memory");
                let (pages, slab) = (caches.slab_pages(object), caches.slab_of(object));
                let (pages, slab) = pages.zip(slab).expect("it is in a slab");
                assert_eq!(free(&cache, object), Ok(()));
                assert!(pages.pages() > 1);
                let page = if last { Pfn::new(pages.end.number() - 1) } else { pages.start };
                let page = PfnRange::new(page, page.plus(1));
                caches.pages.set_owner(page, OwnerWord::PLAIN);
                let stopped = catch_unwind(AssertUnwindSafe(|| {
                    // Nothing of it is looked up by an address, which leads nowhere.
                    let mut discarded = crate::slab::lists::SlabList::new();
                    caches.with_slabs(cache.cache(), |slabs| {
                        let slab = slabs.list(Place::Partial).pop().expect("it is there");
                        discarded.push(slab);
                    });
                    caches.discard(discarded)
                }));
                let why = stopped.expect_err("the slab was given back");
                let why = why.downcast_ref::<String>().expect("it says why");
                assert!(why.starts_with("invariant DESC-1 broken: the slab at "), "{why}");
                caches.pages.set_owner(page, OwnerWord::described(OwnerKind::Slab, slab));
                caches.with_slabs(cache.cache(), |slabs| slabs.list(Place::Partial).push(slab));
            }
        },
    );
}

/// A slab of slabs' descriptors describes itself: its pages lead into it.
#[test]
fn a_slab_that_describes_itself_stays_as_it_is_while_anybody_walks_and_goes_then() {
    with_pages(|pages| {
        let caches = KmemCaches::new(pages).expect("there is memory");
        let of_slabs = || report_of(&caches, "slab").slabs;
        let cache = caches.create(CacheSpec::new("large", 4096)).expect("it fits");
        let objects: Vec<_> = (0..scaled(800, 300)).map(|_| cache.alloc().expect("there is memory")).collect();
        let most = of_slabs();
        let walking = pages.gate().enter();
        drop(objects);
        caches.shrink();
        assert_eq!(of_slabs(), most, "a slab has gone that somebody may be looking at");
        caches.verify().expect("what stays is named as before");
        drop(walking);
        caches.shrink();
        assert!(cfg!(miri) || of_slabs() < most, "none has gone");
    });
}
