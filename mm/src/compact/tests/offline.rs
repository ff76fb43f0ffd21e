//! Sections that users have memory in go out of use under them.

use super::*;
use crate::ContigError;
use crate::owner::Seen;
use crate::page::FailureOutcome;

use PageProtection::ReadWrite;
use Sharing::Private;

/// Pages of users all over the machine, and which sections they stand in.
fn fill(rig: &Rig<'_>, space: &UserSpace<'_>, count: u64) {
    space.map_anonymous(pages(0, count), ReadWrite, Private, Order::of(2)).expect("nothing is there");
    (0..count).for_each(|page| rig.set(space, page, page * 7 + 1));
}

fn check(rig: &Rig<'_>, space: &UserSpace<'_>, count: u64) {
    (0..count).for_each(|page| assert_eq!(rig.get(space, page), Ok(page * 7 + 1), "page {page}"));
}

fn section_with(rig: &Rig<'_>, kind: OwnerKind) -> PfnRange {
    let walker = rig.owners.walk();
    let folios = walker.blocks(walker.frames()).filter(|sighting| sighting.seen() == Seen::Allocated(kind));
    let sections: Vec<_> = folios.map(|sighting| rig.pages.section_of(sighting.head())).collect();
    // That of most.
    let count = |section: &&PfnRange| sections.iter().filter(|other| other == section).count();
    *sections.iter().max_by_key(count).expect("there is one")
}

#[test]
fn a_section_of_users_pages_goes_and_comes_back_and_they_notice_nothing() {
    // All lowmem; users' pages and freelists' nodes highmem; users' pages in both.
    for lowmem in [64, 16, 48].into_iter().skip(scaled(0, 2)) {
        with_rig(64, lowmem, |rig| {
            const PAGES: u64 = scaled(4096, 512);
            let space = rig.space();
            fill(rig, &space, PAGES);
            let section = section_with(rig, OwnerKind::Folio);
            let free = rig.pages.free_pages();
            let zones: Vec<_> = rig.pages.zones().map(|zone| zone.managed).collect();
            assert_eq!(rig.compactor.offline_pages(section.start), Ok(section), "lowmem {lowmem}");
            rig.verify([&space]);
            check(rig, &space, PAGES);
            let walker = rig.owners.walk();
            assert!(section.frames().all(|pfn| walker.look(pfn).seen() == Seen::Offline));
            drop(walker);
            assert_eq!(rig.pages.free_pages(), free - 1024);
            rig.pages.online_pages(section.start).expect("it is out of use");
            rig.verify([&space]);
            assert_eq!(rig.pages.free_pages(), free);
            assert!(rig.pages.zones().map(|zone| zone.managed).eq(zones));
            check(rig, &space, PAGES);
            assert!(rig.pages.alloc_contig(section).is_ok(), "it is one free block again");
        });
    }
}

#[test]
fn what_does_not_move_keeps_its_section_in_use_and_is_named() {
    with_rig(64, 32, |rig| {
        let space = rig.space();
        fill(rig, &space, 64);
        let section = section_with(rig, OwnerKind::Folio);
        let census = rig.census();
        // A plain block, the kernel's, in the middle of it.
        let walker = rig.owners.walk();
        let free = section.frames().find(|&pfn| walker.look(pfn).seen() == Seen::Free).expect("some of it is free");
        drop(walker);
        let block = rig.pages.alloc_contig(PfnRange::new(free, free.plus(1))).expect("it is free");
        let stays = OfflineError::Stays(free, Refusal::Unmovable(OwnerKind::Plain));
        assert_eq!(rig.compactor.offline_pages(section.start), Err(stays));
        drop(block);
        rig.verify([&space]);
        check(rig, &space, 64);
        assert_eq!(rig.census(), census);
        // The map of memory.
        let walker = rig.owners.walk();
        let tables = walker.blocks(walker.frames()).filter(|sighting| sighting.seen() == Seen::Reserved).last();
        let tables = rig.pages.section_of(tables.expect("the allocator has tables").head());
        let is_outside = |&pfn: &Pfn| matches!(walker.look(pfn).seen(), Seen::Reserved | Seen::Hole);
        let first = tables.frames().find(is_outside).expect("it holds tables");
        drop(walker);
        let not_managed = OfflineError::InTheWay(ContigError::NotManaged(first));
        assert_eq!(rig.compactor.offline_pages(tables.start.plus(99)), Err(not_managed));
        let slab = rig.owners.caches.kmalloc(Bytes(64)).expect("there is memory");
        let slab_section = section_with(rig, OwnerKind::Slab);
        match rig.compactor.offline_pages(slab_section.start) {
            Err(OfflineError::Stays(_, Refusal::Unmovable(OwnerKind::Slab)) | OfflineError::InTheWay(_)) => {}
            Err(OfflineError::Stays(_, Refusal::Stays(MigrateError::Fixed))) => {}
            other => panic!("{other:?}"),
        }
        // SAFETY: it is freed once.
        unsafe { rig.owners.caches.kfree(slab) }.expect("it was allocated");
        rig.verify([&space]);
    });
}

