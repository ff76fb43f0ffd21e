//! Blocks that one CPU has too many of and another asks for.

use super::{Rig, page, rig};
use crate::units::{Count, Pfn};

impl Rig {
    fn has(&self, blocks: u32) -> &Self {
        for head in (self.list.len()..blocks).map(Pfn::new) {
            self.list.put(page(), head).expect("there is room");
        }
        self
    }

    fn hands(&self, shelf: &Self, most: u32) -> u32 {
        self.list.hand_over(&shelf.list, Count(most)).0
    }

    fn gets(&self, shelf: &Self, most: u32) -> u32 {
        let before = self.list.len();
        self.list.help_itself(&shelf.list, most);
        self.list.len() - before
    }
}

#[test]
fn nothing_is_handed_over_before_somebody_asked_in_vain() {
    let (giver, taker, shelf) = (rig(64), rig(64), rig(8));
    assert_eq!(giver.has(20).hands(&shelf, 4), 0);
    assert_eq!(taker.gets(&shelf, 4), 0);
    assert_eq!((giver.hands(&shelf, 4), giver.list.len(), shelf.list.len()), (4, 16, 4));
    assert_eq!((taker.gets(&shelf, 3), shelf.list.len()), (3, 1));
}

#[test]
fn a_shelf_that_is_asked_in_vain_is_filled_until_it_has_no_room_and_then_only_if_it_runs_empty_again() {
    let (giver, taker, shelf) = (rig(64), rig(64), rig(8));
    giver.has(40);
    taker.gets(&shelf, 1);
    assert_eq!(giver.hands(&shelf, 6), 6);
    assert_eq!(giver.hands(&shelf, 2), 2, "just the room that there is, which is no reason to stop");
    assert_eq!(taker.gets(&shelf, 2), 2);
    assert_eq!(giver.hands(&shelf, 5), 2, "more than there is room for");
    assert_eq!(taker.gets(&shelf, 4), 4);
    assert_eq!(giver.hands(&shelf, 4), 0, "it was not asked for what it did not have since");
    assert_eq!((taker.gets(&shelf, 9), taker.gets(&shelf, 9)), (4, 0));
    assert_eq!(giver.hands(&shelf, 9), 8);
}
