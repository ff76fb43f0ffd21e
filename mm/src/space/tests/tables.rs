//! Folios in page tables, piece by piece.

use super::*;
use crate::cache::Leave;
use crate::host::scaled;
use crate::host::sweep::fail_each_once;
use crate::owner::{MappedBy, Mappings, TableLevel};
use crate::space::gather::Entries;
use crate::space::map::{MapError, Present, Run};
use crate::space::mmu::{Access, Mmu};

use crate::space::tables::Tables;
use std::collections::BTreeMap;

type Space<'r> = Tables<'r, HostMachine, Unit<'r>>;

/// What tests of tables stand on.
struct Rig<'r> {
    owners: &'r Owners<'r, HostMachine>,
    unit: &'r Unit<'r>,
}

fn with_rig<R>(test: impl FnOnce(&Rig<'_>) -> R) -> R {
    with_machine(|machine, pages| {
        let caches = KmemCaches::new(pages).expect("there is memory");
        let owners = Owners::new(&caches).expect("there is memory");
        let unit = Unit::new(machine);
        let result = test(&Rig { owners: &owners, unit: &unit });
        owners.verify().expect("all is well at last");
        result
    })
}

impl<'r> Rig<'r> {
    fn space(&self, number: u16) -> Result<Space<'r>, OwnError> {
        Tables::new(self.owners, self.unit, id(number))
    }

    /// A folio whose every page begins with its own number behind `mark`.
    fn folio(&self, order: usize, mark: u8) -> Result<Refs<'r>, OwnError> {
        let request = Request::movable(Order::of(order));
        let mut owned = self.owners.alloc(request, Folio::new()).map_err(|(_, error)| error)?;
        for (pfn, page) in owned.range().frames().zip(0..) {
            owned.with_page(pfn, |bytes| bytes[..2].copy_from_slice(&[mark, page]));
        }
        Ok(owned.into_shared())
    }

    /// What a user finds at the start of each page; `None` where there is nothing to be read.
    fn seen(&self, space: &Space<'_>, range: AddressRange) -> Vec<Option<[u8; 2]>> {
        let read = |address| {
            let mut bytes = [0; 2];
            self.unit.load(space.root(), address, &mut bytes, |_, _| Err(())).ok().map(|()| bytes)
        };
        range.addresses().map(read).collect()
    }

    fn tables(&self) -> [u32; 4] {
        [1, 2, 3, 4].map(|level| self.owners.walk().page_tables(TableLevel(level)).tables.0)
    }
}

fn map(
    space: &Space<'_>,
    folio: &Refs<'_>,
    offset: u32,
    range: AddressRange,
    protection: PageProtection,
) -> Result<(), MapError> {
    put(space, folio, offset, range, protection, Present::Refuse)
}

fn put<'r>(
    space: &Space<'r>,
    folio: &Refs<'r>,
    offset: u32,
    range: AddressRange,
    protection: PageProtection,
    present: Present,
) -> Result<(), MapError> {
    let run = Run::of_folio(folio, Count(offset), range, protection).ok_or(MapError::Outside)?;
    space.provided(
        |provision, wanted| provision.fill(space, wanted),
        |locked, provision| locked.map(&run, present, provision),
    )
}

fn unmap(space: &Space<'_>, range: AddressRange) -> Result<(), MapError> {
    for edge in [range.start(), range.end()] {
        space.provided::<_, MapError>(
            |provision, wanted| provision.fill(space, wanted),
            |locked, provision| locked.split_at(edge, provision),
        )?;
    }
    space.lock().unmap(range, Entries::OfFolios);
    Ok(())
}

