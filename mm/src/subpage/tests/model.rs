//! Buffers against a plain run of bytes: random reads, writes, flushes, reclaims, cuts and failures, the checker after
//! each.

use core::pin::{Pin, pin};
use std::sync::Arc;
use std::vec;
use std::vec::Vec;

use fastrand::Rng;

use super::super::{BufferCache, BufferError, BufferMapping, BufferSize};
use super::{Bytes, patterned, read, with_caches};
use crate::cache::StoreError;
use crate::faults::Fired;
use crate::host::sweep::fail_each_once;
use crate::host::{HostMachine, scaled};
use crate::shrinker::{Shortage, Shrinker};
use crate::slab::KmemCaches;
use crate::units::{Count, FileOffset};

struct World<'w, 'a> {
    store: &'w Bytes,
    cache: &'w BufferCache<'a, HostMachine>,
    mapping: &'w BufferMapping<'w, HostMachine>,
    /// What is to be seen.
    bytes: Vec<u8>,
}

impl World<'_, '_> {
    fn run(&self, rng: &mut Rng) -> (usize, usize) {
        let start = rng.usize(..self.bytes.len());
        // Most runs end in the buffer where they began, or in the next.
        let most = if rng.u8(..4) == 0 { 8192 } else { 700 };
        (start, rng.usize(..=most.min(self.bytes.len() - start)))
    }

    /// What a failure may have left: old bytes, or new ones.
    fn settle(&mut self, start: usize, written: &[u8]) {
        self.store.faults.stop();
        let seen = read(self.mapping, start, written.len()).expect("nothing fails now");
        for (at, (&seen, &new)) in seen.iter().zip(written).enumerate() {
            let old = &mut self.bytes[start + at];
            assert!(seen == *old || seen == new, "{seen:#x} at {}", start + at);
            *old = seen;
        }
    }

    fn step(&mut self, rng: &mut Rng) {
        let fails = rng.u8(..8) == 0;
        if fails {
            self.store.faults.fail_nth(rng.u64(1..4));
        }
        let failed = |error| matches!(error, BufferError::Store(StoreError::Failed(_)));
        match rng.u8(..16) {
            0..=4 => {
                let (start, len) = self.run(rng);
                match read(self.mapping, start, len) {
                    Ok(bytes) => assert!(bytes == self.bytes[start..start + len], "{len} bytes at {start}"),
                    Err(error) => assert!(fails && failed(error)),
                }
            }
            5..=9 => {
                let (start, len) = self.run(rng);
                let written: Vec<u8> = (0..len).map(|_| rng.u8(..)).collect();
                match self.mapping.write(FileOffset(start as u64), &written) {
                    Ok(()) => self.bytes[start..start + len].copy_from_slice(&written),
                    Err(error) => {
                        assert!(fails && failed(error));
                        self.settle(start, &written);
                    }
                }
            }
            10 | 11 => match self.mapping.write_back() {
                Ok(_) => {
                    assert!(*self.store.bytes.lock() == self.bytes, "the store has all of it");
                    self.store.faults.stop();
                    assert_eq!(self.mapping.write_back(), Ok(Count(0)), "nothing is dirty any more");
                }
                Err(error) => assert!(fails && matches!(error, StoreError::Failed(_))),
            },
            12 | 13 => {
                let before = self.mapping.buffers().0;
                let reclaimed = self.cache.reclaim(Count(rng.u32(..40))).0;
                assert_eq!(self.mapping.buffers().0, before - reclaimed);
            }
            14 => drop(self.cache.shrink(&Shortage::of(Count(rng.u32(..4))))),
            _ => {
                let cut = rng.usize(1..40_000);
                self.mapping.truncate(FileOffset(cut as u64));
                let size = if rng.bool() { cut } else { cut + rng.usize(..20_000) };
                self.store.resize(cut.min(self.bytes.len()));
                self.store.resize(size);
                self.bytes.truncate(cut);
                self.bytes.resize(size, 0);
            }
        }
        self.store.faults.stop();
        self.mapping.verify().expect("sound");
        let report = self.cache.report();
        assert_eq!(Count(report.inactive.0 + report.active.0), self.mapping.buffers());
    }
}

#[test]
fn random_reads_writes_flushes_reclaims_and_failures_are_those_of_plain_bytes() {
    for seed in 0..scaled(24, 3) {
        let size = BufferSize::ALL[usize::try_from(seed).expect("small") % 3];
        with_caches(|caches| {
            let mut rng = Rng::with_seed(seed);
            let bytes = patterned(30_000 + rng.usize(..9000));
            let store = Bytes::new(bytes.clone());
            let cache = pin!(BufferCache::new(caches, size).expect("there is memory"));
            let cache = cache.into_ref();
            let mapping = cache.mapping(Arc::clone(&store)).expect("there is memory");
            let mut world = World { store: &store, cache: &cache, mapping: &mapping, bytes };
            for _ in 0..scaled(1500, 40) {
                world.step(&mut rng);
            }
            let seen = read(world.mapping, 0, world.bytes.len()).expect("nothing fails now");
            assert!(seen == world.bytes);
        });
    }
}

#[test]
fn every_allocation_may_fail_and_no_byte_is_wrong() {
    const KIB: usize = scaled(300, 70);
    const READ: usize = scaled(100, 20) << 10;
    fn script(cache: Pin<&BufferCache<'_, HostMachine>>, store: &Arc<Bytes>) -> Result<(), &'static str> {
        let mapping = cache.mapping(Arc::clone(store)).map_err(|_| "no mapping")?;
        let (mut expected, mut outcome) = (store.bytes.lock().clone(), Ok(()));
        for block in [0, 7, 64, 65, KIB / 2, KIB - 1] {
            let start = (block << 10) + 1000;
            let len = 100.min(expected.len() - start);
            let written = vec![0xa5; len];
            match mapping.write(FileOffset(start as u64), &written) {
                Ok(()) => expected[start..start + len].copy_from_slice(&written),
                Err(_) => {
                    // What was refused may be there in part.
                    outcome = Err("no buffer");
                    let seen = read(&mapping, start, len).map_err(|_| "no buffer again")?;
                    assert!(seen.iter().zip(&expected[start..]).all(|(&seen, &old)| seen == 0xa5 || seen == old));
                    expected[start..start + len].copy_from_slice(&seen);
                }
            }
            mapping.verify().expect("sound");
        }
        match read(&mapping, 50 << 10, READ) {
            Ok(seen) => assert!(seen == expected[50 << 10..][..READ]),
            Err(_) => outcome = Err("no buffers"),
        }
        mapping.write_back().expect("it takes no memory");
        assert!(*store.bytes.lock() == expected);
        cache.shrink(&Shortage::of(Count(2)));
        mapping.verify().expect("sound");
        outcome
    }
    with_caches(|outer| {
        let (pages, bytes) = (outer.pages, patterned(KIB << 10));
        let swept = fail_each_once(pages, || {
            let store = Bytes::new(bytes.clone());
            let caches = KmemCaches::new(pages).map_err(|_| "no caches")?;
            let cache = pin!(BufferCache::new(&caches, BufferSize::Kib1).map_err(|_| "no cache")?);
            let cache = cache.into_ref();
            let with_both = || pages.with_shrinker(&caches, || script(cache, &store));
            pages.with_shrinker(&*cache, with_both).flatten().map_err(|_| "no room")?
        });
        assert!(swept.allocations > scaled(200, 150) && swept.absorbed >= scaled(100, 0), "{swept:?}");
        assert_eq!(pages.machine().faults().stop(), Fired::Yes, "none is left over");
    });
}
