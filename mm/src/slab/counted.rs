//! Counted values in objects of `kmalloc`: what an `Arc` is where there is a heap.

#![expect(unsafe_code, reason = "values in bare memory")]

use core::alloc::Layout;
use core::fmt;
use core::mem::ManuallyDrop;
use core::ops::Deref;
use core::ptr::NonNull;

use super::caches::{KmemCaches, NoMemory};
use super::kmalloc::size_for;
use crate::machine::Machine;
use crate::sync::{AtomicUsize, Ordering};

/// The references come first, so that what a cache looks at when the object is freed is initialised, whatever the value is.
#[repr(C)]
pub(crate) struct Inside<'a, M: Machine, T: ?Sized> {
    references: AtomicUsize,
    caches: &'a KmemCaches<'a, M>,
    value: T,
}

/// A counted reference to a value that stands in an object of its own. The last one drops the value.
///
/// What else leads to the value, as long as it stands in some list, must not do so any more once it is dropped. If it takes itself off
/// as it is dropped, somebody may look at it until then: to have it mutably does not mean to be alone with it, which a field
/// `_looked_at: PhantomPinned` says.
///
/// # Invariants
/// The object holds the value, and is counted for this reference.
pub struct Counted<'a, M: Machine, T: ?Sized> {
    inside: NonNull<Inside<'a, M, T>>,
}

// SAFETY: it shares the value, which may be dropped wherever the last reference goes.
unsafe impl<M: Machine, T: Send + Sync + ?Sized> Send for Counted<'_, M, T> {}
// SAFETY: as above.
unsafe impl<M: Machine, T: Send + Sync + ?Sized> Sync for Counted<'_, M, T> {}

impl<'a, M: Machine, T> Counted<'a, M, T> {
    /// Puts a value into an object of its own.
    ///
    /// # Errors
    /// There is no memory; the value comes back.
    pub fn new(caches: &'a KmemCaches<'a, M>, value: T) -> Result<Self, (T, NoMemory)> {
        let Ok(place) = caches.kmalloc(size_for(Layout::new::<Inside<'a, M, T>>())) else {
            return Err((value, NoMemory));
        };
        let inside = place.cast();
        // SAFETY: the object was just allocated, as large and as aligned as this.
        unsafe { inside.write(Inside { references: AtomicUsize::new(1), caches, value }) };
        Ok(Self { inside })
    }

    /// Gives up the reference without giving it back: an address stands for it.
    #[must_use = "nobody else gives the reference back"]
    pub fn into_raw(self) -> NonNull<()> {
        ManuallyDrop::new(self).inside.cast()
    }

    /// The address that stands for the value.
    pub fn as_raw(&self) -> NonNull<()> {
        self.inside.cast()
    }

    /// Takes a reference back that was given up.
    ///
    /// # Safety
    /// The address comes from [`into_raw`](Self::into_raw) of a reference to a `T` on the same `M`, and is taken back once; the
    /// caches that it came from outlive `'a`.
    pub unsafe fn from_raw(address: NonNull<()>) -> Self {
        Self { inside: address.cast() }
    }

    /// The same value, of which less is known: what unsizes an `Arc` does so by itself.
    ///
    /// # Safety
    /// `unsize` gives back what it gets, unsized by the language.
    pub(crate) unsafe fn unsized_by<U: ?Sized>(
        self,
        unsize: impl FnOnce(NonNull<Inside<'a, M, T>>) -> NonNull<Inside<'a, M, U>>,
    ) -> Counted<'a, M, U> {
        Counted { inside: unsize(ManuallyDrop::new(self).inside) }
    }
}

impl<'a, M: Machine, T: ?Sized> Counted<'a, M, T> {
    fn inside(&self) -> &Inside<'a, M, T> {
        // SAFETY: the value stands there as long as there is a reference.
        unsafe { self.inside.as_ref() }
    }

    /// Another reference to the same value.
    ///
    /// # Panics
    /// There are as many references as there are addresses.
    #[must_use]
    pub fn get(&self) -> Self {
        // Relaxed: who has a reference has seen the value.
        let before = self.inside().references.fetch_add(1, Ordering::Relaxed);
        assert!(before < isize::MAX as usize, "more references than can be counted");
        Self { inside: self.inside }
    }

    /// Whether both refer to one value.
    pub fn is(&self, other: &Self) -> bool {
        core::ptr::addr_eq(self.inside.as_ptr(), other.inside.as_ptr())
    }

    /// Whether this is the only reference. Another can then come only from this one.
    pub fn is_only(&self) -> bool {
        // Acquire pairs with the release of those who gave theirs up.
        self.inside().references.load(Ordering::Acquire) == 1
    }
}

impl<M: Machine, T: ?Sized> Deref for Counted<'_, M, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.inside().value
    }
}

impl<M: Machine, T: ?Sized> Drop for Counted<'_, M, T> {
    fn drop(&mut self) {
        // Release: what was done with the value is done before it goes.
        if self.inside().references.fetch_sub(1, Ordering::Release) != 1 {
            return;
        }
        // Pairs with the releases of all the others, which this count has come through. No fence, of which ThreadSanitizer knows
        // nothing.
        self.inside().references.load(Ordering::Acquire);
        let caches = self.inside().caches;
        // SAFETY: this was the last reference.
        unsafe { self.inside.drop_in_place() };
        // SAFETY: the object came from there, and nothing is in it any more.
        let freed = unsafe { caches.kfree(self.inside.cast()) };
        debug_assert!(freed.is_ok(), "invariant SLAB-1 broken: a counted value's object cannot be freed");
    }
}

impl<M: Machine, T: fmt::Debug + ?Sized> fmt::Debug for Counted<'_, M, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}