#[test]
fn any_piece_of_a_folio_stands_at_any_address_and_users_see_its_pages() {
    with_rig(|rig| {
        let space = rig.space(1).expect("there is memory");
        let folio = rig.folio(5, 0xa0).expect("there is memory");
        // Behind an edge of two levels of tables, off by one page from where a large entry could be.
        let range = pages(2 * LEAF_PAGES * LEAF_PAGES - 3, 20);
        map(&space, &folio, 7, range, PageProtection::Read).expect("nothing is there");
        let seen = rig.seen(&space, range);
        assert!(seen.iter().zip(7..).all(|(page, number)| *page == Some([0xa0, number])), "{seen:?}");
        assert_eq!(rig.seen(&space, pages(range.pages_to(range.start()), 1)), [None]);
        assert_eq!(folio.mappings(), Mappings { entries: Count(20), by: MappedBy::Exclusive(id(1)) });
        let write = rig.unit.store(space.root(), range.start(), &[1], |_, access| Err(access));
        assert_eq!(write, Err(Access::Write));
        assert_eq!(rig.tables(), [3, 2, 1, 1]);
        unmap(&space, range).expect("nothing has to be split");
        assert_eq!((rig.tables(), folio.mappings().by), ([0, 0, 0, 1], MappedBy::Nobody));
        assert!(rig.seen(&space, range).iter().all(Option::is_none));
    });
}

#[test]
fn a_folio_that_is_aligned_stands_in_large_entries_and_a_piece_of_it_leaves_from_the_middle() {
    with_rig(|rig| {
        let space = rig.space(1).expect("there is memory");
        let folio = rig.folio(5, 1).expect("there is memory");
        let range = pages(4 * LEAF_PAGES, 2 * LEAF_PAGES);
        map(&space, &folio, 0, range, PageProtection::ReadWrite).expect("nothing is there");
        assert_eq!(rig.tables(), [0, 1, 1, 1], "no leaf is needed");
        assert_eq!(folio.mappings().entries, Count(32));
        let before = rig.seen(&space, range);
        unmap(&space, pages(4 * LEAF_PAGES + 5, 3)).expect("there is memory for a leaf");
        assert_eq!((rig.tables(), folio.mappings().entries), ([1, 1, 1, 1], Count(29)));
        let after = rig.seen(&space, range);
        let left = (0_u8..).zip(&before).map(|(page, seen)| if (5..8).contains(&page) { None } else { *seen });
        assert_eq!(after, left.collect::<Vec<_>>());
        space.lock().verify(|_, _| Ok(())).expect("the tables are sound");
        unmap(&space, range).expect("nothing has to be split");
        assert_eq!((rig.tables(), folio.mappings().by), ([0, 0, 0, 1], MappedBy::Nobody));
    });
}

#[test]
fn a_run_is_mapped_whole_or_not_at_all() {
    with_rig(|rig| {
        let space = rig.space(1).expect("there is memory");
        let (small, large) = (rig.folio(0, 1).expect("memory"), rig.folio(5, 2).expect("memory"));
        map(&space, &small, 0, pages(50, 1), PageProtection::Read).expect("nothing is there");
        let tables = rig.tables();
        let taken = map(&space, &large, 0, pages(19, 32), PageProtection::Read);
        assert_eq!(taken, Err(MapError::Taken(at(50))));
        assert_eq!(map(&space, &large, 1, pages(100, 32), PageProtection::Read), Err(MapError::Outside));
        let top = rig.unit.users().end;
        let beyond = AddressRange::new(VirtualAddress(top.0 - 0x1000), VirtualAddress(top.0 + 0x1000));
        assert_eq!(map(&space, &large, 0, beyond, PageProtection::Read), Err(MapError::Outside));
        assert_eq!((rig.tables(), large.mappings().by), (tables, MappedBy::Nobody));
        // Five leaves, three tables above them, two above those: in the real geometry no folio takes as many.
        let huge = rig.folio(6, 3).expect("memory");
        let edge = LEAF_PAGES * LEAF_PAGES * LEAF_PAGES;
        let wide = map(&space, &huge, 0, pages(edge - 7, 64), PageProtection::Read);
        assert!(matches!(wide, Err(MapError::TooManyTables(_))), "{wide:?}");
        assert_eq!((rig.tables(), huge.mappings().by), (tables, MappedBy::Nobody));
        unmap(&space, pages(0, 100)).expect("nothing has to be split");
    });
}

