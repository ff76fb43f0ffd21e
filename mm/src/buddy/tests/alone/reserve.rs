//! What a zone sets aside, and what it leaves to others.

use std::vec::Vec;

use super::{BASE, Plain, ZONE, with_zone};
use crate::desc::allocator_word::AllocatorWord;
use crate::migratetype::Migratetype::{self, Movable};
use crate::units::Order;
use crate::zone::ZoneKind;
use crate::zone::watermark::{Demand, Urgency, Watermark};

/// A demand that leaves what it must, and is met as long as there is anything.
fn demand(order: usize, urgency: Urgency) -> Demand {
    Demand { order: Order::of(order), highest: ZoneKind::Dma32, urgency, leaving: Watermark::Min }
}

#[test]
fn blocks_are_set_aside_as_soon_as_one_more_than_all_of_them_and_twice_the_mark_are_left() {
    // Four largest blocks are to be set aside; plenty is more than five and twice ten pages.
    for (left, set_aside) in [(5 * 16 + 20, 0), (5 * 16 + 21, 4)] {
        with_zone::<Plain>(256, |zone| {
            zone.zone.watermarks.high = 10;
            assert_eq!(zone.zone.highatomic_wanted(), 4);
            for _ in left + 1..256 {
                zone.alloc(0, Movable);
            }
            assert_eq!((zone.zone.free, zone.zone.highatomic.len()), (left + 1, 0));
            zone.buddy(|buddy| buddy.alloc_for(demand(0, Urgency::Ordinary), Movable)).expect("plenty is free");
            assert_eq!((zone.zone.free, zone.zone.highatomic.len()), (left, set_aside));
        });
    }
}

#[test]
#[expect(clippy::redundant_closure_for_method_calls, reason = "the methods are of one lifetime, the closures of any")]
fn what_is_set_aside_is_free_until_it_is_given_up_and_then_everybodys() {
    with_zone::<Plain>(256, |zone| {
        zone.buddy(|buddy| buddy.set_aside());
        zone.verify();
        assert_eq!((zone.zone.highatomic.len(), zone.pages(Migratetype::HighAtomic)), (4, 64));
        let heads: Vec<_> = zone.zone.highatomic.iter().map(|head| head.number() - BASE.number()).collect();
        assert!(heads.iter().all(|head| head % 16 == 0) && heads.contains(&240), "{heads:?}");
        let taken = core::iter::from_fn(|| zone.alloc(0, Movable)).count();
        assert_eq!(taken, 256 - 64);
        assert_eq!(zone.buddy(|buddy| buddy.alloc_for(demand(1, Urgency::Ordinary), Movable)), None);
        let urgent =
            zone.buddy(|buddy| buddy.alloc_for(demand(1, Urgency::Atomic), Movable)).expect("that is what it is for");
        assert!(heads.contains(&((urgent.number() - BASE.number()) & !15)));
        zone.verify();
        assert_eq!(zone.buddy(|buddy| buddy.give_up_reserve()).0, 62);
        zone.verify();
        assert_eq!((zone.pages(Migratetype::HighAtomic), zone.pages(Movable)), (0, 62));
    });
}

#[test]
fn a_batch_leaves_what_its_demand_must() {
    // The last of twenty pages would be the last quarter of a batch, for which no block is broken.
    for (order, most) in [(0, 16), (1, 10), (2, 5)] {
        with_zone::<Plain>(64, |zone| {
            zone.zone.watermarks.min = 44;
            let (mut taken, allocated) = (0, AllocatorWord::allocated(Movable, Order::of(order), ZONE));
            let demand = demand(order, Urgency::Ordinary);
            zone.buddy(|buddy| buddy.alloc_bulk_for(demand, allocated, 64, |_, _| taken += 1));
            zone.cached = taken << order;
            assert_eq!(taken, most, "blocks of order {order}");
        });
    }
}
