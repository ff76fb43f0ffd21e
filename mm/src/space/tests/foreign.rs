//! Two machines that are alike: what one's owners know of, nobody takes for the other's at the same frame.

use super::rig::{HostFile, Rig, with_rig};
use super::*;
use crate::owner::{PageTable, Reference, Shared, TableLevel};
use crate::space::{RegionError, Sharing, TableStays};
use crate::units::PageIndex;

use PageProtection::ReadWrite;

fn with_both(test: impl FnOnce([&Rig<'_>; 2])) {
    with_rig(|here| with_rig(|there| test([here, there])));
}

#[test]
fn a_mapping_of_another_machine_is_not_shown() {
    with_both(|[here, there]| {
        let file = there.cache.file(HostFile::pages(4), Order::ZERO).expect("there is memory");
        let space = here.space();
        for sharing in [Sharing::Shared, Sharing::Private] {
            let mapped = space.map_file(pages(0, 4), &file, PageIndex(0), ReadWrite, sharing);
            assert_eq!(mapped, Err(RegionError::NoSuchPages));
        }
        here.verify([&space]);
    });
}

#[test]
fn a_page_table_of_another_machine_does_not_move_nor_does_one_move_there() {
    with_both(|rigs| {
        // So each has tables of the same place in a space of the same number.
        let spaces = rigs.map(|rig| {
            let space = rig.space();
            space.map_anonymous(pages(0, 4), ReadWrite, Sharing::Private, Order::ZERO).expect("nothing is there");
            (0..4).for_each(|page| rig.set(&space, page, 7));
            space
        });
        let [table, other_table] = rigs.map(|rig| -> Shared<'_, HostMachine, PageTable> {
            let walker = rig.owners.walk();
            let leaf = |reference| match reference {
                Reference::PageTable(table) if table.level() == TableLevel::LEAF => Some(table),
                _ => None,
            };
            walker.blocks(walker.frames()).find_map(|found| found.get().and_then(leaf)).expect("there is a leaf")
        });
        let [block, other_block] = rigs.map(|rig| rig.pages.alloc(Request::new(Order::ZERO)).expect("there is memory"));
        let [here, _] = rigs;
        let (_, why) = here.spaces.move_table(other_table, block).expect_err("it is another's");
        assert_eq!(why, TableStays::NotAUsers);
        let (_, why) = here.spaces.move_table(table, other_block).expect_err("it would be another's");
        assert_eq!(why, TableStays::Unsuitable);
        for (rig, space) in rigs.into_iter().zip(&spaces) {
            rig.verify([space]);
            (0..4).for_each(|page| assert_eq!(rig.byte(space, page), 7));
        }
    });
}
