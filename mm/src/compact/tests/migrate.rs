//! One folio moves, or stays for a reason.

use super::*;
use crate::owner::PinnedFolio;
use crate::shrinker::{Shortage, Shrinker};
use crate::zone::ZoneKind;

use PageProtection::{Read, ReadWrite};
use Sharing::{Private, Shared};

/// A file that two spaces show, the second privately and from its middle on; every page holds its number.
fn with_shared<R>(test: impl for<'r> FnOnce(&Rig<'r>, &File<'r>, [&UserSpaceRef<'r>; 2]) -> R) -> R {
    let store = HostFile::pages(64);
    for page in 0..64 {
        store.with(FileOffset(page * PAGE_SIZE as u64), 8, |bytes| bytes.copy_from_slice(&page.to_le_bytes()));
    }
    with_rig(16, 8, |rig| {
        let file = rig.cache.file(Arc::clone(&store), Order::of(5)).expect("there is memory");
        let (one, two) = (rig.space(), rig.space());
        one.map_file(pages(0, 64), &file, PageIndex(0), ReadWrite, Shared).expect("nothing is there");
        two.map_file(pages(7, 40), &file, PageIndex(10), ReadWrite, Private).expect("nothing is there");
        let result = test(rig, &file, [&one, &two]);
        rig.verify([&one, &two]);
        result
    })
}

#[test]
fn a_folio_moves_under_all_who_map_it_and_nobody_notices() {
    with_shared(|rig, file, [one, two]| {
        for page in 0..64 {
            assert_eq!(rig.get(one, page), Ok(page));
        }
        for page in 7..47 {
            assert_eq!(rig.get(two, page), Ok(page + 3));
        }
        rig.set(one, 20, 777);
        rig.set(two, 30, 888);
        rig.verify([one, two]);
        let mut index = 0;
        while index < 64 {
            let folio = file.lookup(PageIndex(index)).expect("all of it was read");
            let (head, order, entries) = (folio.head(), folio.order(), folio.mappings());
            let next = folio.index().0 + u64::from(order.pages());
            drop(folio);
            let folio = rig.folio_at(file, index);
            rig.compactor.migrate(folio).expect("nothing keeps it");
            let folio = file.lookup(PageIndex(index)).expect("it is still there");
            assert_eq!((folio.order(), folio.mappings()), (order, entries));
            assert_ne!(folio.head(), head, "it stands elsewhere");
            index = next;
        }
        rig.verify([one, two]);
        file.verify().expect("the cache is sound");
        for page in 0..64 {
            let expected = if page == 20 { 777 } else { page };
            assert_eq!(rig.mapped(one, page), Some(expected), "page {page} is where it was");
        }
        for page in 7..47 {
            let expected = match page {
                17 => 777,
                30 => 888,
                _ => page + 3,
            };
            assert_eq!(rig.mapped(two, page), Some(expected), "page {page} is where it was");
        }
        file.write_back().expect("the store works");
    });
}

#[test]
fn a_folio_that_has_moved_to_another_kind_of_zone_is_reclaimed_where_it_is_now() {
    let store = HostFile::pages(1);
    with_rig(16, 8, |rig| {
        let file = rig.cache.file(Arc::clone(&store), Order::ZERO).expect("there is memory");
        drop(file.read_folio(PageIndex(0)).expect("it is read"));
        let page = Request::movable(Order::ZERO).from_reserve();
        let is_high = |head| rig.pages.kind_at(head) == ZoneKind::Highmem;
        let highmem = || rig.pages.alloc(page).ok().filter(|page| is_high(page.head()));
        let held: Vec<_> = core::iter::from_fn(highmem).collect();
        assert!(is_high(rig.folio_at(&file, 0).head()));
        rig.compactor.migrate(rig.folio_at(&file, 0)).expect("nothing keeps it");
        assert!(!is_high(rig.folio_at(&file, 0).head()), "there is no highmem left");
        let lowmem = Shortage { wanted: Count(1), highest: ZoneKind::Normal, node: None };
        assert_eq!(rig.cache.shrink(&lowmem), Count(1));
        drop(held);
    });
}

