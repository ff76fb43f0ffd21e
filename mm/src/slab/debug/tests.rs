//! What is caught: everything, byte by byte, and by its right name.

use core::mem::MaybeUninit;
use core::ptr::NonNull;
use std::string::{String, ToString};
use std::vec::Vec;

use super::{Corruption, DebugFlags, Part, SlabDebug};
use crate::host::{HostMachine, on_cpu, scaled};
use crate::slab::layout::order_bytes;
use crate::slab::tests::{free, with_pages};
use crate::slab::{CacheSpec, FreeObjectError, KmemCache, KmemCaches};
use crate::units::{Bytes, CpuId};

mod isolated;

type Caches<'c> = KmemCaches<'c, HostMachine>;
type Cache<'c> = KmemCache<'c, HostMachine>;

/// Gives a test caches none of which are debugged, and takes what was reported meanwhile.
fn with_caches(test: impl FnOnce(&Caches<'_>)) -> Vec<String> {
    let mut reports = Vec::new();
    with_pages(|pages| {
        test(&KmemCaches::new(pages).expect("there is memory"));
        reports = pages.machine().take_reports();
    });
    reports
}

fn watched(name: &str, size: u32) -> CacheSpec<'_> {
    CacheSpec::new(name, size).debugged(DebugFlags::USUAL)
}

fn alloc(cache: &Cache<'_>) -> NonNull<u8> {
    cache.alloc_raw().expect("there is memory")
}

/// What nobody may do: changes a byte that lies `offset` bytes from an address, in the same slab.
fn spoil(address: NonNull<u8>, offset: i64, change: u8) {
    let offset = isize::try_from(offset).expect("a slab is smaller than that");
    // SAFETY: the byte lies in memory of the machine that the debugged cache has written.
    let byte = unsafe { address.byte_offset(offset) };
    // SAFETY: as above.
    let old = unsafe { byte.read() };
    // SAFETY: as above, and what keeps other tests going is not touched.
    unsafe { byte.write(old ^ change) };
}

fn construct(bytes: &mut [MaybeUninit<u8>]) {
    bytes.fill(MaybeUninit::new(0x11));
}

/// What a byte is changed by.
const CHANGES: &[u8] = scaled(&[1, 0x80, 0xff], &[1]);

/// Objects of all shapes: odd, small, aligned, constructed.
fn shapes() -> Vec<CacheSpec<'static>> {
    let plain = [1, 7, 8, 24, 33, 64, 100].map(|size| watched("shape", size));
    let aligned = [(24, 64), (200, 128)].map(|(size, align)| watched("shape", size).aligned(align));
    let constructed = [5, 40].map(|size| watched("shape", size).constructed(construct));
    plain.into_iter().chain(aligned).chain(constructed).step_by(scaled(1, 5)).collect()
}

/// The part that each byte of an object's place is, from its front on; `None` for the object, and its mark.
fn parts(cache: &Cache<'_>) -> Vec<Option<Part>> {
    let layout = &cache.cache().layout;
    let anatomy = cache.cache().watch.as_ref().expect("the cache is debugged").anatomy;
    let zone = anatomy.object.1..anatomy.zone_end;
    let of = |at| match at {
        _ if at < layout.front => Some(Part::LeftRedzone),
        _ if zone.contains(&at) => Some(Part::RightRedzone),
        _ if at < anatomy.state => None,
        _ if at < anatomy.records => Some(Part::State),
        _ if at < anatomy.padding => Some(Part::Record),
        _ => Some(Part::Padding),
    };
    (0..layout.stride).map(of).collect()
}

fn is_told(found: Option<Corruption>, object: NonNull<u8>, part: Part, offset: i64, said: &str) {
    let found = found.unwrap_or_else(|| panic!("{said}: {part:?} at {offset} was not found"));
    assert_eq!((found.part, found.object.0), (part, object.addr().get()), "{said}: {found}");
    match found.byte {
        Some(byte) => assert!(i64::from(found.offset) == offset && byte.found != byte.expected, "{said}: {found}"),
        None => assert_eq!(part, Part::Record, "{said}: {found}"),
    }
}

