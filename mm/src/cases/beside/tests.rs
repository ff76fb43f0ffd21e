//! Small machines beside their specification, compared after every single operation.

use std::env;
use std::println;
use std::time::Instant;

use super::*;
use crate::arena::{ArenaMachine, Deep};
use crate::boot_map::{BootMap, Region, RegionKind};
use crate::host::scaled;
use crate::units::{NodeId, PAGE_SIZE, PhysAddr};

/// Two entries a node, two inline, and two pages at hand: thirty pages cross every edge.
type Small = Deep<3, 2, 2, 2>;

const EVERY_ONE: NonZeroU32 = NonZeroU32::MIN;

/// Ten million in all tests together; `OPERATIONS` says how many in each if it is to be more.
fn operations() -> u32 {
    env::var("OPERATIONS").ok().and_then(|number| number.parse().ok()).unwrap_or(scaled(4_000_000, 200))
}

/// Runs a machine of 64 frames, of which those from `direct_map_end` on are highmem.
fn run(direct_map_end: u32, operations: u32) {
    const END: u32 = 64;
    let machine = ArenaMachine::<Small>::new(Pfn::new(END), Pfn::new(direct_map_end)).specified();
    let len = u64::from(END) * PAGE_SIZE as u64;
    let memory = Region { start: PhysAddr(0), len, kind: RegionKind::Usable, node: NodeId(0) };
    let mut map: BootMap = BootMap::new(&[memory]).expect("the map has one region");
    let pages = machine.allocator(&mut map).expect("the tables fit");
    let (began, free) = (Instant::now(), pages.free_pages());
    let mut beside = Beside::new(&pages).expect("the machine has a specification");
    let seed = Seed(u64::from(direct_map_end));
    if let Err(failure) = beside.run(seed, Count(operations), EVERY_ONE) {
        panic!("lowmem ends at {direct_map_end}: {failure}");
    }
    drop(beside);
    assert_eq!(pages.free_pages(), free, "all comes back");
    println!("lowmem to {direct_map_end}: {free} pages, {operations} operations, {:?}", began.elapsed());
}

#[test]
fn millions_of_operations_in_one_zone_are_as_specified() {
    run(64, operations());
}

#[test]
fn millions_of_operations_in_two_zones_are_as_specified() {
    run(48, operations());
}

#[test]
fn operations_are_as_specified_wherever_lowmem_ends() {
    for end in (40..64).step_by(scaled(1, 5)) {
        run(end, operations() / scaled(40, 10));
    }
}
