//! Ranges out of the middle of free memory, and the ranges that cannot be had.

use super::checks::Checks;
use super::footprint::Footprint;
use super::holdings::Holdings;
use super::node_pages::every_second_page_free;
use super::random::Random;
use super::{Failure, Seed, contents};
use crate::machine::{Geometry, Machine};
use crate::page::PageAllocator;
use crate::units::{Order, Pfn, PfnRange};
use crate::zone::ZoneKind;
use crate::{ContigError, PageState};

/// How many nodes are driven out of their place.
const SAMPLE: usize = 16;

/// A run of free frames across blocks, as large as there is one of the sizes tried.
fn free_run<M: Machine>(allocator: &PageAllocator<'_, M>) -> Result<PfnRange, Failure> {
    let largest = M::Geometry::MAX_ORDER.pages();
    for pages in [2 * largest + 3, largest / 2 + 3, 11, 5] {
        match allocator.alloc_contig_aligned(pages, Order::ZERO, ZoneKind::Highmem) {
            Ok(range) => return Ok(range.range()),
            Err(ContigError::NoSuchRun) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(Failure::Skipped("there is no run of free frames"))
}

/// What the block around a frame is; a frame without a descriptor is in a hole.
fn state_around<M: Machine>(allocator: &PageAllocator<'_, M>, pfn: Pfn) -> PageState {
    allocator.block_of(pfn).map_or(PageState::Hole, |head| allocator.page_state(head).0)
}

fn refused<M: Machine>(
    allocator: &PageAllocator<'_, M>,
    range: PfnRange,
    expected: ContigError,
) -> Result<(), Failure> {
    let before = Footprint::of(allocator);
    let found = allocator.alloc_contig(range).err();
    if found != Some(expected) {
        return Err(Failure::WrongRange { expected, found });
    }
    before.check_unchanged(allocator)
}

pub(super) fn an_unaligned_range_comes_out_of_the_middle_of_free_memory<M: Machine>(
    allocator: &PageAllocator<'_, M>,
    seed: Seed,
) -> Result<(), Failure> {
    let run = free_run(allocator)?;
    let last = Pfn::new(run.end.number() - 1);
    let middle = PfnRange::new(run.start.plus(1), last);
    let mut range = allocator.alloc_contig(middle)?;
    Failure::unless(range.range() == middle, "a range is exactly what was asked for")?;
    for pfn in middle.frames() {
        let used = state_around(allocator, pfn) == PageState::Allocated;
        Failure::unless_of(used, pfn, "a page of the range is allocated")?;
    }
    for pfn in [run.start, last] {
        let used = state_around(allocator, pfn) == PageState::Allocated;
        Failure::unless_of(!used, pfn, "a page beside the range is free as before")?;
    }
    allocator.verify()?;
    contents::write(&mut range, Random::new(seed).bits())?;
    contents::check(&mut range)?;
    drop(range);
    Ok(allocator.verify()?)
}

pub(super) fn a_range_with_a_used_page_names_it_and_changes_nothing<M: Machine>(
    allocator: &PageAllocator<'_, M>,
    _: Seed,
) -> Result<(), Failure> {
    let run = free_run(allocator)?;
    let middle = run.start.plus(run.pages() / 2);
    let range = allocator.alloc_contig(run)?;
    let used = range.into_blocks().find(|block| block.range().contains(middle));
    let Some(used) = used else {
        return Err(Failure::Expected("a range's blocks make up all of it"));
    };
    allocator.verify()?;
    refused(allocator, run, ContigError::InUse(used.head()))?;
    allocator.verify()?;
    for beside in [PfnRange::new(run.start, used.head()), PfnRange::new(used.range().end, run.end)] {
        if !beside.is_empty() {
            drop(allocator.alloc_contig(beside)?);
        }
    }
    Ok(allocator.verify()?)
}

pub(super) fn a_range_takes_the_place_of_nodes<M: Machine>(
    allocator: &PageAllocator<'_, M>,
    seed: Seed,
) -> Result<(), Failure> {
    let mut ballast = Holdings::new(allocator)?;
    let mut held = every_second_page_free(&mut ballast, Order::ZERO)?;
    let mut checks = Checks::new(allocator);
    let mut driven_out = 0;
    for pfn in held.hull().frames() {
        if allocator.page_state(pfn).0 != PageState::Node || driven_out == SAMPLE {
            continue;
        }
        driven_out += 1;
        let mut range = allocator.alloc_contig(PfnRange::new(pfn, pfn.plus(1)))?;
        contents::write(&mut range, seed.0)?;
        checks.step()?;
        contents::check(&mut range)?;
        drop(range);
        // A node among free pages, if the page beside it was ours to free and the node did not make way for it.
        drop(held.take(pfn.buddy(Order::ZERO)));
        allocator.drain();
        let pair = pfn.align_down(Order::of(1));
        let pair = PfnRange::new(pair, pair.plus(2));
        if pair.frames().all(|page| matches!(state_around(allocator, page), PageState::Free | PageState::Node)) {
            match allocator.alloc_contig(pair) {
                Ok(range) => drop(range),
                Err(ContigError::CrossesZone(at)) if at == pair.start.plus(1) => {}
                Err(error) => return Err(error.into()),
            }
        }
        checks.step()?;
    }
    allocator.verify()?;
    if driven_out > 0 { Ok(()) } else { Err(Failure::Skipped("too little memory for a list to need a node")) }
}

pub(super) fn a_range_across_an_edge_of_its_zone_is_refused<M: Machine>(
    allocator: &PageAllocator<'_, M>,
    _: Seed,
) -> Result<(), Failure> {
    allocator.drain();
    let mut found = false;
    let mut at_edge = |inside: Pfn, outside: Pfn| {
        let is_free = |pfn| matches!(state_around(allocator, pfn), PageState::Free | PageState::Node);
        if !is_free(inside) {
            return Ok(());
        }
        let low = inside.min(outside);
        let range = PfnRange::new(low, low.plus(2));
        let expected = match state_around(allocator, outside) {
            PageState::Free | PageState::Node => ContigError::CrossesZone(low.plus(1)),
            PageState::Hole | PageState::Reserved => ContigError::NotManaged(outside),
            _ => return Ok(()),
        };
        found = true;
        refused(allocator, range, expected)
    };
    for zone in allocator.zones() {
        let last = Pfn::new(zone.span.end.number() - 1);
        at_edge(last, zone.span.end)?;
        if let Some(before) = zone.span.start.number().checked_sub(1) {
            at_edge(zone.span.start, Pfn::new(before))?;
        }
        // Holes and reserved frames inside.
        let mut at = zone.span.start;
        while at < last {
            let (state, order) = allocator.page_state(at);
            let end = at.plus(if state == PageState::Free { order.pages() } else { 1 });
            if matches!(allocator.page_state(end).0, PageState::Hole | PageState::Reserved) {
                at_edge(Pfn::new(end.number() - 1), end)?;
            }
            at = end;
        }
    }
    allocator.verify()?;
    if found { Ok(()) } else { Err(Failure::Skipped("no zone has free memory at an edge")) }
}

pub(super) fn a_run_larger_than_the_largest_block_is_found_at_its_alignment<M: Machine>(
    allocator: &PageAllocator<'_, M>,
    seed: Seed,
) -> Result<(), Failure> {
    let pages = M::Geometry::MAX_ORDER.pages() + 1;
    let mut found = false;
    for highest in ZoneKind::ALL {
        for align in [Order::ZERO, M::Geometry::PAGEBLOCK_ORDER, M::Geometry::MAX_ORDER] {
            let mut range = match allocator.alloc_contig_aligned(pages, align, highest) {
                Ok(range) => range,
                Err(ContigError::NoSuchRun) => continue,
                Err(error) => return Err(error.into()),
            };
            found = true;
            let frames = range.range();
            Failure::unless_equal(pages, frames.pages(), "pages in the run")?;
            Failure::unless_of(frames.start.is_aligned(align), frames.start, "a run starts at its alignment")?;
            let allowed = highest == ZoneKind::Highmem || frames.end <= allocator.machine().direct_map_end();
            Failure::unless_of(allowed, frames.start, "a run lies where the request allows")?;
            contents::write(&mut range, seed.0)?;
            contents::check(&mut range)?;
            allocator.verify()?;
        }
    }
    allocator.verify()?;
    if found { Ok(()) } else { Err(Failure::Skipped("there is no free run larger than the largest block")) }
}

pub(super) fn a_range_that_cannot_be_is_refused<M: Machine>(
    allocator: &PageAllocator<'_, M>,
    _: Seed,
) -> Result<(), Failure> {
    let run = free_run(allocator)?;
    refused(allocator, PfnRange::new(run.start, run.start), ContigError::Empty)?;
    let last = Pfn::new(Pfn::LIMIT.number() - 1);
    refused(allocator, PfnRange::new(last, Pfn::LIMIT), ContigError::NotManaged(last))?;
    let before = Footprint::of(allocator);
    for (pages, expected) in [(0, ContigError::Empty), (u32::MAX, ContigError::NoSuchRun)] {
        let found = allocator.alloc_contig_aligned(pages, Order::ZERO, ZoneKind::Highmem).err();
        if found != Some(expected) {
            return Err(Failure::WrongRange { expected, found });
        }
    }
    before.check_unchanged(allocator)?;
    Ok(allocator.verify()?)
}

pub(super) fn a_range_given_up_as_blocks_frees_those_not_taken<M: Machine>(
    allocator: &PageAllocator<'_, M>,
    _: Seed,
) -> Result<(), Failure> {
    let run = free_run(allocator)?;
    let free = allocator.free_pages();
    let range = allocator.alloc_contig(run)?;
    Failure::unless_equal(free - run.pages(), allocator.free_pages(), "free pages beside the range")?;
    let mut blocks = range.into_blocks();
    let first = blocks.next().ok_or(Failure::Expected("a range has a first block"))?;
    Failure::unless_of(first.head() == run.start, first.head(), "the first block of a range starts it")?;
    let second = blocks.next().ok_or(Failure::Expected("an unaligned range has a second block"))?;
    Failure::unless_of(second.head() == first.range().end, second.head(), "blocks of a range follow each other")?;
    drop(first);
    drop(blocks);
    Failure::unless_equal(free - second.order().pages(), allocator.free_pages(), "free pages beside the block kept")?;
    allocator.verify()?;
    drop(second);
    Ok(allocator.verify()?)
}
