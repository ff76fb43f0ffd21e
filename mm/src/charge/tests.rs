//! The table alone: numbers, limits, and threads at one limit.

use core::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::vec::Vec;

use super::{ChargeError, ChargeGroup, ChargeGroups, GroupId, TooManyGroups};
use crate::arena::ArenaMachine;
use crate::boot_map::{BootMap, Region, RegionKind};
use crate::early::MetadataBytes;
use crate::host::scaled;
use crate::machine::Standard;
use crate::units::{NodeId, PAGE_SIZE, Pfn, PhysAddr};

fn with_groups(test: impl FnOnce(ChargeGroups<'_>)) {
    let end = Pfn::new(4);
    let machine = ArenaMachine::<Standard>::new(end, end);
    let region = Region { start: PhysAddr(0), len: end.address().0, kind: RegionKind::Usable, node: NodeId(0) };
    let mut map: BootMap = BootMap::new(&[region]).expect("one region makes a map");
    let mut bytes = MetadataBytes::default();
    let groups = ChargeGroups::carve(&machine, &mut map, &mut bytes).expect("a page is free");
    assert_eq!(bytes.total(), PAGE_SIZE as u64);
    test(groups);
}

#[test]
fn there_are_255_groups_beside_the_root_and_numbers_are_used_again() {
    with_groups(|groups| {
        let mut all: Vec<_> = (0..255).map(|_| groups.create(None).expect("a number is left")).collect();
        assert_eq!(groups.create(None).map(drop), Err(TooManyGroups));
        let mut ids: Vec<_> = all.iter().map(ChargeGroup::id).collect();
        ids.sort_unstable();
        ids.dedup();
        assert!(ids.len() == 255 && !ids.contains(&GroupId::ROOT));
        let id = all[77].id();
        all.swap_remove(77).destroy().expect("nothing was charged to it");
        assert_eq!(groups.create(Some(3)).expect("one number is free").id(), id);
    });
}

#[test]
fn a_limit_is_met_exactly_and_what_exceeds_it_changes_nothing_but_the_count_of_refusals() {
    with_groups(|groups| {
        let group = groups.create(Some(10)).expect("all numbers are free");
        groups.charge(group.id(), 7).expect("7 of 10");
        let over = Err(ChargeError::OverLimit { group: group.id(), limit: 10 });
        assert_eq!(groups.charge(group.id(), 4), over);
        assert_eq!(groups.charge(group.id(), u32::MAX), over);
        groups.charge(group.id(), 3).expect("10 of 10");
        assert_eq!(groups.charge(group.id(), 1), over);
        groups.uncharge(group.id(), 8);
        let report = group.report();
        assert_eq!((report.usage, report.peak, report.limit, report.refused), (2, 10, Some(10), 3));
    });
}

#[test]
fn a_limit_of_nothing_refuses_and_one_beyond_all_memory_does_not() {
    with_groups(|groups| {
        let nothing = groups.create(Some(0)).expect("all numbers are free");
        assert_eq!(groups.charge(nothing.id(), 1), Err(ChargeError::OverLimit { group: nothing.id(), limit: 0 }));
        for limit in [None, Some(u32::MAX), Some(u32::MAX - 1)] {
            let group = groups.create(limit).expect("numbers are left");
            groups.charge(group.id(), u32::MAX - 1).expect("there is no limit");
            assert_eq!(group.report().limit, None);
            groups.uncharge(group.id(), u32::MAX - 1);
        }
    });
}

#[test]
fn a_group_with_pages_is_not_destroyed_and_one_that_is_dropped_goes_with_its_last_page() {
    with_groups(|groups| {
        let group = groups.create(None).expect("all numbers are free");
        let id = group.id();
        groups.charge(id, 5).expect("there is no limit");
        let refused = group.destroy().expect_err("pages are charged to it");
        assert_eq!(refused.pages, 5);
        groups.charge(id, 1).expect("it is as before");
        drop(refused);
        assert_eq!(groups.charge(id, 1), Err(ChargeError::NoGroup(id)));
        let other = groups.create(None).expect("numbers are left");
        assert_ne!(other.id(), id);
        let left = groups.reports().find(|report| report.id == id).map(|report| (report.usage, report.limit));
        assert_eq!(left, Some((6, Some(0))));
        groups.uncharge(id, 6);
        let again = groups.create(None).expect("numbers are left");
        assert_eq!((again.id(), again.report().peak), (id, 0));
    });
}

#[test]
fn more_taken_back_than_was_charged_does_not_reach_into_the_limit() {
    with_groups(|groups| {
        let group = groups.create(Some(4)).expect("all numbers are free");
        groups.charge(group.id(), 2).expect("2 of 4");
        groups.uncharge(group.id(), 3);
        assert_eq!((group.report().usage, group.report().limit), (0, Some(4)));
    });
}

#[test]
fn threads_charge_up_to_the_limit_and_never_beyond() {
    const LIMIT: u32 = 1000;
    const TURNS: u32 = scaled(20_000, 1000);
    with_groups(|groups| {
        let group = groups.create(Some(LIMIT)).expect("all numbers are free");
        let id = group.id();
        let charged = AtomicU32::new(0);
        thread::scope(|scope| {
            for pages in [1, 2, 3, 7] {
                let charged = &charged;
                scope.spawn(move || {
                    for turn in 0..TURNS {
                        if groups.charge(id, pages).is_ok() {
                            // What is noted here is charged already, and taken out before the charge is taken back.
                            let noted = charged.fetch_add(pages, Ordering::Relaxed) + pages;
                            assert!(noted <= LIMIT, "{noted} pages are charged at once");
                            if turn % 3 != 0 || turn < TURNS / 2 {
                                charged.fetch_sub(pages, Ordering::Relaxed);
                                groups.uncharge(id, pages);
                            }
                        }
                    }
                });
            }
        });
        assert_eq!(group.report().usage, charged.into_inner());
        while groups.charge(id, 1).is_ok() {}
        let report = group.report();
        assert_eq!((report.usage, report.peak), (LIMIT, LIMIT));
        groups.uncharge(id, LIMIT);
        group.destroy().expect("all was taken back");
    });
}
