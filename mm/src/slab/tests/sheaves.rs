//! What is kept in front of slabs, and for whom: two sheaves for a CPU, and so many for all.

use core::ptr::NonNull;
use std::vec::Vec;

use super::{free, report_of, with_pages_of};
use crate::host::{HostMachine, on_cpu};
use crate::slab::refill::kept_sheaves;
use crate::slab::{CacheSpec, FreeObjectError, KmemCache, KmemCaches};
use crate::units::CpuId;

type Caches<'c> = KmemCaches<'c, HostMachine>;
type Cache<'c> = KmemCache<'c, HostMachine>;

const BYTES: u32 = 4096;
/// Objects of that size in a sheaf.
const SHEAF: usize = 4;
/// Sheaves of them for all: as many as come to 256 KiB.
const KEPT: usize = 16;
/// More objects than all sheaves hold.
const MANY: usize = (KEPT + 8) * SHEAF;

fn with_cache(test: impl FnOnce(&Caches<'_>, &Cache<'_>)) {
    with_pages_of(2, |pages| {
        let caches = Caches::new(pages).expect("there is memory");
        let cache = caches.create(CacheSpec::new("kept", BYTES)).expect("it fits");
        assert_eq!(cache.report().sheaf_objects.0 as usize, SHEAF);
        test(&caches, &cache);
        caches.verify().expect("all is well");
    });
}

fn alloc(cache: &Cache<'_>, count: usize) -> Vec<NonNull<u8>> {
    (0..count).map(|_| cache.alloc_raw().expect("there is memory")).collect()
}

fn free_all(cache: &Cache<'_>, objects: impl IntoIterator<Item = NonNull<u8>>) {
    for object in objects {
        assert_eq!(free(cache, object), Ok(()));
    }
}

/// Full sheaves, and empty ones, that no CPU has.
fn for_all(caches: &Caches<'_>, cache: &Cache<'_>) -> (usize, usize) {
    let (full, empty) = caches.with_slabs(cache.cache(), |slabs| (slabs.full_sheaves.len(), slabs.empty_sheaves.len()));
    (full as usize, empty as usize)
}

/// Objects that are not in their slabs.
fn taken(cache: &Cache<'_>) -> usize {
    cache.report().active.0 as usize
}

/// Sheaves that there are, of all caches.
fn sheaves(caches: &Caches<'_>) -> u32 {
    report_of(caches, "sheaf").active.0
}

#[test]
fn a_cache_keeps_256_kib_of_free_objects_for_all_and_no_fewer_than_eight_sheaves() {
    with_cache(|caches, cache| {
        assert_eq!(kept_sheaves(cache.cache()) as usize, KEPT);
        for (size, kept) in [(8, 537), (64, 67), (256, 16), (8192, 8), (64 << 10, 8)] {
            let cache = caches.create(CacheSpec::new("other", size)).expect("it fits");
            assert_eq!(kept_sheaves(cache.cache()), kept, "{size} bytes");
        }
    });
}

#[test]
fn what_is_freed_fills_the_sheaves_of_a_cpu_then_those_of_all_and_the_rest_goes_back_by_half_sheaves() {
    with_cache(|caches, cache| {
        let mut held = alloc(cache, MANY);
        free_all(cache, held.drain(..2 * SHEAF));
        assert_eq!(for_all(caches, cache), (0, 0), "a CPU keeps two sheaves");
        free_all(cache, held.drain(..KEPT * SHEAF));
        assert_eq!(for_all(caches, cache), (KEPT, 0));
        let before = taken(cache);
        free_all(cache, held.drain(..1));
        assert_eq!((for_all(caches, cache), before - taken(cache)), ((KEPT, 0), SHEAF.div_ceil(2)));
        free_all(cache, held);
        assert_eq!(for_all(caches, cache), (KEPT, 0));
        assert!(taken(cache) <= (KEPT + 2) * SHEAF, "{}", taken(cache));
    });
}

#[test]
fn a_sheaf_that_is_one_too_many_is_emptied_into_slabs_and_kept_for_later() {
    with_cache(|caches, cache| {
        let held = alloc(cache, MANY);
        let (here, there) = held.split_at(MANY - 3 * SHEAF);
        free_all(cache, here.iter().copied());
        // The other CPU's spare goes to all as well.
        on_cpu(CpuId(1), || free_all(cache, there.iter().copied()));
        caches.gather_all();
        let (full, empty) = for_all(caches, cache);
        assert!(full == 0 && empty > KEPT + 1, "{full} {empty}");
        free_all(cache, alloc(cache, MANY));
        // One of them became the CPU's spare.
        assert_eq!(for_all(caches, cache), (KEPT, empty - KEPT - 1));
    });
}

#[test]
fn a_cpu_that_allocates_as_many_as_it_frees_uses_its_two_sheaves_in_turn() {
    with_cache(|caches, cache| {
        let held = alloc(cache, 2 * SHEAF);
        free_all(cache, held);
        let (before, at_hand) = (sheaves(caches), taken(cache));
        for round in 0..3 {
            let held = alloc(cache, 2 * SHEAF);
            assert_eq!(taken(cache), at_hand, "round {round}: there was enough at hand");
            free_all(cache, held);
            assert_eq!((for_all(caches, cache), sheaves(caches), taken(cache)), ((0, 0), before, at_hand));
        }
    });
}

#[test]
fn what_one_cpu_freed_another_gets_without_a_look_at_slabs() {
    with_cache(|caches, cache| {
        let held = alloc(cache, MANY);
        free_all(cache, held);
        let (before, out) = (taken(cache), KEPT * SHEAF);
        let mut got = on_cpu(CpuId(1), || alloc(cache, out));
        assert_eq!((taken(cache), for_all(caches, cache)), (before, (0, KEPT)));
        got.sort_unstable();
        got.dedup();
        assert_eq!(got.len(), out, "an object was given out twice");
        free_all(cache, got);
    });
}

#[test]
fn an_object_in_any_sheaf_is_free_already() {
    with_cache(|caches, cache| {
        let held = alloc(cache, (KEPT + 3) * SHEAF);
        free_all(cache, held.iter().copied());
        assert_eq!(for_all(caches, cache).0, KEPT);
        for &object in held.iter().step_by(SHEAF / 2) {
            let twice = free(cache, object);
            assert!(matches!(twice, Err(FreeObjectError::DoubleFree { .. })), "{twice:?}");
        }
        caches.gather_all();
        assert_eq!(taken(cache), 0);
    });
}
