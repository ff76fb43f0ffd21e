//! What users find: files and anonymous memory, shared and private, over forks and under reclaim.

use std::sync::Arc;
use std::vec;

use super::rig::{HostFile, with_rig};
use super::*;
use crate::cache::{CacheError, Store};
use crate::host::sweep::fail_each_once;
use crate::host::{at_each_step, scaled};
use crate::owner::{FolioFlags, TableLevel};
use crate::space::mmu::Access;
use crate::space::{FaultError, RegionError, Sharing};
use crate::units::PageIndex;

use PageProtection::{Read, ReadExecute, ReadWrite};
use Sharing::{Private, Shared};

#[test]
fn a_shared_file_shows_the_same_to_all_and_what_they_write_reaches_it() {
    let store = HostFile::pages(40);
    with_rig(|rig| {
        let file = rig.cache.file(Arc::clone(&store), Order::of(4)).expect("there is memory");
        let (one, two) = (rig.space(), rig.space());
        one.map_file(pages(100, 40), &file, PageIndex(0), ReadWrite, Shared).expect("nothing is there");
        two.map_file(pages(7, 20), &file, PageIndex(10), ReadWrite, Shared).expect("nothing is there");
        assert!((100..140).all(|page| u64::from(rig.byte(&one, page)) == page - 100));
        rig.set(&one, 112, 0xee);
        assert_eq!(rig.byte(&two, 9), 0xee);
        rig.verify([&one, &two]);
        // Written back it is clean, and the next write asks again.
        assert!(rig.writes(&one, 112));
        file.write_back().expect("the store works");
        assert_eq!(store.byte(12), 0xee);
        assert!(!rig.writes(&one, 112) && rig.mapped(&one, 112) == Some(0xee));
        rig.verify([&one, &two]);
        rig.set(&two, 9, 0xdd);
        assert_eq!(rig.byte(&one, 112), 0xdd);
        file.write_back().expect("the store works");
        assert_eq!(store.byte(12), 0xdd);
        file.verify().expect("the cache is sound");
    });
}

#[test]
fn a_private_file_is_read_where_it_is_and_copied_where_it_is_written() {
    let store = HostFile::pages(40);
    with_rig(|rig| {
        let file = rig.cache.file(Arc::clone(&store), Order::of(4)).expect("there is memory");
        let (one, two) = (rig.space(), rig.space());
        one.map_file(pages(100, 40), &file, PageIndex(0), ReadWrite, Private).expect("nothing is there");
        two.map_file(pages(100, 40), &file, PageIndex(0), ReadWrite, Shared).expect("nothing is there");
        assert!((100..140).all(|page| u64::from(rig.byte(&one, page)) == page - 100));
        assert!(!rig.writes(&one, 105));
        rig.set(&one, 105, 0xaa);
        assert_eq!((rig.byte(&one, 105), rig.byte(&two, 105)), (0xaa, 5));
        // Where nothing was copied the file shows through.
        rig.set(&two, 106, 0xbb);
        rig.set(&two, 105, 0xcc);
        assert_eq!((rig.byte(&one, 106), rig.byte(&one, 105)), (0xbb, 0xaa));
        rig.verify([&one, &two]);
        file.write_back().expect("the store works");
        assert_eq!((store.byte(105 - 100), store.byte(6)), (0xcc, 0xbb));
    });
}

#[test]
fn anonymous_memory_is_zeroes_in_the_largest_folios_that_fit() {
    with_rig(|rig| {
        let space = rig.space();
        // Three pages, a large one, and five.
        let range = pages(2 * LEAF_PAGES - 3, 3 + LEAF_PAGES + 5);
        space.map_anonymous(range, ReadWrite, Private, LARGE).expect("nothing is there");
        rig.set(&space, 2 * LEAF_PAGES + 3, 1);
        let tables = |level| rig.owners.walk().page_tables(TableLevel(level)).tables.0;
        assert_eq!(tables(1), 0, "a large entry needs no leaf");
        assert!((2 * LEAF_PAGES..3 * LEAF_PAGES).all(|page| rig.writes(&space, page)));
        for page in range.addresses() {
            rig.byte(&space, page.0 >> 12);
        }
        let bytes = rig.load(&space, range.start(), 4096 * 24).expect("it can be read");
        assert_eq!(bytes.iter().map(|&byte| u32::from(byte)).sum::<u32>(), 1);
        assert!(!rig.writes(&space, 2 * LEAF_PAGES - 2), "what is clean is not written without asking");
        assert_eq!(tables(1), 2);
        rig.verify([&space]);
    });
}

