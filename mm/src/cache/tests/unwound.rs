//! What was under way when somebody's code panicked leads nowhere.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::given::folio;
use super::*;
use crate::host::{all_memory, panicking_when_short};

#[test]
fn a_folio_that_was_being_inserted_leads_to_no_mapping() {
    const FOLIOS: u32 = scaled(64, 12);
    let swap = HostFile::pages(4);
    with_cache(4, &swap, |cache| {
        let mapping = cache.anonymous(Order::ZERO).expect("there is memory");
        let folios: Vec<_> = (0..FOLIOS).map(|_| folio(cache, 0)).collect();
        let pages = cache.pages();
        let held = all_memory(pages);
        let mut panicked = 0;
        // As far from each other as that each needs nodes of its own.
        for (number, folio) in (0..).zip(folios) {
            let given = panicking_when_short(pages, || mapping.give(folio, PageIndex(number << 30)).is_ok());
            panicked += u32::from(given.is_none());
        }
        assert!(panicked > FOLIOS / 2, "{panicked} found no memory");
        drop(held);
        mapping.verify().expect("all is well");
    });
}

/// Has the next access to a store panic, and does something that comes there.
fn panicking<R>(store: &HostFile, work: impl FnOnce() -> R) {
    store.panics.store(true, Ordering::Relaxed);
    store.fails_in.store(1, Ordering::Relaxed);
    assert!(catch_unwind(AssertUnwindSafe(work)).is_err(), "it did not come there");
    store.panics.store(false, Ordering::Relaxed);
}

#[test]
fn what_a_file_that_panicked_did_not_take_is_dirty_as_before() {
    let (file, swap) = (HostFile::pages(8), HostFile::pages(1));
    with_cache(4, &swap, |cache| {
        let mapping = cache.file(Arc::clone(&file), Order::ZERO).expect("there is memory");
        mapping.write(PageIndex(3).start(), &[0xee]).expect("there is memory");
        panicking(&file, || mapping.write_back());
        let folio = mapping.lookup(PageIndex(3)).expect("it stands there");
        let state = folio.flags() & (FolioFlags::DIRTY | FolioFlags::WRITEBACK);
        assert_eq!(state, FolioFlags::DIRTY);
        drop(folio);
        mapping.verify().unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(mapping.write_back(), Ok(Count(1)));
        assert_eq!(file.bytes.lock().expect("it does not panic with the lock")[3 * PAGE_SIZE], 0xee);
    });
}

#[test]
fn a_swap_store_that_panics_loses_neither_what_goes_there_nor_what_comes_back() {
    const PAGES: u8 = 4;
    let swap = HostFile::pages(16);
    with_cache(4, &swap, |cache| {
        let mapping = cache.anonymous(Order::ZERO).expect("there is memory");
        for page in 0..PAGES {
            mapping.write(PageIndex(page.into()).start(), &[0xa0 + page]).expect("there is memory");
        }
        let swapped = || cache.report().swapped.0;
        panicking(&swap, || cache.reclaim(Count(1)));
        assert_eq!(swapped(), 0, "a place is taken for nothing");
        mapping.verify().unwrap_or_else(|error| panic!("{error}"));
        (0..PAGES).for_each(|_| _ = cache.reclaim(Count(1)));
        assert_eq!(swapped(), PAGES.into());
        for page in 0..PAGES {
            let mut byte = [0];
            panicking(&swap, || mapping.read(PageIndex(page.into()).start(), &mut [0]));
            assert_eq!(swapped(), (PAGES - page).into(), "it stands there, unread");
            mapping.read(PageIndex(page.into()).start(), &mut byte).expect("it is read");
            assert_eq!(byte, [0xa0 + page]);
        }
    });
}

#[test]
fn who_could_not_take_over_what_stands_behind_sees_it_all_the_same() {
    const PAGES: u8 = 24;
    let swap = HostFile::pages(0);
    with_cache(4, &swap, |cache| {
        let first = cache.anonymous(Order::ZERO).expect("there is memory");
        // As far from each other as that each needs nodes of its own.
        let place = |page: u8| PageIndex(u64::from(page) << 30).start();
        for page in 0..PAGES {
            first.write(place(page), &[0xa0 + page]).expect("there is memory");
        }
        let Fork { parent, child } = Mapping::fork(&first).expect("there is memory");
        drop(first);
        // So that it sees something of its own, and what is behind is not simply its.
        child.write(place(PAGES), &[1]).expect("there is memory");
        drop(parent);
        let other = cache.anonymous(Order::ZERO).expect("there is memory");
        let mut folios: Vec<_> = (0..PAGES).map(|_| folio(cache, 0)).collect();
        let held = all_memory(cache.pages());
        // Until there is no node left.
        let give = |folio| other.give(folio, PageIndex((other.pages() + 1) << 30)).is_ok();
        while panicking_when_short(cache.pages(), || give(folios.pop().expect("there are more than nodes"))).is_some() {
        }
        assert!(panicking_when_short(cache.pages(), || child.absorb()).is_none(), "there was memory");
        drop(held);
        for page in 0..PAGES {
            let mut byte = [0];
            child.read(place(page), &mut byte).expect("it is read");
            assert_eq!(byte, [0xa0 + page]);
        }
        child.verify().unwrap_or_else(|error| panic!("{error}"));
    });
}
