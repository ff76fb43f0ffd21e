//! The order in which a machine's memory is handed out, where the command line asks for a random one.

use core::num::NonZeroU16;
use std::collections::BTreeSet;
use std::vec::Vec;

use super::{MIB, Machine, allocator, usable};
use crate::hardening::Hardening;
use crate::host::scaled;
use crate::machine::{Geometry, Standard};
use crate::page::{Block, Request};
use crate::random::RandomSeed;
use crate::units::{Pfn, PhysAddr};

/// The end of memory.
const END: u64 = scaled(256, 64) * MIB;

/// The heads of all largest blocks of a machine, half of it highmem, as they are handed out.
fn handed_out(hardening: Hardening, seed: u64) -> Vec<Pfn> {
    let pfn = |address| Pfn::containing(PhysAddr(address)).expect("below 16 TiB");
    let machine = Machine::new(pfn(END), pfn(END / 2), NonZeroU16::MIN).expect("the host lends memory");
    let machine = machine.hardened(hardening).seeded(RandomSeed(seed));
    let allocator = allocator(&machine, &[usable(0, END)]);
    allocator.verify().expect("all is well after boot");
    let free = allocator.free_pages();
    let blocks: Vec<_> = core::iter::from_fn(|| allocator.alloc(Request::movable(Standard::MAX_ORDER)).ok()).collect();
    let heads = blocks.iter().map(Block::head).collect();
    drop(blocks);
    allocator.verify().expect("all is well at last");
    assert_eq!(allocator.free_pages(), free);
    heads
}

#[test]
fn a_seed_says_in_which_order_blocks_are_handed_out_each_of_them_once() {
    let plain = handed_out(Hardening::empty(), 0);
    let all: BTreeSet<_> = plain.iter().copied().collect();
    assert!(all.len() > scaled(50, 12) && all.len() == plain.len(), "{plain:?}");
    let mut orders = BTreeSet::from([plain]);
    for seed in 0..scaled(20, 1) {
        let shuffled = handed_out(Hardening::SHUFFLE_PAGES, seed);
        // As many, but not the same ones: a zone keeps its last blocks back, whichever those are.
        assert_eq!(shuffled.iter().collect::<BTreeSet<_>>().len(), all.len(), "seed {seed}");
        assert_eq!(shuffled.len(), all.len(), "seed {seed}: a block was handed out twice");
        assert_eq!(shuffled, handed_out(Hardening::SHUFFLE_PAGES, seed), "seed {seed} has two orders");
        assert!(orders.insert(shuffled), "seed {seed} has the order of another, or none");
    }
    assert_eq!(handed_out(Hardening::empty(), 7), handed_out(Hardening::empty(), 8), "nobody asked for it");
}