#[test]
fn an_access_that_is_not_allowed_says_why() {
    let store = HostFile::pages(3);
    with_rig(|rig| {
        let file = rig.cache.file(Arc::clone(&store), Order::of(4)).expect("there is memory");
        let space = rig.space();
        space.map_file(pages(10, 5), &file, PageIndex(0), Read, Shared).expect("nothing is there");
        space.map_anonymous(pages(20, 1), ReadExecute, Private, Order::ZERO).expect("nothing is there");
        let fault = |page, access| space.fault(at(page), access);
        assert_eq!(fault(9, Access::Read), Err(FaultError::NoRegion(at(9))));
        assert_eq!(fault(10, Access::Write), Err(FaultError::Denied(at(10), Access::Write)));
        assert_eq!(fault(10, Access::Execute), Err(FaultError::Denied(at(10), Access::Execute)));
        assert_eq!(fault(20, Access::Execute), Ok(()));
        assert_eq!(fault(12, Access::Read), Ok(()));
        assert_eq!(fault(13, Access::Read), Err(FaultError::Beyond(at(13))));
        let users = crate::space::Mmu::users(rig.unit);
        let users = AddressRange::new(users.start, users.end);
        let beyond = AddressRange::new(users.start(), VirtualAddress(users.end().0 + 0x1000));
        assert_eq!(space.map_anonymous(beyond, Read, Private, LARGE), Err(RegionError::Outside(beyond)));
        let taken = pages(5, 6);
        assert_eq!(space.map_anonymous(taken, Read, Private, LARGE), Err(RegionError::Taken(taken)));
        let end = space.map_file(pages(50, 2), &file, PageIndex(u64::MAX), Read, Shared);
        assert_eq!(end, Err(RegionError::NoSuchPages));
        rig.verify([&space]);
    });
}

#[test]
fn after_a_fork_both_sides_see_what_was_and_each_what_it_writes() {
    let store = HostFile::pages(8);
    with_rig(|rig| {
        let file = rig.cache.file(Arc::clone(&store), Order::of(4)).expect("there is memory");
        let parent = rig.space();
        parent.map_anonymous(pages(16, 32), ReadWrite, Private, LARGE).expect("nothing is there");
        parent.map_anonymous(pages(64, 4), ReadWrite, Shared, LARGE).expect("nothing is there");
        parent.map_file(pages(80, 8), &file, PageIndex(0), ReadWrite, Private).expect("nothing is there");
        for page in [16, 17, 64, 82] {
            rig.set(&parent, page, 0x10);
        }
        let child = parent.fork().expect("there is memory");
        rig.verify([&parent, &child]);
        assert!(!rig.writes(&parent, 16) && rig.writes(&parent, 64));
        assert!([16, 17, 64, 82].iter().all(|&page| rig.byte(&child, page) == 0x10));
        rig.set(&parent, 16, 0x20);
        rig.set(&child, 17, 0x30);
        rig.set(&child, 64, 0x40);
        rig.set(&child, 82, 0x50);
        rig.set(&child, 83, 0x60);
        let seen = |space: &_| [16, 17, 64, 82, 83].map(|page| rig.byte(space, page));
        assert_eq!(seen(&parent), [0x20, 0x10, 0x40, 0x10, 3]);
        assert_eq!(seen(&child), [0x10, 0x30, 0x40, 0x50, 0x60]);
        rig.verify([&parent, &child]);
        // Three generations, and the middle one goes.
        let grandchild = child.fork().expect("there is memory");
        rig.set(&grandchild, 18, 0x70);
        drop(child);
        rig.verify([&parent, &grandchild]);
        assert_eq!(seen(&grandchild), [0x10, 0x30, 0x40, 0x50, 0x60]);
        drop(parent);
        rig.set(&grandchild, 16, 0x80);
        assert_eq!(seen(&grandchild), [0x80, 0x30, 0x40, 0x50, 0x60]);
        assert_eq!(rig.byte(&grandchild, 18), 0x70);
        rig.verify([&grandchild]);
    });
}

