//! Objects of one type are never where objects of another were, unless the page has been given back in between.

#[cfg(not(miri))]
use core::num::NonZeroU16;
use core::ptr::NonNull;
use std::collections::BTreeSet;
use std::vec::Vec;

use super::{free, with_pages};
use crate::PageState;
#[cfg(not(miri))]
use crate::boot_map::{BootMap, Region, RegionKind};
use crate::host::{HostMachine, scaled};
use crate::machine::Machine;
#[cfg(not(miri))]
use crate::slab::cache::mark_of;
use crate::slab::{CacheSpec, KmemCache, KmemCaches};
use crate::units::{Bytes, Pfn};
#[cfg(not(miri))]
use crate::units::{NodeId, PfnRange, PhysAddr};

const OBJECTS: usize = scaled(500, 130);

type Caches<'c> = KmemCaches<'c, HostMachine>;

/// Objects, and the pages they are in.
struct Held {
    objects: Vec<NonNull<u8>>,
    pages: BTreeSet<Pfn>,
}

impl Held {
    fn new(caches: &Caches<'_>, alloc: impl Fn() -> NonNull<u8>) -> Self {
        let objects: Vec<_> = (0..OBJECTS).map(|_| alloc()).collect();
        let page = |&object| Pfn::containing(caches.pages.machine().physical(object)).expect("the object is in memory");
        let pages = objects.iter().map(page).collect();
        Self { objects, pages }
    }

    fn of(caches: &Caches<'_>, cache: &KmemCache<'_, HostMachine>) -> Self {
        Self::new(caches, || cache.alloc_raw().expect("there is memory"))
    }

    /// Frees the objects. Says in which pages they were.
    fn free_to(self, cache: &KmemCache<'_, HostMachine>) -> BTreeSet<Pfn> {
        self.objects.into_iter().for_each(|object| free(cache, object).expect("it is allocated"));
        self.pages
    }
}

#[test]
fn caches_of_one_size_share_no_page() {
    with_pages(|pages| {
        let caches = Caches::new(pages).expect("there is memory");
        for size in [8, 64, 100, 1024, 4096] {
            let [a, b] = ["a", "b"].map(|name| caches.create(CacheSpec::new(name, size)).expect("it fits"));
            let [of_a, of_b] = [&a, &b].map(|cache| Held::of(&caches, cache));
            let general = Held::new(&caches, || caches.kmalloc(Bytes(size as usize)).expect("there is memory"));
            assert!(of_a.pages.is_disjoint(&of_b.pages), "{size} bytes: {:?}", of_a.pages);
            let typed = of_a.free_to(&a).into_iter().chain(of_b.free_to(&b)).collect();
            assert!(general.pages.is_disjoint(&typed), "{size} bytes: {typed:?}");
            for object in general.objects {
                // SAFETY: nobody uses it any more.
                unsafe { caches.kfree(object) }.expect("it is allocated");
            }
            for cache in [a, b] {
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
        let of_a = Held::of(&caches, &a).free_to(&a);
        let slab = |&&pfn: &&Pfn| caches.slab_pages(pages.machine().direct_map(pfn)).is_some();
        let kept = of_a.iter().filter(slab).count();
        assert!(kept > 0, "nothing of it is the cache's any more, so there is nothing to see");
        caches.shrink();
        for &pfn in &of_a {
            let head = pages.block_of(pfn).expect("memory");
            let state = pages.page_state(head).0;
            assert!(matches!(state, PageState::Free | PageState::Node | PageState::Cached), "{pfn:?} is still a slab");
        }
        // What was freed last is handed out first.
        let of_b = Held::of(&caches, &b).free_to(&b);
        assert!(!of_a.is_disjoint(&of_b), "no page was used again, so there was nothing to see");
    });
}

/// What marks a free object is the lower half of its address.
#[cfg(not(miri))]
#[test]
fn no_slab_starts_where_its_first_objects_mark_would_be_zero() {
    let end = Pfn::new(5 << 18);
    let machine: HostMachine = HostMachine::new(end, end, NonZeroU16::MIN).expect("the host lends memory");
    let base = machine.direct_map(Pfn::new(0)).addr().get() as u64;
    let zero = base.next_multiple_of(1 << 32) - base;
    let start = PhysAddr(zero.saturating_sub(8 << 20));
    // The allocator's own tables need most of it.
    let around = Region { start, len: zero + (40 << 20) - start.0, kind: RegionKind::Usable, node: NodeId(0) };
    let mut map: BootMap = BootMap::new(&[around]).expect("the map is sound");
    let pages = machine.allocator(&mut map).expect("the tables fit");
    let caches = Caches::new(&pages).expect("there is memory");
    let cache = caches.create(CacheSpec::new("everywhere", 2048)).expect("it fits");
    let objects: Vec<_> = core::iter::from_fn(|| cache.alloc().ok()).collect();
    assert!(objects.len() > 1000);
    assert!(objects.iter().all(|object| mark_of(object.address()) != 0));
    drop(objects);
    drop(cache);
    caches.shrink();
    let frame = Pfn::containing(PhysAddr(zero)).expect("it is memory");
    drop(pages.alloc_contig(PfnRange::new(frame, frame.plus(1))).expect("no slab is there"));
}
