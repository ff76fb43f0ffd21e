//! Sections that go out of use, and come back as they were.

use std::vec::Vec;

use super::hwpoison::{all_that_is_had, census, find, fragment, on_machines, verify, where_freed};
use super::{MIB, Machine, PageAllocator, Request, allocator, machine, usable};
use crate::ContigError;
use crate::PageState;
use crate::host::scaled;
use crate::migratetype::Migratetype;
use crate::page::{FailedPage, FailureOutcome, FreeError, MemoryFailure, NotOffline};
use crate::units::{Order, Pfn, PfnRange, PhysAddr};
use crate::zone::ZoneReport;

fn sections(a: &PageAllocator<'_, Machine>) -> Vec<PfnRange> {
    (0..8).map(|section| a.section_of(Pfn::new(section << 10))).collect()
}

/// Sections that can go when all is free.
fn whole(a: &PageAllocator<'_, Machine>) -> Vec<PfnRange> {
    a.drain();
    let is_whole = |section: &PfnRange| {
        let pages = section.frames().filter(|&pfn| a.zone_around(pfn) == a.zone_around(section.start));
        a.zone_around(section.start).is_some() && pages.count() == 1024
    };
    sections(a).into_iter().filter(is_whole).collect()
}

fn zone_of(a: &PageAllocator<'_, Machine>, pfn: Pfn) -> ZoneReport {
    let id = a.zone_around(pfn).expect("the frame is some zone's");
    a.zones().find(|zone| zone.id == id).expect("there is such a zone")
}

#[test]
fn a_free_section_goes_and_comes_back_and_all_is_as_before() {
    on_machines(|a| {
        for section in whole(a) {
            let before: Vec<_> = a.zones().collect();
            let zone = zone_of(a, section.start);
            // Any of its frames names it.
            assert_eq!(a.offline_pages(section.start.plus(321)), Ok(section));
            verify(a);
            let during = a.zones().find(|during| during.id == zone.id).expect("it is there still");
            assert_eq!((during.managed, during.free), (zone.managed - 1024, zone.free - 1024));
            assert_eq!((during.present, during.span), (zone.present - 1024, zone.span));
            assert!(during.watermarks.high <= zone.watermarks.high);
            assert_eq!(a.page_state(section.start), (PageState::Offline, Order::of(10)));
            assert!(all_that_is_had(a).iter().all(|&pfn| !section.contains(pfn)), "what is out of use was handed out");
            verify(a);
            assert_eq!(a.offline_pages(section.start), Err(ContigError::NotManaged(section.start)));
            assert_eq!(a.alloc_contig(section).map(drop), Err(ContigError::NotManaged(section.start)));
            for pfn in [section.start, section.start.plus(5)] {
                // SAFETY: this is refused.
                assert_eq!(unsafe { a.free_raw(pfn) }, Err(FreeError::Offline(pfn)));
            }
            assert_eq!(a.online_pages(section.start.plus(1023)), Ok(section));
            assert_eq!(a.online_pages(section.start), Err(NotOffline(section.start)));
            verify(a);
            a.drain();
            let counts = |zone: &ZoneReport| (zone.managed, zone.present, zone.free, zone.watermarks);
            assert!(before.iter().map(counts).eq(a.zones().map(|zone| counts(&zone))));
        }
    });
}

#[test]
fn every_whole_section_may_be_out_of_use_at_once() {
    on_machines(|a| {
        let all = whole(a);
        assert!(all.len() >= scaled(4, 2), "{} sections", all.len());
        for section in &all {
            a.offline_pages(section.start).expect("all is free");
            verify(a);
        }
        let left = all_that_is_had(a);
        assert!(left.iter().all(|&pfn| all.iter().all(|section| !section.contains(pfn))));
        for section in all.iter().rev() {
            a.online_pages(section.start).expect("it is out of use");
            verify(a);
        }
    });
}

#[test]
fn nodes_in_a_section_move_out_and_what_a_cpu_has_at_hand_goes_with_it() {
    on_machines(|a| {
        let mut sections = whole(a);
        let held = fragment(a);
        let nodes = find(a, PageState::Node);
        sections.retain(|section| nodes.iter().any(|&node| section.contains(node)));
        let section = *sections.first().expect("a section has nodes");
        let (inside, outside): (Vec<_>, Vec<_>) = held.into_iter().partition(|block| section.contains(block.head()));
        let in_use = inside.iter().map(crate::page::Block::head).min().expect("every second page is held");
        assert_eq!(a.offline_pages(in_use), Err(ContigError::InUse(in_use)));
        verify(a);
        // Freed as they are, they would merge, and drive the nodes out. So they fail.
        let bad: Vec<_> = inside.iter().map(crate::page::Block::head).collect();
        bad.iter().for_each(|&pfn| assert!(a.memory_failure(pfn).is_ok()));
        drop(inside);
        let at_hand = find(a, PageState::Free).into_iter().find(|&pfn| section.contains(pfn));
        let at_hand = at_hand.map(|pfn| PfnRange::new(pfn, pfn.plus(1))).expect("every second page is free");
        drop(a.alloc_contig(at_hand));
        assert_eq!(a.page_state(at_hand.start).0, where_freed(a));
        assert!(find(a, PageState::Node).iter().any(|&node| section.contains(node)), "the nodes are still needed");
        assert_eq!(a.offline_pages(in_use), Ok(section));
        verify(a);
        assert!(!find(a, PageState::Node).is_empty());
        assert!(all_that_is_had(a).iter().all(|&pfn| !section.contains(pfn)));
        a.online_pages(section.start).expect("it is out of use");
        verify(a);
        bad.iter().for_each(|&pfn| a.unpoison_memory(pfn).expect("it was said to fail"));
        drop(outside);
    });
}