#[test]
fn what_must_stay_stays_for_a_reason_and_is_as_it_was() {
    with_shared(|rig, file, [one, two]| {
        for page in 0..64 {
            assert_eq!(rig.get(one, page), Ok(page));
        }
        let refused = |index, error| {
            let folio = rig.folio_at(file, index);
            let (head, entries) = (folio.head(), folio.mappings());
            assert_eq!(rig.compactor.migrate(folio), Err(error));
            let folio = rig.folio_at(file, index);
            assert_eq!((folio.head(), folio.mappings()), (head, entries));
            assert!((0..64).all(|page| rig.mapped(one, page) == Some(page)), "an entry was lost");
        };
        let held = rig.folio_at(file, 0);
        refused(0, MigrateError::Referred);
        let pinned = PinnedFolio::new(held);
        refused(0, MigrateError::Pinned);
        drop(pinned);
        let user = two.get_user_pages(at(20), Bytes(10), Access::Read).expect("it can be read");
        refused(23, MigrateError::Pinned);
        drop(user);
        let locked = rig.folio_at(file, 40).lock();
        refused(40, MigrateError::Locked);
        drop(locked);
        let faults = rig.pages.machine().faults();
        faults.fail_nth(1);
        refused(40, MigrateError::NoMemory);
        let _ = faults.stop();
        let alone = rig.owners.alloc(Request::movable(Order::ZERO), Folio::new()).map_err(|(_, error)| error);
        let alone = alone.expect("there is memory").into_shared();
        assert_eq!(rig.compactor.migrate(alone), Err(MigrateError::Unlisted));
        // Now that nobody keeps them, they move.
        for index in [0, 23, 40] {
            rig.compactor.migrate(rig.folio_at(file, index)).expect("nothing keeps it");
        }
        assert!((0..64).all(|page| rig.mapped(one, page) == Some(page)), "an entry was lost");
    });
}

#[test]
fn a_folio_that_moves_takes_its_charge_along_and_leaves_that_of_the_block() {
    with_rig(16, 16, |rig| {
        let group = rig.pages.groups().create(None).expect("there are groups");
        let space = rig.space();
        space.map_anonymous(pages(0, 16), ReadWrite, Private, Order::of(4)).expect("nothing is there");
        rig.set(&space, 3, 5);
        let pinned = space.get_user_pages(at(3), Bytes(1), Access::Read).expect("it can be read");
        let (head, order) = (pinned.runs()[0].folio().head(), pinned.runs()[0].folio().order());
        drop(pinned);
        // The folio is charged as another block was.
        let block = rig.pages.alloc(Request::movable(order).charged_to(group.id())).expect("there is no limit");
        rig.pages.swap_groups(head, block.head());
        drop(block);
        let Some(Reference::Folio(folio)) = rig.owners.walk().look(head).get() else { panic!("it is a folio") };
        let left = rig.compactor.move_folio(folio).expect("nothing keeps it");
        assert!((left.head(), left.order()) == (head, order) && left.group().is_root());
        assert_eq!(group.report().usage, order.pages());
        assert_eq!(rig.mapped(&space, 3), Some(5));
        rig.verify([&space]);
        drop((left, space));
        group.destroy().map_err(|left| left.pages).expect("what was charged to it is gone");
    });
}

#[test]
fn a_page_that_may_only_be_read_is_read_only_after_the_move() {
    with_rig(16, 8, |rig| {
        let store = HostFile::pages(16);
        let file = rig.cache.file(Arc::clone(&store), Order::of(2)).expect("there is memory");
        let space = rig.space();
        space.map_file(pages(0, 16), &file, PageIndex(0), Read, Shared).expect("nothing is there");
        assert_eq!(rig.get(&space, 5), Ok(0));
        rig.compactor.migrate(rig.folio_at(&file, 5)).expect("nothing keeps it");
        let mut denied = |_, _| Err(());
        assert!(rig.unit.store(space.root(), at(5), &[1], &mut denied).is_err());
        assert_eq!(rig.mapped(&space, 5), Some(0));
        rig.verify([&space]);
    });
}

#[test]
fn a_folio_of_another_machine_stays_and_nothing_is_copied() {
    with_shared(|_, file, _| {
        with_rig(16, 8, |there| {
            let folio = file.read_folio(PageIndex(0)).expect("the file is read");
            let head = folio.head();
            // What stands there at that frame is not to be touched.
            let block = there.pages.alloc_contig(folio.range()).expect("nobody has it");
            assert_eq!(there.compactor.migrate(folio), Err(MigrateError::Gone));
            assert_eq!(file.lookup(PageIndex(0)).map(|folio| folio.head()), Some(head));
            drop(block);
        });
    });
}
