//! What the charges are checked against, and threads at one limit.

use core::num::NonZeroU16;
use std::vec::Vec;

use super::{MIB, Machine, allocator, machine, usable};
use crate::charge::GroupId;
use crate::host::{on_cpu, scaled};
use crate::invariant::Invariant;
use crate::page::{PageAllocator, Request};
use crate::units::{CpuId, Order, Pfn, PhysAddr};

/// Breaks something about two pages of one group, and says at which page the checker of charges finds what.
fn miscounted(break_it: impl FnOnce(&PageAllocator<'_, Machine>, Pfn)) -> Option<Pfn> {
    let machine = machine(16 * MIB, 16 * MIB);
    let allocator = allocator(&machine, &[usable(0, 16 * MIB)]);
    let group = allocator.groups().create(None).expect("no group was made");
    let request = Request::new(Order::of(1)).charged_to(group.id());
    let block = allocator.alloc_raw(request).expect("memory is free");
    allocator.verify_charges().expect("all is well before");
    break_it(&allocator, block);
    let violation = allocator.verify_charges().expect_err("what was broken is seen");
    assert_eq!(violation.invariant, Invariant::Acct2);
    violation.pfn
}

#[test]
fn the_checker_names_a_block_whose_group_there_is_not() {
    let mut broken = None;
    let found = miscounted(|a, block| {
        a.map.page(block).set_group(GroupId::from_bits(0xee));
        broken = Some(block);
    });
    assert_eq!(found, broken);
}

#[test]
fn the_checker_names_a_charge_without_a_block_and_a_block_without_a_charge() {
    assert_eq!(miscounted(|a, block| a.map.page(block).set_group(GroupId::ROOT)), None);
    assert_eq!(miscounted(|a, block| a.groups.uncharge(a.map.page(block).word().group(), 1)), None);
    assert_eq!(miscounted(|a, block| a.map.page(block).set_tail()), None);
}

#[test]
fn a_block_of_a_group_that_there_is_not_can_be_freed_all_the_same() {
    let machine = machine(16 * MIB, 16 * MIB);
    let allocator = allocator(&machine, &[usable(0, 16 * MIB)]);
    let free = allocator.free_pages();
    let block = allocator.alloc(Request::new(Order::ZERO)).expect("memory is free");
    allocator.map.page(block.head()).set_group(GroupId::from_bits(0xee));
    drop(block);
    assert_eq!(allocator.free_pages(), free);
    allocator.verify_charges().expect("what the corrupt word named was not charged either");
}

#[test]
fn threads_allocate_for_one_group_up_to_its_limit_and_never_beyond() {
    const LIMIT: u32 = 100;
    let end = Pfn::containing(PhysAddr(16 * MIB)).expect("it is low");
    let cpus = NonZeroU16::new(4).expect("not zero");
    let machine = Machine::new(end, end, cpus).expect("the host lends address space");
    let allocator = allocator(&machine, &[usable(0, 16 * MIB)]);
    let group = allocator.groups().create(Some(LIMIT)).expect("no group was made");
    let held: u32 = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|order| {
                let (allocator, group) = (&allocator, &group);
                let request = Request::new(Order::of(order.into())).charged_to(group.id());
                let work = move || {
                    let mut blocks = Vec::new();
                    for turn in 0..scaled(5000, 200) {
                        blocks.extend(allocator.alloc(request).ok());
                        assert!(group.report().usage <= LIMIT);
                        if turn % 3 == 0 {
                            blocks.pop();
                        }
                    }
                    let pages = blocks.iter().map(|block| block.order().pages()).sum::<u32>();
                    core::mem::forget(blocks);
                    pages
                };
                scope.spawn(move || on_cpu(CpuId(order), work))
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("no thread fails")).sum()
    });
    assert_eq!((group.report().usage, group.report().peak), (held, LIMIT));
    allocator.verify().expect("every invariant holds");
    allocator.verify_charges().expect("the charges add up");
}
