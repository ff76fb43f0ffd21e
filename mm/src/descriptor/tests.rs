//! What is refused changes nothing.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::*;
use crate::units::{Order, Pfn};

#[test]
fn a_reference_too_many_is_refused_and_none_is_lost() {
    let life = Life::unborn();
    life.begin(Pfn::new(7), Order::of(2), Keeper::NOBODY, u32::try_from(MOST).expect("fewer than can be counted"));
    let seen = life.look().expect("it is alive");
    for _ in 0..3 {
        assert!(catch_unwind(AssertUnwindSafe(|| life.get())).is_err());
        assert_eq!(life.try_get(seen.generation), None);
    }
    assert_eq!((u64::from(life.references()), life.look().map(|seen| seen.generation)), (MOST, Some(seen.generation)));
    assert_eq!(life.put(), Put::Others);
    life.get();
    assert_eq!(u64::from(life.references()), MOST);
}
