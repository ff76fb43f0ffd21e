//! The order in which objects leave their slabs, where the command line asks for a random one.

use std::collections::{BTreeMap, BTreeSet};
use std::vec::Vec;

use super::free;
use super::init::with_machine;
use crate::hardening::Hardening;
use crate::host::scaled;
use crate::machine::Machine;
use crate::random::RandomSeed;
use crate::slab::{CacheSpec, SlabDebug};
use crate::units::{PAGE_SHIFT, PAGE_SIZE};

const BYTES: u32 = 64;
const SIZE: usize = BYTES as usize;
const SLABS: usize = 6;

/// The physical addresses of all objects of some slabs, as they are handed out.
fn handed_out(name: &str, hardening: Hardening, seed: u64, debug: SlabDebug) -> Vec<u64> {
    let mut handed_out = Vec::new();
    with_machine(
        |machine| machine.hardened(hardening).seeded(RandomSeed(seed)),
        debug,
        |caches| {
            let cache = caches.create(CacheSpec::new(name, BYTES)).expect("it fits");
            let objects: Vec<_> =
                (0..SLABS * PAGE_SIZE / SIZE).map(|_| cache.alloc_raw().expect("there is memory")).collect();
            handed_out = objects.iter().map(|&object| caches.pages.machine().physical(object).0).collect();
            objects.into_iter().for_each(|object| free(&cache, object).expect("it is allocated"));
            cache.destroy().expect("nothing is left in it");
        },
    );
    handed_out
}

#[test]
fn a_seed_says_in_which_order_objects_are_handed_out_each_of_them_once() {
    let plain = handed_out("plain", Hardening::empty(), 0, SlabDebug::NONE);
    let mut orders = BTreeSet::from([plain]);
    for seed in 0..scaled(20, 2) {
        let shuffled = handed_out("plain", Hardening::SHUFFLE_OBJECTS, seed, SlabDebug::NONE);
        let mut slabs: BTreeMap<u64, BTreeSet<u64>> = BTreeMap::new();
        for &object in &shuffled {
            assert!(slabs.entry(object >> PAGE_SHIFT).or_default().insert(object), "{object:#x} was handed out twice");
        }
        // Slabs are used up before there is another one: of all but the last every object was handed out.
        let full = slabs.values().filter(|objects| objects.len() == PAGE_SIZE / SIZE).count();
        assert!(full >= SLABS - 1, "seed {seed}: only {full} of {} slabs are used up", slabs.len());
        let again = handed_out("plain", Hardening::SHUFFLE_OBJECTS, seed, SlabDebug::NONE);
        assert_eq!(shuffled, again, "seed {seed} has two orders");
        assert!(orders.insert(shuffled), "seed {seed} has the order of another, or none");
    }
}

#[test]
fn caches_have_orders_of_their_own_and_watched_ones_have_one_too() {
    let of = |name, debug| handed_out(name, Hardening::SHUFFLE_OBJECTS, 1, debug);
    assert_ne!(of("one", SlabDebug::NONE), of("other", SlabDebug::NONE));
    let watched = || SlabDebug::parse("F").expect("it is a flag");
    let ascending = of("one", watched()).windows(2).filter(|pair| pair[0] < pair[1]).count();
    assert!((100..284).contains(&ascending), "{ascending} of 383 are followed by a higher one");
    assert_eq!(of("one", watched()), of("one", watched()));
}
