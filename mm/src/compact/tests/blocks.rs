//! What stands in the way: page tables, freelists' nodes, and what will not move.

use super::*;
use crate::owner::Seen;

use PageProtection::ReadWrite;
use Sharing::Private;

/// Clears the area around a frame, and gives the block back.
fn clear(rig: &Rig<'_>, pfn: Pfn, order: Order) -> Result<Moved, Refusal> {
    let area = PfnRange::new(pfn.align_down(order), pfn.align_down(order).plus(order.pages()));
    let mut moved = CompactReport::default().moved;
    rig.compactor.survey(area)?;
    rig.compactor.clear(area, &mut moved).map(|block| {
        assert_eq!(block.range(), area);
        moved
    })
}

#[test]
fn page_tables_move_and_their_spaces_go_on() {
    const PAGES: u64 = scaled(4000, 320);
    with_rig(16, 16, |rig| {
        let space = rig.space();
        space.map_anonymous(pages(0, PAGES), ReadWrite, Private, Order::ZERO).expect("nothing is there");
        // A page in each table's range, so that there are many tables, and few pages in each.
        for page in (0..PAGES).step_by(16) {
            rig.set(&space, page, page + 1);
        }
        let tables: Vec<_> = {
            let walker = rig.owners.walk();
            walker.blocks(walker.frames()).filter_map(|sighting| sighting.get()).collect()
        };
        let tables: Vec<_> = tables
            .into_iter()
            .filter_map(|owner| match owner {
                Reference::PageTable(table) => Some((table.head(), table.level())),
                _ => None,
            })
            .collect();
        assert!(tables.len() as u64 > PAGES / 16, "{} tables", tables.len());
        let root = space.root();
        let mut moved = 0;
        for (head, _) in tables {
            let Some(Reference::PageTable(table)) = rig.owners.walk().look(head).get() else { panic!("it is a table") };
            let outcome = rig.compactor.move_table(table);
            match outcome {
                Ok(left) => {
                    assert_eq!(left.head(), head);
                    moved += 1;
                }
                Err(error) => assert_eq!((error, head), (MigrateError::Fixed, root)),
            }
        }
        assert!(moved > PAGES / 16);
        rig.verify([&space]);
        for page in (0..PAGES).step_by(16) {
            assert_eq!(rig.mapped(&space, page), Some(page + 1), "page {page}");
        }
        // Somebody looks at the table just now.
        let look = |pfn| match rig.owners.walk().look(pfn).get() {
            Some(Reference::PageTable(table)) => Some(table),
            _ => None,
        };
        let leaf = (1..4096).map(Pfn::new).find_map(|pfn| look(pfn).filter(|table| table.level().0 == 1));
        let leaf = leaf.expect("there are leaves");
        let again = look(leaf.head()).expect("it is a table");
        assert_eq!(rig.compactor.move_table(again).map(drop), Err(MigrateError::Referred));
        drop(leaf);
        rig.verify([&space]);
        // Two of three tables go; those left move together.
        for page in (0..PAGES).step_by(16).filter(|page| page / 16 % 3 > 0) {
            space.unmap(pages(page, 16)).expect("there is memory");
        }
        let census = rig.census();
        let report = rig.compactor.compact(Order::of(4), Count(3), drop);
        assert!(report.cleared == Count(3) && report.moved.tables > Count(3), "{report}");
        assert_eq!(rig.census(), census);
        rig.verify([&space]);
        for page in (0..PAGES).step_by(48) {
            assert_eq!(rig.mapped(&space, page), Some(page + 1), "page {page}");
        }
    });
}

#[test]
fn nodes_of_freelists_move_out_of_an_area() {
    with_rig(24, 8, |rig| {
        // Every second page of 8 MiB comes free: their list needs nodes, which stand among them.
        let held: Vec<_> =
            (0..2048).map(|_| rig.pages.alloc(Request::movable(Order::ZERO)).expect("there is memory")).collect();
        let (even, odd): (Vec<_>, Vec<_>) = held.into_iter().partition(|page| page.head().number() % 2 == 0);
        drop(even);
        rig.pages.drain();
        let node = {
            let walker = rig.owners.walk();
            let mut blocks = walker.blocks(walker.frames());
            blocks.find(|sighting| sighting.seen() == Seen::Node).expect("there are nodes").head()
        };
        // Beside the node stands a page in use.
        let pair = PfnRange::new(node.align_down(Order::of(1)), node.align_down(Order::of(1)).plus(2));
        assert_eq!(clear(rig, node, Order::of(1)), Err(Refusal::Unmovable(OwnerKind::Plain)));
        let free = rig.pages.free_pages();
        let (beside, odd): (Vec<_>, Vec<_>) = odd.into_iter().partition(|page| pair.contains(page.head()));
        assert_eq!(beside.len(), 1);
        // As it comes free, the node is what keeps the two from being one block, unless the allocator moves it at once.
        drop(beside);
        rig.pages.drain();
        let mut claim = Claim::new(rig.pages, pair);
        let mut moved = CompactReport::default().moved;
        rig.compactor.claim_free(&mut claim, &mut moved);
        let block = claim.into_block().expect("both are free");
        assert_eq!((block.range(), rig.pages.free_pages()), (pair, free - 1));
        drop((block, odd));
    });
}

#[test]
fn an_area_with_something_that_stays_is_passed_over_untouched() {
    const PAGES: u64 = scaled(1024, 128);
    with_rig(16, 16, |rig| {
        let space = rig.space();
        space.map_anonymous(pages(0, PAGES), ReadWrite, Private, Order::ZERO).expect("nothing is there");
        (0..PAGES / 2).for_each(|page| rig.set(&space, page, page));
        let stays = rig.pages.alloc(Request::movable(Order::ZERO)).expect("there is memory");
        (PAGES / 2..PAGES).for_each(|page| rig.set(&space, page, page));
        // What descriptors keep at hand is had before anything is counted.
        let object = rig.owners.caches.kmalloc(Bytes(100)).expect("there is memory");
        let census = rig.census();
        let (six, plain) = (Order::of(6), Err(Refusal::Unmovable(OwnerKind::Plain)));
        assert_eq!(clear(rig, stays.head(), six).map(drop), plain);
        let root = space.root();
        assert!(clear(rig, root, PAGEBLOCK).is_err(), "a root stays");
        assert_eq!(clear(rig, root, Order::ZERO).map(drop), Err(MigrateError::Fixed.into()));
        let frame = crate::machine::Machine::physical(rig.pages.machine(), object);
        let frame = Pfn::containing(frame).expect("it is low");
        assert_eq!(clear(rig, frame, Order::ZERO).map(drop), Err(Refusal::Unmovable(OwnerKind::Slab)));
        assert_eq!(clear(rig, Pfn::new(0), PAGEBLOCK).map(drop), Err(Refusal::NotWhole));
        assert_eq!(rig.census(), census);
        rig.verify([&space]);
        // Without what stays, the area becomes one block.
        let area = stays.head();
        drop(stays);
        let cleared = clear(rig, area, six).expect("all of it moves");
        assert!(cleared.folios.0 > 0, "{cleared:?}");
        rig.verify([&space]);
        assert!((0..PAGES).all(|page| rig.mapped(&space, page) == Some(page)));
        // SAFETY: nobody uses it any more.
        assert_eq!(unsafe { rig.owners.caches.kfree(object) }, Ok(()));
    });
}
