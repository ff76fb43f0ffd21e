//! What interrupt handlers free: they cannot look for an object wherever free ones are, and go by its mark.

use core::ptr::NonNull;

use super::{as_if_free, with_pages_of};
use crate::hardening::Hardening;
use crate::host::HostMachine;
use crate::slab::tests::init::with_machine;
use crate::slab::{CacheSpec, FreeObjectError, KmemCache, KmemCaches, SlabDebug};
use crate::units::Bytes;

type Caches<'c> = KmemCaches<'c, HostMachine>;

/// Frees an object in a handler.
fn free_in_handler(caches: &Caches<'_>, object: NonNull<u8>) -> Result<(), FreeObjectError> {
    // SAFETY: every caller is done with the object, or it is free and refused.
    caches.pages.machine().interrupt(|| unsafe { caches.kfree(object) }).expect("interrupts are on")
}

fn is_double_free(freed: Result<(), FreeObjectError>) -> bool {
    matches!(freed, Err(FreeObjectError::DoubleFree { .. }))
}

fn write(object: NonNull<u8>, value: u64) {
    // SAFETY: every caller's object is as large as that.
    unsafe { object.cast::<u64>().write(value) };
}

/// Makes an object look like a free one, which bears a mark of its own.
fn disguise(object: NonNull<u8>) {
    write(object, as_if_free(object));
}

fn alloc(cache: &KmemCache<'_, HostMachine>) -> NonNull<u8> {
    cache.alloc_raw().expect("there is memory")
}

/// What owners do store: nothing, small numbers, a list's head that leads to itself, addresses with a bit in them, what was left.
#[test]
fn a_handler_frees_an_object_whatever_is_in_it_but_its_mark() {
    with_pages_of(2, |pages| {
        let caches = Caches::new(pages).expect("there is memory");
        for size in [8, 24, 64, 96, 192, 1024] {
            let alloc = || caches.kmalloc(Bytes(size)).expect("there is memory");
            let [object, neighbour] = [(); 2].map(|()| alloc());
            let address = object.addr().get() as u64;
            assert_eq!(free_in_handler(&caches, object), Ok(()), "{size}: untouched");
            for value in [0, 1, u64::MAX, address, address - 1, address + 1, as_if_free(neighbour)] {
                let object = alloc();
                assert_eq!(object.addr().get() as u64, address, "what was freed last comes first");
                write(object, value);
                assert_eq!(free_in_handler(&caches, object), Ok(()), "{size}: {value:#x} in {address:#x}");
                assert!(is_double_free(free_in_handler(&caches, object)), "{size}: it is free");
            }
            write(neighbour, 0);
            assert_eq!(free_in_handler(&caches, neighbour), Ok(()));
        }
        caches.verify().expect("all is well");
    });
}

/// It may be in another CPU's sheaf. To lose it does less harm than to give it to two.
#[test]
fn with_other_cpus_about_a_handler_frees_nothing_that_bears_the_mark() {
    with_pages_of(2, |pages| {
        let caches = Caches::new(pages).expect("there is memory");
        let cache = caches.create(CacheSpec::new("marked", 64)).expect("it fits");
        let object = alloc(&cache);
        disguise(object);
        assert!(is_double_free(free_in_handler(&caches, object)));
        // A task looks closer.
        // SAFETY: nobody uses it any more.
        assert_eq!(unsafe { caches.kfree(object) }, Ok(()));
        caches.verify().expect("all is well");
    });
}

#[test]
fn with_no_other_cpu_a_handler_frees_what_bears_the_mark_and_is_not_free() {
    with_pages_of(1, |pages| {
        let caches = Caches::new(pages).expect("there is memory");
        let cache = caches.create(CacheSpec::new("marked", 64)).expect("it fits");
        let object = alloc(&cache);
        for _ in 0..3 {
            disguise(object);
            assert_eq!(free_in_handler(&caches, object), Ok(()));
            assert!(is_double_free(free_in_handler(&caches, object)), "it is at hand");
            assert_eq!(alloc(&cache), object);
        }
        let keeper = alloc(&cache);
        assert_eq!(free_in_handler(&caches, object), Ok(()));
        caches.gather_all();
        assert!(is_double_free(free_in_handler(&caches, object)), "it is in its slab");
        assert_eq!(free_in_handler(&caches, keeper), Ok(()));
        caches.verify().expect("all is well");
    });
}

/// A cache whose objects are zeroed has no sheaves, so there is nothing that a handler cannot look into.
#[test]
fn a_handler_frees_what_bears_the_mark_if_it_can_only_be_in_its_slab() {
    with_machine(
        |machine| machine.hardened(Hardening::INIT_ON_ALLOC),
        SlabDebug::NONE,
        |caches| {
            let cache = caches.create(CacheSpec::new("zeroed", 64)).expect("it fits");
            let [object, _keeps_the_slab] = [(); 2].map(|()| alloc(&cache));
            disguise(object);
            assert_eq!(free_in_handler(caches, object), Ok(()));
            assert!(is_double_free(free_in_handler(caches, object)));
        },
    );
}
