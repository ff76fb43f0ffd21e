//! Users load, store, map and fork while memory is compacted under them.

use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;

use super::*;
use crate::host::on_cpu;
use crate::units::CpuId;

use PageProtection::ReadWrite;
use Sharing::{Private, Shared};

const PAGES: u64 = scaled(600, 30);
const ROUNDS: u32 = scaled(30_000, 40);

/// Writes and reads back its own pages, gives some up and gets new ones, and lets a child do the same for a while.
fn use_memory<'r>(rig: &Rig<'r>, file: &File<'r>, seed: u64, rounds: u32) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let space = rig.space();
    let slot = seed * 64;
    space.map_file(pages(4096, 64), file, PageIndex(slot), ReadWrite, Shared).expect("nothing is there");
    space.map_anonymous(pages(0, PAGES), ReadWrite, Private, Order::of(3)).expect("nothing is there");
    let mut known: BTreeMap<u64, u64> = BTreeMap::new();
    for round in 0..rounds {
        let page = if rng.u8(0..4) == 0 { 4096 + rng.u64(0..64) } else { rng.u64(0..PAGES) };
        match rng.u8(0..16) {
            0 if page < PAGES => {
                space.unmap(pages(page, 1)).expect("there is memory");
                space.map_anonymous(pages(page, 1), ReadWrite, Private, Order::ZERO).expect("there was nothing");
                known.remove(&page);
            }
            1 if round % 64 == 0 => {
                let child = space.fork().expect("there is memory");
                for (&page, &word) in known.iter().take(50) {
                    assert_eq!(rig.get(&child, page), Ok(word), "page {page} of a child");
                }
                for &page in known.keys().filter(|&&page| page < PAGES).take(20) {
                    rig.set(&child, page, 1);
                }
            }
            2..=8 => {
                let word = rng.u64(..);
                rig.set(&space, page, word);
                known.insert(page, word);
            }
            _ => {
                let expected = known.get(&page).copied();
                let found = rig.get(&space, page).expect("it can be read");
                assert_eq!(found, expected.unwrap_or(0), "page {page}");
            }
        }
    }
    for (&page, &word) in &known {
        assert_eq!(rig.get(&space, page), Ok(word), "page {page}");
    }
}

#[test]
fn users_find_every_byte_while_memory_is_compacted_under_them() {
    let store = HostFile::pages(64 * 4);
    let (mib, lowmem) = scaled((64, 40), (16, 10));
    with_rig(mib, lowmem, |rig| {
        let file = rig.cache.file(Arc::clone(&store), Order::of(4)).expect("there is memory");
        let (done, cleared, moved) = (AtomicBool::new(false), AtomicU32::new(0), AtomicU32::new(0));
        thread::scope(|scope| {
            let users: Vec<_> = (1..CPUS)
                .map(|cpu| {
                    let file = &file;
                    scope.spawn(move || on_cpu(CpuId(cpu), || use_memory(rig, file, u64::from(cpu), ROUNDS)))
                })
                .collect();
            let compacting = scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    for order in [9, 6, 10].map(Order::of) {
                        let report = rig.compactor.compact(order, Count(4), drop);
                        cleared.fetch_add(report.cleared.0, Ordering::Relaxed);
                        moved.fetch_add(report.moved.folios.0 + report.moved.tables.0, Ordering::Relaxed);
                    }
                }
            });
            let outcomes: Vec<_> = users.into_iter().map(thread::ScopedJoinHandle::join).collect();
            done.store(true, Ordering::Relaxed);
            compacting.join().expect("compaction saw nothing wrong");
            outcomes.into_iter().for_each(|outcome| outcome.expect("a user found what was there"));
        });
        std::println!("{cleared:?} areas were cleared, {moved:?} pages moved");
        assert!(cfg!(miri) || cleared.into_inner() > 4 && moved.into_inner() > 1000);
        rig.verify([]);
        file.verify().expect("the cache is sound");
    });
}
