//! What pages and caches lead to: looked at by who has time to ask, and shown to tests that damage it.

use core::ptr::NonNull;
use std::vec::Vec;

use super::{as_if_free, free, with_pages};
use crate::host::HostMachine;
use crate::machine::Machine;
use crate::page::Place;
use crate::slab::{CacheSpec, KmemCache, KmemCaches};
use crate::units::{Bytes, PAGE_SIZE, Pfn};

type Caches<'c> = KmemCaches<'c, HostMachine>;

/// The page that a part stands in, and where in it.
fn place(part: &Place) -> (Pfn, usize) {
    let offset = usize::try_from(part.start.0).expect("memory is small") % PAGE_SIZE;
    (Pfn::containing(part.start).expect("it is in memory"), offset)
}

fn address(caches: &Caches<'_>, part: &Place) -> NonNull<u64> {
    let (page, offset) = place(part);
    // SAFETY: it is in the page.
    unsafe { caches.pages.machine().direct_map(page).add(offset) }.cast()
}

/// What stands there, be it open to anybody or not: as a device reads it.
fn word(caches: &Caches<'_>, part: &Place) -> u64 {
    let ((page, offset), mut bytes) = (place(part), [0; 8]);
    caches.pages.machine().read(page, offset, &mut bytes);
    u64::from_le_bytes(bytes)
}

/// A cache with an empty slab, one of which some objects are free, a full one, and objects at hand.
fn with_all_kinds(test: impl FnOnce(&Caches<'_>, &KmemCache<'_, HostMachine>, NonNull<u8>)) {
    with_pages(|pages| {
        let caches = Caches::new(pages).expect("there is memory");
        let cache = caches.create(CacheSpec::new("parts", 4096)).expect("it fits");
        let each = cache.report().objects_per_slab.0 as usize;
        let mut objects: Vec<_> = (0..3 * each).map(|_| cache.alloc_raw().expect("there is memory")).collect();
        objects.sort_unstable();
        let free_last = |objects: &mut Vec<NonNull<u8>>, count: usize| {
            for object in objects.drain(objects.len() - count..) {
                assert_eq!(free(&cache, object), Ok(()));
            }
        };
        free_last(&mut objects, each + 2);
        caches.gather_all();
        free_last(&mut objects, 2);
        test(&caches, &cache, objects[0]);
        for object in objects {
            assert_eq!(free(&cache, object), Ok(()));
        }
    });
}

#[test]
fn a_part_is_as_long_as_what_stands_there_and_marks_are_those_of_free_objects() {
    with_all_kinds(|caches, cache, _| {
        let parts = caches.parts_of(cache);
        let of = |what: &str| parts.iter().filter(|part| part.what == what).collect::<Vec<_>>();
        let lengths = |what: &str| of(what).iter().map(|part| part.bytes).collect::<Vec<_>>();
        assert_eq!(lengths("slab: life"), [16; 3]);
        assert_eq!(lengths("slab: bitmap"), [64; 3]);
        // Of the slab that is full nothing is free.
        assert_eq!(lengths("slab: mark"), [8; 2]);
        assert_eq!((lengths("sheaf: slot"), lengths("sheaf: mark")), (std::vec![8; 2], std::vec![8; 2]));
        for mark in of("slab: mark").into_iter().chain(of("sheaf: mark")) {
            assert_eq!(word(caches, mark) >> 32, as_if_free(address(caches, mark).cast()) >> 32, "{mark:?}");
        }
        for (slot, mark) in of("sheaf: slot").into_iter().zip(of("sheaf: mark")) {
            assert_eq!(word(caches, slot), address(caches, mark).addr().get() as u64);
        }
    });
}

#[test]
fn what_a_page_leads_to_is_its_slab_only_if_all_agree() {
    with_all_kinds(|caches, cache, object| {
        let slab = caches.slab_of(object).expect("it is in a slab");
        assert!(caches.is_slab_of(slab, object));
        let elsewhere = caches.kmalloc(Bytes(64)).expect("there is memory");
        assert!(!caches.is_slab_of(slab, elsewhere), "it is another slab's");
        let no_object = caches.pages.machine().direct_map(Pfn::new(0));
        assert_eq!(caches.slab_pages(no_object), None);
        assert!(!caches.is_slab_of(no_object.cast(), object), "no descriptor stands there");
        // The sides of another cache.
        let parts = caches.parts_of(cache);
        let mut agreed = Vec::new();
        for part in parts.iter().filter(|part| part.what == "slab: sides") {
            let (place, before) = (address(caches, part), word(caches, part));
            // SAFETY: nobody uses the slab meanwhile.
            unsafe { place.write(before + 64) };
            agreed.push(caches.is_slab_of(slab, object));
            // SAFETY: as above.
            unsafe { place.write(before) };
        }
        agreed.sort_unstable();
        assert_eq!(agreed, [false, true, true], "one of three slabs is the object's");
        // SAFETY: nobody uses it any more.
        assert_eq!(unsafe { caches.kfree(elsewhere) }, Ok(()));
    });
}
