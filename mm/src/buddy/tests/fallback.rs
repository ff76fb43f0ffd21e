//! Migratetypes: who takes what from whom.

use super::{Bench, Shallow, with_memory};
use crate::arena::Deep;
use crate::host::scaled;
use crate::migratetype::Migratetype::{self, Movable, Reclaimable, Unmovable};
use crate::zone::ZoneKind;

/// Pageblocks of eight pages, two to a largest block, and lists that need no nodes.
type Plain = Shallow<4, 3, 0>;

/// The same with nodes for almost every block.
type WithNodes = Deep<4, 3, 2>;

#[test]
fn an_unmovable_request_takes_over_one_free_pageblock_and_fills_it_before_the_next() {
    with_memory::<Plain>(64, 64, |bench| {
        let first = bench.alloc(0, Unmovable).expect("all is free");
        assert_eq!(bench.listed(), [7, 56, 0]);
        for left in (0..7).rev() {
            let next = bench.alloc(0, Unmovable).expect("all is free");
            assert_eq!(next / 8, first / 8, "another pageblock was broken into");
            assert_eq!(bench.listed(), [left, 56, 0]);
        }
        let next = bench.alloc(0, Unmovable).expect("most is free");
        assert_ne!(next / 8, first / 8);
        assert_eq!(bench.listed(), [7, 48, 0]);
    });
}

#[test]
fn a_request_above_a_pageblock_takes_over_every_pageblock_of_its_block() {
    with_memory::<Plain>(64, 64, |bench| {
        let head = bench.alloc(4, Reclaimable).expect("all is free");
        assert_eq!(bench.listed(), [0, 48, 0]);
        bench.free(head);
        assert_eq!(bench.listed(), [0, 48, 16]);
    });
}

/// Frees pages of a pageblock of type `from`, with all else in use, and lets `to` have one of them. Says which lists
/// the others are on then.
fn take_one(freed: &[u32], from: Migratetype, to: Migratetype, then: impl FnOnce(&Bench<'_, Plain>, u32)) -> [u32; 3] {
    let mut listed = [0; 3];
    with_memory::<Plain>(16, 16, |bench| {
        bench.fill(&[from; 2]);
        bench.free_each(freed.iter().copied());
        let page = bench.alloc(0, to).expect("pages are free");
        assert!(freed.contains(&page));
        listed = bench.listed();
        then(bench, page);
    });
    listed
}

#[test]
fn a_pageblock_half_free_changes_its_type_for_pages_that_stay() {
    for freed in [[0, 1, 2, 3], [4, 5, 6, 7], [0, 2, 4, 6], [1, 2, 5, 7], [3, 4, 5, 6]] {
        let listed = take_one(&freed, Movable, Unmovable, |bench, _| {
            // The movable pages that are still there are strangers now, and come back as unmovable ones.
            let stranger = (0..8).find(|page| !freed.contains(page)).expect("half is in use");
            bench.free(stranger);
            assert_eq!(bench.listed(), [4, 0, 0]);
        });
        assert_eq!(listed, [3, 0, 0], "{freed:?} of a pageblock were free");
        assert_eq!(take_one(&freed, Movable, Reclaimable, |_, _| {}), [0, 0, 3]);
    }
}

#[test]
fn a_pageblock_less_than_half_free_keeps_its_type_and_gets_its_pages_back() {
    for freed in [&[0, 1, 2][..], &[5, 6, 7], &[1, 3, 5], &[6]] {
        let left = u32::try_from(freed.len()).expect("few") - 1;
        let listed = take_one(freed, Movable, Unmovable, |bench, page| {
            bench.free(page);
            assert_eq!(bench.listed(), [0, left + 1, 0]);
        });
        assert_eq!(listed, [0, left, 0], "{freed:?} of a pageblock were free");
    }
}

#[test]
fn a_movable_request_takes_over_half_a_pageblock_only_if_its_block_is_a_large_part() {
    for freed in [[0, 2, 4, 6], [1, 3, 5, 7]] {
        assert_eq!(take_one(&freed, Unmovable, Movable, |_, _| {}), [3, 0, 0], "single pages are no large part");
    }
    for freed in [[0, 1, 2, 3], [0, 1, 4, 6]] {
        assert_eq!(take_one(&freed, Unmovable, Movable, |_, _| {}), [0, 3, 0], "a pair is one");
    }
}

/// Linux's table of fallbacks.
const FALLBACKS: [(Migratetype, [Migratetype; 2]); 3] =
    [(Unmovable, [Reclaimable, Movable]), (Movable, [Reclaimable, Unmovable]), (Reclaimable, [Unmovable, Movable])];

/// With the first pageblock of the second choice, the second of the first choice, and the third of the request's own
/// type; all in use but for the pages in `freed`: gives what requests get.
fn choices(freed: &[u32], expected: &[u32]) {
    for (kind, [first, second]) in FALLBACKS {
        with_memory::<Plain>(32, 32, |bench| {
            bench.fill(&[second, first, kind, kind]);
            bench.free_each(freed.iter().copied());
            for &page in expected {
                assert_eq!(bench.alloc(0, kind), Some(page), "{kind:?} of {freed:?}");
            }
            assert_eq!(bench.alloc(0, kind), None);
        });
    }
}

#[test]
fn of_blocks_alike_its_own_come_first_and_the_second_choice_last() {
    choices(&[2, 10, 18], &[18, 10, 2]);
}

#[test]
fn where_no_pageblock_can_be_taken_over_the_smallest_block_is_broken() {
    // A pair of the first choice, a single page of the second.
    choices(&[2, 10, 11], &[2, 10, 11]);
}

#[test]
fn a_pageblock_worth_taking_over_is_found_by_the_largest_block() {
    // A single page of the first choice, half a pageblock of the second.
    choices(&[4, 5, 6, 7, 10], &[4, 5, 6, 7, 10]);
}

#[test]
fn a_pageblock_in_two_zones_keeps_its_type() {
    // The lower half of the only pageblock is lowmem and free, the upper half highmem.
    with_memory::<Plain>(8, 4, |bench| {
        let page = bench.alloc_up_to(0, Unmovable, ZoneKind::Normal).expect("four pages of lowmem");
        assert!(page < 4);
        assert_eq!(bench.listed(), [0, 7, 0]);
        bench.free(page);
        assert_eq!(bench.listed(), [0, 8, 0]);
    });
}

#[test]
fn a_migratetype_can_have_every_page_whoever_had_it_before_and_however_broken() {
    let kinds = [Unmovable, Movable, Reclaimable, Movable, Unmovable, Reclaimable];
    let broken: [fn(u32) -> bool; 4] = [|_| true, |page| page % 2 == 1, |page| page % 5 > 1, |page| page % 24 < 9];
    for (lowmem, kind) in [0, 21, 48].into_iter().zip(Migratetype::REQUESTED.into_iter().cycle()) {
        for freed in broken.into_iter().skip(scaled(0, 2)) {
            with_memory::<WithNodes>(48, lowmem, |bench| {
                bench.fill(&kinds);
                bench.free_each((0..48).filter(|&page| freed(page)));
                let free = bench.free_pages();
                assert_eq!(bench.take_all(kind), free);
                assert_eq!((bench.free_pages(), bench.nodes()), (0, 0));
            });
        }
    }
}
