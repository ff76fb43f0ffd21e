//! Where what caches keep stands in memory: for tests that damage it.

use std::vec::Vec;

use core::ptr::NonNull;

use super::caches::KmemCaches;
use super::cpu::ClosedCpus;
use super::lists::Place as Fullness;
use super::object::KmemCache;
use crate::machine::Machine;
use crate::page::Place;

impl<M: Machine> KmemCaches<'_, M> {
    /// The descriptors of a cache's slabs, what its CPUs keep, and the marks of the first objects there.
    pub(crate) fn parts_of(&self, cache: &KmemCache<'_, M>) -> Vec<Place> {
        let cache = cache.cache();
        let mut parts = Vec::new();
        let name = |what, at: NonNull<u8>, bytes| Place { bytes, ..self.pages.place(what, at) };
        self.with_slabs(cache, |slabs| {
            for fullness in [Fullness::Empty, Fullness::Partial, Fullness::Full] {
                let slab = slabs.list(fullness).iter().next();
                // SAFETY: it is on a list of its cache, so it has a reference.
                if let Some(descriptor) = slab.as_ref().map(|slab| unsafe { slab.as_ref() }) {
                    parts.push(Place {
                        what: "slab: life",
                        bytes: 16,
                        ..self.pages.place("", NonNull::from(descriptor))
                    });
                    // SAFETY: as above.
                    let owner = unsafe { descriptor.owner() };
                    owner.each_part(|what, at, bytes| parts.push(name(what, at, bytes)));
                    if fullness != Fullness::Full {
                        parts.push(name("slab: mark", cache.slot_in(owner), 8));
                    }
                }
            }
        });
        for cpu in cache.sides.all(self.cpus) {
            cpu.each_part(|what, at, bytes| parts.push(name(what, at, bytes)));
        }
        let machine = self.pages.machine();
        let _one_at_a_time = cache.closing.lock(machine);
        let closed = ClosedCpus::close(cache.sides.all(self.cpus), cache.sheaf_objects, || machine.heavy_barrier());
        if let Some(mut closed) = closed {
            closed.each(|held| {
                let objects = held.at_hand();
                // The newest is given out first; the oldest waits.
                for slot in objects.first().into_iter().chain(objects.last()) {
                    parts.push(self.pages.place("sheaf: slot", NonNull::from(slot)));
                    parts.push(name("sheaf: mark", *slot, 8));
                }
            });
        }
        parts
    }
}
