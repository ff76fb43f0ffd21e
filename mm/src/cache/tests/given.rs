//! Folios that were made elsewhere, and contents that are taken away.

use super::*;
use crate::owner::{Folio, Reference};

pub(super) fn folio<'a>(cache: Cache<'a>, order: usize) -> crate::owner::Owned<'a, HostMachine, Folio> {
    let folio = cache.owners().alloc(Request::movable(Order::of(order)), Folio::new());
    folio.unwrap_or_else(|(_, error)| panic!("{error}"))
}

#[test]
fn a_folio_stands_where_it_was_given_to_and_shows_what_the_file_does_there() {
    let (file, swap) = (HostFile::pages(8), HostFile::pages(4));
    with_cache(4, &swap, |cache| {
        let mapping = cache.file(Arc::clone(&file), Order::ZERO).expect("there is memory");
        mapping.give(folio(cache, 2), PageIndex(4)).expect("nothing is there");
        assert_eq!(mapping.lookup(PageIndex(7)).map(|folio| folio.index()), Some(PageIndex(4)));
        let mut bytes = [0; 2 * PAGE_SIZE];
        mapping.read(FileOffset(5 * PAGE_SIZE as u64 + 7), &mut bytes).expect("it can be read");
        assert!(bytes.iter().eq(&file.bytes.lock().expect("as above")[5 * PAGE_SIZE + 7..7 * PAGE_SIZE + 7]));

        let refused = |order, index| {
            let given = folio(cache, order);
            let head = given.head();
            let (back, why) = mapping.give(given, PageIndex(index)).expect_err("it cannot stand there");
            assert_eq!(back.into_block().map(|(block, _)| block.head()).ok(), Some(head), "another came back");
            why
        };
        for index in [1, 2, 6] {
            assert_eq!(refused(2, index), GiveError::NoPlace(PageIndex(index)));
        }
        assert_eq!(refused(2, 8), GiveError::NoPlace(PageIndex(8)), "behind the end");
        for (order, index) in [(0, 6), (2, 4), (3, 0)] {
            assert_eq!(refused(order, index), GiveError::Occupied(PageIndex(index)));
        }
        mapping.give(folio(cache, 2), PageIndex(0)).expect("nothing is there");
        assert_eq!(mapping.pages(), 8);
        mapping.verify().unwrap_or_else(|error| panic!("{error}"));
    });
}

#[test]
fn a_folio_that_somebody_else_refers_to_comes_back_and_who_has_it_locked_has_it_alone() {
    let swap = HostFile::pages(16);
    with_cache(4, &swap, |cache| {
        let mapping = cache.anonymous(Order::ZERO).expect("there is memory");
        let given = folio(cache, 0);
        // As compaction does, or who is told that its memory has failed.
        let found = cache.owners().walk().look(given.head()).get();
        let Some(Reference::Folio(found)) = found else { panic!("{found:?}") };
        let locked = found.lock();
        let (given, why) = mapping.give(given, PageIndex(0)).expect_err("somebody has it locked");
        assert_eq!((why, locked.flags()), (GiveError::Referred, FolioFlags::LOCKED));
        let referred = locked.unlock();
        let (given, why) = mapping.give(given, PageIndex(0)).expect_err("somebody refers to it");
        assert_eq!((why, referred.flags()), (GiveError::Referred, FolioFlags::empty()));
        drop(referred);
        mapping.give(given, PageIndex(0)).expect("it is the giver's alone");
        let stands = mapping.lookup(PageIndex(0)).expect("it was just given");
        assert!(!stands.flags().contains(FolioFlags::LOCKED));
    });
}

