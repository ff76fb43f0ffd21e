//! Page tables that move while users go on.

use super::rig::with_rig;
use super::*;
use crate::owner::{PageTable, Reference, Shared, TableLevel};
use crate::space::{Sharing, TableStays};

use PageProtection::ReadWrite;

#[test]
fn a_table_moves_under_its_users_and_they_find_everything() {
    with_rig(|rig| {
        let space = rig.space();
        space.map_anonymous(pages(0, 64), ReadWrite, Sharing::Private, Order::ZERO).expect("nothing is there");
        (0..64).for_each(|page| rig.set(&space, page, page.try_into().expect("small")));
        let all = || -> Vec<Shared<'_, HostMachine, PageTable>> {
            let walker = rig.owners.walk();
            let table = |reference| if let Reference::PageTable(table) = reference { Some(table) } else { None };
            walker.blocks(walker.frames()).filter_map(|sighting| sighting.get().and_then(table)).collect()
        };
        let block = || rig.pages.alloc(Request::new(Order::ZERO)).expect("there is memory");
        let mut moved = 0;
        for table in all() {
            let (level, head) = (table.level(), table.head());
            match rig.spaces.move_table(table, block()) {
                Ok(old) => {
                    assert_eq!(old.head(), head);
                    moved += 1;
                }
                Err((_, why)) => assert_eq!((level, why), (TableLevel(4), TableStays::Root)),
            }
            rig.verify([&space]);
        }
        assert_eq!(moved, 6, "four leaves, one above them, one above that");
        assert!((0..64).all(|page| u64::from(rig.byte(&space, page)) == page));
        // One that somebody looks at stays, and so does one that would be highmem.
        let table = all().into_iter().find(|table| table.level() == TableLevel::LEAF).expect("there is a leaf");
        let stays = rig.spaces.move_table(table.get(), block()).map_err(|(_, why)| why);
        assert_eq!(stays.err(), Some(TableStays::Busy));
        let highmem = rig.pages.alloc(Request::movable(Order::ZERO)).expect("there is memory");
        assert!(highmem.head() >= LOWMEM_END);
        let stays = rig.spaces.move_table(table, highmem).map_err(|(_, why)| why);
        assert_eq!(stays.err(), Some(TableStays::Unsuitable));
        rig.verify([&space]);
    });
}

#[test]
fn a_space_is_found_by_its_number_as_long_as_it_lives() {
    with_rig(|rig| {
        let (first, second) = (rig.space(), rig.space());
        let (one, two) = (first.id(), second.id());
        assert_ne!(one, two);
        assert_eq!(rig.spaces.tables(one).map(|tables| tables.root()), Some(first.root()));
        drop(first);
        assert!(rig.spaces.tables(one).is_none());
        let third = rig.space();
        assert!(third.id() != one && third.id() != two, "numbers are not used again at once");
    });
}