#[test]
fn what_is_in_the_way_is_named_and_all_is_as_before() {
    on_machines(|a| {
        let section = whole(a)[0];
        for &at in scaled(&[0, 1, 512, 1023][..], &[0, 1023]) {
            let block = a.alloc_contig(PfnRange::new(section.start.plus(at), section.start.plus(at + 1)));
            let block = block.expect("the frame is free");
            let (before, all) = (census(a), a.fingerprint(section));
            assert_eq!(a.offline_pages(section.start), Err(ContigError::InUse(section.start.plus(at))));
            assert!((census(a), a.fingerprint(section)) == (before, all), "a refusal changed something");
            verify(a);
            drop(block);
        }
        // The tables stand at the top of lowmem, and behind all there is no memory.
        let tables = find(a, PageState::Reserved);
        for &pfn in [tables.first(), tables.last()].into_iter().flatten() {
            let section = a.section_of(pfn);
            let first = section.frames().find(|&pfn| a.zone_around(pfn).is_none()).expect("it holds tables");
            assert_eq!(a.offline_pages(pfn), Err(ContigError::NotManaged(first)));
        }
        for nowhere in [Pfn::new(64 << 8), Pfn::LIMIT] {
            let start = a.section_of(nowhere).start;
            assert_eq!(a.offline_pages(nowhere), Err(ContigError::NotManaged(start)));
            assert_eq!(a.online_pages(nowhere), Err(NotOffline(nowhere)));
        }
    });
}

#[test]
fn pages_that_fail_go_with_their_section_and_stay_out_when_it_comes_back() {
    on_machines(|a| {
        let section = whole(a)[0];
        let (before, during) = (section.start.plus(3), section.start);
        a.memory_failure(before).expect("it is free");
        a.offline_pages(section.start).expect("what fails is in nobody's way");
        let failure = MemoryFailure { page: FailedPage::Offline, outcome: FailureOutcome::Recovered };
        assert_eq!(a.memory_failure(during), Ok(failure));
        verify(a);
        a.online_pages(section.start).expect("it is out of use");
        verify(a);
        let all = all_that_is_had(a);
        assert!(!all.contains(&before) && !all.contains(&during));
        assert_eq!(all.iter().filter(|&&pfn| section.contains(pfn)).count(), 1022);
        for pfn in [before, during] {
            a.unpoison_memory(pfn).expect("it was said to fail");
        }
        a.drain();
        // What is said again while it is out of use is forgotten there, too.
        a.offline_pages(section.start).expect("all is free");
        a.memory_failure(during).expect("it is memory");
        a.unpoison_memory(during).expect("it was said to fail");
        a.online_pages(section.start).expect("it is out of use");
    });
}

#[test]
#[cfg_attr(miri, ignore = "half a gibibyte, all of which is looked at again and again")]
fn what_was_set_aside_for_large_blocks_may_go_and_something_else_is_set_aside() {
    // One largest block in 64 pages of them: with 512 MiB there are some.
    let machine = machine(512 * MIB, 256 * MIB);
    let a = allocator(&machine, &[usable(0, 512 * MIB)]);
    let aside = |kind: &ZoneReport| kind.blocks[Migratetype::HighAtomic as usize][10];
    let before: Vec<_> = a.zones().map(|zone| aside(&zone)).collect();
    assert!(before.iter().sum::<u32>() > 0, "nothing is set aside");
    let mut offline = Vec::new();
    for section in (1..127).map(|section| a.section_of(Pfn::new(section << 10))) {
        if a.offline_pages(section.start).is_ok() {
            a.verify().expect("every invariant holds");
            offline.push(section);
        }
        if a.zones().all(|zone| aside(&zone) == 0) {
            break;
        }
    }
    assert!(a.zones().any(|zone| aside(&zone) < before[usize::from(zone.id.0)]), "it was somewhere else");
    for section in offline.into_iter().rev() {
        a.online_pages(section.start).expect("it is out of use");
    }
    drop(a.alloc(Request::movable(Order::of(5))).expect("memory is free"));
    a.verify().expect("every invariant holds");
    let end = Pfn::containing(PhysAddr(512 * MIB)).expect("low");
    assert_eq!(a.zones().map(|zone| zone.span.end).max(), Some(end));
}