#[test]
fn a_hole_in_a_region_leaves_both_ends_and_takes_its_pages_along() {
    let store = HostFile::pages(64);
    with_rig(|rig| {
        let file = rig.cache.file(Arc::clone(&store), Order::of(5)).expect("there is memory");
        let space = rig.space();
        space.map_anonymous(pages(32, 32), ReadWrite, Private, LARGE).expect("nothing is there");
        space.map_file(pages(64, 64), &file, PageIndex(0), ReadWrite, Shared).expect("nothing is there");
        (32..96).for_each(|page| rig.set(&space, page, page.try_into().expect("small")));
        space.unmap(pages(40, 50)).expect("there is memory");
        rig.verify([&space]);
        assert!((40..90).all(|page| rig.mapped(&space, page).is_none()));
        assert_eq!(space.fault(at(50), Access::Read), Err(FaultError::NoRegion(at(50))));
        assert!((32..40).chain(90..96).all(|page| u64::from(rig.byte(&space, page)) == page));
        // New memory there has nothing of the old.
        space.map_anonymous(pages(40, 24), ReadWrite, Private, LARGE).expect("nothing is there any more");
        assert!((40..64).all(|page| rig.byte(&space, page) == 0));
        assert_eq!(rig.byte(&space, 100), 36);
        rig.verify([&space]);
    });
}

#[test]
fn what_is_private_goes_when_the_last_piece_of_its_folio_is_unmapped() {
    with_rig(|rig| {
        let space = rig.space();
        let used = || rig.cache.report().inactive.0 + rig.cache.report().active.0;
        space.map_anonymous(pages(16, 64), ReadWrite, Private, LARGE).expect("nothing is there");
        (16..80).for_each(|page| rig.set(&space, page, 7));
        assert_eq!(used(), 64);
        space.unmap(pages(20, 4)).expect("there is memory");
        assert_eq!(used(), 64, "the rest of the folio is still shown");
        space.unmap(pages(24, 30)).expect("there is memory");
        assert_eq!(used(), 64 - 16, "one lay inside");
        space.unmap(pages(0, 20)).expect("there is memory");
        assert_eq!(used(), 64 - 32, "nothing shows the first one any more");
        assert!((54..80).all(|page| rig.byte(&space, page) == 7));
        rig.verify([&space]);
        // What is shared stays for whoever comes.
        let child = space.fork().expect("there is memory");
        space.unmap(pages(54, 40)).expect("there is memory");
        assert!((54..80).all(|page| rig.byte(&child, page) == 7));
    });
}

#[test]
fn protection_changes_at_once_for_a_part_and_back() {
    with_rig(|rig| {
        let space = rig.space();
        space.map_anonymous(pages(32, 32), ReadWrite, Private, LARGE).expect("nothing is there");
        (32..64).for_each(|page| rig.set(&space, page, 7));
        space.protect(pages(35, 20), Read).expect("there is memory");
        rig.verify([&space]);
        assert_eq!(rig.store(&space, at(40), &[1]), Err(FaultError::Denied(at(40), Access::Write)));
        assert!(rig.writes(&space, 34) && rig.writes(&space, 55) && rig.mapped(&space, 40) == Some(7));
        space.protect(pages(0, 50), ReadWrite).expect("there is memory");
        rig.set(&space, 40, 8);
        assert_eq!(rig.store(&space, at(50), &[1]), Err(FaultError::Denied(at(50), Access::Write)));
        rig.verify([&space]);
    });
}

