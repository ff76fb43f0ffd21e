//! Which zones serve which requests.

use super::footprint::Footprint;
use super::holdings::{Holdings, orders};
use super::{Failure, Seed};
use crate::machine::{Geometry, Machine};
use crate::page::{AllocError, PageAllocator, Request};
use crate::units::{Order, Pfn, PhysAddr};
use crate::zone::ZoneKind;

pub(super) fn an_order_above_the_largest_is_refused<M: Machine>(
    allocator: &PageAllocator<'_, M>,
    _: Seed,
) -> Result<(), Failure> {
    let Some(order) = M::Geometry::MAX_ORDER.up() else {
        return Err(Failure::Skipped("every order that can be named has blocks"));
    };
    let before = Footprint::of(allocator);
    for order in [order, Order::LIMIT] {
        let refused = allocator.alloc(Request::movable(order)).err();
        Failure::unless(refused == Some(AllocError::OrderTooLarge(order)), "an order that is too large is named")?;
    }
    before.check_unchanged(allocator)
}

pub(super) fn requests_up_to_dma32_stay_below_4_gib<M: Machine>(
    allocator: &PageAllocator<'_, M>,
    _: Seed,
) -> Result<(), Failure> {
    keeps_to(allocator, ZoneKind::Dma32, Pfn::containing(PhysAddr(1 << 32)).unwrap_or(Pfn::LIMIT))
}

pub(super) fn requests_up_to_normal_never_get_highmem<M: Machine>(
    allocator: &PageAllocator<'_, M>,
    _: Seed,
) -> Result<(), Failure> {
    keeps_to(allocator, ZoneKind::Normal, Pfn::LIMIT)
}

/// Requests up to a kind get all there is below `end` in the direct map, and nothing else.
fn keeps_to<M: Machine>(allocator: &PageAllocator<'_, M>, highest: ZoneKind, end: Pfn) -> Result<(), Failure> {
    let end = end.min(allocator.machine().direct_map_end());
    let mut held = Holdings::new(allocator)?;
    let free = |kinds: fn(ZoneKind, ZoneKind) -> bool| -> u32 {
        allocator.zones().filter(|zone| kinds(zone.kind, highest)).map(|zone| zone.free).sum()
    };
    let inside = |kind, highest| kind <= highest;
    let outside = |kind, highest| kind > highest;
    let (free_inside, free_outside) = (free(inside), free(outside));
    let request = Request::movable(Order::ZERO).up_to(highest).from_reserve();
    held.alloc_everything(request)?;
    Failure::unless_of(held.hull().end <= end, held.hull().end, "blocks lie where the request allows")?;
    Failure::unless_equal(free_inside, held.pages(), "pages in the zones that serve the request")?;
    Failure::unless_equal(0, free(inside), "free pages where the request may look")?;
    Failure::unless_equal(free_outside, free(outside), "free pages where the request may not look")?;
    Failure::unless(held.alloc(request)?.is_none(), "no page is left for the request")?;
    Ok(allocator.verify()?)
}

pub(super) fn movable_requests_prefer_highmem<M: Machine>(
    allocator: &PageAllocator<'_, M>,
    _: Seed,
) -> Result<(), Failure> {
    let mut found = false;
    for zone in allocator.zones().filter(|zone| zone.kind == ZoneKind::Highmem) {
        for order in orders::<M>().filter(|&order| zone.blocks_of(order) > 0) {
            allocator.drain();
            let block = allocator.alloc(Request::movable(order).near(zone.node).from_reserve())?;
            let high = block.head() >= allocator.machine().direct_map_end();
            Failure::unless_of(high, block.head(), "a movable block lies in highmem")?;
            found = true;
        }
    }
    if found { Ok(()) } else { Err(Failure::Skipped("the machine has no free highmem")) }
}

pub(super) fn lower_zones_serve_only_what_the_upper_ones_cannot<M: Machine>(
    allocator: &PageAllocator<'_, M>,
    _: Seed,
) -> Result<(), Failure> {
    let mut found = false;
    for upper in allocator.zones().filter(|zone| zone.free > 0) {
        let mut held = Holdings::new(allocator)?;
        let request = Request::movable(Order::ZERO).up_to(upper.kind).near(upper.node).from_reserve();
        held.use_up(request, |zone| zone.id == upper.id)?;
        allocator.verify()?;
        let lower = |zone: &crate::zone::ZoneReport| zone.node == upper.node && zone.kind < upper.kind && zone.free > 0;
        if allocator.zones().any(|zone| lower(&zone)) {
            let head = held.alloc(request)?;
            let below = head.is_some_and(|head| head < upper.span.start);
            Failure::unless(below, "a lower zone helps out when the upper one is exhausted")?;
            found = true;
        }
    }
    if found { Ok(()) } else { Err(Failure::Skipped("no node has memory of two kinds")) }
}
