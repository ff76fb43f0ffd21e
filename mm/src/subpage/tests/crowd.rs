//! Threads that share every buffer, while others reclaim and write back.

use core::pin::pin;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::Arc;
use std::thread;
use std::time::Duration;
use std::vec;

use fastrand::Rng;

use super::super::mapping::Contents;
use super::super::{BlockIndex, BufferCache, BufferMapping, BufferSize};
use super::{Bytes, CPUS, read, with_caches};
use crate::host::{HostMachine, SlowStore, on_cpu, scaled};
use crate::shrinker::{Shortage, Shrinker};
use crate::units::{Count, CpuId, FileOffset};

const TURNS: u32 = scaled(30_000, 200);

/// As long as nothing has gone, everybody goes on, but not for ever.
const MOST_TURNS: u32 = scaled(1000 * TURNS, TURNS);

/// Few, so that everybody is always at the same ones.
const BLOCKS: usize = 5;
const OWN: usize = 64;

/// Writes its own bytes of every buffer, again and again, and finds there what it wrote. Says what it wrote last.
fn work(mapping: &BufferMapping<'_, HostMachine>, who: u64, gone: &AtomicU32) -> [u8; BLOCKS] {
    let mut rng = Rng::with_seed(who);
    let mut last = [0_u8; BLOCKS];
    let goes_on = |turn: &u32| *turn < TURNS || gone.load(Ordering::Relaxed) == 0;
    for _ in (0..MOST_TURNS).take_while(goes_on) {
        let slot = rng.usize(..BLOCKS);
        let at = FileOffset(slot as u64 * 512 + who * OWN as u64);
        let mut seen = [0; OWN];
        mapping.read(at, &mut seen).expect("there is memory");
        assert_eq!(seen, [last[slot]; OWN], "block {slot} of {who}");
        last[slot] = rng.u8(..);
        mapping.write(at, &[last[slot]; OWN]).expect("there is memory");
    }
    last
}

/// Says that all is over, also when it ends badly.
struct Over<'o>(&'o AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn whoever_waited_for_a_buffer_that_went_meanwhile_finds_what_is_there_now() {
    with_caches(|caches| {
        let store = Bytes::new(vec![1; 512]);
        let cache = pin!(BufferCache::new(caches, BufferSize::Bytes512).expect("there is memory"));
        let cache = cache.into_ref();
        let mapping = cache.mapping(Arc::clone(&store)).expect("there is memory");
        let buffer = mapping.locked(BlockIndex(0), Contents::Wanted).expect("there is memory");
        thread::scope(|scope| {
            let waiting = scope.spawn(|| on_cpu(CpuId(1), || read(&mapping, 0, 512)));
            // Long enough for the other to find the buffer and wait for its lock; if it was not, nothing is shown.
            thread::sleep(Duration::from_millis(50));
            store.bytes.lock().fill(2);
            mapping.take_out(&buffer);
            drop(buffer);
            assert_eq!(waiting.join().expect("nothing was wrong"), Ok(vec![2; 512]));
        });
    });
}

#[test]
fn a_mapping_is_looked_at_until_its_last_buffer_has_gone_even_while_it_is_dropped() {
    with_caches(|caches| {
        let store = Arc::new(SlowStore::new(Bytes::new(vec![1; 512])));
        let cache = pin!(BufferCache::new(caches, BufferSize::Bytes512).expect("there is memory"));
        let cache = cache.into_ref();
        let mapping = cache.mapping(Arc::clone(&store)).expect("there is memory");
        mapping.write(FileOffset(7), &[2]).expect("there is memory");
        thread::scope(|scope| {
            let reclaiming = scope.spawn(|| on_cpu(CpuId(1), || cache.reclaim(Count(1))));
            store.meeting.give_up(mapping);
            // Who drops it may wait for the buffer, to which it refers then.
            assert!(reclaiming.join().expect("nothing was wrong") <= Count(1));
        });
        assert_eq!(store.store.bytes.lock()[7], 2);
    });
}

#[test]
fn no_write_is_lost_while_buffers_come_and_go_under_it() {
    with_caches(|caches| {
        let store = Bytes::new(vec![0; 512 * BLOCKS]);
        let cache = pin!(BufferCache::new(caches, BufferSize::Bytes512).expect("there is memory"));
        let cache = cache.into_ref();
        let mapping = cache.mapping(Arc::clone(&store)).expect("there is memory");
        let (over, gone) = (AtomicBool::new(false), AtomicU32::new(0));
        let last = thread::scope(|scope| {
            let ended = Over(&over);
            let workers = [1, 2].map(|who: u16| {
                let (mapping, gone) = (&*mapping, &gone);
                scope.spawn(move || on_cpu(CpuId(who), || work(mapping, u64::from(who), gone)))
            });
            let reclaimer = scope.spawn(|| {
                on_cpu(CpuId(CPUS - 1), || {
                    let mut rng = Rng::with_seed(3);
                    while !over.load(Ordering::Relaxed) {
                        gone.fetch_add(cache.reclaim(Count(rng.u32(1..6))).0, Ordering::Relaxed);
                        match rng.u8(..8) {
                            0 => drop(cache.shrink(&Shortage::of(Count(1)))),
                            1 => drop(mapping.write_back().expect("the store takes it")),
                            _ => {}
                        }
                    }
                });
            });
            let first = work(&mapping, 0, &gone);
            let [second, third] = workers.map(|worker| worker.join().expect("a worker found what it wrote"));
            drop(ended);
            reclaimer.join().expect("nothing was wrong");
            assert!(cfg!(miri) || gone.load(Ordering::Relaxed) > 0);
            [first, second, third]
        });
        mapping.verify().expect("sound");
        mapping.write_back().expect("the store takes it");
        for (at, &byte) in store.bytes.lock().iter().enumerate() {
            let (block, who) = (at / 512, at % 512 / OWN);
            assert_eq!(byte, last.get(who).map_or(0, |last| last[block]), "at {at}");
        }
    });
}
