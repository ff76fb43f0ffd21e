//! Objects that are allocated on one CPU and freed on another, while one of them gives back all that is free.

use core::ptr::NonNull;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::vec::Vec;

use super::{as_if_free, taken, with_pages_of};
use crate::host::{HostMachine, on_cpu, scaled};
use crate::slab::{CacheSpec, Census, KmemCache, KmemCaches};
use crate::units::{Bytes, Count, CpuId};

/// An object on its way to another thread.
pub(super) struct Sent(pub(super) NonNull<u64>);

// SAFETY: whoever has it has the object.
unsafe impl Send for Sent {}

const ROUNDS: usize = scaled(400, 5);

/// Allocates batches for the next CPU and frees what the one before sends; the first CPU shrinks all caches meanwhile.
fn trade(
    caches: &KmemCaches<'_, HostMachine>,
    cache: &KmemCache<'_, HostMachine>,
    cpu: u16,
    next: &SyncSender<Vec<Sent>>,
    own: &Receiver<Vec<Sent>>,
) {
    for round in 0..ROUNDS {
        let alloc = |number: usize| {
            let object = if number.is_multiple_of(3) { caches.kmalloc(Bytes(200)) } else { cache.alloc_raw() };
            let object = object.expect("there is memory").cast::<u64>();
            // Now and then the very value that says that it is free.
            let value =
                if number == 7 { as_if_free(object.cast()) } else { object.addr().get() as u64 ^ u64::from(cpu) };
            // SAFETY: the object is as large as that, and this thread's.
            unsafe { object.write(value) };
            Sent(object)
        };
        let batch = (0..20 + round % scaled(90, 10)).map(alloc).collect();
        if next.send(batch).is_err() {
            return;
        }
        if cpu == 0 && round % 4 == 0 {
            caches.shrink();
            caches.verify().expect("all is well at any time");
        }
        let Ok(batch) = own.recv() else { return };
        for (number, Sent(object)) in batch.into_iter().enumerate() {
            // SAFETY: the object is this thread's.
            let found = unsafe { object.read() };
            let address = object.addr().get() as u64;
            let intact = if number == 7 { found == as_if_free(object.cast()) } else { found ^ address < 16 };
            assert!(intact, "an object is two threads': {found:#x} at {address:#x}");
            // SAFETY: nobody uses it any more.
            assert_eq!(unsafe { caches.kfree(object.cast()) }, Ok(()));
        }
    }
}

fn crowd(cpus: u16) {
    with_pages_of(cpus, |pages| {
        let caches = KmemCaches::new(pages).expect("there is memory");
        let before = taken(&caches);
        let cache = caches.create(CacheSpec::new("traded", 72)).expect("it fits");
        let (senders, receivers): (Vec<_>, Vec<_>) = (0..cpus).map(|_| sync_channel(2)).unzip();
        thread::scope(|scope| {
            for (cpu, own) in (0..cpus).zip(receivers) {
                let (caches, cache) = (&caches, &cache);
                let next = senders[usize::from(cpu + 1) % senders.len()].clone();
                scope.spawn(move || on_cpu(CpuId(cpu), || trade(caches, cache, cpu, &next, &own)));
            }
            drop(senders);
        });
        caches.verify().expect("all is well when the threads are done");
        assert_eq!(caches.census(), Census { objects: Count(0), bytes: Bytes(0) });
        assert_eq!(cache.destroy().map_err(|leaked| leaked.objects), Ok(()));
        assert_eq!(taken(&caches), before);
        assert_eq!(pages.machine().take_reports(), [""; 0]);
    });
}

#[test]
fn two_cpus_that_free_each_others_objects_lose_none_while_one_shrinks() {
    crowd(2);
}

#[test]
fn eight_cpus_that_free_each_others_objects_lose_none_while_one_shrinks() {
    crowd(8);
}
