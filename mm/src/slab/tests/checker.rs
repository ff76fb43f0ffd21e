//! The checker of slabs sees what is broken, and names it.

use super::*;
use crate::OwnerKind;
use crate::desc::owner_word::OwnerWord;
use crate::invariant::Invariant;
use crate::slab::cache::Cache;
use crate::slab::lists::Place;
use crate::units::PfnRange;

type Caches<'m> = KmemCaches<'m, HostMachine>;

/// Runs a test with a cache whose slabs are empty, partly taken and full, of two pages or more each. It is watched, so that no
/// object is at hand of a CPU.
fn with_slabs_of_every_kind(test: impl FnOnce(&Caches<'_>, &Cache)) {
    with_pages(|pages| {
        let caches =
            KmemCaches::new_with(pages, SlabDebug::parse("F").expect("this is a flag")).expect("there is memory");
        let cache = caches.create(CacheSpec::new("broken", 1500)).expect("it fits");
        let report = |of: &Cache| caches.with_slabs(of, |slabs| Place::ALL.map(|place| slabs.count_of(place)));
        let mut held: Vec<_> = (0..64).map(|_| cache.alloc().expect("there is memory")).collect();
        let objects = cache.cache().layout.objects as usize;
        // One of the first slab's, and all of the last but one's.
        held.drain(held.len() - objects..);
        drop(held.swap_remove(0));
        let counts = report(cache.cache());
        assert!(counts.iter().all(|&count| count > 0), "{counts:?}");
        caches.verify().expect("all is well at first");
        test(&caches, cache.cache());
        caches.verify().expect("it is whole again");
    });
}

fn named(caches: &Caches<'_>) -> Option<(Invariant, &'static str)> {
    caches.verify().err().map(|violation| (violation.invariant, violation.what))
}

#[test]
fn a_count_of_objects_that_is_wrong_by_one() {
    with_slabs_of_every_kind(|caches, cache| {
        let wrong = Some((Invariant::Slab2, "a cache's count of objects is not its slabs'"));
        caches.with_slabs(cache, |slabs| slabs.taken += 1);
        assert_eq!(named(caches), wrong);
        caches.with_slabs(cache, |slabs| slabs.taken -= 2);
        assert_eq!(named(caches), wrong);
        caches.with_slabs(cache, |slabs| slabs.taken += 1);
    });
}

#[test]
fn a_slab_on_the_list_of_another_place() {
    with_slabs_of_every_kind(|caches, cache| {
        for from in Place::ALL {
            for to in Place::ALL.into_iter().filter(|&to| to != from) {
                let shift = |from, to| {
                    caches.with_slabs(cache, |slabs| {
                        let slab = slabs.list(from).pop().expect("there is one of each");
                        slabs.list(to).push(slab);
                    });
                };
                shift(from, to);
                assert_eq!(named(caches), Some((Invariant::Slab3, "a slab is on the list of another place")));
                shift(to, from);
                assert_eq!(named(caches), None);
            }
        }
    });
}

#[test]
fn a_slab_on_the_list_of_another_cache() {
    with_slabs_of_every_kind(|caches, cache| {
        let other = caches.create(CacheSpec::new("other", 1500)).expect("it fits");
        let shift = |from: &Cache, to: &Cache| {
            let slab = caches.with_slabs(from, |slabs| slabs.list(Place::Full).pop()).expect("there is one");
            caches.with_slabs(to, |slabs| slabs.list(Place::Full).push(slab));
        };
        shift(cache, other.cache());
        assert_eq!(named(caches), Some((Invariant::Slab3, "a slab is on the list of another cache")));
        shift(other.cache(), cache);
    });
}

#[test]
fn a_page_of_a_slab_that_names_another_or_none() {
    with_slabs_of_every_kind(|caches, cache| {
        let slab = caches.with_slabs(cache, |slabs| slabs.list(Place::Partial).iter().next()).expect("there is one");
        // SAFETY: the slab is on a list of a cache that is alive.
        let described = unsafe { slab.as_ref() }.life().look().expect("it is alive");
        assert!(described.range().pages() > 1);
        for pfn in described.range().frames() {
            let page = PfnRange::new(pfn, pfn.plus(1));
            caches.pages.set_owner(page, OwnerWord::PLAIN);
            let violation = caches.verify().expect_err("the page names nobody");
            assert_eq!((violation.invariant, violation.what), (Invariant::Desc1, "a page of a slab does not name it"));
            assert_eq!(violation.pfn, Some(described.head));
            caches.pages.set_owner(page, OwnerWord::described(OwnerKind::Slab, slab));
        }
    });
}
