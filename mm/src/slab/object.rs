//! Caches and their objects as values: whoever holds one owns it, and dropping it gives it back.

#![expect(unsafe_code, reason = "an owned object is bare memory with a value in front")]

use core::fmt;
use core::mem::MaybeUninit;
use core::ptr::NonNull;
use core::slice;

use thiserror::Error;

use super::cache::{Cache, CacheName};
use super::caches::{KmemCaches, NoMemory, live};
use super::debug::{Corruption, History};
use super::free::{Address, FreeObjectError};
use super::refill::Patience;
use super::sheaf::{SHEAF_OBJECTS, Sheaf, SheafStack};
use super::shrink::Leak;
use super::spec::{CacheSpec, CreateError};
use crate::machine::Machine;
use crate::units::Count;

/// A cache of objects of one size. Dropping it gives up its memory if none of its objects is allocated any more, and
/// leaves it to them otherwise; [`destroy`](Self::destroy) says which.
pub struct KmemCache<'a, M: Machine> {
    caches: &'a KmemCaches<'a, M>,
    cache: NonNull<Cache>,
}

// SAFETY: a cache is `Sync`.
unsafe impl<M: Machine> Sync for KmemCache<'_, M> {}
// SAFETY: as above.
unsafe impl<M: Machine> Send for KmemCache<'_, M> {}

impl<'a, M: Machine> KmemCaches<'a, M> {
    /// Makes a cache.
    ///
    /// # Errors
    /// No slab holds such an object, or there is no memory.
    pub fn create(&'a self, spec: CacheSpec<'_>) -> Result<KmemCache<'a, M>, CreateError> {
        Ok(KmemCache { caches: self, cache: self.new_cache(&spec)? })
    }
}

impl<'a, M: Machine> KmemCache<'a, M> {
    pub(super) const fn caches(&self) -> &'a KmemCaches<'a, M> {
        self.caches
    }

    #[inline(always)]
    pub(super) fn cache(&self) -> &Cache {
        // SAFETY: a cache lives as long as its handle.
        unsafe { live(self.cache) }
    }

    /// Its name.
    pub fn name(&self) -> CacheName {
        self.cache().name
    }

    /// Allocates an object.
    ///
    /// # Errors
    /// There is no memory.
    #[inline]
    #[track_caller]
    pub fn alloc(&self) -> Result<Object<'_, 'a, M>, NoMemory> {
        Ok(Object { cache: self, address: self.alloc_raw()? })
    }

    /// Allocates an object and returns its bare address, to be given to [`free_raw`](Self::free_raw) or
    /// [`kfree`](KmemCaches::kfree).
    ///
    /// # Errors
    /// There is no memory.
    #[inline]
    #[track_caller]
    pub fn alloc_raw(&self) -> Result<NonNull<u8>, NoMemory> {
        self.caches.alloc_from(self.cache())
    }

    /// Frees the object at `address`.
    ///
    /// # Errors
    /// Says what stands there instead; nothing has changed.
    ///
    /// # Safety
    /// Nobody uses the object any more, and its first eight bytes are initialised: there the mark of a free one would be.
    #[inline]
    #[track_caller]
    pub unsafe fn free_raw(&self, address: NonNull<u8>) -> Result<(), FreeObjectError> {
        // SAFETY: the caller's promise.
        unsafe { self.caches.free_of(address, self.cache()) }
    }

    /// Sets `count` objects aside, so that as many allocations cannot fail.
    ///
    /// # Errors
    /// There is no memory for all of them; nothing is set aside.
    #[track_caller]
    pub fn prefill(&self, Count(count): Count) -> Result<Prefilled<'_, 'a, M>, NoMemory> {
        let mut filled = Prefilled { cache: self, sheaves: None, emptied: SheafStack::new(), left: 0 };
        while filled.left < count {
            let sheaf = self.caches.new_sheaf(Patience::Waits)?;
            filled.add(sheaf);
            let wanted = (count - filled.left) as usize;
            for _ in 0..wanted.min(SHEAF_OBJECTS) {
                // What there is so far goes back when this returns.
                filled.push(self.alloc_raw()?);
            }
        }
        Ok(filled)
    }

    /// Gives back all memory that holds no allocated object, that which CPUs keep at hand too. Says how many pages.
    pub fn shrink(&self) -> Count {
        Count(self.caches.shrink_cache(self.cache()))
    }

    /// Checks every object of a debugged cache. The machine is told of all that was overwritten, and it is put right;
    /// a free object that was is never allocated again. Of other caches there is nothing to check.
    ///
    /// # Errors
    /// The first that was found.
    pub fn validate(&self) -> Result<(), Corruption> {
        self.caches.validate_cache(self.cache())
    }

    /// Gives up the cache.
    ///
    /// # Errors
    /// Gives it back if objects of it are still allocated, and says how many and where the first is.
    pub fn destroy(self) -> Result<(), LeakedObjects<'a, M>> {
        let this = core::mem::ManuallyDrop::new(self);
        match this.caches.destroy_cache(this.cache) {
            Ok(()) => Ok(()),
            Err(Leak { objects, first, history }) => {
                let cache = Self { caches: this.caches, cache: this.cache };
                Err(LeakedObjects { cache, objects, first, history })
            }
        }
    }
}

