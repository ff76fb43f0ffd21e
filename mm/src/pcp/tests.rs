//! One list.

mod caches;
mod shelf;

use core::any::Any;
use std::boxed::Box;
use std::sync::Mutex;
use std::vec::Vec;

use super::list::{List, Relief, Slot, Supply, blocks_between, capacity, shelf_capacity};
use crate::desc::allocator_word::AllocatorWord;
use crate::desc::word::Page;
use crate::machine::{Geometry, Standard};
use crate::migratetype::Migratetype;
use crate::units::{Count, Order, Pfn, ZoneId};

const WORD: AllocatorWord = AllocatorWord::allocated(Migratetype::Movable, Order::ZERO, ZoneId(0));

/// A list.
struct Rig {
    list: List<'static>,
}

/// What lists lead to, which stays: whoever looks for memory that was lost finds it here.
static KEPT: Mutex<Vec<&'static (dyn Any + Sync)>> = Mutex::new(Vec::new());

fn kept<T: Any + Sync>(value: T) -> &'static T {
    let kept: &'static T = Box::leak(Box::new(value));
    KEPT.lock().expect("nobody panics").push(kept);
    kept
}

/// A descriptor, of whatever frame.
fn page() -> &'static Page {
    kept(Page::new(WORD))
}

fn rig(capacity: usize) -> Rig {
    let slots: Vec<_> = (0..capacity).map(|_| Slot::empty()).collect();
    Rig { list: List::new(kept(slots), WORD) }
}

impl Rig {
    fn fill(&self) {
        let _ = (0..).map(Pfn::new).find(|&head| self.list.put(page(), head).is_none());
    }

    fn empty(&self) {
        while self.list.take().is_some() {}
    }

    fn oldest(&self) -> Option<Pfn> {
        self.list.take_oldest(Count(1)).next().map(|(_, head)| head)
    }

    fn wants(&self, supply: Supply) -> u32 {
        self.list.wants(supply)
    }

    fn relieve(&self, supply: Supply) -> Relief {
        self.list.relieve(supply)
    }

    fn drain(&self, Count(count): Count) {
        assert_eq!(self.list.take_oldest(Count(count)).count(), count as usize, "it drains no more than it has");
    }
}

/// In pages: of single ones a zone's share, of small blocks half of that, of larger ones a quarter, of the largest none.
#[test]
fn lists_hold_powers_of_two_of_blocks_up_to_their_share_and_shelves_a_quarter_of_it() {
    for pages in [0, 1, 15, 16, 17, 100, 1000, 4096, 65_536, 131_071, 131_072, 1 << 20, u32::MAX] {
        let share = (pages / 16).min(8192);
        for order in (0..=10).map(Order::of) {
            let most = match order.number() {
                0 => share,
                1..=3 => share / 2,
                4..=9 => share / 4,
                _ => 0,
            };
            let blocks = capacity::<Standard>(order, pages);
            let held = blocks << order.number();
            assert!(held <= most, "{blocks} blocks of {order:?}, {pages} pages");
            assert!(
                blocks == 0 && most < order.pages()
                    || blocks.is_power_of_two() && held * 2 > most - most % order.pages()
            );
            let shelf = if order.index() <= 3 { blocks / 4 } else { 0 };
            assert_eq!(shelf_capacity::<Standard>(order, pages), shelf, "{order:?}, {pages} pages");
        }
    }
}

/// Largest blocks are pageblocks.
struct Coarse;

impl Geometry for Coarse {
    const MAX_ORDER: Order = Order::of(9);
    const PAGEBLOCK_ORDER: Order = Order::of(9);
    const LEAF_SHIFT: u32 = 10;
    const NODE_SHIFT: u32 = 9;
    const INLINE: u32 = 16;
    const RESERVE_SHARE: u32 = 0;
    const CPU_CACHE: u32 = Standard::CPU_CACHE;
    const CPU_CACHE_SHARE: u32 = Standard::CPU_CACHE_SHARE;
}

