//! What becomes of what was asked for: where marks stand, and how much is around an object.

use core::mem::MaybeUninit;

use super::*;
use crate::host::HostMachine;
use crate::slab::SlabDebug;
use crate::slab::tests::with_pages;
use crate::units::Pfn;
use crate::zone::ZoneKind;

fn construct(_: &mut [MaybeUninit<u8>]) {}

/// Where the mark of an object stands, and how far it is to the next object.
fn mark_and_stride(spec: CacheSpec<'_>) -> (u32, u32) {
    let cache = KmemCaches::<HostMachine>::plan(&spec).expect("it fits");
    (cache.layout.mark, cache.layout.stride)
}

#[test]
fn the_mark_of_an_object_that_keeps_only_a_part_stands_inside_it_unless_it_is_debugged() {
    let constructed = CacheSpec::new("kept", 64).constructed(construct);
    assert_eq!(mark_and_stride(constructed), (64, 72));
    assert_eq!(mark_and_stride(constructed.keeping(16)), (16, 64));
    // Whoever debugs it wants to see whether any of it was changed.
    assert_eq!(mark_and_stride(constructed.keeping(16).debugged(DebugFlags::CONSISTENCY)), (64, 72));
}

#[test]
fn the_mark_of_an_object_that_is_smaller_stands_behind_it_where_something_else_does() {
    assert_eq!(mark_and_stride(CacheSpec::new("small", 4)), (0, 8));
    let (mark, stride) = mark_and_stride(CacheSpec::new("small", 4).debugged(DebugFlags::RED_ZONE));
    assert!(mark >= 4 && mark + MARK < stride, "{mark} {stride}");
    let (mark, _) = mark_and_stride(CacheSpec::new("large", 8).debugged(DebugFlags::RED_ZONE));
    assert_eq!(mark, 0);
}

/// How large the slabs of a cache are for objects of this size, how far apart those, and whether they are debugged.
fn shape(debug: &str, size: u32) -> (usize, u32, DebugFlags) {
    with_pages(|pages| {
        let debug = SlabDebug::parse(debug).expect("these are flags");
        let caches = KmemCaches::new_with(pages, debug).expect("there is memory");
        let cache = caches.plan_debugged(&CacheSpec::new("shape", size)).expect("it fits");
        let flags = cache.watch.as_ref().map_or(DebugFlags::empty(), |watch| watch.flags);
        (cache.layout.order.index(), cache.layout.stride, flags)
    })
}

#[test]
fn slabs_grow_for_what_is_around_objects_only_if_they_may() {
    let usual = DebugFlags::USUAL;
    assert_eq!(shape("-", 1024), (2, 1024, DebugFlags::empty()));
    let (order, stride, flags) = shape("FZPU", 1024);
    assert!(order == 3 && stride > 1024 && flags == usual, "{order} {stride} {flags:?}");
    // What takes no room is checked nevertheless.
    assert_eq!(shape("FZPUO", 1024), (2, 1024, DebugFlags::CONSISTENCY));
    // Where the slab need not grow for it, there is all that was asked for.
    let (order, stride, flags) = shape("FZPUO", 64);
    assert!(order == 0 && stride > 64 && flags == usual, "{order} {stride} {flags:?}");
}

#[test]
fn objects_lie_where_they_can_be_reached_whatever_request_their_slabs_are_allocated_by() {
    with_pages(|pages| {
        let caches = KmemCaches::new(pages).expect("there is memory");
        for flags in [DebugFlags::empty(), DebugFlags::USUAL] {
            let spec = CacheSpec::new("movable", 64).from(Request::movable(Order::ZERO)).debugged(flags);
            let cache = caches.create(spec).expect("it fits");
            let object = cache.alloc().expect("there is memory");
            let frame = Pfn::containing(pages.machine().physical(object.address()));
            assert!(frame.is_some_and(|frame| frame < pages.machine().direct_map_end()), "{frame:?}");
        }
        // What serves fewer requests than lowmem does is still what was asked for.
        let spec = CacheSpec::new("dma", 64).from(Request::new(Order::ZERO).up_to(ZoneKind::Dma32));
        let plan = KmemCaches::<HostMachine>::plan(&spec).expect("it fits");
        assert_eq!(plan.request.highest, ZoneKind::Dma32);
    });
}
