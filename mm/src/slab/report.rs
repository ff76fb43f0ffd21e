//! What caches say about themselves.
#![expect(unsafe_code, reason = "follows the list of all caches")]

use core::convert::Infallible;

use super::cache::{Cache, CacheName};
use super::caches::{KmemCaches, live};
use super::lists::{Place, Slabs};
use super::object::KmemCache;
use crate::machine::Machine;
use crate::units::{Bytes, Count, Order};

/// A cache at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CacheReport {
    /// Its name.
    pub name: CacheName,
    /// Objects that are not in slabs: allocated, or in a sheaf.
    pub active: Count,
    /// Objects that there are.
    pub objects: Count,
    /// Bytes of an object.
    pub size: Bytes,
    /// From one object to the next.
    pub stride: Bytes,
    /// Objects of a slab.
    pub objects_per_slab: Count,
    /// The block of a slab.
    pub order: Order,
    /// Objects in a sheaf; none if no CPU has one.
    pub sheaf_objects: Count,
    /// Slabs with objects that are taken.
    pub active_slabs: Count,
    /// Slabs that there are.
    pub slabs: Count,
}

impl CacheReport {
    /// Pages of the cache's slabs.
    pub const fn pages(&self) -> Count {
        Count(self.slabs.0 * self.order.pages())
    }
}

impl<M: Machine> KmemCaches<'_, M> {
    /// Shows every cache to `look`, the youngest first, until it fails. None comes or goes meanwhile.
    pub(super) fn try_for_each_cache<E>(&self, mut look: impl FnMut(&Cache) -> Result<(), E>) -> Result<(), E> {
        let all = self.all.lock();
        // SAFETY: caches on the list are alive, and the list is locked.
        all.iter().try_for_each(|cache| look(unsafe { live(cache) }))
    }

    /// Works on what a cache's lock guards.
    pub(super) fn with_slabs<R>(&self, cache: &Cache, work: impl FnOnce(&mut Slabs) -> R) -> R {
        let _interrupts = self.pages.machine().disable_interrupts();
        work(&mut cache.slabs.lock())
    }

    /// Shows a report of every cache to `look`, the youngest first; `look` must not make or destroy any.
    pub fn for_each_report(&self, mut look: impl FnMut(CacheReport)) {
        let Ok(()) = self.try_for_each_cache(|cache| {
            look(self.report(cache));
            Ok::<_, Infallible>(())
        });
    }

    fn report(&self, cache: &Cache) -> CacheReport {
        self.with_slabs(cache, |slabs| CacheReport {
            name: cache.name,
            active: Count(slabs.taken),
            objects: Count(slabs.count() * cache.layout.objects),
            size: Bytes(cache.layout.size as usize),
            stride: Bytes(cache.layout.stride as usize),
            objects_per_slab: Count(cache.layout.objects),
            order: cache.layout.order,
            sheaf_objects: Count(cache.sheaf_objects),
            active_slabs: Count(slabs.count() - slabs.count_of(Place::Empty)),
            slabs: Count(slabs.count()),
        })
    }
}

impl<M: Machine> KmemCache<'_, M> {
    /// What the cache says about itself.
    pub fn report(&self) -> CacheReport {
        self.caches().report(self.cache())
    }
}
