//! What fails of a row of calls, and what of a row of allocations.

use std::string::ToString;
use std::vec::Vec;

use super::{FaultAttr, FaultAttrError, FaultField, FaultPoint, FaultReport, Faults, Fired};
use crate::host::scaled;
use crate::random::RandomSeed;
use crate::units::{Bytes, Count, Order};

fn attr(text: &str) -> FaultAttr {
    text.parse().expect("it is one")
}

/// Which of so many calls fail, each about one page, counted from 1.
fn failing(faults: &Faults, calls: u32) -> Vec<u32> {
    (1..=calls).filter(|_| faults.should_fail_alloc_page(Order::ZERO).is_some()).collect()
}

fn of(text: &str, calls: u32) -> Vec<u32> {
    let faults = Faults::none();
    faults.set(FaultPoint::PageAlloc, attr(text), RandomSeed(1));
    failing(&faults, calls)
}

#[test]
fn what_is_read_is_shown_as_linux_writes_it() {
    for text in ["1,100,0,-1", "0,0,0,0", "18446744073709551615,7,18446744073709551615,4294967294"] {
        assert_eq!(attr(text).to_string(), text);
    }
    assert_eq!(FaultAttr::nth(Count(7)).to_string(), "7,100,0,1");
    assert_eq!(FaultAttr::of_a_hundred(Count(7)).to_string(), "1,7,0,-1");
    assert_eq!(FaultAttr::NONE.to_string(), "1,0,0,0");
}

#[test]
fn what_does_not_say_which_calls_fail_is_refused_for_the_reason_why() {
    use FaultField::{Interval, Probability, Space, Times};
    let number = FaultAttrError::NotANumber;
    for (text, error) in [
        ("", FaultAttrError::NotFour),
        ("1,2,3", FaultAttrError::NotFour),
        ("1,2,3,4,", FaultAttrError::NotFour),
        ("1,2,3,4,5", FaultAttrError::NotFour),
        (",2,3,4", number(Interval)),
        ("x,2,3,4", number(Interval)),
        ("-1,2,3,4", number(Interval)),
        ("18446744073709551616,2,3,4", number(Interval)),
        ("1,+2,3,4", number(Probability)),
        ("1,101,3,4", FaultAttrError::TooProbable),
        ("1,4294967297,3,4", FaultAttrError::TooProbable),
        ("1,2, 3,4", number(Space)),
        ("1,2,3,-2", number(Times)),
        ("1,2,3,4294967295", number(Times)),
    ] {
        assert_eq!(text.parse::<FaultAttr>(), Err(error), "{text}");
    }
    assert_eq!(number(Space).to_string(), "the space is not a number that fits");
}

#[test]
fn of_an_interval_the_last_call_fails_so_many_times_and_once_the_space_is_used_up() {
    assert_eq!(of("1,100,0,-1", 5), [1, 2, 3, 4, 5]);
    assert_eq!(of("0,100,0,2", 5), [1, 2]);
    assert_eq!(of("3,100,0,-1", 10), [3, 6, 9]);
    assert_eq!(of("3,100,0,2", 10), [3, 6]);
    // The call that would use the last of it up is the first to be asked.
    assert_eq!(of("2,100,4,-1", 10), [5, 7, 9]);
    assert_eq!(of("1,0,0,-1", 100), []);
    assert_eq!(of("1,100,0,0", 100), []);
    let faults = Faults::none();
    faults.set(FaultPoint::PageAlloc, FaultAttr::nth(Count(4)), RandomSeed(0));
    assert_eq!(failing(&faults, 10), [4]);
}

#[test]
fn space_is_pages_of_blocks_and_bytes_of_objects() {
    let faults = Faults::none();
    faults.set(FaultPoint::PageAlloc, attr("1,100,9,-1"), RandomSeed(0));
    faults.set(FaultPoint::Slab, attr("1,100,100,-1"), RandomSeed(0));
    assert_eq!(faults.should_fail_alloc_page(Order::of(3)), None);
    assert!(faults.should_fail_alloc_page(Order::ZERO).is_some());
    assert_eq!([60, 39, 1].map(|size| faults.should_failslab(Bytes(size)).is_some()), [false, false, true]);
}

#[test]
fn so_many_of_a_hundred_fail_others_for_each_seed_and_the_same_for_the_same() {
    let run = |seed| {
        let faults = Faults::none();
        faults.set(FaultPoint::PageAlloc, attr("1,20,0,-1"), RandomSeed(seed));
        let failed = failing(&faults, 10_000);
        let report = faults.report(FaultPoint::PageAlloc);
        assert_eq!(report, FaultReport { calls: 10_000, injected: failed.len() as u64 });
        failed
    };
    for seed in 0..scaled(8, 1) {
        let failed = run(seed);
        assert!((1800..2200).contains(&failed.len()), "{}", failed.len());
        assert_eq!(failed, run(seed));
        assert_ne!(failed, run(seed + 1));
    }
}

#[test]
fn each_kind_fails_as_it_was_told_and_the_nth_call_counts_both() {
    let faults = Faults::none();
    let page = || faults.should_fail_alloc_page(Order::ZERO).is_some();
    let object = || faults.should_failslab(Bytes(8)).is_some();
    assert!(!page() && !object());
    faults.set(FaultPoint::Slab, attr("1,100,0,1"), RandomSeed(0));
    assert!(!page() && object() && !object());
    assert_eq!(faults.report(FaultPoint::Slab).to_string(), "1 of 2 allocations were told to fail");
    assert_eq!(faults.report(FaultPoint::PageAlloc), FaultReport { calls: 0, injected: 0 });
    faults.fail_nth(3);
    assert!(!page() && !object() && page() && !page());
    assert_eq!(faults.stop(), Fired::Yes);
    faults.fail_nth(3);
    assert!(!page() && !page());
    assert_eq!(faults.stop(), Fired::No);
    assert!(!page());
    faults.set(FaultPoint::Slab, attr("1,100,0,-1"), RandomSeed(0));
    assert_eq!((object(), faults.clear(FaultPoint::Slab).injected, object()), (true, 1, false));
}