#[test]
fn what_replaces_a_part_of_a_large_entry_leaves_the_rest_and_the_processor_is_told() {
    with_rig(|rig| {
        let space = rig.space(1).expect("there is memory");
        let (old, copy) = (rig.folio(4, 1).expect("memory"), rig.folio(2, 2).expect("memory"));
        let range = pages(LEAF_PAGES, LEAF_PAGES);
        map(&space, &old, 0, range, PageProtection::Read).expect("nothing is there");
        rig.seen(&space, range);
        let part = pages(LEAF_PAGES + 6, 4);
        put(&space, &copy, 0, part, PageProtection::ReadWrite, Present::Replace).expect("there is memory");
        assert_eq!(rig.unit.stale(), None);
        let expected = (0..16).map(|page| if (6..10).contains(&page) { [2, page - 6] } else { [1, page] });
        assert_eq!(rig.seen(&space, range), expected.map(Some).collect::<Vec<_>>());
        assert_eq!((old.mappings().entries, copy.mappings().entries), (Count(12), Count(4)));
        // The same pages once more, in more ways: nothing is counted twice.
        put(&space, &old, 0, pages(LEAF_PAGES, 6), PageProtection::ReadWrite, Present::Replace).expect("it is there");
        assert_eq!(old.mappings().entries, Count(12));
        rig.unit.store(space.root(), at(LEAF_PAGES + 5), &[9], |_, _| Err(())).expect("it may be written");
        unmap(&space, range).expect("nothing has to be split");
    });
}

#[test]
fn a_change_that_nobody_flushes_is_noticed() {
    with_rig(|rig| {
        let space = rig.space(1).expect("there is memory");
        let (first, second) = (rig.folio(0, 1).expect("memory"), rig.folio(0, 2).expect("memory"));
        map(&space, &first, 0, pages(3, 1), PageProtection::Read).expect("nothing is there");
        assert_eq!(rig.seen(&space, pages(3, 1)), [Some([1, 0])]);
        let entry = |folio: &Refs<'_>| {
            let page = PageEntry { frame: folio.head(), protection: PageProtection::Read, accessed: Accessed::Yes };
            TableEntry::Page(page)
        };
        let locked = space.lock();
        let leaf = locked.table_at(at(3), TableLevel::LEAF).expect("there is a table");
        leaf.store(at(3), entry(&second));
        drop(locked);
        assert_eq!(rig.unit.stale(), Some((space.root(), at(3))));
        assert_eq!(rig.seen(&space, pages(3, 1)), [Some([1, 0])], "the processor knows no better");
        let locked = space.lock();
        locked.table_at(at(3), TableLevel::LEAF).expect("there is a table").store(at(3), entry(&first));
        drop(locked);
        unmap(&space, pages(3, 1)).expect("nothing has to be split");
        assert_eq!(rig.unit.stale(), None);
    });
}

#[test]
fn a_folio_that_moves_is_nowhere_until_it_is_put_back_and_a_fault_may_come_first() {
    with_rig(|rig| {
        let space = rig.space(1).expect("there is memory");
        let (old, new) = (rig.folio(4, 1).expect("memory"), rig.folio(4, 2).expect("memory"));
        let (large, small) = (pages(LEAF_PAGES, LEAF_PAGES), pages(5 * LEAF_PAGES - 2, 4));
        map(&space, &old, 0, large, PageProtection::ReadWrite).expect("nothing is there");
        map(&space, &old, 8, small, PageProtection::Read).expect("nothing is there");
        rig.seen(&space, large);
        for range in [large, small] {
            space.lock().unmap_folio(range, old.range(), Leave::Moving);
        }
        assert_eq!((rig.unit.stale(), old.mappings().by), (None, MappedBy::Nobody));
        assert!(rig.seen(&space, large).iter().all(Option::is_none));
        // Somebody faults in between.
        map(&space, &new, 9, pages(5 * LEAF_PAGES - 1, 1), PageProtection::Read).expect("it counts as empty");
        for range in [large, small] {
            space.lock().put_back(range, old.head(), &new);
        }
        assert_eq!(rig.seen(&space, large), (0..16).map(|page| Some([2, page])).collect::<Vec<_>>());
        assert_eq!(rig.seen(&space, small), (8..12).map(|page| Some([2, page])).collect::<Vec<_>>());
        assert_eq!(new.mappings().entries, Count(20));
        rig.unit.store(space.root(), large.start(), &[9], |_, _| Err(())).expect("it may be written as before");
        unmap(&space, pages(0, 100)).expect("nothing has to be split");
    });
}

