//! What caches say about themselves.
#![expect(unsafe_code, reason = "follows the list of all caches")]

use core::convert::Infallible;
use core::fmt;
use core::ptr::NonNull;

use super::cache::{Cache, CacheName};
use super::caches::{First, KmemCaches, live};
use super::descriptor::Slab;
use super::lists::{Place, Slabs};
use super::object::KmemCache;
use super::roster::AllCaches;
use crate::image::{Note, NoteFull};
use crate::lock::Mutex;
use crate::lock_order::class;
use crate::machine::Machine;
use crate::units::{Bytes, Count, Order, PAGE_SHIFT};

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

/// What is allocated at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Census {
    /// Objects, and large blocks.
    pub objects: Count,
    /// What they take, which is what was asked for rounded up.
    pub bytes: Bytes,
}

impl fmt::Display for Census {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in {} objects", self.bytes, self.objects.0)
    }
}

/// Where an address is in a slab.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PlaceInSlab {
    /// The cache.
    pub cache: CacheName,
    /// How far behind the start of an object, free or not.
    pub offset: Bytes,
    /// Bytes of the object: what is no nearer is between objects.
    pub size: Bytes,
}

impl<M: Machine> KmemCaches<'_, M> {
    /// Where an address is in a slab; `None` if it is in front of all objects or behind them, the cache is gone, or somebody is
    /// looking through all caches.
    pub fn place_in(&self, slab: &Slab, address: NonNull<u8>) -> Option<PlaceInSlab> {
        let all = self.all.try_lock(self.pages.machine())?;
        // Whoever refers to a slab does not keep its cache.
        let cache = all.iter().find(|&cache| cache == slab.cache())?;
        // SAFETY: caches on the list are alive, and the list is locked.
        let Cache { name, layout, .. } = unsafe { live(cache) };
        // Slots are named by their marks. What lies in front of the first object comes out far behind.
        let offset = slab.offset(address).wrapping_add(layout.mark);
        (offset / layout.stride < layout.objects).then(|| PlaceInSlab {
            cache: *name,
            offset: Bytes((offset % layout.stride) as usize),
            size: Bytes(layout.size as usize),
        })
    }

    /// Says for who reads an image of memory where all caches are.
    ///
    /// # Errors
    /// The note has no room for it.
    pub fn write_note(&self, note: &mut Note) -> Result<(), NoteFull> {
        let all = Mutex::<class::AllCaches, _>::new(AllCaches { youngest: None });
        note.place("caches", core::ptr::from_ref(&self.all).addr())?;
        let all = all.places();
        note.place("caches.value", all.value)?;
        note.place("caches.held", all.held)?;
        Cache::write_note(note)?;
        Slab::write_note(note)
    }

    /// Counts what users of all caches, and of large blocks, have allocated: what is set aside or the caches' own is left
    /// out, but for what is in a [`Prefilled`](super::Prefilled). Exact while nobody else allocates or frees. Cost:
    /// brings the objects of all sheaves back into their slabs.
    pub fn census(&self) -> Census {
        let (blocks, pages) = (self.large.blocks(), self.large.pages());
        let mut objects = blocks.0;
        let mut bytes = (pages.0 as usize) << PAGE_SHIFT;
        let First { caches, slabs, sheaves, cpus } = self.first;
        let Ok(()) = self.try_for_each_cache(|cache| {
            if ![caches, slabs, sheaves, cpus].contains(&NonNull::from(cache)) {
                self.gather(cache);
                let taken = self.with_slabs(cache, |slabs| slabs.taken);
                objects += taken;
                bytes += taken as usize * cache.layout.size as usize;
            }
            Ok::<_, Infallible>(())
        });
        Census { objects: Count(objects), bytes: Bytes(bytes) }
    }

    /// Pages that are slabs of any cache, or large blocks: all that caches have of the page allocator.
    pub fn pages_held(&self) -> Count {
        let mut pages = self.large.pages().0;
        self.for_each_report(|report| pages += report.pages().0);
        Count(pages)
    }

    /// Shows every cache to `look`, the youngest first, until it fails. None comes or goes meanwhile.
    pub(super) fn try_for_each_cache<E>(&self, mut look: impl FnMut(&Cache) -> Result<(), E>) -> Result<(), E> {
        let all = self.all.lock(self.pages.machine());
        // SAFETY: caches on the list are alive, and the list is locked.
        all.iter().try_for_each(|cache| look(unsafe { live(cache) }))
    }

    /// Works on what a cache's lock guards.
    pub(super) fn with_slabs<R>(&self, cache: &Cache, work: impl FnOnce(&mut Slabs) -> R) -> R {
        let _interrupts = self.pages.machine().disable_interrupts();
        work(&mut cache.slabs.lock(self.pages.machine()))
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
