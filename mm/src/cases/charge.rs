//! Who pays: charges follow their blocks, limits hold, and groups end when they are empty.
#![expect(unsafe_code, reason = "frees bare frames, one of them twice")]

use super::checks::Checks;
use super::footprint::Footprint;
use super::holdings::Holdings;
use super::random::Random;
use super::{Failure, Seed};
use crate::charge::{ChargeError, ChargeGroup, GroupId};
use crate::machine::{Geometry, Machine};
use crate::page::{AllocError, FreeError, PageAllocator, Request};
use crate::units::Order;
use crate::zone::ZoneKind;

/// Groups that are charged in turn, the root among them.
const PAYERS: u32 = 5;

const GROUPS: usize = PAYERS as usize - 1;

const OPERATIONS: u32 = 2000;

fn usage(group: &ChargeGroup<'_>) -> u32 {
    group.report().usage
}

fn unless_usage(group: &ChargeGroup<'_>, expected: u32) -> Result<(), Failure> {
    Failure::unless_equal(expected, usage(group), "pages charged to the group")
}

fn destroy(group: ChargeGroup<'_>) -> Result<(), Failure> {
    group.destroy().map_err(|left| Failure::Count {
        what: "pages charged to a group at its end",
        expected: 0,
        found: left.pages,
    })
}

fn refused<M: Machine>(
    allocator: &PageAllocator<'_, M>,
    request: Request,
    expected: AllocError,
) -> Result<(), Failure> {
    let before = Footprint::of(allocator);
    let found = allocator.alloc(request).err();
    if found != Some(expected) {
        return Err(Failure::WrongRefusal { expected, found });
    }
    before.check_unchanged(allocator)
}

pub(super) fn charges_follow_blocks_wherever_they_go<M: Machine>(
    allocator: &PageAllocator<'_, M>,
    seed: Seed,
) -> Result<(), Failure> {
    let mut random = Random::new(seed);
    let mut checks = Checks::new(allocator);
    let mut groups = arrayvec::ArrayVec::<_, GROUPS>::new();
    for _ in 0..GROUPS {
        groups.push(allocator.groups().create(None)?);
    }
    let mut ids = [GroupId::ROOT; GROUPS + 1];
    ids[1..].iter_mut().zip(&groups).for_each(|(id, group)| *id = group.id());
    let mut expected = [0; GROUPS + 1];
    let mut held = Holdings::new(allocator)?;
    for _ in 0..OPERATIONS {
        let payer = random.below(PAYERS) as usize;
        let order = random.small_order(M::Geometry::MAX_ORDER);
        let request = Request::movable(order).with_migratetype(random.migratetype()).charged_to(ids[payer]);
        match random.below(5) {
            0 | 1 => {
                if let Ok(block) = allocator.alloc(request) {
                    Failure::unless_of(block.group() == ids[payer], block.head(), "a block names who pays for it")?;
                    expected[payer] += order.pages();
                    held.insert(block)?;
                }
            }
            turn => {
                let Some(mut block) = held.take_next(random.frame(held.hull())) else { continue };
                let pages = block.order().pages();
                let named = block.group();
                let paid = ids.iter().position(|&id| id == named);
                let paid =
                    paid.ok_or(Failure::ExpectedOf { what: "a block names who pays for it", pfn: block.head() })?;
                match turn {
                    2 => match block.split() {
                        Ok((low, high)) => {
                            let both = low.group() == named && high.group() == named;
                            Failure::unless_of(both, low.head(), "both halves name who paid for the block")?;
                            held.insert(low)?;
                            held.insert(high)?;
                        }
                        Err(page) => held.insert(page)?,
                    },
                    3 => {
                        block.recharge(ids[payer])?;
                        expected[paid] -= pages;
                        expected[payer] += pages;
                        held.insert(block)?;
                    }
                    _ => {
                        drop(block);
                        expected[paid] -= pages;
                    }
                }
            }
        }
        for (group, &expected) in groups.iter().zip(&expected[1..]) {
            unless_usage(group, expected)?;
        }
        checks.step()?;
    }
    checks.turn()?;
    drop(held);
    groups.into_iter().try_for_each(destroy)
}

pub(super) fn a_limit_refuses_at_its_very_edge_and_nothing_is_lost<M: Machine>(
    allocator: &PageAllocator<'_, M>,
    _: Seed,
) -> Result<(), Failure> {
    let order = Order::of(1);
    let limit = 2 * order.pages() + 1;
    let group = allocator.groups().create(Some(limit))?;
    let over = ChargeError::OverLimit { group: group.id(), limit };
    let pair = Request::movable(order).charged_to(group.id());
    let page = Request::movable(Order::ZERO).charged_to(group.id());
    let (first, second) = (allocator.alloc(pair)?, allocator.alloc(pair)?);
    refused(allocator, pair, AllocError::Charge(over))?;
    let third = allocator.alloc(page)?;
    unless_usage(&group, limit)?;
    refused(allocator, page, AllocError::Charge(over))?;
    let mut other = allocator.alloc(Request::movable(Order::ZERO))?;
    let moved = other.recharge(group.id());
    Failure::unless(moved == Err(over), "a group at its limit takes over no block")?;
    Failure::unless(other.group() == GroupId::ROOT, "a block that could not be recharged is its payer's")?;
    let (low, high) = first.split().map_err(|_| Failure::Expected("a block of two pages can be split"))?;
    unless_usage(&group, limit)?;
    drop(low);
    other.recharge(group.id())?;
    unless_usage(&group, limit)?;
    // To the group that pays already, a block can always be recharged.
    other.recharge(group.id())?;
    let mut second = second;
    second.recharge(GroupId::ROOT)?;
    unless_usage(&group, limit - order.pages())?;
    allocator.verify_charges()?;
    drop([high, second, third, other]);
    let report = group.report();
    Failure::unless_equal(limit, report.peak, "pages charged at most")?;
    Failure::unless_equal(3, report.refused, "charges refused")?;
    destroy(group)
}

