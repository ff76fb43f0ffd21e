//! Folios that stand in another cache over the same owners.

use super::given::folio;
use super::*;
use crate::page::FailureOutcome;

/// Does something with two caches over the same owners.
fn with_two(work: impl FnOnce(Cache<'_>, Cache<'_>)) {
    let swap = HostFile::pages(16);
    let with_other = |cache: Cache<'_>| PageCache::with(cache.owners(), None, |other| work(cache, other));
    with_cache(4, &swap, with_other).expect("there is memory");
}

/// Does something with another cache than the one that a folio of four pages stands in, and a mapping of that other one.
fn with_other(work: impl for<'a> FnOnce(Cache<'a>, &Mapping<'a, HostMachine>, FolioRef<'a, HostMachine>)) {
    with_two(|cache, other| {
        let others = other.anonymous(Order::ZERO).expect("there is memory");
        let mapping = cache.anonymous(Order::of(2)).expect("there is memory");
        assert!(mapping.give(folio(cache, 2), PageIndex(0)).is_ok());
        let folio = mapping.lookup(PageIndex(0)).expect("it was just given");
        let state = || (folio.order(), folio.flags());
        let before = state();
        work(other, &others, folio.get());
        assert_eq!(state(), before);
        let lists = |cache: Cache<'_>| (cache.report().inactive, cache.report().active);
        assert_eq!((lists(cache), lists(other)), ((Count(4), Count(0)), (Count(0), Count(0))));
        mapping.verify().unwrap_or_else(|error| panic!("{error}"));
    });
}

#[test]
fn a_folio_that_stands_elsewhere_is_not_called_used() {
    with_other(|_, others, folio| (0..3).for_each(|_| others.mark_accessed(&folio)));
}

#[test]
fn a_folio_that_stands_in_another_cache_is_not_split() {
    with_other(|other, _, folio| {
        let split = other.split(folio.lock(), SplitTo::Uniform(Order::ZERO));
        let (_, why) = split.expect_err("it stands elsewhere");
        assert_eq!(why, SplitError::Nowhere);
    });
}

#[test]
fn of_a_folio_in_another_cache_only_the_page_goes_whose_memory_fails() {
    with_two(|cache, other| {
        let mapping = cache.anonymous(Order::of(2)).expect("there is memory");
        assert!(mapping.give(folio(cache, 2), PageIndex(0)).is_ok());
        let bad = mapping.lookup(PageIndex(0)).map(|folio| folio.head().plus(1)).expect("it was just given");
        let failure = other.memory_failure(bad).expect("it is memory");
        assert_eq!((failure.outcome, mapping.pages()), (FailureOutcome::Recovered, 3));
        mapping.verify().unwrap_or_else(|error| panic!("{error}"));
        cache.pages().unpoison_memory(bad).expect("it was said to fail");
    });
}