#[test]
fn accesses_are_seen_once_and_write_protection_holds_at_once() {
    with_rig(|rig| {
        let space = rig.space(1).expect("there is memory");
        let folio = rig.folio(4, 1).expect("memory");
        let range = pages(LEAF_PAGES, LEAF_PAGES);
        map(&space, &folio, 0, range, PageProtection::ReadWrite).expect("nothing is there");
        let accessed = || space.lock().take_accessed(range, folio.range());
        assert_eq!(accessed(), Accessed::No);
        rig.unit.store(space.root(), at(LEAF_PAGES + 3), &[9], |_, _| Err(())).expect("it may be written");
        assert_eq!((accessed(), accessed()), (Accessed::Yes, Accessed::No));
        space.lock().write_protect(range, folio.range());
        assert_eq!(rig.unit.store(space.root(), at(LEAF_PAGES + 3), &[9], |_, _| Err(())), Err(()));
        assert_eq!(rig.unit.stale(), None);
        space.lock().protect(range, Entries::OfFolios, PageProtection::ReadExecute);
        assert_eq!(rig.seen(&space, range).len(), 16);
        unmap(&space, range).expect("nothing has to be split");
    });
}

#[test]
fn every_table_that_cannot_be_had_leaves_everything_as_it_was() {
    with_machine(|machine, allocator| {
        let swept = fail_each_once(allocator, || {
            let caches = KmemCaches::new(allocator).map_err(|_| MapError::Outside)?;
            let owners = Owners::new(&caches).map_err(|_| MapError::Outside)?;
            let rig = Rig { owners: &owners, unit: &Unit::new(machine) };
            let space = rig.space(1)?;
            let folio = rig.folio(5, 1)?;
            let range = pages(LEAF_PAGES * LEAF_PAGES - 16, 32);
            let undo = |result: Result<(), MapError>, entries: u32| {
                assert_eq!(folio.mappings().entries, Count(entries));
                space.lock().verify(|_, _| Ok(())).expect("the tables are sound");
                if result.is_err() {
                    space.lock().unmap(pages(0, 4096), Entries::OfFolios);
                }
                result
            };
            let mapped = map(&space, &folio, 0, range, PageProtection::Read);
            undo(mapped, if mapped.is_ok() { 32 } else { 0 })?;
            let split = unmap(&space, pages(LEAF_PAGES * LEAF_PAGES - 5, 10));
            undo(split, if split.is_ok() { 22 } else { 32 })?;
            space.lock().unmap(range, Entries::OfFolios);
            assert_eq!(folio.mappings().by, MappedBy::Nobody);
            Ok::<(), MapError>(())
        });
        assert!(swept.allocations >= 16, "{swept:?}");
    });
}

/// What a page of a space should lead to: a folio and a page of it.
type Oracle = BTreeMap<(usize, u64), (usize, u32, PageProtection)>;

