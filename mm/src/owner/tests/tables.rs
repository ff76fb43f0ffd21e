//! Page tables as the machine holds them: by their frames, with no value that stands for them.

use std::collections::BTreeSet;
use std::vec::Vec;

use super::with_owners;
use crate::owner::{KernelStack, PageTable, Reference, TableLevel, UsedEntries};
use crate::page::Request;
use crate::slab::CacheSpec;
use crate::units::{Count, Order, Pfn};
use crate::{OwnerKind, PageState};

#[test]
fn tables_given_up_to_the_machine_are_found_counted_by_level_and_taken_back() {
    with_owners(|owners| {
        let mut given_up: Vec<Pfn> = Vec::new();
        for (level, used) in [(1, 3), (1, 512), (2, 2), (4, 1)] {
            let owner = PageTable::adopted(TableLevel(level), UsedEntries(used));
            let table = owners.alloc(Request::new(Order::ZERO), owner).map_err(|(_, error)| error);
            given_up.push(table.expect("there is memory").into_raw());
        }
        owners.verify().expect("an owner whose value was given up still is one");
        let walker = owners.walk();
        for (level, tables, entries) in [(1, 2, 515), (2, 1, 2), (3, 0, 0), (4, 1, 1)] {
            let found = walker.page_tables(TableLevel(level));
            assert_eq!((found.tables, found.entries), (Count(tables), Count(entries)), "level {level}");
        }
        let report = owners.reports().find(|report| report.kind == OwnerKind::PageTable).expect("it is reported");
        assert_eq!(report.pages, Count(4));
        // One that is looked at meanwhile stays until the look is over.
        let seen = walker.look(given_up[1]).get();
        for head in given_up {
            // SAFETY: each was given up above, and is taken back once.
            drop(unsafe { owners.from_raw::<PageTable>(head) });
        }
        assert_eq!(walker.page_tables(TableLevel::LEAF).entries, Count(512));
        assert!(matches!(&seen, Some(Reference::PageTable(table)) if table.lock(owners.machine()).0 == 512));
        drop(seen);
        assert_eq!(walker.page_tables(TableLevel::LEAF).tables, Count(0));
    });
}

#[test]
#[should_panic(expected = "DESC-1")]
fn taking_back_as_another_kind_is_noticed() {
    with_owners(|owners| {
        let table = owners.alloc(Request::new(Order::ZERO), PageTable::new(TableLevel::LEAF));
        let head = table.map_err(|(_, error)| error).expect("there is memory").into_raw();
        // SAFETY: it is refused.
        drop(unsafe { owners.from_raw::<KernelStack>(head) });
    });
}

#[test]
fn a_slabs_page_becomes_a_table_only_once_the_zone_has_had_it() {
    with_owners(|owners| {
        let cache = owners.caches.create(CacheSpec::new("secret", 64)).expect("there is memory");
        let objects: Vec<_> = (0..300).map(|_| cache.alloc().expect("there is memory")).collect();
        let slabs = objects.iter().filter_map(|object| owners.caches.slab_pages(object.address()));
        let mut slabs: BTreeSet<Pfn> = slabs.map(|pages| pages.start).collect();
        drop(objects);
        cache.destroy().expect("all objects are free");
        let pages = owners.pages();
        let at_hand = |&pfn: &Pfn| pages.page_state(pfn) == (PageState::Cached, Order::ZERO);
        slabs.retain(at_hand);
        assert!(slabs.len() > 2, "{slabs:?}");

        let tables = (0..40).map(|_| owners.alloc(Request::new(Order::ZERO), PageTable::new(TableLevel::LEAF)));
        let tables: Vec<_> = tables.map(|table| table.map_err(|(_, error)| error).expect("there is memory")).collect();
        assert!(tables.iter().all(|table| !slabs.contains(&table.head())), "{slabs:?}");
        assert!(slabs.iter().any(at_hand), "{slabs:?}");
        // Whoever may have what is at hand is given that first.
        let plain = pages.alloc(Request::new(Order::ZERO)).expect("there is memory");
        assert!(slabs.contains(&plain.head()), "{:?}", plain.head());
    });
}