#[test]
fn every_byte_around_an_allocated_object_that_changes_is_found_by_its_name_and_put_right() {
    let reports = with_caches(|caches| {
        for spec in shapes() {
            let cache = caches.create(spec).expect("it fits");
            let [before, object, behind] = [(); 3].map(|()| alloc(&cache));
            let mut caught = 0;
            for (at, part) in (0..).zip(parts(&cache)) {
                let offset = at - i64::from(cache.cache().layout.front);
                for &change in CHANGES {
                    let Some(part) = part else { continue };
                    spoil(object, offset, change);
                    let Err(FreeObjectError::Corrupt(found)) = free(&cache, object) else {
                        panic!("{part:?} at {offset} was not found")
                    };
                    is_told(Some(found), object, part, offset, "freed");
                    assert_eq!(cache.validate(), Ok(()), "{part:?} at {offset} was not put right");
                    spoil(object, offset, change);
                    is_told(cache.validate().err(), object, part, offset, "validated");
                    caught += 2;
                }
            }
            assert!(caught > 150 * CHANGES.len(), "{spec:?}: {caught}");
            for object in [object, before, behind] {
                assert_eq!(free(&cache, object), Ok(()));
            }
            assert!(cache.destroy().is_ok());
        }
    });
    assert!(reports.iter().all(|report| report.contains(" of cache shape, offset ")), "{}", reports[0]);
}

#[test]
fn every_byte_in_and_around_a_free_object_that_changes_is_found_and_the_object_never_allocated_again() {
    let reports = with_caches(|caches| {
        for spec in shapes() {
            let cache = caches.create(spec).expect("it fits");
            let keeper = alloc(&cache);
            let front = i64::from(cache.cache().layout.front);
            let object_end = front + i64::from(spec.size);
            let mut spoiled = Vec::new();
            for (at, part) in (0..).zip(parts(&cache)) {
                let poison = (front..object_end).contains(&at) && spec.constructor.is_none();
                let Some(part) = part.or(poison.then_some(Part::Poison)) else { continue };
                for &change in CHANGES {
                    let object = alloc(&cache);
                    assert_eq!(free(&cache, object), Ok(()));
                    spoil(object, at - front, change);
                    if change == 1 {
                        is_told(cache.validate().err(), object, part, at - front, "validated");
                        assert_eq!(cache.validate(), Ok(()));
                    }
                    let twice = free(&cache, object);
                    assert!(matches!(twice, Err(FreeObjectError::DoubleFree { .. })), "{twice:?}");
                    // The lowest free object of the slab at hand comes first, so it is this one's turn.
                    let other = alloc(&cache);
                    assert_ne!(other, object);
                    assert_eq!(free(&cache, other), Ok(()));
                    spoiled.push(object);
                }
            }
            caches.verify().expect("everything was told before");
            let held: Vec<_> = (0..2 * spoiled.len()).map(|_| alloc(&cache)).collect();
            assert!(held.iter().all(|object| !spoiled.contains(object)), "an isolated object was allocated");
            for object in held.into_iter().chain([keeper]) {
                assert_eq!(free(&cache, object), Ok(()));
            }
            assert_eq!(cache.destroy().map_err(|leaked| leaked.to_string()), Ok(()));
        }
    });
    let named = |name: &str| reports.iter().filter(|report| report.starts_with(name)).count();
    let poison = named("BUG: poison overwritten: written to after it was freed: object 0x");
    let shapes = shapes();
    let poisoned = shapes.iter().filter(|spec| spec.constructor.is_none()).map(|spec| spec.size as usize);
    assert_eq!(poison, CHANGES.len() * poisoned.sum::<usize>());
}

#[test]
fn every_byte_behind_the_last_object_of_a_slab_is_watched() {
    let reports = with_caches(|caches| {
        let cache = caches.create(watched("tail", 100)).expect("it fits");
        let object = alloc(&cache);
        let layout = &cache.cache().layout;
        let (tail, end) = (layout.objects * layout.stride, order_bytes(layout.order));
        assert!(tail < end, "{layout:?}");
        for at in (tail..end).step_by(scaled(1, 29)) {
            let offset = i64::from(at - layout.front);
            spoil(object, offset, 4);
            let found = cache.validate().expect_err("the tail was overwritten");
            assert_eq!((found.part, i64::from(found.offset)), (Part::SlabPadding, offset), "{found}");
            assert_eq!(cache.validate(), Ok(()));
        }
        assert_eq!(free(&cache, object), Ok(()));
    });
    assert!(reports.iter().all(|report| report.starts_with("BUG: slab padding overwritten: ")));
}