#[test]
fn of_the_largest_blocks_nobody_has_any_at_hand_even_if_they_are_pageblocks() {
    assert_eq!([8, 9].map(|order| capacity::<Coarse>(Order::of(order), u32::MAX)), [8, 0]);
}

#[test]
fn the_newest_is_taken_first_and_the_oldest_drained_first_also_where_the_ring_wraps() {
    let rig = rig(8);
    let mut next = 0;
    let number = |head: Option<Pfn>| head.map(Pfn::number);
    for _ in 0..20 {
        while rig.list.put(page(), Pfn::new(next)).is_some() {
            next += 1;
        }
        assert_eq!(number(rig.list.take().map(|(_, head)| head)), Some(next - 1));
        assert_eq!(number(rig.oldest()), Some(next - 8));
        assert_eq!(rig.list.len(), 6);
        assert!(rig.list.iter().map(|(_, head)| head.number()).eq(next - 7..next - 1));
        rig.drain(Count(5));
        assert_eq!(number(rig.list.take().map(|(_, head)| head)), Some(next - 2));
        assert!(rig.list.take().is_none() && rig.oldest().is_none());
    }
}

#[test]
fn blocks_above_the_pivot_are_drained_first_and_handed_out_only_when_one_is_as_good_as_another() {
    let rig = rig(16);
    let number = |head: Option<Pfn>| head.map(Pfn::number);
    let put =
        |heads: &[u32]| heads.iter().for_each(|&head| rig.list.put(page(), Pfn::new(head)).expect("there is room"));
    let take = || number(rig.list.take().map(|(_, head)| head));
    for _ in 0..10 {
        rig.list.set_pivot(Some(Pfn::new(100)));
        put(&[1, 100, 2, 101, 3, 102]);
        assert_eq!((rig.list.len(), rig.list.above_pivot(), rig.list.high()), (6, Count(3), 16));
        assert!(rig.list.iter().map(|(_, head)| head.number()).eq([102, 101, 100, 1, 2, 3]));
        assert_eq!((number(rig.oldest()), take()), (Some(102), Some(3)));
        put(&[103, 4, 5, 6, 7, 8, 104, 9, 10, 11, 12, 13]);
        assert!(rig.list.is_full(), "both kinds take up room");
        assert!((4..=13).rev().chain([2, 1]).all(|head| take() == Some(head)));
        assert_eq!((take(), rig.list.len()), (None, 4));
        rig.list.set_pivot(None);
        assert_eq!((take(), take()), (Some(100), Some(101)));
        put(&[200]);
        assert_eq!((take(), rig.list.above_pivot()), (Some(200), Count(0)), "there is no pivot to be above of");
        rig.drain(Count(2));
        assert_eq!((take(), rig.list.len(), rig.list.high()), (None, 0, 16));
    }
}

#[test]
fn a_list_without_slots_takes_nothing_and_has_nothing() {
    let rig = rig(0);
    assert_eq!(rig.list.put(page(), Pfn::new(0)), None);
    assert!(rig.list.is_full());
    assert!(rig.list.take().is_none() && !rig.list.keeps_any());
    assert_eq!((rig.list.len(), rig.list.high()), (0, 0));
}

#[test]
fn a_list_that_runs_empty_and_full_in_turns_grows_until_neither_happens() {
    let rig = rig(4096);
    let mut turns = 0;
    while rig.list.high() < 4096 {
        assert!(rig.wants(Supply::Ample) <= rig.list.high());
        rig.fill();
        assert_eq!(rig.relieve(Supply::Ample), Relief::Grown);
        rig.empty();
        turns += 1;
    }
    assert_eq!(turns, 4, "from 256 to 4096, doubling");
    rig.wants(Supply::Ample);
    rig.fill();
    assert!(matches!(rig.relieve(Supply::Ample), Relief::Drain(Count(1..))), "there is no room to grow into");
}

