//! Frees that must not go through: the words alone say what is wrong, and nothing changes.
#![expect(unsafe_code, reason = "frees what must not be freed")]

use super::checks::Checks;
use super::footprint::Footprint;
use super::holdings::{Holdings, orders};
use super::node_pages::every_second_page_free;
use super::{Failure, Seed};
use crate::PageState;
use crate::machine::{Geometry, Machine};
use crate::page::{FreeError, PageAllocator, Request};
use crate::units::{Order, Pfn};

/// How many frames of a kind are tried.
const SAMPLE: usize = 8;

/// Frees a frame that must not be freed, and fails unless that is turned away for the right reason.
fn turned_away<M: Machine>(allocator: &PageAllocator<'_, M>, pfn: Pfn, expected: FreeError) -> Result<(), Failure> {
    let before = Footprint::of(allocator);
    // SAFETY: the frame heads no allocated block, so there is no owner to take it from; that this is found out is
    // what is tested.
    let found = unsafe { allocator.free_raw(pfn) }.err();
    if found != Some(expected) {
        return Err(Failure::WrongFree { expected, found });
    }
    before.check_unchanged(allocator)
}

/// Frames of all zones, and the holes between them, in this state.
fn frames_in_state<M: Machine>(allocator: &PageAllocator<'_, M>, state: PageState) -> impl Iterator<Item = Pfn> {
    let end = allocator.zones().map(|zone| zone.span.end).max().unwrap_or(Pfn::new(0));
    (0..end.number()).map(Pfn::new).filter(move |&pfn| allocator.page_state(pfn).0 == state)
}

pub(super) fn a_block_freed_twice_is_turned_away<M: Machine>(
    allocator: &PageAllocator<'_, M>,
    _: Seed,
) -> Result<(), Failure> {
    let mut checks = Checks::new(allocator);
    for order in orders::<M>() {
        let Ok(block) = allocator.alloc(Request::movable(order)) else { continue };
        let head = block.head();
        drop(block);
        turned_away(allocator, head, FreeError::AlreadyFree(head))?;
        checks.step()?;
    }
    checks.turn()
}

pub(super) fn a_half_that_has_merged_meanwhile_is_turned_away<M: Machine>(
    allocator: &PageAllocator<'_, M>,
    _: Seed,
) -> Result<(), Failure> {
    let mut checks = Checks::new(allocator);
    for order in orders::<M>().skip(1) {
        let Ok(block) = allocator.alloc(Request::movable(order)) else { continue };
        let range = block.range();
        let Ok((low, high)) = block.split() else {
            return Err(Failure::Expected("a block of more than one page can be split"));
        };
        let halves = [low.head(), high.head()];
        drop(low);
        drop(high);
        for pfn in halves {
            turned_away(allocator, pfn, FreeError::AlreadyFree(pfn))?;
        }
        let last = Pfn::new(range.end.number() - 1);
        turned_away(allocator, last, FreeError::AlreadyFree(last))?;
        checks.step()?;
    }
    checks.turn()
}

pub(super) fn a_tail_is_turned_away_and_its_head_named<M: Machine>(
    allocator: &PageAllocator<'_, M>,
    _: Seed,
) -> Result<(), Failure> {
    let mut checks = Checks::new(allocator);
    for order in orders::<M>().skip(1) {
        let Ok(block) = allocator.alloc(Request::movable(order)) else { continue };
        let head = block.head();
        for pfn in [1, order.pages() / 2, order.pages() - 1].map(|tail| head.plus(tail)) {
            turned_away(allocator, pfn, FreeError::Tail { pfn, head })?;
        }
        checks.step()?;
    }
    checks.turn()
}

pub(super) fn a_reserved_frame_is_turned_away<M: Machine>(
    allocator: &PageAllocator<'_, M>,
    _: Seed,
) -> Result<(), Failure> {
    let mut found = false;
    for pfn in frames_in_state(allocator, PageState::Reserved).take(SAMPLE) {
        turned_away(allocator, pfn, FreeError::Reserved(pfn))?;
        found = true;
    }
    allocator.verify()?;
    if found { Ok(()) } else { Err(Failure::Skipped("the machine has no reserved frame")) }
}

pub(super) fn a_frame_without_memory_is_turned_away<M: Machine>(
    allocator: &PageAllocator<'_, M>,
    _: Seed,
) -> Result<(), Failure> {
    let end = allocator.zones().map(|zone| zone.span.end).max().unwrap_or(Pfn::new(0));
    let beyond = end.align_up(M::Geometry::MAX_ORDER).plus(M::Geometry::MAX_ORDER.pages());
    let last = Pfn::new(Pfn::LIMIT.number() - 1);
    for pfn in [Pfn::new(0), beyond, last, Pfn::LIMIT] {
        turned_away(allocator, pfn, FreeError::NoMemory(pfn))?;
    }
    for pfn in frames_in_state(allocator, PageState::Hole).take(SAMPLE) {
        turned_away(allocator, pfn, FreeError::NoMemory(pfn))?;
    }
    Ok(allocator.verify()?)
}

pub(super) fn a_page_that_was_never_allocated_is_turned_away<M: Machine>(
    allocator: &PageAllocator<'_, M>,
    _: Seed,
) -> Result<(), Failure> {
    let mut found = false;
    for head in frames_in_state(allocator, PageState::Free).take(SAMPLE) {
        let (_, order) = allocator.page_state(head);
        for pfn in [head, head.plus(order.pages() - 1)] {
            turned_away(allocator, pfn, FreeError::AlreadyFree(pfn))?;
        }
        found = true;
    }
    allocator.verify()?;
    if found { Ok(()) } else { Err(Failure::Skipped("no page is free")) }
}

pub(super) fn a_page_that_serves_as_a_node_is_turned_away<M: Machine>(
    allocator: &PageAllocator<'_, M>,
    _: Seed,
) -> Result<(), Failure> {
    let mut ballast = Holdings::new(allocator)?;
    let _held = every_second_page_free(&mut ballast, Order::ZERO)?;
    let mut found = false;
    for pfn in frames_in_state(allocator, PageState::Node).take(SAMPLE) {
        turned_away(allocator, pfn, FreeError::AlreadyFree(pfn))?;
        found = true;
    }
    allocator.verify()?;
    if found { Ok(()) } else { Err(Failure::Skipped("too little memory for a list to need a node")) }
}
