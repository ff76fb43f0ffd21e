//! What keeps a section from going, and what the checker says of memory that has not come together.

use std::vec::Vec;

use super::{Alone, BASE, Plain, WithNodes, with_zone};
use crate::block::FreeBlock;
use crate::charge::GroupId;
use crate::desc::allocator_word::{End, PageState};
use crate::desc::owner_word::OwnerWord;
use crate::invariant::Invariant;
use crate::migratetype::Migratetype::Movable;
use crate::units::{Order, Pfn, PfnRange};
use crate::{ContigError, OwnerKind};

/// Asks for the first block to be put out of use, and gives what is said and which pages are shown meanwhile. The pages in
/// `had` are those that somebody has who gives them.
fn offline(zone: &mut Alone<'_, '_, Plain>, had: &[u32]) -> (Result<(), ContigError>, Vec<u32>) {
    let section = PfnRange::new(BASE, BASE.plus(16));
    let mut shown = Vec::new();
    let has = |pfn: Pfn| had.contains(&(pfn.number() - BASE.number()));
    let said = zone.buddy(|buddy| buddy.offline(section, has, |pfn, _| shown.push(pfn.number() - BASE.number())));
    (said, shown)
}

#[test]
fn nobody_is_asked_for_a_page_of_a_section_in_which_another_one_is_in_the_way() {
    with_zone::<Plain>(64, |zone| {
        zone.leave(&[Movable; 2], &[]);
        (1..16).filter(|page| *page != 9).for_each(|page| zone.free(page));
        assert_eq!(offline(zone, &[0]), (Err(ContigError::InUse(BASE.plus(9))), Vec::new()));
        assert_eq!(offline(zone, &[9]), (Err(ContigError::InUse(BASE)), Vec::new()));
        assert_eq!(offline(zone, &[0, 9]), (Ok(()), [0, 9].to_vec()));
    });
}

#[test]
fn a_page_that_somebody_pays_for_or_that_has_an_owner_is_in_the_way_whoever_has_it() {
    with_zone::<Plain>(64, |zone| {
        zone.leave(&[Movable; 2], &[]);
        (1..16).for_each(|page| zone.free(page));
        let page = zone.map.page(BASE);
        page.set_group(GroupId::from_bits(1));
        assert_eq!(offline(zone, &[0]), (Err(ContigError::InUse(BASE)), Vec::new()));
        page.set_group(GroupId::ROOT);
        page.set_owner(OwnerWord::bare(OwnerKind::LargeKmalloc, Order::ZERO));
        assert_eq!(offline(zone, &[0]), (Err(ContigError::InUse(BASE)), Vec::new()));
        page.set_owner(OwnerWord::PLAIN);
        assert_eq!(offline(zone, &[0]), (Ok(()), [0].to_vec()));
    });
}

/// FREE-6 allows as many broken blocks as the nodes fill, and one more for each nine of them, which are too many to be moved.
#[test]
fn nodes_that_stand_in_two_blocks_though_one_would_hold_them_are_told_of() {
    /// Of so many the lists need seven nodes.
    const BLOCKS: u32 = 12;
    with_zone::<WithNodes>(32 * BLOCKS, |zone| {
        assert_eq!((zone.zone.free, zone.zone.nodes), (32 * BLOCKS, 7));
        let mut nodes = (0..).filter(|&page| zone.state(page).0 == PageState::Node);
        let node = nodes.find(|&page| zone.state(page ^ 1).0 == PageState::Node).expect("two stand side by side");
        let whole = (0..).step_by(32).find(|&page| zone.state(page) == (PageState::Free, 5)).expect("most are whole");
        // One of them moves to the first page of a whole block, whose other pages are free in pieces, as its own is: all put on
        // their lists as they are, since whoever frees something clears the way.
        let pieces = (0..5).map(|order| (whole + (1 << order), order)).chain([(node, 0)]);
        zone.buddy(|buddy| {
            let (page, to) = (buddy.map.page(BASE.plus(whole)), BASE.plus(whole));
            buddy.unlist(page, to).into_head();
            buddy.zone.lists.relocate(&buddy.context(), BASE.plus(node), to);
            for (page, order) in pieces {
                let (head, order) = (BASE.plus(page), Order::of(order));
                let section = buddy.map.known_section(head);
                let list = section.list(head, order, End::Far);
                buddy.put(&buddy.context(), section, list, FreeBlock::claim(head, order));
            }
        });
        let violation = zone.buddy(|buddy| buddy.verify(0)).expect_err("two blocks are broken for seven pages");
        assert_eq!((violation.invariant, violation.what), (Invariant::Free6, "all is free, but has not coalesced"));
        // Who takes something and frees it mends that.
        let page = zone.buddy(|buddy| buddy.alloc(Order::ZERO, Movable)).expect("all is free");
        zone.buddy(|buddy| buddy.verify(0)).expect("all but one page");
        zone.free(page.number() - BASE.number());
    });
}
