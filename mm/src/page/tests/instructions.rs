//! What allocating costs, in instructions, from half a gibibyte to a terabyte.
//!
//! The machines are hosted, and of their memory only what is touched is there; instructions are counted by the trap flag
//! ([`stepping`](crate::host::stepping)), so they are exact, and those of this build, checks and all.

use core::num::NonZeroU64;
use std::eprintln;

use super::*;
use crate::host::stepping::{When, interrupted};
use crate::units::Count;

const SIZES: [u64; 3] = [GIB / 2, 8 * GIB, 256 * GIB];

/// What each operation costs, in instructions, in the mean over a run of so many.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Costs {
    /// Allocate a page and free it, out of what is at hand.
    order0_pair: u64,
    /// The same with a whole block of the largest order, through the zone.
    order10_pair: u64,
    /// Allocate one of many pages in a row.
    in_a_row: u64,
    /// Free one of them.
    back_in_a_row: u64,
    /// Break a block of the largest order for one page that is freed again, with nothing at hand.
    split_and_merge: u64,
}

/// Instructions that `work` takes, in the mean of `operations`.
fn mean(machine: &Machine, operations: u64, work: impl FnOnce()) -> u64 {
    let never = When::Once(NonZeroU64::MAX);
    let ((), came) = interrupted(machine, never, || (), work);
    came.instructions / operations
}

fn costs(memory: u64, direct_map_end: u64) -> Costs {
    const ROW: usize = 1024;
    let machine = machine(memory, direct_map_end);
    let allocator = allocator(&machine, &[usable(0, memory)]);
    let pair = |request: Request| drop(allocator.alloc(request).expect("memory is free"));
    let page = Request::movable(Order::ZERO);
    let block = Request::movable(Order::of(10));
    // What a first time does is not the steady state.
    (0..64).for_each(|_| pair(page));
    let order0_pair = mean(&machine, 64, || (0..64).for_each(|_| pair(page)));
    pair(block);
    let order10_pair = mean(&machine, 16, || (0..16).for_each(|_| pair(block)));
    // SAFETY: it was allocated for this, and nobody uses it.
    let free = |head| assert_eq!(unsafe { allocator.free_raw(head) }, Ok(()));
    let alloc = || allocator.alloc_raw(page).expect("memory is free");
    let mut held: Vec<_> = (0..ROW).map(|_| alloc()).collect();
    held.drain(..).for_each(free);
    let in_a_row = mean(&machine, ROW as u64, || (0..ROW).for_each(|_| held.push(alloc())));
    let back_in_a_row = mean(&machine, ROW as u64, || held.drain(..).for_each(free));
    let Count(_) = allocator.drain();
    // Closed, so that each page is the zone's.
    let down = allocator.take_cpu_down(crate::units::CpuId(0)).expect("there is such a CPU");
    pair(page);
    let split_and_merge = mean(&machine, 8, || (0..8).for_each(|_| pair(page)));
    drop(down);
    Costs { order0_pair, order10_pair, in_a_row, back_in_a_row, split_and_merge }
}

#[test]
fn no_operation_costs_more_with_five_hundred_times_the_memory_but_for_the_tree_that_is_deeper() {
    // The descriptors of the largest take a gibibyte of lowmem; the rest is highmem.
    let [small, medium, large] = SIZES.map(|memory| {
        let costs = costs(memory, memory / 64);
        eprintln!("{} MiB, {} MiB of them lowmem: {costs:?}", memory / MIB, memory / 64 / MIB);
        costs
    });
    for larger in [medium, large] {
        assert_eq!(larger.order0_pair, small.order0_pair);
        assert_eq!(larger.order10_pair, small.order10_pair);
        // Lists of blocks have a level more where there is more memory, and which blocks their nodes have broken at boot is
        // chance.
        assert!(larger.in_a_row <= small.in_a_row + small.in_a_row / 2, "{larger:?} {small:?}");
        assert!(larger.back_in_a_row <= 2 * small.back_in_a_row, "{larger:?} {small:?}");
        // Whether a node stands next to the page, and is looked at, is chance.
        assert!(larger.split_and_merge <= 4 * small.split_and_merge, "{larger:?} {small:?}");
    }
}