#[test]
fn the_mapcount_of_a_folio_is_exact_in_sum_and_exclusive_is_never_said_wrongly() {
    with_rig(|rig| {
        const PAGES: u64 = 12 * LEAF_PAGES;
        let mut random = fastrand::Rng::with_seed(0x5eed);
        let spaces = [1, 2, 3].map(|number| rig.space(number).expect("there is memory"));
        let orders = [0, 2, 4, 5];
        let folios =
            orders.map(|order| rig.folio(order, u8::try_from(order).expect("small")).expect("there is memory"));
        let mut oracle = Oracle::new();
        let (mut precise, mut shared_but_single) = (0, 0);
        for _ in 0..scaled(4000, 40) {
            let (space, folio) = (random.usize(..3), random.usize(..4));
            let pages_of = 1_u32 << orders[folio];
            match random.u8(..8) {
                0..4 => {
                    let offset = if random.bool() { 0 } else { random.u32(..pages_of) };
                    let len = if random.bool() { pages_of - offset } else { random.u32(1..=pages_of - offset) };
                    let aligned = random.bool();
                    let start = random.u64(..PAGES - 32) & if aligned { !(LEAF_PAGES - 1) } else { !0 };
                    let range = pages(start, len.into());
                    let free = range.addresses().zip(start..).all(|(_, page)| !oracle.contains_key(&(space, page)));
                    let present = if random.bool() { Present::Refuse } else { Present::Replace };
                    let protection = if random.bool() { PageProtection::Read } else { PageProtection::ReadWrite };
                    let mapped = put(&spaces[space], &folios[folio], offset, range, protection, present);
                    assert_eq!(mapped.is_ok(), free || present == Present::Replace, "{mapped:?}");
                    if mapped.is_ok() {
                        for (page, number) in (start..).zip(offset..offset + len) {
                            oracle.insert((space, page), (folio, number, protection));
                        }
                    }
                }
                4..6 => {
                    let (start, len) = (random.u64(..PAGES), random.u64(1..40));
                    unmap(&spaces[space], pages(start, len)).expect("there is memory");
                    oracle.retain(|&(of, page), _| of != space || !(start..start + len).contains(&page));
                }
                6 => {
                    // The whole folio, in one space.
                    spaces[space].lock().unmap_folio(pages(0, PAGES + 64), folios[folio].range(), Leave::Nothing);
                    oracle.retain(|&(of, _), &mut (to, ..)| of != space || to != folio);
                }
                _ => {
                    rig.seen(&spaces[space], pages(random.u64(..PAGES), 20));
                }
            }
            assert_eq!(rig.unit.stale(), None);
            let mut found = Oracle::new();
            for (number, space) in spaces.iter().enumerate() {
                let check = |entry: TableEntry, range: AddressRange| {
                    let TableEntry::Page(page) = entry else { panic!("nothing moves: {entry:?}") };
                    let folio = folios.iter().position(|folio| folio.range().contains(page.frame)).expect("a folio's");
                    let first = page.frame.number() - folios[folio].head().number();
                    for (address, page_number) in range.addresses().zip(first..) {
                        found.insert((number, address.0 >> 12), (folio, page_number, page.protection));
                    }
                    Ok(())
                };
                space.lock().verify(check).expect("the tables are sound");
            }
            // A page that stood there already may be used in more ways than was asked for last.
            assert_eq!(found.len(), oracle.len());
            for (place, &(folio, page, protection)) in &oracle {
                let &(to, number, allowed) = found.get(place).expect("the page is mapped");
                assert_eq!((to, number), (folio, page), "{place:?}");
                assert!(allowed == protection || allowed == PageProtection::ReadWrite);
            }
            for (number, folio) in folios.iter().enumerate() {
                let mut by_space = [0_u32; 3];
                for (&(space, _), _) in oracle.iter().filter(|(_, (to, ..))| *to == number) {
                    by_space[space] += 1;
                }
                let mappings = folio.mappings();
                let (entries, mappers) = (by_space.iter().sum(), by_space.iter().filter(|&&count| count > 0).count());
                assert_eq!(mappings.entries, Count(entries), "the sum is exact");
                match mappings.by {
                    MappedBy::Nobody => assert_eq!(mappers, 0),
                    MappedBy::Exclusive(SpaceId(by)) => {
                        assert_eq!(mappers, 1, "exclusive is never wrong");
                        assert!(by_space[usize::from(by.get()) - 1] == entries);
                        precise += 1;
                    }
                    MappedBy::MaybeShared if mappers == 1 => shared_but_single += 1,
                    MappedBy::MaybeShared => assert!(mappers > 1, "shared needs somebody who shares"),
                }
            }
        }
        assert!(
            precise > scaled(100, 1) && shared_but_single >= scaled(10, 0),
            "both were met: {precise}, {shared_but_single}"
        );
        for space in &spaces {
            space.lock().unmap(pages(0, 4096), Entries::OfFolios);
        }
        assert_eq!(rig.tables(), [0, 0, 0, 3], "empty tables go away");
    });
}
