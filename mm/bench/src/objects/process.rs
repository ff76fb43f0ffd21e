//! What processes have for a heap: glibc's, and `mimalloc`. Both are for many threads, and take memory as they need it.
#![expect(unsafe_code, reason = "calls C")]

use std::ptr::NonNull;

use super::{Objects, SIZE};

/// glibc's `malloc`.
pub(crate) struct Glibc;

impl Objects for Glibc {
    type Object = NonNull<u8>;

    #[inline]
    fn alloc(&mut self) -> Option<NonNull<u8>> {
        // SAFETY: any size will do.
        NonNull::new(unsafe { libc::malloc(SIZE) }.cast())
    }

    #[inline]
    fn free(&mut self, object: NonNull<u8>) {
        // SAFETY: the object is the caller's, who gives it up.
        unsafe { libc::free(object.as_ptr().cast()) };
    }
}

/// `mimalloc`, beside the heap of the process.
pub(crate) struct Mimalloc;

impl Objects for Mimalloc {
    type Object = NonNull<u8>;

    #[inline]
    fn alloc(&mut self) -> Option<NonNull<u8>> {
        // SAFETY: any size will do.
        NonNull::new(unsafe { libmimalloc_sys::mi_malloc(SIZE) }.cast())
    }

    #[inline]
    fn free(&mut self, object: NonNull<u8>) {
        // SAFETY: the object is the caller's, who gives it up.
        unsafe { libmimalloc_sys::mi_free(object.as_ptr().cast()) };
    }
}
