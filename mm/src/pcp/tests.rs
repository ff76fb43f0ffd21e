//! One list.

use std::boxed::Box;
use std::vec::Vec;

use super::list::{List, Relief, Supply};
use crate::sync::AtomicU32;
use crate::units::{Count, Order, Pfn};

fn list(capacity: usize) -> List<'static> {
    let slots: Vec<_> = (0..capacity).map(|_| AtomicU32::new(0)).collect();
    List::new(Box::leak(slots.into_boxed_slice()), Order::ZERO)
}

fn fill(list: &List<'_>) -> u32 {
    (0..).find(|&pfn| list.put(Pfn::new(pfn)).is_err()).expect("a list has an end")
}

fn drain(list: &List<'_>, Count(count): Count) {
    assert!((0..count).all(|_| list.take_oldest().is_some()), "it drains no more than it has");
}

#[test]
fn the_newest_is_taken_first_and_the_oldest_drained_first_also_where_the_ring_wraps() {
    let list = list(8);
    let mut next = 0;
    for _ in 0..20 {
        while list.put(Pfn::new(next)).is_ok() {
            next += 1;
        }
        assert_eq!(list.take(), Some(Pfn::new(next - 1)));
        assert_eq!(list.take_oldest(), Some(Pfn::new(next - 8)));
        assert_eq!(list.len(), 6);
        assert!(list.iter().eq((next - 7..next - 1).map(Pfn::new)));
        drain(&list, Count(5));
        assert_eq!(list.take(), Some(Pfn::new(next - 2)));
        assert_eq!((list.take(), list.take_oldest()), (None, None));
    }
}

#[test]
fn a_list_without_slots_takes_nothing_and_has_nothing() {
    let list = list(0);
    assert_eq!((list.put(Pfn::new(7)), list.take(), list.len(), list.high()), (Err(Pfn::new(7)), None, 0, 0));
}

#[test]
fn a_list_that_runs_empty_and_full_in_turns_grows_until_neither_happens() {
    let list = list(4096);
    let mut turns = 0;
    while list.high() < 4096 {
        assert!(list.wants(Supply::Ample) <= list.high());
        fill(&list);
        assert_eq!(list.relieve(Supply::Ample), Relief::Grown);
        while list.take().is_some() {}
        turns += 1;
    }
    assert_eq!(turns, 4, "from 256 to 4096, doubling");
    list.wants(Supply::Ample);
    fill(&list);
    assert!(matches!(list.relieve(Supply::Ample), Relief::Drain(Count(1..))), "there is no room to grow into");
}

#[test]
fn a_cpu_that_only_frees_moves_ever_larger_batches_and_keeps_no_more_for_it() {
    let list = list(8192);
    let high = list.high();
    fill(&list);
    assert_eq!(list.relieve(Supply::Ample), Relief::Grown, "once: what it does is not known yet");
    let batches: Vec<_> = (0..6)
        .map(|_| {
            fill(&list);
            let Relief::Drain(count) = list.relieve(Supply::Ample) else { panic!("it only frees") };
            drain(&list, count);
            count.0
        })
        .collect();
    assert_eq!(batches, [128, 256, 256, 256, 256, 256], "up to half of the list");
    assert_eq!(list.high(), 2 * high);
}

#[test]
fn a_cpu_that_only_allocates_moves_ever_larger_batches_within_what_the_list_may_hold() {
    let list = list(8192);
    let batches: Vec<_> = (0..5).map(|_| list.wants(Supply::Ample)).collect();
    assert_eq!(batches, [64, 128, 256, 256, 256]);
}

#[test]
fn a_zone_that_is_short_makes_its_lists_small() {
    let list = list(8192);
    fill(&list);
    let Relief::Drain(count) = list.relieve(Supply::Short) else { panic!("no list grows when pages are short") };
    drain(&list, count);
    assert!(list.len() < 64 && list.high() == 64, "{} of {}", list.len(), list.high());
    while list.take().is_some() {}
    assert_eq!(list.wants(Supply::Short), 16);
}

#[test]
fn a_list_that_has_grown_shrinks_with_time_to_what_it_began_with() {
    let list = list(8192);
    let begun = list.high();
    for _ in 0..5 {
        list.wants(Supply::Ample);
        fill(&list);
        list.relieve(Supply::Ample);
    }
    assert_eq!(list.high(), 8192);
    fill(&list);
    let ticks = (0..).find(|_| {
        let before = list.high();
        let many = list.age();
        drain(&list, Count(many));
        assert!(list.len() <= list.high() && list.high() <= before);
        list.high() == begun
    });
    assert_eq!((list.len(), ticks), (begun, Some(26)));
}