#[test]
fn a_cpu_that_only_frees_moves_ever_larger_batches_and_keeps_no_more_for_it() {
    let rig = rig(8192);
    let high = rig.list.high();
    rig.fill();
    assert_eq!(rig.relieve(Supply::Ample), Relief::Grown, "once: what it does is not known yet");
    let batches: Vec<_> = (0..6)
        .map(|_| {
            rig.fill();
            let Relief::Drain(count) = rig.relieve(Supply::Ample) else { panic!("it only frees") };
            rig.drain(count);
            count.0
        })
        .collect();
    assert_eq!(batches, [128, 256, 256, 256, 256, 256], "up to half of the list");
    assert_eq!(rig.list.high(), 2 * high);
}

#[test]
fn a_cpu_that_only_allocates_moves_ever_larger_batches_within_what_the_list_may_hold() {
    let rig = rig(8192);
    let batches: Vec<_> = (0..5).map(|_| rig.wants(Supply::Ample)).collect();
    assert_eq!(batches, [64, 128, 256, 256, 256]);
}

#[test]
fn a_zone_that_is_short_makes_its_lists_small() {
    let rig = rig(8192);
    rig.fill();
    let Relief::Drain(count) = rig.relieve(Supply::Short) else { panic!("no list grows when pages are short") };
    rig.drain(count);
    // Half a batch stays, the block that comes next included.
    assert_eq!((rig.list.len(), rig.list.high()), (31, 64));
    rig.empty();
    assert_eq!(rig.wants(Supply::Short), 16);
}

#[test]
fn a_list_that_has_grown_shrinks_with_time_to_what_it_began_with() {
    let rig = rig(8192);
    let begun = rig.list.high();
    for _ in 0..5 {
        rig.wants(Supply::Ample);
        rig.fill();
        rig.relieve(Supply::Ample);
    }
    assert_eq!(rig.list.high(), 8192);
    rig.fill();
    let ticks = (0..).find(|_| {
        let before = rig.list.high();
        let many = rig.list.age();
        rig.drain(Count(many));
        assert!(rig.list.len() <= rig.list.high() && rig.list.high() <= before);
        rig.list.high() == begun
    });
    assert_eq!((rig.list.len(), ticks), (begun, Some(26)));
    assert_eq!((rig.list.age(), rig.list.high()), (0, begun));
}

#[test]
#[should_panic(expected = "invariant PCP-1 broken: pfn 0x7 is at hand, and not free")]
fn a_block_that_is_in_a_list_twice_leaves_it_once() {
    let (rig, page) = (rig(4), page());
    for _ in 0..2 {
        rig.list.put(page, Pfn::new(7)).expect("there is room");
    }
    assert_eq!(rig.list.take().map(|(_, head)| head.number()), Some(7));
    rig.list.take();
}

#[test]
#[should_panic(expected = "invariant PCP-1 broken: pfn 0x7 is at hand, and not free")]
fn a_block_that_belongs_to_somebody_leaves_no_list() {
    let (rig, page) = (rig(4), page());
    rig.list.put(page, Pfn::new(7)).expect("there is room");
    page.set_allocated(Migratetype::Movable, Order::ZERO, ZoneId(0));
    rig.list.take_oldest(Count(1)).for_each(drop);
}

#[test]
fn a_block_is_put_where_it_is_handed_out_next_if_there_is_room_and_it_is_below_the_pivot() {
    let rig = rig(2);
    rig.list.set_pivot(Some(Pfn::new(100)));
    assert_eq!(rig.list.put_near(page(), Pfn::new(100)), None);
    assert_eq!(rig.list.put_near(page(), Pfn::new(99)), Some(()));
    assert_eq!(rig.list.put_near(page(), Pfn::new(3)), Some(()));
    assert_eq!(rig.list.put_near(page(), Pfn::new(4)), None, "it is full");
    assert_eq!(rig.list.take().map(|(_, head)| head.number()), Some(3));
}

#[test]
fn a_bound_from_before_a_drain_and_one_from_after_it_make_no_blocks() {
    let full = 8;
    // Bounds wrap around.
    assert_eq!((blocks_between(5, 7, full), blocks_between(u32::MAX, 7, full)), (2, 8));
    assert_eq!((blocks_between(6, 5, full), blocks_between(5, 14, full), blocks_between(7, 7, 0)), (0, 0, 0));
}
