//! Owned blocks as values: split in place, given up and taken back.
#![expect(unsafe_code, reason = "takes raw blocks back")]

use super::checks::Checks;
use super::holdings::{Holdings, orders};
use super::permutation::Permutation;
use super::random::Random;
use super::{Failure, Seed, contents};
use crate::PageState;
use crate::machine::{Geometry, Machine};
use crate::page::{Block, FreeError, PageAllocator, Request};
use crate::units::Order;

fn split<'a, M: Machine>(block: Block<'a, M>) -> Result<(Block<'a, M>, Block<'a, M>), Failure> {
    block.split().map_err(|_| Failure::Expected("a block of more than one page can be split"))
}

pub(super) fn halves_are_freed_in_either_order<M: Machine>(
    allocator: &PageAllocator<'_, M>,
    seed: Seed,
) -> Result<(), Failure> {
    let mut checks = Checks::new(allocator);
    for order in orders::<M>().skip(1) {
        for lower_first in [true, false] {
            let Ok(mut block) = allocator.alloc(Request::movable(order)) else { continue };
            contents::write(&mut block, seed.0)?;
            let whole = block.range();
            let (low, high) = split(block)?;
            checks.step()?;
            Failure::unless_of(low.head() == whole.start, low.head(), "the lower half comes first")?;
            Failure::unless_of(low.range().end == high.head(), high.head(), "the upper half follows the lower one")?;
            Failure::unless_of(high.range().end == whole.end, high.head(), "two halves make up the block")?;
            let (first, mut second) = if lower_first { (low, high) } else { (high, low) };
            drop(first);
            checks.step()?;
            contents::check(&mut second)?;
            drop(second);
            checks.step()?;
        }
    }
    let page = allocator.alloc(Request::movable(Order::ZERO))?;
    Failure::unless(page.split().is_err(), "a single page cannot be split")?;
    checks.turn()
}

pub(super) fn a_block_split_into_pages_comes_back_in_random_order<M: Machine>(
    allocator: &PageAllocator<'_, M>,
    seed: Seed,
) -> Result<(), Failure> {
    let mut pages = Holdings::new(allocator)?;
    let Ok(block) = allocator.alloc(Request::movable(M::Geometry::PAGEBLOCK_ORDER)) else {
        return Err(Failure::Skipped("no pageblock is free"));
    };
    let whole = block.range();
    pages.insert(block)?;
    for order in (1..=M::Geometry::PAGEBLOCK_ORDER.index()).rev().map(Order::of) {
        for head in whole.frames().step_by(order.pages() as usize) {
            let block =
                pages.take(head).ok_or(Failure::ExpectedOf { what: "a half is a block of its own", pfn: head })?;
            let (low, high) = split(block)?;
            pages.insert(low)?;
            pages.insert(high)?;
        }
    }
    allocator.verify()?;
    for pfn in Permutation::of(whole, Random::new(seed).bits()) {
        drop(pages.take(pfn));
    }
    Failure::unless_equal(0, pages.pages(), "pages left of a block that was freed page by page")?;
    Ok(allocator.verify()?)
}

pub(super) fn a_raw_block_becomes_an_owned_one_again_with_its_contents<M: Machine>(
    allocator: &PageAllocator<'_, M>,
    seed: Seed,
) -> Result<(), Failure> {
    let mut checks = Checks::new(allocator);
    for order in orders::<M>() {
        let Ok(mut block) = allocator.alloc(Request::movable(order)) else { continue };
        contents::write(&mut block, seed.0)?;
        let head = block.into_raw();
        let used = allocator.page_state(head) == (PageState::Allocated, order);
        Failure::unless_of(used, head, "a raw block stays allocated")?;
        if order > Order::ZERO {
            let tail = head.plus(1);
            // SAFETY: the page is a tail, so this must fail; that it does is what is tested.
            let refused = unsafe { allocator.from_raw(tail) }.err();
            let expected = FreeError::Tail { pfn: tail, head };
            Failure::unless_of(refused == Some(expected), tail, "a tail is no block to own")?;
        }
        // SAFETY: the block was given up just above, and nobody else has its head.
        let mut block = unsafe { allocator.from_raw(head) }?;
        Failure::unless_of(block.order() == order, head, "a raw block knows its order")?;
        contents::check(&mut block)?;
        drop(block);
        // SAFETY: the block is free, so this must fail; that it does is what is tested.
        let refused = unsafe { allocator.from_raw(head) }.err();
        Failure::unless_of(refused == Some(FreeError::AlreadyFree(head)), head, "a free block is no block to own")?;
        checks.step()?;
    }
    checks.turn()
}
