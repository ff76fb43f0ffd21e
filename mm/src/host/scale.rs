//! How much a test does. An interpreter takes some thousand times as long, and finds undefined behaviour wherever it is
//! done once: there a test does less of the same.

#[cfg(all(test, not(loom)))]
use std::vec::Vec;

#[cfg(all(test, not(loom)))]
use super::HostMachine;
#[cfg(all(test, not(loom)))]
use crate::page::{Block, PageAllocator, Request};
#[cfg(all(test, not(loom)))]
use crate::units::Order;

/// The first, or the second where an interpreter runs the test.
pub const fn scaled<T: Copy>(native: T, interpreted: T) -> T {
    if cfg!(miri) { interpreted } else { native }
}

/// Looks at everything, as a test does after each of its steps. An interpreter does not: that would be most of what it does, and a
/// test looks once more in the end.
#[cfg(all(test, not(loom)))]
pub(crate) fn at_each_step(look: impl FnOnce()) {
    if scaled(true, false) {
        look();
    }
}

/// The orders of the blocks in which a test takes all memory, one after the other: single pages; where each block takes an
/// interpreter milliseconds, the largest first.
#[cfg(all(test, not(loom)))]
pub(crate) fn orders_that_take_all() -> impl Iterator<Item = Order> {
    (0..=scaled(0, Order::LIMIT.index())).rev().map(Order::of)
}

/// Takes blocks that an interpreter does without where single pages are counted, each of which takes milliseconds: what is left is
/// about so many pages.
#[cfg(all(test, not(loom)))]
pub(crate) fn ballast<'a>(
    allocator: &'a PageAllocator<'_, HostMachine>,
    block: Request,
    left: u32,
) -> Vec<Block<'a, HostMachine>> {
    let next = || scaled(false, allocator.free_pages() > left).then(|| allocator.alloc(block).ok()).flatten();
    core::iter::from_fn(next).collect()
}