#[test]
fn a_page_that_has_failed_is_in_nobodys_way_but_one_that_is_still_used_is() {
    const PAGES: u64 = scaled(2048, 256);
    let (mib, lowmem) = scaled((64, 16), (32, 8));
    with_rig(mib, lowmem, |rig| {
        let space = rig.space();
        fill(rig, &space, PAGES);
        let section = section_with(rig, OwnerKind::Folio);
        let walker = rig.owners.walk();
        let used = section.frames().filter(|&pfn| walker.look(pfn).seen() == Seen::Allocated(OwnerKind::Folio));
        let bad = used.into_iter().next().expect("users have pages there");
        drop(walker);
        let failed = rig.cache.memory_failure(bad).expect("it is in use");
        assert_eq!(failed.outcome, FailureOutcome::Failed { lost: Count(1) });
        rig.compactor.offline_pages(section.start).expect("all others move");
        rig.verify([&space]);
        rig.pages.online_pages(section.start).expect("it is out of use");
        rig.verify([&space]);
        let lost: Vec<_> = (0..PAGES).filter(|&page| rig.get(&space, page) != Ok(page * 7 + 1)).collect();
        assert_eq!(lost.len(), 1);
        let poisoned = FaultError::Poisoned(at(lost[0]));
        assert_eq!(rig.get(&space, lost[0]), Err(poisoned));
        rig.pages.unpoison_memory(bad).expect("it was said to fail");
        // Marked, but used on.
        let section = section_with(rig, OwnerKind::Folio);
        let walker = rig.owners.walk();
        let mut used = section.frames().filter(|&pfn| walker.look(pfn).seen() == Seen::Allocated(OwnerKind::Folio));
        let bad = used.next().expect("users have pages there");
        let head = walker.look(bad).head();
        drop(walker);
        rig.pages.memory_failure(bad).expect("it is in use");
        let stays = OfflineError::Stays(head, Refusal::Stays(MigrateError::Poisoned));
        assert_eq!(rig.compactor.offline_pages(section.start), Err(stays));
        rig.verify([&space]);
        rig.pages.unpoison_memory(bad).expect("it was said to fail");
    });
}

#[test]
fn a_section_stays_in_use_if_there_is_nowhere_to_move_to() {
    const PAGES: u64 = scaled(4096, 512);
    let (mib, lowmem) = scaled((32, 16), (12, 6));
    with_rig(mib, lowmem, |rig| {
        let space = rig.space();
        fill(rig, &space, PAGES);
        let blocks = |order| core::iter::from_fn(move || rig.pages.alloc(Request::movable(order).from_reserve()).ok());
        let rest: Vec<_> = orders_that_take_all().flat_map(blocks).collect();
        let section = section_with(rig, OwnerKind::Folio);
        let refused = rig.compactor.offline_pages(section.start);
        assert!(matches!(refused, Err(OfflineError::Stays(..) | OfflineError::InTheWay(_))), "{refused:?}");
        drop(rest);
        rig.verify([&space]);
        check(rig, &space, PAGES);
    });
}
