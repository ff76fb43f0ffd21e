//! Memory of users that fails: what nobody else has is lost, and who asks for it is told so, every time.

use std::sync::Arc;

use super::rig::{HostFile, with_rig};
use super::*;
use crate::OwnerKind;
use crate::cache::CacheError;
use crate::machine::Machine as _;
use crate::owner::{Reference, Seen};
use crate::page::{FailedPage, FailureOutcome, MemoryFailure};
use crate::space::mmu::Access;
use crate::space::{FaultError, Sharing};
use crate::units::{Bytes, FileOffset, PAGE_SIZE, PageIndex};

use FailureOutcome::{Delayed, Failed, Recovered};
use PageProtection::ReadWrite;
use Sharing::{Private, Shared};

fn failure(outcome: FailureOutcome) -> MemoryFailure {
    MemoryFailure { page: FailedPage::InUse(OwnerKind::Folio), outcome }
}

/// The frame that an address leads to.
fn frame(rig: &rig::Rig<'_>, space: &rig::UserSpace<'_>, page: u64) -> Pfn {
    rig.byte(space, page);
    match space.tables.lock().entry(at(page)) {
        (TableEntry::Page(entry), range) => entry.frame.plus(u32::try_from(range.pages_to(at(page))).expect("small")),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_clean_page_of_a_file_is_read_again_into_other_memory() {
    let store = HostFile::pages(40);
    with_rig(|rig| {
        let file = rig.cache.file(Arc::clone(&store), Order::of(4)).expect("there is memory");
        let (one, two) = (rig.space(), rig.space());
        one.map_file(pages(100, 40), &file, PageIndex(0), ReadWrite, Shared).expect("nothing is there");
        two.map_file(pages(7, 40), &file, PageIndex(0), ReadWrite, Shared).expect("nothing is there");
        // In a folio of one page, and inside a larger one.
        for page in [0, 21] {
            let bad = frame(rig, &one, 100 + page);
            assert_eq!(frame(rig, &two, 7 + page), bad);
            assert_eq!(rig.cache.memory_failure(bad), Ok(failure(Recovered)));
            rig.verify([&one, &two]);
            assert_eq!((rig.mapped(&one, 100 + page), rig.mapped(&two, 7 + page)), (None, None));
            assert_eq!(u64::from(rig.byte(&one, 100 + page)), page);
            assert_eq!(u64::from(rig.byte(&two, 7 + page)), page);
            assert_ne!(frame(rig, &one, 100 + page), bad);
            rig.verify([&one, &two]);
            file.verify().expect("the cache is sound");
            rig.pages.unpoison_memory(bad).expect("it was said to fail");
        }
    });
}

#[test]
fn a_page_with_what_nobody_else_has_is_lost_to_everybody_and_its_neighbours_are_not() {
    let store = HostFile::pages(40);
    with_rig(|rig| {
        let file = rig.cache.file(Arc::clone(&store), Order::of(4)).expect("there is memory");
        let (one, two) = (rig.space(), rig.space());
        one.map_file(pages(100, 40), &file, PageIndex(0), ReadWrite, Shared).expect("nothing is there");
        two.map_file(pages(100, 40), &file, PageIndex(0), ReadWrite, Shared).expect("nothing is there");
        (100..140).for_each(|page| rig.set(&one, page, 0xaa));
        (100..140).for_each(|page| assert_eq!(rig.byte(&two, page), 0xaa));
        let bad = frame(rig, &one, 121);
        assert_eq!(rig.cache.memory_failure(bad), Ok(failure(Failed { lost: Count(1) })));
        rig.verify([&one, &two]);
        file.verify().expect("the cache is sound");
        for _ in 0..3 {
            for space in [&one, &two] {
                let poisoned = FaultError::Poisoned(at(121));
                assert_eq!(space.fault(at(121), Access::Read), Err(poisoned));
                assert_eq!(space.fault(at(121), Access::Write), Err(poisoned));
                assert!(rig.load(space, at(121), 1).is_err() && rig.store(space, at(121), &[1]).is_err());
            }
        }
        let lost = Err(CacheError::Lost(PageIndex(21)));
        assert_eq!(file.read(FileOffset(21 * PAGE_SIZE as u64), &mut [0]), lost);
        assert_eq!(file.write(FileOffset(21 * PAGE_SIZE as u64), &[0]), lost);
        (100..140).filter(|&page| page != 121).for_each(|page| assert_eq!(rig.byte(&two, page), 0xaa, "{page}"));
        // The rest of the file can be written, and what is lost is what it was.
        file.write_back().expect("the store works");
        assert_eq!((store.byte(20), store.byte(21), store.byte(22)), (0xaa, 21, 0xaa));
        // Truncated, it is read again.
        file.truncate(PageIndex(21)).expect("nothing has to be read back");
        assert_eq!(rig.byte(&one, 121), 21);
        rig.verify([&one, &two]);
        rig.pages.unpoison_memory(bad).expect("it was said to fail");
    });
}

#[test]
fn anonymous_memory_that_was_written_is_lost_on_both_sides_of_a_fork_and_what_was_copied_is_not() {
    with_rig(|rig| {
        let parent = rig.space();
        parent.map_anonymous(pages(0, 16), ReadWrite, Private, Order::of(3)).expect("nothing is there");
        (0..8).for_each(|page| rig.set(&parent, page, 7));
        let child = parent.fork().expect("there is memory");
        rig.set(&child, 2, 9);
        let bad = [2, 3].map(|page| frame(rig, &parent, page));
        for pfn in bad {
            assert_eq!(rig.cache.memory_failure(pfn), Ok(failure(Failed { lost: Count(1) })));
            rig.verify([&parent, &child]);
        }
        assert_eq!(parent.fault(at(2), Access::Read), Err(FaultError::Poisoned(at(2))));
        assert_eq!(rig.byte(&child, 2), 9, "the child has its own");
        for space in [&parent, &child] {
            assert_eq!(space.fault(at(3), Access::Write), Err(FaultError::Poisoned(at(3))));
            assert_eq!(rig.byte(space, 4), 7);
        }
        // Once the parent has gone, what was lost is taken over as such.
        drop(parent);
        assert_eq!(child.fault(at(3), Access::Read), Err(FaultError::Poisoned(at(3))));
        rig.set(&child, 5, 1);
        assert_eq!((rig.byte(&child, 2), rig.byte(&child, 4), rig.byte(&child, 5)), (9, 7, 1));
        rig.verify([&child]);
        child.unmap(pages(3, 1)).expect("it is mapped");
        assert_eq!(child.fault(at(3), Access::Read), Err(FaultError::NoRegion(at(3))));
        drop(child);
        bad.into_iter().for_each(|pfn| rig.pages.unpoison_memory(pfn).expect("it was said to fail"));
    });
}

#[test]
fn neighbours_that_are_lost_are_lost_each_for_itself() {
    let store = HostFile::pages(40);
    with_rig(|rig| {
        let file = rig.cache.file(Arc::clone(&store), Order::ZERO).expect("there is memory");
        let space = rig.space();
        space.map_file(pages(100, 40), &file, PageIndex(0), ReadWrite, Shared).expect("nothing is there");
        (100..140).for_each(|page| rig.set(&space, page, 0xaa));
        let lost = [21, 22, 23, 24, 25, 26];
        let bad = lost.map(|page| frame(rig, &space, 100 + page));
        for pfn in bad {
            assert_eq!(rig.cache.memory_failure(pfn), Ok(failure(Failed { lost: Count(1) })));
        }
        // Whoever gives up some of them gives up those and no others.
        file.give_up(PageIndex(24), PageIndex(26));
        file.truncate(PageIndex(26)).expect("nothing has to be read back");
        for page in lost {
            match page {
                24..=26 => assert_eq!(u64::from(rig.byte(&space, 100 + page)), page),
                _ => assert_eq!(space.fault(at(100 + page), Access::Read), Err(FaultError::Poisoned(at(100 + page)))),
            }
        }
        file.forget(PageIndex(22));
        assert_eq!(rig.byte(&space, 122), 22);
        rig.verify([&space]);
        file.verify().expect("the cache is sound");
        // None stays when the file goes.
        drop((space, file));
        bad.into_iter().for_each(|pfn| rig.pages.unpoison_memory(pfn).expect("it was said to fail"));
    });
}

#[test]
fn neighbours_that_are_lost_are_taken_over_from_behind_wherever_they_stand() {
    with_rig(|rig| {
        let parent = rig.space();
        parent.map_anonymous(pages(0, 16), ReadWrite, Private, Order::ZERO).expect("nothing is there");
        (0..16).for_each(|page| rig.set(&parent, page, 7));
        // A pair that no block of two pages is, three, and four.
        let lost = [1, 2, 4, 5, 6, 9, 10, 11, 12];
        let bad = lost.map(|page| frame(rig, &parent, page));
        for pfn in bad {
            assert_eq!(rig.cache.memory_failure(pfn), Ok(failure(Failed { lost: Count(1) })));
        }
        let child = parent.fork().expect("there is memory");
        drop(parent);
        (0..16).filter(|page| !lost.contains(page)).for_each(|page| rig.set(&child, page, 9));
        for page in lost {
            assert_eq!(child.fault(at(page), Access::Write), Err(FaultError::Poisoned(at(page))));
        }
        rig.verify([&child]);
        child.unmap(pages(5, 1)).expect("it is mapped");
        child.map_anonymous(pages(5, 1), ReadWrite, Private, Order::ZERO).expect("nothing is there");
        assert_eq!(rig.byte(&child, 5), 0);
        drop(child);
        bad.into_iter().for_each(|pfn| rig.pages.unpoison_memory(pfn).expect("it was said to fail"));
    });
}

#[test]
fn anonymous_memory_that_nobody_has_written_is_zeroes_again() {
    with_rig(|rig| {
        let space = rig.space();
        space.map_anonymous(pages(0, 8), ReadWrite, Private, Order::ZERO).expect("nothing is there");
        let bad = frame(rig, &space, 1);
        assert_eq!(rig.cache.memory_failure(bad), Ok(failure(Recovered)));
        assert_eq!((rig.mapped(&space, 1), rig.byte(&space, 1)), (None, 0));
        assert_ne!(frame(rig, &space, 1), bad);
        rig.pages.unpoison_memory(bad).expect("it was said to fail");
    });
}

#[test]
fn who_refers_to_a_folio_goes_on_with_it_and_its_page_stays_out_of_use_after() {
    let store = HostFile::pages(4);
    with_rig(|rig| {
        let file = rig.cache.file(Arc::clone(&store), Order::ZERO).expect("there is memory");
        let folio = file.read_folio(PageIndex(1)).expect("the store works");
        let bad = folio.head();
        assert_eq!(rig.cache.memory_failure(bad), Ok(failure(Delayed)));
        // Who comes later gets other memory.
        let other = file.read_folio(PageIndex(1)).expect("the store works");
        assert_ne!(other.head(), bad);
        let free = rig.pages.free_pages();
        drop(folio);
        assert_eq!(rig.pages.free_pages(), free, "a page that lies was put back");
        assert_eq!(rig.owners.walk().look(bad).seen(), Seen::Allocated(OwnerKind::Poisoned));
        drop(other);
        rig.pages.unpoison_memory(bad).expect("it was said to fail");
    });
}

#[test]
fn a_large_folio_that_cannot_be_split_goes_whole_and_all_its_sound_pages_come_back() {
    let store = HostFile::pages(8);
    with_rig(|rig| {
        let file = rig.cache.file(Arc::clone(&store), Order::of(2)).expect("there is memory");
        let space = rig.space();
        space.map_file(pages(0, 8), &file, PageIndex(0), ReadWrite, Shared).expect("nothing is there");
        (0..8).for_each(|page| rig.set(&space, page, 1));
        let folio = file.lookup(PageIndex(1)).expect("it is in memory");
        let (range, order) = (folio.range(), folio.order());
        assert!(order > Order::ZERO);
        let bad = range.start.plus(1);
        // Whoever refers to it keeps it whole.
        let outcome = rig.cache.memory_failure(bad).map(|failure| failure.outcome);
        assert_eq!(outcome, Ok(Failed { lost: Count(order.pages()) }));
        for page in 0..u64::from(order.pages()) {
            assert_eq!(space.fault(at(page), Access::Read), Err(FaultError::Poisoned(at(page))));
        }
        assert_eq!(rig.byte(&space, 7), 1);
        rig.verify([&space]);
        drop(folio);
        rig.pages.drain();
        let out: Vec<_> = range.frames().filter(|&pfn| rig.owners.walk().look(pfn).seen() != Seen::Free).collect();
        assert_eq!(out, [bad]);
        rig.pages.unpoison_memory(bad).expect("it was said to fail");
    });
}

#[test]
fn page_tables_and_slabs_are_the_kernels_and_are_kept_back_once_they_are_freed() {
    with_rig(|rig| {
        let space = rig.space();
        space.map_anonymous(pages(0, 8), ReadWrite, Private, Order::ZERO).expect("nothing is there");
        rig.set(&space, 0, 5);
        let table = {
            let walker = rig.owners.walk();
            let tables = walker.blocks(walker.frames()).filter_map(|sighting| match sighting.get() {
                Some(Reference::PageTable(table)) => Some(table.head()),
                _ => None,
            });
            tables.into_iter().find(|&head| head != space.root()).expect("a page is mapped")
        };
        let ignored = |kind| MemoryFailure { page: FailedPage::InUse(kind), outcome: FailureOutcome::Ignored };
        assert_eq!(rig.cache.memory_failure(table), Ok(ignored(OwnerKind::PageTable)));
        assert_eq!(rig.byte(&space, 0), 5, "the kernel goes on");
        drop(space);
        assert_eq!(rig.owners.walk().look(table).seen(), Seen::Allocated(OwnerKind::Poisoned));
        rig.pages.unpoison_memory(table).expect("it was said to fail");
    });
}

#[test]
fn a_slab_that_fails_is_used_on_and_kept_back_once_it_is_empty() {
    with_rig(|rig| {
        let caches = rig.owners.caches;
        let objects: Vec<_> = (0..64).map(|_| caches.kmalloc(Bytes(2048)).expect("there is memory")).collect();
        let last = rig.machine.physical(*objects.last().expect("there are some"));
        let slab = Pfn::containing(last).expect("low");
        let ignored = MemoryFailure { page: FailedPage::InUse(OwnerKind::Slab), outcome: FailureOutcome::Ignored };
        assert_eq!(rig.cache.memory_failure(slab), Ok(ignored));
        rig.pages.verify().expect("every invariant holds");
        for object in objects {
            // SAFETY: each is freed once.
            unsafe { caches.kfree(object) }.expect("it was allocated");
        }
        caches.shrink();
        assert_eq!(rig.owners.walk().look(slab).seen(), Seen::Allocated(OwnerKind::Poisoned));
        rig.pages.verify().expect("every invariant holds");
        rig.pages.unpoison_memory(slab).expect("it was said to fail");
    });
}