#[test]
fn a_folio_of_other_owners_comes_back() {
    let swap = HostFile::pages(16);
    with_cache(4, &swap, |cache| {
        let others = Owners::new(cache.owners().caches).expect("there is memory");
        let mapping = cache.anonymous(Order::ZERO).expect("there is memory");
        let folio = others.alloc(Request::movable(Order::ZERO), Folio::new());
        let folio = folio.unwrap_or_else(|(_, error)| panic!("{error}"));
        let (folio, why) = mapping.give(folio, PageIndex(0)).expect_err("its descriptor is in another cache");
        assert_eq!((why, mapping.pages()), (GiveError::Foreign, 0));
        assert!(folio.into_block().is_ok());
    });
}

#[test]
fn what_is_forgotten_is_as_if_it_had_never_been_there_also_if_it_was_written_out() {
    let swap = HostFile::pages(64);
    with_cache(4, &swap, |cache| {
        let mapping = cache.anonymous(Order::of(2)).expect("there is memory");
        let byte = |page: u64| {
            let mut byte = [0];
            mapping.read(PageIndex(page).start(), &mut byte).expect("it can be read");
            byte[0]
        };
        let write = |page: u64| mapping.write(PageIndex(page).start(), &[9]).expect("it can be written");
        (0..16).for_each(write);
        mapping.forget(PageIndex(5));
        mapping.forget(PageIndex(100));
        assert!((0..16).all(|page| byte(page) == if (4..8).contains(&page) { 0 } else { 9 }));
        while cache.reclaim(Count(16)) > Count(0) {}
        let swapped = cache.report().swapped;
        assert_eq!(mapping.pages(), 0);
        mapping.forget(PageIndex(9));
        assert_eq!(cache.report().swapped, Count(swapped.0 - 4), "its place is not given back");
        assert!((0..16).all(|page| byte(page) == if (4..12).contains(&page) { 0 } else { 9 }));
        mapping.verify().unwrap_or_else(|error| panic!("{error}"));
    });
}

#[test]
fn what_is_cut_keeps_all_that_is_before_the_cut_also_of_what_was_written_out_whole() {
    let swap = HostFile::pages(64);
    with_cache(8, &swap, |cache| {
        let (mut seen, full) = (vec![0; 16 * PAGE_SIZE], vec![0xa5; 16 * PAGE_SIZE]);
        for written_out in [false, true] {
            let mapping = cache.anonymous(Order::of(4)).expect("there is memory");
            mapping.write(FileOffset(0), &full).expect("there is memory");
            if written_out {
                assert_eq!(cache.reclaim(Count(16)), Count(16));
                swap.fails_in.store(1, Ordering::Relaxed);
                mapping.truncate(PageIndex(5)).expect_err("the swap store has failed");
                assert_eq!(cache.report().swapped, Count(16));
            }
            mapping.truncate(PageIndex(5)).expect("it can be read");
            mapping.read(FileOffset(0), &mut seen).expect("it is read");
            let (kept, cut) = seen.split_at(5 * PAGE_SIZE);
            assert!(kept == &full[..kept.len()] && cut.iter().all(|&byte| byte == 0), "{written_out}");
            mapping.verify().expect("all is well");
        }
    });
}

#[test]
fn who_finds_a_folio_before_it_stands_anywhere_waits_until_its_maker_is_done_with_it() {
    let (file, swap) = (HostFile::pages(4), HostFile::pages(4));
    with_cache(16, &swap, |cache| {
        let mapping = cache.file(Arc::clone(&file), Order::ZERO).expect("there is memory");
        let made = mapping.new_folio(Order::ZERO).expect("there is memory");
        let find = |head| match cache.owners().walk().look(head).get() {
            Some(Reference::Folio(found)) => found,
            other => panic!("{other:?}"),
        };
        assert!(find(made.head()).try_lock().is_err(), "it was only made");
        let made = mapping.insert(made, PageIndex(3)).expect("nothing stands there");
        let found = find(made.head()).try_lock().expect_err("it has no contents yet");
        drop(made);
        assert!(found.try_lock().is_ok());
        mapping.forget(PageIndex(3));
    });
}
