//! Readers in threads while a writer changes everything around what they look for.

use core::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::vec::Vec;

use super::super::{Entry, Extent, NodeReserve, Tree, TreeNodes};
use super::{CPUS, reserve, with_nodes};
use crate::host::{HostMachine, on_cpu, scaled};
use crate::units::{Count, CpuId, Order, PageIndex, StoreSlot};
use core::ptr::NonNull;
use fastrand::Rng;

/// What says itself where it belongs.
#[repr(align(16))]
struct Thing {
    tree: usize,
    extent: Extent,
}

struct World<'n> {
    trees: [Tree<'n, Thing, ()>; 2],
    things: [Vec<Thing>; 2],
    over: AtomicBool,
}

/// What never leaves the first tree.
const STAYS: usize = 3;

fn extents(tree: usize) -> Vec<Extent> {
    let page = |index| Extent::page(PageIndex(index));
    let stay = [page(0), Extent::around(PageIndex(512), Order::of(9)), Extent::around(PageIndex(96), Order::of(3))];
    let mut comes = [1, 63, 64, 90, 130, 191, 4096, 1 << 24, 1 << 40, u64::MAX].map(page).to_vec();
    comes.extend(
        [(192, 6), (1024, 10), (112, 4), (1 << 30, 8)].map(|(at, k)| Extent::around(PageIndex(at), Order::of(k))),
    );
    if tree == 0 { stay.into_iter().chain(comes).collect() } else { comes }
}

impl World<'_> {
    /// What was found at an index is something that was once there.
    fn check(&self, tree: usize, index: PageIndex, entry: Entry<Thing>) {
        match entry {
            Entry::Stored(StoreSlot(slot)) => assert!(
                self.things[tree]
                    .get(slot as usize)
                    .is_some_and(|thing| { thing.extent.first() <= index && index <= thing.extent.last() }),
                "{slot} stands at {index:?} of tree {tree}"
            ),
            Entry::Lost => panic!("nothing was lost"),
            Entry::Item(thing) => {
                // SAFETY: items live as long as the world; that nothing else is found is what is checked.
                let thing = unsafe { thing.as_ref() };
                assert_eq!(thing.tree, tree, "another tree's");
                assert!(
                    thing.extent.first() <= index && index <= thing.extent.last(),
                    "{:?} at {index:?}",
                    thing.extent
                );
            }
        }
    }

    fn read(&self, nodes: &TreeNodes<'_, HostMachine>, seed: u64) -> u64 {
        let mut rng = Rng::with_seed(seed);
        let mut looks = 0;
        while !self.over.load(Ordering::Relaxed) {
            let walking = nodes.gate().enter();
            let tree = rng.usize(..2);
            let number = rng.usize(..self.things[tree].len());
            let extent = self.things[tree][number].extent;
            let index = PageIndex(extent.first().0 + rng.u64(..=extent.last().0 - extent.first().0));
            let entry = self.trees[tree].look(index, &walking);
            assert!(entry.is_some() || tree != 0 || number >= STAYS, "what is always there was not at {index:?}");
            if let Some(entry) = entry {
                self.check(tree, index, entry);
            }
            looks += 1;
        }
        looks
    }

    fn entry(&self, tree: usize, number: usize, rng: &mut Rng) -> Entry<Thing> {
        match rng.bool() {
            true => Entry::Item(NonNull::from(&self.things[tree][number])),
            false => Entry::Stored(StoreSlot(u32::try_from(number).expect("few"))),
        }
    }

    fn write(&self, nodes: &TreeNodes<'_, HostMachine>, tree: usize, turns: u32) {
        let mut rng = Rng::with_seed(7 + tree as u64);
        let mut reserve: NodeReserve<'_, '_, _> = nodes.no_reserve();
        for _ in 0..turns {
            reserve.refill(Count(24)).expect("there is memory");
            let number = rng.usize(..self.things[tree].len());
            let extent = self.things[tree][number].extent;
            let entry = self.entry(tree, number, &mut rng);
            let mut guard = self.trees[tree].lock(nodes.machine());
            if guard.look(extent.first()).is_none() {
                guard.insert(extent, entry, &mut reserve).expect("there is room");
            } else if rng.bool() && extent.order() > Order::ZERO {
                let page = Extent::page(PageIndex(extent.first().0 + rng.u64(..u64::from(extent.order().pages()))));
                let part = if rng.bool() { page } else { extent };
                guard.expand(part, Order::ZERO, &mut reserve).expect("nodes are there");
                drop(guard);
                guard = self.trees[tree].lock(nodes.machine());
                guard.collapse(extent, &mut reserve).expect("it was one");
            } else if rng.bool() {
                guard.replace(extent, entry).expect("it stands there");
            } else if tree != 0 || number >= STAYS {
                guard.remove(extent, &mut reserve).expect("it stands there");
            }
            drop(guard);
            if rng.u8(..16) == 0 {
                reserve = nodes.no_reserve();
            }
        }
    }
}

/// Says that all is over, also when it ends badly.
struct Over<'o>(&'o AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn readers_find_what_stays_and_nothing_that_was_never_there() {
    with_nodes(|_, nodes| {
        let things =
            [0, 1].map(|tree| extents(tree).into_iter().map(|extent| Thing { tree, extent }).collect::<Vec<_>>());
        let world = World { trees: [nodes.tree(()), nodes.tree(())], things, over: AtomicBool::new(false) };
        let mut reserve = reserve(nodes, 24);
        for number in 0..STAYS {
            let extent = world.things[0][number].extent;
            let entry = Entry::Item(NonNull::from(&world.things[0][number]));
            world.trees[0].lock(nodes.machine()).insert(extent, entry, &mut reserve).expect("there is room");
        }
        drop(reserve);
        thread::scope(|scope| {
            let ended = Over(&world.over);
            let readers = [2, CPUS - 1].map(|cpu| {
                let world = &world;
                scope.spawn(move || on_cpu(CpuId(cpu), || world.read(nodes, u64::from(cpu))))
            });
            let other = scope.spawn(|| on_cpu(CpuId(1), || world.write(nodes, 1, scaled(40_000, 120))));
            world.write(nodes, 0, scaled(20_000, 60));
            nodes.shrink();
            world.write(nodes, 0, scaled(20_000, 60));
            other.join().expect("the other writer saw nothing wrong");
            drop(ended);
            for reader in readers {
                let found = reader.join().expect("a reader saw nothing wrong");
                assert!(cfg!(miri) || found > 1000);
            }
        });
        let mut reserve = nodes.no_reserve();
        for (tree, things) in world.trees.iter().zip(&world.things) {
            let mut guard = tree.lock(nodes.machine());
            guard.verify().expect("sound");
            for thing in things {
                // What is not there is not removed.
                let _ = guard.remove(thing.extent, &mut reserve);
            }
            assert_eq!(guard.verify(), Ok(Count(0)));
        }
    });
}
