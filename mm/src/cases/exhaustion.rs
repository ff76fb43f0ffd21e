//! FREE-3: with k pages free, k pages can be had, node pages among them; and all of them come back (FREE-6).

use super::holdings::{Holdings, orders};
use super::permutation::Permutation;
use super::random::Random;
use super::{Failure, Seed};
use crate::machine::Machine;
use crate::page::{PageAllocator, Request};
use crate::units::{Order, Pfn, PfnRange};

pub(super) fn every_free_page_can_be_allocated_and_comes_back_in_ascending_order<M: Machine>(
    allocator: &PageAllocator<'_, M>,
    _: Seed,
) -> Result<(), Failure> {
    all_pages_and_back(allocator, PfnRange::frames)
}

pub(super) fn every_free_page_can_be_allocated_and_comes_back_in_descending_order<M: Machine>(
    allocator: &PageAllocator<'_, M>,
    _: Seed,
) -> Result<(), Failure> {
    all_pages_and_back(allocator, |hull| hull.frames().rev())
}

pub(super) fn every_free_page_can_be_allocated_and_comes_back_in_random_order<M: Machine>(
    allocator: &PageAllocator<'_, M>,
    seed: Seed,
) -> Result<(), Failure> {
    all_pages_and_back(allocator, |hull| Permutation::of(hull, Random::new(seed).bits()))
}

fn all_pages_and_back<M: Machine, I: Iterator<Item = Pfn>>(
    allocator: &PageAllocator<'_, M>,
    order: impl FnOnce(PfnRange) -> I,
) -> Result<(), Failure> {
    let mut held = Holdings::new(allocator)?;
    let free = allocator.free_pages();
    let count = held.alloc_all(Request::movable(Order::ZERO))?;
    Failure::unless_equal(free, count, "pages allocated until none is left")?;
    Failure::unless_equal(0, allocator.free_pages(), "free pages when none is left")?;
    Failure::unless_equal(0, allocator.zones().map(|zone| zone.nodes).sum(), "nodes when no page is free")?;
    allocator.verify()?;
    for pfn in order(held.hull()) {
        if let Some(page) = held.take(pfn) {
            drop(page);
            if held.pages() == count / 2 {
                allocator.verify()?;
            }
        }
    }
    Failure::unless_equal(0, held.pages(), "pages left that no order visits")?;
    Failure::unless_equal(free, allocator.free_pages(), "free pages when all came back")?;
    Ok(allocator.verify()?)
}

/// Order 0 is what the cases above are about.
pub(super) fn blocks_of_every_order_run_out_only_when_none_is_left<M: Machine>(
    allocator: &PageAllocator<'_, M>,
    _: Seed,
) -> Result<(), Failure> {
    for order in orders::<M>().skip(1) {
        let mut held = Holdings::new(allocator)?;
        let free = allocator.free_pages();
        let count = held.alloc_all(Request::movable(order))?;
        Failure::unless_equal(free, allocator.free_pages() + count * order.pages(), "pages free or held")?;
        for larger in orders::<M>().filter(|&larger| larger >= order) {
            let left = allocator.zones().map(|zone| zone.blocks_of(larger)).sum();
            Failure::unless_equal(0, left, "blocks large enough when the order has run out")?;
        }
        allocator.verify()?;
        drop(held);
    }
    Ok(())
}
