//! What others' code cannot spoil: shrinkers and constructors that panic, locks that shrinkers take.

use core::mem::MaybeUninit;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::host::{all_memory, panicking_when_short};

#[test]
fn who_frees_asks_nobody_to_give_memory_up() {
    with_pages_of(1, |pages| {
        let caches = KmemCaches::new(pages).expect("there is memory");
        let names = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l"];
        let all = names.map(|name| caches.create(CacheSpec::new(name, 64)).expect("it fits"));
        let objects = all.each_ref().map(|cache| {
            let each: Vec<_> = (0..300).map(|_| cache.alloc_raw().expect("there is memory")).collect();
            each
        });
        let held = all_memory(pages);
        let sheaves = || report_of(&caches, "sheaf").active;
        let before = sheaves();
        // Whoever asked would ask one who panics.
        let freed = panicking_when_short(pages, || {
            for (cache, objects) in all.iter().zip(&objects) {
                objects.iter().for_each(|&object| assert_eq!(free(cache, object), Ok(())));
            }
        });
        assert!(freed.is_some(), "somebody was asked");
        assert!(sheaves() > before, "no sheaf was wanted");
        drop(held);
        assert!(all.into_iter().all(|cache| cache.destroy().is_ok()));
    });
}

#[test]
fn a_constructor_that_panics_costs_nothing() {
    static PANICS: AtomicBool = AtomicBool::new(true);
    fn construct(bytes: &mut [MaybeUninit<u8>]) {
        assert!(!PANICS.load(Ordering::Relaxed), "not today");
        bytes.fill(MaybeUninit::new(0xc5));
    }
    with_pages_of(1, |pages| {
        let caches = KmemCaches::new(pages).expect("there is memory");
        let cache = caches.create(CacheSpec::new("constructed", 56).constructed(construct)).expect("it fits");
        let (free, census) = (pages.free_pages(), caches.census());
        for _ in 0..50 {
            assert!(catch_unwind(AssertUnwindSafe(|| cache.alloc().is_ok())).is_err());
        }
        caches.shrink();
        assert_eq!((pages.free_pages(), caches.census()), (free, census));
        PANICS.store(false, Ordering::Relaxed);
        drop(cache.alloc().expect("there is memory"));
        caches.verify().expect("all is well");
    });
}

#[test]
fn a_cache_that_could_not_be_made_because_somebody_panicked_leaves_nothing() {
    with_pages_of(2, |pages| {
        let caches = KmemCaches::new(pages).expect("there is memory");
        let parts = || ["kmem_cache", "kmem_cache_cpu", "sheaf"].map(|part| report_of(&caches, part).active);
        let (free, census, before) = (pages.free_pages(), caches.census(), parts());
        let mut held = all_memory(pages);
        let (mut made, mut panicked) = (Vec::new(), 0);
        while panicked < 8 {
            match panicking_when_short(pages, || caches.create(CacheSpec::new("late", 56))) {
                Some(cache) => made.push(cache.expect("there was memory")),
                None => {
                    panicked += 1;
                    // With each page there is one gets a little further.
                    drop(held.pop().expect("there is more memory than that"));
                }
            }
        }
        drop(held);
        assert!(made.into_iter().all(|cache| cache.destroy().is_ok()));
        caches.shrink();
        assert_eq!((pages.free_pages(), caches.census(), parts()), (free, census, before));
    });
}
