//! Objects that are zero when somebody gets them, and of which nothing is left when they are free.

use core::ptr::NonNull;
use std::vec::Vec;

use super::{END, free};
use crate::boot_map::{BootMap, Region, RegionKind};
use crate::hardening::Hardening;
use crate::host::{HostMachine, scaled};
use crate::machine::Machine;
use crate::slab::{CacheSpec, KmemCaches, SlabDebug};
use crate::units::{Bytes, NodeId, Pfn, PfnRange, PhysAddr};

const SIZES: [u32; 9] = [1, 5, 8, 24, 100, 256, 1000, 4096, 40_000];

fn with_hardened(hardening: Hardening, debug: SlabDebug, test: impl FnOnce(&KmemCaches<'_, HostMachine>)) {
    with_machine(|machine| machine.hardened(hardening), debug, test);
}

/// Gives a test the caches of a machine that was changed first.
pub(super) fn with_machine(
    change: impl FnOnce(HostMachine) -> HostMachine,
    debug: SlabDebug,
    test: impl FnOnce(&KmemCaches<'_, HostMachine>),
) {
    let cpus = core::num::NonZeroU16::MIN;
    let machine = HostMachine::new(END, END, cpus).expect("the host lends memory");
    let machine = change(machine);
    let memory = Region { start: PhysAddr(0), len: END.address().0, kind: RegionKind::Usable, node: NodeId(0) };
    let mut map: BootMap = BootMap::new(&[memory]).expect("the map is sound");
    let pages = machine.allocator(&mut map).expect("the tables fit");
    let caches = KmemCaches::new_with(&pages, debug).expect("there is memory");
    test(&caches);
    caches.verify().expect("the caches are sound");
    assert_eq!(machine.take_reports(), [""; 0]);
}

fn bytes(object: NonNull<u8>, size: u32) -> Vec<u8> {
    // SAFETY: a test's object, and that large.
    unsafe { core::slice::from_raw_parts(object.as_ptr(), size as usize) }.to_vec()
}

/// What is in a freed object, which is not to be touched: as a device reads it.
fn left(caches: &KmemCaches<'_, HostMachine>, object: NonNull<u8>, size: u32) -> Vec<u8> {
    let PhysAddr(start) = caches.pages.machine().physical(object);
    let memory = caches.pages.machine().save(PfnRange::new(Pfn::new(0), END));
    let start = usize::try_from(start).expect("memory is small");
    memory.bytes()[start..][..size as usize].to_vec()
}

/// Looks at all bytes at once, which takes an interpreter no time.
fn is_zero(bytes: &[u8]) -> bool {
    bytes == std::vec![0; bytes.len()]
}

fn fill(object: NonNull<u8>, size: u32) {
    // SAFETY: the object is the test's, and that large.
    unsafe { object.write_bytes(0x5c, size as usize) };
}

#[test]
fn a_fresh_object_is_zero_however_often_it_was_used_and_whether_it_is_watched() {
    for hardening in [Hardening::INIT_ON_ALLOC, Hardening::INIT_ON_FREE, Hardening::all()] {
        for debug in [SlabDebug::NONE, SlabDebug::parse("FZPU").expect("these are flags")] {
            with_hardened(hardening, debug, |caches| {
                for size in SIZES {
                    let cache = caches.create(CacheSpec::new("zeroed", size)).expect("it fits");
                    for round in 0..scaled(3, 2) {
                        let objects: Vec<_> =
                            (0..scaled(20, 5)).map(|_| cache.alloc_raw().expect("there is memory")).collect();
                        for &object in &objects {
                            assert!(is_zero(&bytes(object, size)), "{size} bytes, round {round}");
                            fill(object, size);
                        }
                        objects.into_iter().for_each(|object| free(&cache, object).expect("it is allocated"));
                        let general = caches.kmalloc(Bytes(size as usize)).expect("there is memory");
                        assert!(is_zero(&bytes(general, size)), "kmalloc({size}), round {round}");
                        fill(general, size);
                        // SAFETY: nobody uses it any more.
                        unsafe { caches.kfree(general) }.expect("it is allocated");
                    }
                    cache.destroy().expect("nothing is left in it");
                }
            });
        }
    }
}

#[test]
fn of_an_object_that_was_freed_nothing_is_left_but_the_mark_that_says_so() {
    with_hardened(Hardening::INIT_ON_FREE, SlabDebug::NONE, |caches| {
        for size in SIZES.into_iter().filter(|&size| size > 8) {
            let cache = caches.create(CacheSpec::new("zeroed", size)).expect("it fits");
            let (object, _keeps_the_slab) =
                (cache.alloc_raw().expect("there is memory"), cache.alloc().expect("there is memory"));
            fill(object, size);
            free(&cache, object).expect("it is allocated");
            let left = left(caches, object, size);
            assert!(left[8..].iter().all(|&byte| byte == 0), "{size} bytes: {left:x?}");
            assert!(!left[..8].contains(&0x5c), "{size} bytes: {left:x?}");
        }
    });
}

#[test]
fn a_constructed_object_keeps_what_it_is() {
    with_hardened(Hardening::all(), SlabDebug::NONE, |caches| {
        let construct = |bytes: &mut [core::mem::MaybeUninit<u8>]| {
            for byte in bytes {
                byte.write(0x77);
            }
        };
        let cache = caches.create(CacheSpec::new("constructed", 56).constructed(construct)).expect("it fits");
        for _ in 0..3 {
            let object = cache.alloc_raw().expect("there is memory");
            assert_eq!(bytes(object, 56), [0x77; 56]);
            free(&cache, object).expect("it is allocated");
        }
        cache.destroy().expect("nothing is left in it");
    });
}
