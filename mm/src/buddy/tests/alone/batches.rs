//! Many blocks at a time, out of a zone and back.

use std::vec::Vec;

use super::{Plain, with_zone};
use crate::desc::allocator_word::PageState;
use crate::migratetype::Migratetype::{Movable, Reclaimable, Unmovable};

#[test]
fn a_batch_breaks_no_block_for_its_last_quarter() {
    let batch = |want| {
        let mut taken = 0;
        with_zone::<Plain>(32, |zone| taken = zone.take(0, want).len());
        taken
    };
    // Half of a block of sixteen, and of the other half what is no less than a quarter of the batch.
    assert_eq!([8, 9, 10, 11, 12].map(batch), [8, 8, 10, 10, 12]);
}

#[test]
fn a_block_that_goes_into_the_batch_whole_is_taken_to_the_last() {
    with_zone::<Plain>(64, |zone| {
        // A pair of pages, and groups of four, none of which are buddies.
        zone.leave(&[Movable; 8], &[]);
        let groups = [8, 16, 24, 32, 40, 48, 56];
        groups.iter().chain(&[4]).flat_map(|&start| start..start + 2).for_each(|page| zone.free(page));
        groups.iter().flat_map(|&start| start + 2..start + 4).for_each(|page| zone.free(page));
        assert_eq!((zone.state(4), zone.state(8)), ((PageState::Free, 1), (PageState::Free, 2)));
        // One pair, then six groups of two pairs each: three are lacking, less than a quarter. A group goes in whole, and
        // one more pair would break the next; but there is none.
        let pairs = zone.take(1, 16);
        assert_eq!(pairs.len(), 15);
        assert_eq!(zone.zone.free, 0);
    });
}

#[test]
fn a_batch_takes_one_block_from_others_if_it_gets_no_other_and_else_none() {
    with_zone::<Plain>(64, |zone| {
        zone.leave(&[Movable, Unmovable, Unmovable, Reclaimable], &[1, 8, 10, 12]);
        assert_eq!(zone.take(0, 8), [1]);
        let taken = zone.take(0, 8);
        assert!(taken.len() == 1 && [8, 10, 12].contains(&taken[0]), "{taken:?}");
    });
}

#[test]
fn blocks_that_come_back_in_a_row_upwards_or_downwards_or_in_none_are_whole_again() {
    let shuffled = [5, 4, 7, 6, 0, 2, 1, 3, 8, 9, 15, 14, 13, 11, 12, 10];
    for order in [0, 1] {
        for back in [(0..16).collect::<Vec<u32>>(), (0..16).rev().collect(), shuffled.to_vec()] {
            with_zone::<Plain>(32, |zone| {
                let all = zone.take(order, 32 >> order);
                assert_eq!(all.len(), 32 >> order);
                let back: Vec<_> =
                    back.iter().filter(|&&piece| piece < 16 >> order).map(|piece| piece << order).collect();
                zone.put_back(order, &back);
                assert_eq!(zone.state(0), (PageState::Free, 4));
            });
        }
    }
}
