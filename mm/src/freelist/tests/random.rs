//! A stack against a `Vec`, whatever is done to them.

use std::vec::Vec;

use proptest::prelude::*;
use proptest::sample::Index;

use super::bench::with_stack;
use super::{LargeRing, Mid, Tiny};
use crate::host::{at_each_step, scaled};
use crate::machine::{Geometry, Standard};
use crate::units::Pfn;

#[derive(Clone, Copy, Debug)]
enum Step {
    Push {
        entry: u32,
        count: u32,
    },
    Pop {
        count: usize,
    },
    Remove(Index),
    /// A node arrives, and the entry for which it was needed does not.
    Supply,
    Relocate(Index),
}

/// Pages for nodes.
const PAGES: u32 = 100;

fn step(most: u32) -> impl Strategy<Value = Step> {
    let count = prop_oneof![6 => 1..4u32, 1 => 1..most];
    prop_oneof![
        8 => (any::<u32>(), count.clone()).prop_map(|(entry, count)| Step::Push { entry, count }),
        6 => count.prop_map(|count| Step::Pop { count: count as usize }),
        6 => any::<Index>().prop_map(Step::Remove),
        4 => Just(Step::Supply),
        2 => any::<Index>().prop_map(Step::Relocate),
    ]
}

fn run<G: Geometry>(pages: u32, lowmem: u32, steps: &[Step]) {
    with_stack::<G>(pages, lowmem, |bench| {
        for &step in steps {
            let len = bench.entries.len();
            match step {
                // The entries above what the pages can hold nodes for stay out.
                Step::Push { .. } if bench.nodes > pages / 2 => {}
                Step::Push { entry, count } => {
                    (0..count).for_each(|offset| bench.push(Pfn::new(entry.wrapping_add(offset))));
                }
                Step::Pop { count } => bench.pop_many(count.min(len)),
                Step::Remove(_) if len == 0 => {}
                Step::Remove(which) => bench.remove(which.index(len)),
                Step::Supply if bench.stack.needs_node() => bench.supply(),
                Step::Supply => {}
                Step::Relocate(which) => {
                    let places: Vec<_> = bench.places();
                    if !places.is_empty() {
                        let (place, from) = *which.get(&places);
                        bench.relocate(place, from);
                    }
                }
            }
            at_each_step(|| bench.check());
        }
        bench.check();
        assert!(bench.most_slots() <= 2);
    });
}

proptest! {
    #[test]
    fn two_entries_a_node_keep_every_entry_at_its_position(
        lowmem in 0..=PAGES,
        steps in prop::collection::vec(step(30), 0..scaled(150, 12)),
    ) {
        run::<Tiny>(PAGES, lowmem, &steps);
    }

    #[test]
    fn four_entries_a_node_keep_every_entry_at_its_position(
        lowmem in 0..=PAGES,
        steps in prop::collection::vec(step(60), 0..scaled(150, 12)),
    ) {
        run::<Mid>(PAGES, lowmem, &steps);
    }

    #[test]
    fn a_ring_larger_than_a_leaf_keeps_every_entry_at_its_position(
        lowmem in 0..=PAGES,
        steps in prop::collection::vec(step(40), 0..scaled(150, 12)),
    ) {
        run::<LargeRing>(PAGES, lowmem, &steps);
    }

    #[test]
    fn the_real_sizes_keep_every_entry_at_its_position(
        lowmem in 0..=PAGES,
        steps in prop::collection::vec(step(scaled(2500, 1200)), 0..scaled(60, 3)),
    ) {
        run::<Standard>(PAGES, lowmem, &steps);
    }
}