#[test]
fn what_is_reclaimed_comes_back_as_it_was() {
    const PART: u8 = scaled(100, 21);
    let part = u64::from(PART);
    let store = HostFile::pages(PART);
    with_rig(|rig| {
        let file = rig.cache.file(Arc::clone(&store), Order::of(4)).expect("there is memory");
        let space = rig.space();
        space.map_anonymous(pages(0, 2 * part), ReadWrite, Private, LARGE).expect("nothing is there");
        space.map_file(pages(2 * part, part), &file, PageIndex(0), ReadWrite, Shared).expect("nothing is there");
        space.map_file(pages(3 * part, part), &file, PageIndex(0), ReadWrite, Private).expect("nothing is there");
        let written = |page: u64| u8::try_from(page % 251).expect("small");
        (0..4 * part).step_by(3).for_each(|page| rig.set(&space, page, written(page)));
        let child = space.fork().expect("there is memory");
        (0..4 * part).step_by(7).for_each(|page| rig.set(&child, page, 0xfe));
        let mut reclaimed = 0;
        for _ in 0..scaled(8, 3) {
            reclaimed += rig.cache.reclaim(Count(200)).0;
            at_each_step(|| rig.verify([&space, &child]));
        }
        assert!(reclaimed >= 3 * u32::from(PART), "{reclaimed}");
        assert!(rig.cache.report().swapped > Count(0));
        for page in (0..2 * part).step_by(3).chain((3 * part..4 * part).step_by(3)) {
            assert_eq!(rig.byte(&space, page), written(page), "{page}");
            assert_eq!(rig.byte(&child, page), if page % 7 == 0 { 0xfe } else { written(page) }, "{page}");
        }
        rig.verify([&space, &child]);
    });
}

#[test]
fn when_memory_is_out_a_fault_says_so_and_goes_on_once_there_is_some() {
    with_rig(|rig| {
        let space = rig.space();
        space.map_anonymous(pages(0, 64), ReadWrite, Private, LARGE).expect("nothing is there");
        rig.set(&space, 0, 1);
        let mut all = Vec::new();
        for order in (0..=Order::LIMIT.index()).rev().map(Order::of) {
            while let Ok(block) = rig.pages.alloc(Request::movable(order).from_reserve()) {
                all.push(block);
            }
        }
        // What there is goes round, but never all at once.
        let mut outcomes = vec![];
        for page in 0..64 {
            outcomes.push(rig.store(&space, at(page), &[page.try_into().expect("small")]));
        }
        assert!(outcomes.iter().any(Result::is_err), "there is no memory for all");
        for outcome in outcomes.iter().filter_map(|outcome| outcome.as_ref().err()) {
            assert!(matches!(
                outcome,
                FaultError::Contents(CacheError::Folio(_) | CacheError::Node(_)) | FaultError::Map(_)
            ));
        }
        rig.verify([&space]);
        drop(all);
        for (page, outcome) in (0..64).zip(outcomes) {
            assert_eq!(u64::from(rig.byte(&space, page)), if outcome.is_ok() { page } else { 0 });
        }
    });
}

#[test]
fn a_fault_maps_the_pages_around_but_none_that_something_stands_in_front_of() {
    let store = HostFile::pages(32);
    with_rig(|rig| {
        let file = rig.cache.file(Arc::clone(&store), Order::of(5)).expect("there is memory");
        // The folio is as large as the file.
        for page in 0..32 {
            drop(file.read_folio(PageIndex(page)).expect("the file is read"));
        }
        let space = rig.space();
        space.map_file(pages(32, 32), &file, PageIndex(0), ReadWrite, Private).expect("nothing is there");
        rig.set(&space, 38, 0xff);
        rig.cache.reclaim(Count(1000));
        assert_eq!(rig.mapped(&space, 38), None);
        drop(file.read_folio(PageIndex(0)).expect("the file is read"));
        rig.byte(&space, 33);
        assert_eq!(rig.mapped(&space, 38), None, "what was written out is not what the file has there");
        assert_eq!(rig.byte(&space, 38), 0xff);
        rig.verify([&space]);
        assert!(file.lookup(PageIndex(0)).is_some_and(|folio| !folio.flags().contains(FolioFlags::DIRTY)));
        assert_eq!(store.size().0, 32 << 12);
    });
}

