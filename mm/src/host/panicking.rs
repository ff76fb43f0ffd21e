//! Somebody who panics when memory is short, and somebody else who catches that: whatever was under way is unwound.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::vec::Vec;

use super::{HostMachine, orders_that_take_all};
use crate::page::{Block, PageAllocator, Request};
use crate::shrinker::{Shortage, Shrinker};
use crate::units::Count;

#[derive(Debug)]
struct Panics;

impl Shrinker for Panics {
    fn reclaimable(&self) -> Count {
        Count(1)
    }

    fn shrink(&self, _: &Shortage) -> Count {
        panic!("memory is short")
    }
}

/// Takes all memory that an ordinary request can have.
pub(crate) fn all_memory<'a>(pages: &'a PageAllocator<'_, HostMachine>) -> Vec<Block<'a, HostMachine>> {
    let requests = orders_that_take_all().flat_map(|order| [Request::movable(order), Request::new(order)]);
    requests.flat_map(|request| core::iter::from_fn(move || pages.alloc(request).ok())).collect()
}

/// Does some work, which panics where it would have to wait for memory; `None` if it did.
pub(crate) fn panicking_when_short<R>(pages: &PageAllocator<'_, HostMachine>, work: impl FnOnce() -> R) -> Option<R> {
    let caught = || catch_unwind(AssertUnwindSafe(work)).ok();
    pages.with_shrinker(&Panics, caught).expect("there is room for one more")
}
