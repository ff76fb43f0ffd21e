//! `mm`'s, as a kernel calls them: a cache of its own, whose objects know it; and the classes of sizes, where the address
//! says what an object is of.
#![expect(unsafe_code, reason = "frees what it was given")]

use std::ptr::NonNull;

use mm::slab::{KmemCache, KmemCaches, Object};
use mm::units::Bytes;

use super::{Objects, SIZE};
use crate::machine::Native;

impl<'c, 'a> Objects for &'c KmemCache<'a, Native> {
    type Object = Object<'c, 'a, Native>;

    #[inline]
    fn alloc(&mut self) -> Option<Self::Object> {
        KmemCache::alloc(self).ok()
    }

    #[inline]
    fn free(&mut self, object: Self::Object) {
        drop(object);
    }
}

/// The classes of sizes.
pub(crate) struct Kmalloc<'c, 'a>(pub(crate) &'c KmemCaches<'a, Native>);

impl Objects for Kmalloc<'_, '_> {
    type Object = NonNull<u8>;

    #[inline]
    fn alloc(&mut self) -> Option<NonNull<u8>> {
        self.0.kmalloc(Bytes(SIZE)).ok()
    }

    #[inline]
    fn free(&mut self, object: NonNull<u8>) {
        // SAFETY: the object is the caller's, who gives it up.
        let freed = unsafe { self.0.kfree(object) };
        debug_assert_eq!(freed, Ok(()));
    }
}