impl<M: Machine> Drop for KmemCache<'_, M> {
    fn drop(&mut self) {
        // What is still allocated keeps the cache, and reports name it.
        let _ = self.caches.destroy_cache(self.cache);
    }
}

impl<M: Machine> fmt::Debug for KmemCache<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KmemCache({})", self.name())
    }
}

/// A cache that cannot go because some of its objects are still allocated.
#[derive(Debug, Error)]
#[error("cache {} has {objects} objects left, the first at {first:?}{history}", cache.name())]
pub struct LeakedObjects<'a, M: Machine> {
    /// The cache, as it was.
    pub cache: KmemCache<'a, M>,
    /// How many.
    pub objects: u32,
    /// One of them.
    pub first: Address,
    /// Who has that one, if it was recorded.
    pub history: History,
}

/// An allocated object. Dropping it frees it.
#[must_use = "dropping an object frees it"]
pub struct Object<'c, 'a, M: Machine> {
    cache: &'c KmemCache<'a, M>,
    address: NonNull<u8>,
}

// SAFETY: an object is its holder's alone, wherever that is.
unsafe impl<M: Machine> Send for Object<'_, '_, M> {}

impl<M: Machine> Object<'_, '_, M> {
    /// Where it stands.
    pub const fn address(&self) -> NonNull<u8> {
        self.address
    }

    /// Its memory: what the constructor made it, or whatever its last owner left there.
    pub fn bytes_mut(&mut self) -> &mut [MaybeUninit<u8>] {
        let size = self.cache.cache().layout.size as usize;
        // SAFETY: the object is that large, and its holder's alone.
        unsafe { slice::from_raw_parts_mut(self.address.as_ptr().cast(), size) }
    }

    /// Gives up ownership: to be given to [`KmemCache::free_raw`].
    #[must_use = "nobody else frees the object"]
    pub fn into_raw(self) -> NonNull<u8> {
        core::mem::ManuallyDrop::new(self).address
    }
}

impl<M: Machine> Drop for Object<'_, '_, M> {
    #[inline]
    fn drop(&mut self) {
        self.cache.caches.free_to(self.cache.cache(), self.address);
    }
}

impl<M: Machine> fmt::Debug for Object<'_, '_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Object({:p} of {})", self.address, self.cache.name())
    }
}

/// Objects set aside. Those not taken go back when it drops.
pub struct Prefilled<'c, 'a, M: Machine> {
    cache: &'c KmemCache<'a, M>,
    /// The sheaf to take from; those behind it are linked, and full.
    sheaves: Option<NonNull<Sheaf>>,
    /// Those that everything was taken from: they go back when nothing is critical any more.
    emptied: SheafStack,
    left: u32,
}

// SAFETY: the sheaves are the holder's alone, wherever that is.
unsafe impl<M: Machine> Send for Prefilled<'_, '_, M> {}

impl<'c, 'a, M: Machine> Prefilled<'c, 'a, M> {
    /// Takes one of the objects; `None` once all that were set aside are taken. Allocates nothing, takes no lock.
    pub fn alloc(&mut self) -> Option<Object<'c, 'a, M>> {
        Some(Object { cache: self.cache, address: self.pop()? })
    }

    /// Objects left.
    pub const fn left(&self) -> Count {
        Count(self.left)
    }

    fn add(&mut self, mut sheaf: NonNull<Sheaf>) {
        // SAFETY: the sheaf was just made.
        unsafe { sheaf.as_mut() }.next = self.sheaves.replace(sheaf);
    }

    fn push(&mut self, object: NonNull<u8>) {
        if let Some(sheaf) = &mut self.sheaves {
            // SAFETY: the sheaves are this one's alone.
            unsafe { sheaf.as_mut() }.objects.push(object);
            self.left += 1;
        }
    }

    fn pop(&mut self) -> Option<NonNull<u8>> {
        loop {
            let sheaf = self.sheaves.as_mut()?;
            // SAFETY: as above.
            let sheaf = unsafe { sheaf.as_mut() };
            if let Some(object) = sheaf.objects.pop() {
                self.left -= 1;
                return Some(object);
            }
            let next = sheaf.next.take();
            self.emptied.push(core::mem::replace(&mut self.sheaves, next)?);
        }
    }
}

impl<M: Machine> Drop for Prefilled<'_, '_, M> {
    fn drop(&mut self) {
        while let Some(object) = self.pop() {
            self.cache.caches.free_to(self.cache.cache(), object);
        }
        while let Some(sheaf) = self.emptied.pop() {
            self.cache.caches.free_for(self.cache.caches.first.sheaves, sheaf.cast());
        }
    }
}

impl<M: Machine> fmt::Debug for Prefilled<'_, '_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Prefilled({} of {})", self.left, self.cache.name())
    }
}
