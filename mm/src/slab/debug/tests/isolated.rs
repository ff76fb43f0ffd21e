//! Objects that nobody gets any more, and who is said to have what.

use super::*;
use crate::slab::History;

/// Frees an object and writes to it: it is found, and isolated.
fn isolate(cache: &Cache<'_>, object: NonNull<u8>) {
    assert_eq!(free(cache, object), Ok(()));
    spoil(object, 3, 0xff);
    assert_eq!(cache.validate().expect_err("it was written to").part, Part::Poison);
    assert_eq!(cache.validate(), Ok(()));
}

#[test]
fn what_leaks_is_counted_without_the_objects_that_nobody_gets() {
    with_caches(|caches| {
        let cache = caches.create(watched("leaky", 64)).expect("it fits");
        let [wrecked, mine, other] = [(); 3].map(|()| alloc(&cache));
        isolate(&cache, wrecked);
        let leaked = cache.destroy().expect_err("two are out");
        assert_eq!((leaked.objects, leaked.first.0), (2, mine.addr().get()));
        for object in [mine, other] {
            assert_eq!(free(&leaked.cache, object), Ok(()));
        }
        assert!(leaked.cache.destroy().is_ok());
    });
}

/// Only what is out of its slab is put back when the cache goes, whatever a free object says of itself.
#[test]
fn a_cache_goes_though_a_free_object_was_overwritten_with_what_an_isolated_one_says() {
    with_caches(|caches| {
        let cache = caches.create(watched("forged", 64)).expect("it fits");
        let [keeper, forged, wrecked] = [(); 3].map(|()| alloc(&cache));
        isolate(&cache, wrecked);
        assert_eq!(free(&cache, forged), Ok(()));
        let layout = &cache.cache().layout;
        let state = cache.cache().watch.as_ref().expect("the cache is debugged").anatomy.state;
        let offset = (state - layout.front) as usize;
        // SAFETY: a word that the cache wrote stands there.
        let [from, to] = [wrecked, forged].map(|object| unsafe { object.add(offset) }.cast::<u64>());
        // SAFETY: as above.
        let says = unsafe { from.read() };
        // SAFETY: as above, and the object is nobody's.
        unsafe { to.write(says) };
        assert_eq!(free(&cache, keeper), Ok(()));
        assert_eq!(cache.destroy().map_err(|leaked| leaked.objects), Ok(()));
    });
}

#[test]
fn nobody_is_said_to_have_had_what_is_behind_the_last_object() {
    with_caches(|caches| {
        let cache = caches.create(watched("tail", 100)).expect("it fits");
        let object = alloc(&cache);
        let layout = &cache.cache().layout;
        spoil(object, i64::from(layout.objects * layout.stride - layout.front), 1);
        let found = cache.validate().expect_err("the tail was overwritten");
        assert_eq!((found.part, found.history), (Part::SlabPadding, History::default()));
        spoil(object, -1, 1);
        let found = cache.validate().expect_err("its front was overwritten");
        assert!(found.part == Part::LeftRedzone && found.history.allocated.is_some());
        assert_eq!(free(&cache, object), Ok(()));
    });
}

/// Who reads a dump of memory knows these from Linux.
#[test]
fn a_free_object_is_filled_with_6b_up_to_an_a5_between_zones_of_bb() {
    with_caches(|caches| {
        let cache = caches.create(watched("poisoned", 16)).expect("it fits");
        let [object, _keeps_the_slab] = [(); 2].map(|()| alloc(&cache));
        let around = |object: NonNull<u8>| {
            // SAFETY: so much is in front of the object, whose place the cache has written.
            let start = unsafe { object.sub(8) };
            // SAFETY: as above, and so much is behind it.
            let bytes = unsafe { core::slice::from_raw_parts(start.as_ptr(), 32) };
            [[bytes[0], bytes[7]], [bytes[8], bytes[22]], [bytes[23], bytes[24]], [bytes[30], bytes[31]]]
        };
        let [front, _, [_, behind], end] = around(object);
        assert_eq!((front, behind, end), ([0xcc; 2], 0xcc, [0xcc; 2]), "allocated");
        assert_eq!(free(&cache, object), Ok(()));
        assert_eq!(around(object), [[0xbb; 2], [0x6b; 2], [0xa5, 0xbb], [0xbb; 2]]);
        drop(cache);
    });
}
