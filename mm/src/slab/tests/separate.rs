//! Objects of one type are never where objects of another were, unless the page has been given back in between.

use std::collections::BTreeSet;
use std::vec::Vec;

use super::{free, with_pages};
use crate::PageState;
use crate::host::HostMachine;
use crate::machine::Machine;
use crate::slab::{CacheSpec, KmemCache, KmemCaches};
use crate::units::{Bytes, Pfn};

const OBJECTS: usize = 500;

type Caches<'c> = KmemCaches<'c, HostMachine>;

/// Allocates objects and frees them. Says in which pages they were.
fn pages_of(caches: &Caches<'_>, cache: &KmemCache<'_, HostMachine>) -> BTreeSet<Pfn> {
    let objects: Vec<_> = (0..OBJECTS).map(|_| cache.alloc_raw().expect("there is memory")).collect();
    let page = |&object| Pfn::containing(caches.pages.machine().physical(object)).expect("the object is in memory");
    let pages = objects.iter().map(page).collect();
    objects.into_iter().for_each(|object| free(cache, object).expect("it is allocated"));
    pages
}

/// Those of general allocations of the same size.
fn pages_of_kmalloc(caches: &Caches<'_>, size: u32) -> BTreeSet<Pfn> {
    let alloc = |_| caches.kmalloc(Bytes(size as usize)).expect("there is memory");
    let objects: Vec<_> = (0..OBJECTS).map(alloc).collect();
    let page = |&object| Pfn::containing(caches.pages.machine().physical(object)).expect("the object is in memory");
    let pages = objects.iter().map(page).collect();
    for object in objects {
        // SAFETY: nobody uses it any more.
        unsafe { caches.kfree(object) }.expect("it is allocated");
    }
    pages
}

#[test]
fn caches_of_one_size_share_no_page_not_even_one_whose_objects_are_all_free() {
    with_pages(|pages| {
        let caches = Caches::new(pages).expect("there is memory");
        for size in [8, 64, 100, 1024, 4096] {
            let typed = ["a", "b"].map(|name| caches.create(CacheSpec::new(name, size)).expect("it fits"));
            let [of_a, of_b] = typed.each_ref().map(|cache| pages_of(&caches, cache));
            let general = pages_of_kmalloc(&caches, size);
            assert!(!of_a.is_empty() && !of_b.is_empty() && !general.is_empty());
            assert!(of_a.is_disjoint(&of_b), "{size} bytes: {:?}", of_a.intersection(&of_b));
            assert!(general.is_disjoint(&of_a) && general.is_disjoint(&of_b), "{size} bytes");
            for cache in typed {
                cache.destroy().expect("nothing is left in it");
            }
        }
    });
}

#[test]
fn a_page_that_held_one_type_is_free_before_it_holds_another() {
    with_pages(|pages| {
        let caches = Caches::new(pages).expect("there is memory");
        let [a, b] = ["a", "b"].map(|name| caches.create(CacheSpec::new(name, 64)).expect("it fits"));
        let of_a = pages_of(&caches, &a);
        let slab = |&&pfn: &&Pfn| caches.slab_pages(pages.machine().direct_map(pfn)).is_some();
        let kept = of_a.iter().filter(slab).count();
        assert!(kept > 0, "nothing of it is the cache's any more, so there is nothing to see");
        caches.shrink();
        pages.drain();
        for &pfn in &of_a {
            let head = pages.block_of(pfn).expect("memory");
            assert!(matches!(pages.page_state(head).0, PageState::Free | PageState::Node), "{pfn:?} is still a slab");
        }
        let of_b = pages_of(&caches, &b);
        assert!(!of_a.is_disjoint(&of_b), "no page was used again, so there was nothing to see");
    });
}
