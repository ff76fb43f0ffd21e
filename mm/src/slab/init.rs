//! Objects that are zero when they are allocated, or as soon as they are free: Linux's `init_on_alloc` and `init_on_free`.
//!
//! A cache of such objects is closed, as a debugged one is (`debug`): no CPU has a sheaf of it, so that every object goes the
//! long way, where it is zeroed. Objects that a constructor has made keep what they are while they are free, and are left
//! alone. Where an object is watched, its poison is what it holds while it is free, and it is zeroed when it is allocated.
//!
//! Cost: a pass over an object's bytes each time it is allocated or freed; where it is off, one test on the long way.
//! Source: Linux, `slab_want_init_on_alloc` and `slab_want_init_on_free` of `mm/slab.h`.
#![expect(unsafe_code, reason = "reaches objects by bare pointers")]

use super::cache::{Cache, mark};
use super::caches::KmemCaches;
use super::cpu::Slot;
use super::lists::Slabs;
use crate::hardening::Hardening;
use crate::lock::Mutex;
use crate::machine::Machine;
use crate::random::Random;

impl<M: Machine> KmemCaches<'_, M> {
    fn initializes(&self, cache: &Cache) -> bool {
        cache.constructor.is_none() && self.pages.machine().hardening().initializes()
    }

    /// The same cache, closed if its objects are zeroed, and with an order of its own if that is to be random.
    pub(super) fn hardened(&self, cache: Cache) -> Cache {
        let machine = self.pages.machine();
        let cache = if self.initializes(&cache) { Cache { sheaf_objects: 0, ..cache } } else { cache };
        if machine.hardening().contains(Hardening::SHUFFLE_OBJECTS) {
            let random = Random::of(machine.random_seed(), cache.name.as_bytes());
            return Cache { slabs: Mutex::new(Slabs::shuffled(random)), ..cache };
        }
        cache
    }

    /// Zeroes an object that was just allocated, if it is to be zero and may not be.
    #[inline(always)]
    pub(super) fn init_on_alloc(&self, cache: &Cache, slot: Slot) {
        if self.initializes(cache) {
            let on_alloc = self.pages.machine().hardening().contains(Hardening::INIT_ON_ALLOC);
            if on_alloc || cache.watch.is_some() {
                zero(cache, slot);
            }
        }
    }

    /// Zeroes an object that is about to be free, but for its mark, if nothing is to be left in it.
    #[inline(always)]
    pub(super) fn init_on_free(&self, cache: &Cache, slot: Slot) {
        if self.initializes(cache) && self.pages.machine().hardening().contains(Hardening::INIT_ON_FREE) {
            cache.fence_allocated(self.pages.machine(), slot);
            zero(cache, slot);
            // That may have stood in the object.
            mark(self.pages.machine(), slot);
            cache.fence_free(self.pages.machine(), slot);
        }
    }
}

/// Zeroes an object of nobody's.
#[cold]
#[inline(never)]
fn zero(cache: &Cache, slot: Slot) {
    // SAFETY: an object is that large, and not yet known to who gets it, or no longer to who had it.
    unsafe { cache.object(slot).write_bytes(0, cache.layout.size as usize) };
}
