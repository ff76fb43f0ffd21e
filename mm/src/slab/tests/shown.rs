//! What a debugger, or a test that fails, shows of caches and what is in them: whose, and how much.

use std::format;

use super::with_pages;
use crate::host::HostMachine;
use crate::slab::{CacheSpec, Counted, DebugFlags, KmemCaches};
use crate::units::Count;

#[test]
fn caches_and_what_comes_out_of_them_show_whose_they_are() {
    with_pages(|pages| {
        let caches = KmemCaches::<HostMachine>::new(pages).expect("there is memory");
        assert_eq!(format!("{caches:?}"), "KmemCaches { cpus: 4, .. }");
        let cache = caches.create(CacheSpec::new("shown", 64)).expect("it fits");
        assert_eq!(format!("{cache:?}"), "KmemCache(shown)");
        let object = cache.alloc().expect("there is memory");
        assert_eq!(format!("{object:?}"), format!("Object({:p} of shown)", object.address()));
        let aside = cache.prefill(Count(7)).expect("there is memory");
        assert_eq!(format!("{aside:?}"), "Prefilled(7 of shown)");
    });
}

#[test]
fn a_counted_value_shows_as_the_value_does() {
    with_pages(|pages| {
        let caches = KmemCaches::<HostMachine>::new(pages).expect("there is memory");
        let counted = Counted::new(&caches, [3, 4]).map_err(|(_, error)| error).expect("there is memory");
        assert_eq!(format!("{counted:?}"), "[3, 4]");
    });
}

#[test]
fn who_had_an_object_shows_where_and_when() {
    with_pages(|pages| {
        let caches = KmemCaches::<HostMachine>::new(pages).expect("there is memory");
        let cache = caches.create(CacheSpec::new("shown", 64).debugged(DebugFlags::USER)).expect("it fits");
        let (line, object) = (line!(), cache.alloc_raw().expect("there is memory"));
        let leaked = cache.destroy().expect_err("an object is out");
        let allocated = leaked.history.allocated.expect("it was recorded");
        assert_eq!(format!("{allocated:?}"), format!("{}:{line} by CPU 0, operation 1", file!()));
        assert_eq!(super::free(&leaked.cache, object), Ok(()));
    });
}
