//! The page cache: a look-up, an insertion, and what it takes to get a page back.

use core::pin::Pin;

use mm::cache::{CacheError, Mapping, MappingRef, MemoryStore, PageCache};
use mm::owner::Folio;
use mm::page::Request;
use mm::units::{Count, Order, PageIndex};

use super::benchmark;
use super::folio::owners;
use crate::ktest::{NotPassed, Outcome, check};
use crate::memory;
use crate::platform::Platform;

/// Pages of the file: a tree of three levels.
const PAGES: u32 = 4096;
/// Pages that are reclaimed at a time.
const CLUSTER: u32 = 32;

/// A cache of its own, and a file of zeroes; a machine that has no room for both skips the benchmark.
fn with_file(work: impl FnOnce(Pin<&PageCache<'_, Platform>>, &MappingRef<'_, Platform>) -> Outcome) -> Outcome {
    let caches = memory::caches().ok_or("the caches are not up")?;
    let skipped = |error| NotPassed::Skipped(alloc::format!("too little memory: {error}"));
    let store = MemoryStore::new(caches, Count(PAGES), Request::movable(Order::ZERO)).map_err(skipped)?;
    PageCache::with(owners()?, None, |cache| work(cache, &cache.file(store, Order::ZERO)?))?
}

fn read_all(file: &Mapping<'_, Platform>) -> Result<(), CacheError> {
    (0..u64::from(PAGES)).try_for_each(|index| file.read_folio(PageIndex(index)).map(drop))
}

benchmark!("cache", fn lookup(sampler) {
    with_file(|_, file| {
        read_all(file)?;
        let mut random = sampler.random();
        for _ in 0..PAGES {
            let index = PageIndex(random.u64(..u64::from(PAGES)));
            let found = sampler.sample(|| file.lookup(index));
            check!(found.is_some_and(|folio| folio.index() == index), "another folio stands at {index:?}");
        }
        Ok(())
    })
});

benchmark!("cache", fn insert(sampler) {
    with_file(|_, file| {
        for index in (0..u64::from(PAGES)).map(PageIndex) {
            let folio = owners()?.alloc(Request::movable(Order::ZERO), Folio::new()).map_err(|(_, error)| error)?;
            sampler.sample(|| file.give(folio, index)).map_err(|(_, error)| error)?;
        }
        Ok(())
    })
});

benchmark!("cache", fn reclaim_per_page(sampler) {
    with_file(|cache, file| {
        read_all(file)?;
        // Everybody was used once, which is looked at once.
        let mut left = PAGES - cache.reclaim(Count(CLUSTER)).0;
        while left > 0 {
            let (Count(pages), ticks) = sampler.stopwatch.time(|| cache.reclaim(Count(CLUSTER)));
            check!(pages > 0, "{left} pages of a file that nobody uses cannot be reclaimed");
            sampler.record(ticks / u64::from(pages));
            left -= pages;
        }
        sampler.note(alloc::format!("clean, {CLUSTER} at a time"));
        Ok(())
    })
});
