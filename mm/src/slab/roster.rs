//! The list of all caches.
#![expect(unsafe_code, reason = "caches live in objects of the cache of caches")]

use core::ptr::NonNull;
use core::sync::atomic::Ordering;

use super::cache::Cache;
use super::caches::live;

/// The list of all caches, the youngest first.
#[derive(Debug)]
pub(super) struct AllCaches {
    pub(super) youngest: Option<NonNull<Cache>>,
}

impl AllCaches {
    pub(super) fn push(&mut self, cache: NonNull<Cache>) {
        let next = self.youngest.replace(cache);
        Self::link(cache, next);
    }

    /// Takes a cache off the list.
    pub(super) fn remove(&mut self, cache: NonNull<Cache>) {
        let next = Self::behind(cache);
        if self.youngest == Some(cache) {
            self.youngest = next;
            return;
        }
        let mut at = self.youngest;
        while let Some(before) = at {
            at = Self::behind(before);
            if at == Some(cache) {
                Self::link(before, next);
                return;
            }
        }
    }

    /// Every cache, the youngest first.
    pub(super) fn iter(&self) -> impl Iterator<Item = NonNull<Cache>> {
        core::iter::successors(self.youngest, |&cache| Self::behind(cache))
    }

    fn behind(cache: NonNull<Cache>) -> Option<NonNull<Cache>> {
        // SAFETY: caches on the list are alive. Relaxed, since the list is locked.
        NonNull::new(unsafe { live(cache) }.next.load(Ordering::Relaxed))
    }

    fn link(cache: NonNull<Cache>, next: Option<NonNull<Cache>>) {
        let next = next.map_or(core::ptr::null_mut(), NonNull::as_ptr);
        // SAFETY: as above.
        unsafe { live(cache) }.next.store(next, Ordering::Relaxed);
    }
}

// SAFETY: caches are `Sync`, and live as long as they are on the list.
unsafe impl Send for AllCaches {}