#[test]
fn a_run_of_a_folio_is_mapped_beforehand_if_its_region_shows_it_there() {
    let store = HostFile::pages(32);
    with_rig(|rig| {
        let file = rig.cache.file(Arc::clone(&store), Order::of(4)).expect("there is memory");
        let space = rig.space();
        space.map_file(pages(64, 32), &file, PageIndex(0), ReadWrite, Shared).expect("nothing is there");
        let folio = file.read_folio(PageIndex(20)).expect("the file is read");
        let (first, order) = (folio.index().0, folio.order());
        let map = |offset, len, page, protection| {
            space.map_folio_range(&folio, Count(offset), Count(len), at(page), protection)
        };
        assert_eq!(map(0, 1, 64 + first + 1, Read), Err(FaultError::Map(crate::space::MapError::Outside)));
        assert_eq!(map(0, 1, 64 + first, ReadExecute), Err(FaultError::Denied(at(64 + first), Access::Read)));
        assert_eq!(map(1, order.pages() - 1, 64 + first + 1, Read), Ok(()));
        assert_eq!(folio.mappings().entries, Count(order.pages() - 1));
        assert_eq!(rig.mapped(&space, 64 + first + 1).map(u64::from), Some(first + 1));
        assert!(map(0, 2, 64 + first, Read).is_err(), "one of them is there");
        assert_eq!(map(0, 1, 64 + first, ReadWrite), Ok(()));
        assert!(rig.writes(&space, 64 + first) && folio.flags().contains(FolioFlags::DIRTY));
        rig.verify([&space]);
    });
}

#[test]
fn every_allocation_fails_once_and_nothing_is_lost() {
    fn script(rig: &rig::Rig<'_>, store: &Arc<HostFile>) -> Result<(), std::string::String> {
        let text = |error: &dyn std::fmt::Display| std::format!("{error}");
        let file = rig.cache.file(Arc::clone(store), Order::of(3)).map_err(|error| text(&error))?;
        let space = rig.spaces.create().map_err(|error| text(&error))?;
        let checked = |outcome: Result<(), std::string::String>| {
            at_each_step(|| rig.verify([&space]));
            outcome
        };
        let anonymous = space.map_anonymous(pages(0, 40), ReadWrite, Private, LARGE);
        checked(anonymous.map_err(|error| text(&error)))?;
        let mapped = space.map_file(pages(40, 24), &file, PageIndex(0), ReadWrite, Private);
        checked(mapped.map_err(|error| text(&error)))?;
        for page in [3, 20, 35, 41, 50] {
            checked(rig.store(&space, at(page), &[1]).map_err(|error| text(&error)))?;
        }
        checked(rig.load(&space, at(60), 1).map(|_| ()).map_err(|error| text(&error)))?;
        let child = space.fork().map_err(|error| text(&error));
        at_each_step(|| rig.verify([&space]));
        let child = child?;
        for (page, side) in [(3, &space), (20, &child), (41, &child), (60, &space)] {
            let stored = rig.store(side, at(page), &[2]).map_err(|error| text(&error));
            at_each_step(|| rig.verify([&space, &child]));
            stored?;
        }
        let unmapped = space.unmap(pages(18, 5)).map_err(|error| text(&error));
        at_each_step(|| rig.verify([&space, &child]));
        unmapped?;
        let protected = child.protect(pages(18, 30), Read).map_err(|error| text(&error));
        rig.verify([&space, &child]);
        protected?;
        assert_eq!([3, 20, 41].map(|page| rig.byte(&child, page)), [1, 2, 2]);
        Ok(())
    }

    let store = HostFile::pages(24);
    with_machine(|machine, allocator| {
        let swept = fail_each_once(allocator, || {
            let text = |error: &dyn std::fmt::Display| std::format!("{error}");
            let caches = KmemCaches::new(allocator).map_err(|error| text(&error))?;
            let owners = Owners::new(&caches).map_err(|error| text(&error))?;
            let outcome = rig::over(machine, allocator, &owners, None, |rig| script(rig, &store));
            outcome.map_err(|error| text(&error)).flatten()
        });
        assert!(swept.allocations >= 60, "{swept:?}");
    });
}