pub(super) fn what_exhausted_memory_cannot_serve_is_not_charged<M: Machine>(
    allocator: &PageAllocator<'_, M>,
    _: Seed,
) -> Result<(), Failure> {
    let group = allocator.groups().create(None)?;
    let request = Request::movable(Order::ZERO).charged_to(group.id());
    let mut held = Holdings::new(allocator)?;
    held.alloc_everything(Request::movable(Order::ZERO))?;
    refused(allocator, request, AllocError::Exhausted(request))?;
    unless_usage(&group, 0)?;
    Failure::unless_equal(0, group.report().refused, "charges refused")?;
    drop(held);
    let larger = M::Geometry::MAX_ORDER.up();
    if let Some(order) = larger {
        let request = Request::movable(order).charged_to(group.id());
        refused(allocator, request, AllocError::OrderTooLarge(order))?;
    }
    destroy(group)
}

pub(super) fn a_raw_free_takes_the_charge_back_and_a_second_one_does_not<M: Machine>(
    allocator: &PageAllocator<'_, M>,
    _: Seed,
) -> Result<(), Failure> {
    let group = allocator.groups().create(None)?;
    let request = Request::movable(Order::of(1)).charged_to(group.id());
    let kept = allocator.alloc(request)?;
    let head = allocator.alloc_raw(request)?;
    unless_usage(&group, 4)?;
    // SAFETY: the frame is a tail, so this must fail; that it does is what is tested.
    let tail = unsafe { allocator.free_raw(head.plus(1)) };
    Failure::unless_of(tail == Err(FreeError::Tail { pfn: head.plus(1), head }), head, "a tail is turned away")?;
    unless_usage(&group, 4)?;
    // SAFETY: the block was allocated above, and nobody has used its pages.
    unsafe { allocator.free_raw(head) }?;
    unless_usage(&group, 2)?;
    // SAFETY: the block is free, so this must fail; that it does is what is tested.
    let again = unsafe { allocator.free_raw(head) };
    Failure::unless_of(again == Err(FreeError::AlreadyFree(head)), head, "a block freed twice is turned away")?;
    unless_usage(&group, 2)?;
    allocator.verify_charges()?;
    drop(kept);
    destroy(group)
}

pub(super) fn the_blocks_of_a_range_are_recharged_one_by_one<M: Machine>(
    allocator: &PageAllocator<'_, M>,
    _: Seed,
) -> Result<(), Failure> {
    const PAGES: u32 = 11;
    let group = allocator.groups().create(Some(PAGES))?;
    let range = allocator.alloc_contig_aligned(PAGES, Order::ZERO, ZoneKind::Highmem)?;
    let mut charged = 0;
    let mut held = Holdings::new(allocator)?;
    for mut block in range.into_blocks() {
        Failure::unless_of(block.group() == GroupId::ROOT, block.head(), "the root pays for a range")?;
        block.recharge(group.id())?;
        charged += block.order().pages();
        unless_usage(&group, charged)?;
        held.insert(block)?;
    }
    Failure::unless_equal(PAGES, charged, "pages in the range's blocks")?;
    allocator.verify_charges()?;
    drop(held);
    unless_usage(&group, 0)?;
    destroy(group)
}

pub(super) fn a_group_that_still_has_pages_is_not_destroyed<M: Machine>(
    allocator: &PageAllocator<'_, M>,
    _: Seed,
) -> Result<(), Failure> {
    let groups = allocator.groups();
    let group = groups.create(None)?;
    let id = group.id();
    let request = Request::movable(Order::of(1)).charged_to(id);
    let block = allocator.alloc(request)?;
    let Err(refused) = group.destroy() else {
        return Err(Failure::Expected("a group that has pages is not destroyed"));
    };
    Failure::unless_equal(2, refused.pages, "pages left of the group")?;
    let group = refused.group;
    drop(allocator.alloc(request)?);
    drop(group);
    self::refused(allocator, request, AllocError::Charge(ChargeError::NoGroup(id)))?;
    let other = groups.create(None)?;
    Failure::unless(other.id() != id, "a number is not used again while pages name it")?;
    allocator.verify_charges()?;
    let of_it = groups.reports().find(|report| report.id == id);
    Failure::unless_equal(2, of_it.map_or(0, |report| report.usage), "pages of a group that was dropped")?;
    drop(block);
    Failure::unless(groups.reports().all(|report| report.id != id), "a dropped group goes with its last page")?;
    destroy(other)
}