#[test]
fn reports_say_who_allocated_and_who_freed_and_where() {
    let reports = with_caches(|caches| {
        let cache = caches.create(watched("told", 40)).expect("it fits");
        let line = line!() + 1;
        let object = on_cpu(CpuId(3), || cache.alloc_raw()).expect("there is memory");
        spoil(object, 40, 0xff);
        let text = free(&cache, object).expect_err("somebody wrote behind it").to_string();
        let who = std::format!("allocated at {}:{line} by CPU 3, operation 1", file!());
        assert!(text.starts_with("right red zone overwritten: object 0x"), "{text}");
        assert!(
            text.contains(" of cache told, offset 40, is 0x33 instead of 0xcc; ") && text.ends_with(&who),
            "{text}"
        );
        assert_eq!(free(&cache, object), Ok(()));
        let text = free(&cache, object).expect_err("it is free").to_string();
        assert!(text.starts_with("double free: 0x") && text.contains(&who), "{text}");
        assert!(text.contains("; freed at ") && text.ends_with(" by CPU 0, operation 2"), "{text}");
        let (line, object) = (line!(), cache.alloc_raw().expect("there is memory"));
        let leaked = cache.destroy().expect_err("an object is out");
        let who = std::format!("; allocated at {}:{line} by CPU 0, operation 3", file!());
        assert!(leaked.to_string().contains(&who), "{leaked}");
        assert_eq!(free(&leaked.cache, object), Ok(()));
    });
    assert_eq!(reports, [""; 0]);
}

#[test]
fn an_owned_object_that_was_overrun_is_reported_when_it_drops_and_counts_as_leaked() {
    let reports = with_caches(|caches| {
        let cache = caches.create(watched("dropped", 64)).expect("it fits");
        let object = cache.alloc().expect("there is memory");
        let address = object.address();
        spoil(address, -1, 1);
        drop(object);
        let leaked = cache.destroy().expect_err("it was not freed");
        assert_eq!(free(&leaked.cache, address), Ok(()));
        assert!(leaked.cache.destroy().is_ok());
    });
    assert_eq!(reports.len(), 1);
    assert!(reports[0].starts_with("BUG: left red zone overwritten: object 0x"), "{}", reports[0]);
}

#[test]
fn each_flag_alone_catches_what_is_its_own_and_takes_no_more_room_than_it_must() {
    let caught = |flags: DebugFlags, offset: i64, freed: bool| {
        let mut found = None;
        with_caches(|caches| {
            let cache = caches.create(CacheSpec::new("alone", 64).debugged(flags)).expect("it fits");
            let [object, keeper] = [(); 2].map(|()| alloc(&cache));
            let fits = flags.intersects(DebugFlags::LARGER) || cache.cache().layout.stride == 64;
            assert!(fits, "{flags:?}");
            if freed {
                assert_eq!(free(&cache, object), Ok(()));
            }
            spoil(object, offset, 1);
            found = cache.validate().err().map(|found| found.part);
            spoil(object, offset, 1);
            drop((cache, keeper));
        });
        found
    };
    assert_eq!(caught(DebugFlags::RED_ZONE, 64, false), Some(Part::RightRedzone));
    assert_eq!(caught(DebugFlags::RED_ZONE, 0, true), None);
    assert_eq!(caught(DebugFlags::POISON, 0, true), Some(Part::Poison));
    assert_eq!(caught(DebugFlags::USER, 72, false), Some(Part::Record));
    assert_eq!(caught(DebugFlags::CONSISTENCY, 0, true), None);
}

#[test]
fn a_traced_cache_tells_every_object_that_comes_and_goes() {
    let reports = with_caches(|caches| {
        let cache = caches.create(CacheSpec::new("traced", 64).debugged(DebugFlags::TRACE)).expect("it fits");
        let object = alloc(&cache);
        assert_eq!(free(&cache, object), Ok(()));
    });
    let starts = ["trace: cache traced alloc 0x", "trace: cache traced free 0x"];
    assert!(reports.len() == 2 && reports.iter().zip(starts).all(|(report, start)| report.starts_with(start)));
}

#[test]
fn caches_are_debugged_by_name_and_no_slab_grows_that_must_not() {
    with_pages(|pages| {
        let debug = SlabDebug::parse("FZPUO,kmalloc-*").expect("these are flags");
        let caches = KmemCaches::new_with(pages, debug).expect("there is memory");
        let (mut sheaves, mut plain) = (Vec::new(), 0);
        caches.for_each_report(|report| match report.name.starts_with("kmalloc-") {
            true => sheaves.push(report.sheaf_objects.0),
            false => plain += 1,
        });
        assert!(sheaves.len() == 13 && sheaves.iter().all(|&objects| objects == 0) && plain == 4);
        // Everything around it would make its slab larger, so an object of a page has nothing around it.
        let [small, large] = [64, 4096].map(|size| caches.kmalloc(Bytes(size)).expect("there is memory"));
        assert_eq!((small.addr().get() % 64, large.addr().get() % 4096), (0, 0));
        for object in [small, large] {
            // SAFETY: nobody uses it any more.
            assert_eq!(unsafe { caches.kfree(object) }, Ok(()));
            // SAFETY: it is free already, and refused.
            let twice = unsafe { caches.kfree(object) };
            assert!(matches!(twice, Err(FreeObjectError::DoubleFree { .. })), "{twice:?}");
        }
    });
}
