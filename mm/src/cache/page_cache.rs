//! What all mappings of a machine share: the nodes of their trees, the lists of their folios, and the swap store.
//!
//! It is one of those that the page allocator asks when memory is short, once it is entered there.
//!
//! Invariants: CACHE-5 (no mapping outlives the cache or what that borrows, as pages lead to folios, these to mappings, and
//! these to the cache: it is pinned before there is one, so that it stays where it is until it is dropped, and then there must
//! be none. A cache that is leaked is never dropped, while what it borrows goes: one that borrows for less than ever is lent by
//! `with`, which drops it, and nobody has it otherwise).

use core::fmt;
use core::marker::PhantomPinned;
use core::pin::{Pin, pin};
use core::sync::atomic::{AtomicU64, Ordering};

use super::lru::{Generation, Lru};
use super::store::Store;
use super::swap::Swap;
use crate::descriptor::Walking;
use crate::machine::Machine;
use crate::owner::Owners;
use crate::page::PageAllocator;
use crate::shrinker::{Shortage, Shrinker};
use crate::slab::CreateError;
use crate::tree::TreeNodes;
use crate::units::{Count, Order};
use crate::zone::ZoneKind;

/// The page cache of a machine. If somebody forgot a mapping, the machine stops when the cache is dropped.
///
/// What borrows for ever is made by [`new`](Self::new). Any other is lent by [`with`](Self::with), and nobody has it: a value
/// that is leaked is never dropped, while what it borrows goes, where a forgotten mapping still leads. So this does not compile:
///
/// ```compile_fail,E0521
/// # use mm::{cache::PageCache, machine::Machine, owner::Owners};
/// # fn leak<M: Machine + 'static>(owners: &Owners<'_, M>) {
/// core::mem::forget(Box::pin(PageCache::new(owners, None)));
/// # }
/// ```
pub struct PageCache<'a, M: Machine> {
    pub(super) owners: &'a Owners<'a, M>,
    pub(super) nodes: TreeNodes<'a, M>,
    pub(super) lru: Lru,
    pub(super) swap: Option<Swap<'a, M>>,
    pub(super) events: Events,
    /// Mappings that there are.
    pub(super) mappings: AtomicU64,
    /// Visits that last.
    visits: AtomicU64,
    /// Mappings lead to it.
    _looked_at: PhantomPinned,
}

/// What has happened since the cache was made, in pages.
#[derive(Debug, Default)]
pub(super) struct Events {
    pub(super) read: AtomicU64,
    pub(super) written: AtomicU64,
    pub(super) swapped_in: AtomicU64,
    pub(super) swapped_out: AtomicU64,
    pub(super) reclaimed: AtomicU64,
    pub(super) copied: AtomicU64,
}

/// What the cache holds at one moment, and what has happened until then, all in pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CacheReport {
    /// Of the generation that goes first.
    pub inactive: Count,
    /// Of the other one.
    pub active: Count,
    /// Places of the swap store that are taken.
    pub swapped: Count,
    /// Read from files, since ever.
    pub read: u64,
    /// Written to files.
    pub written: u64,
    /// Read from the swap store.
    pub swapped_in: u64,
    /// Written to the swap store.
    pub swapped_out: u64,
    /// Reclaimed.
    pub reclaimed: u64,
    /// Copied because somebody wrote.
    pub copied: u64,
}

impl<M: Machine> PageCache<'static, M> {
    /// A cache without mappings, of what lives for ever. Anonymous memory is written to `swap`, or stays.
    ///
    /// # Errors
    /// There is no memory for it.
    pub fn new(owners: &'static Owners<'static, M>, swap: Option<&'static dyn Store>) -> Result<Self, CreateError> {
        Self::over(owners, swap)
    }
}

impl<'a, M: Machine> PageCache<'a, M> {
    /// Does `work` with a cache, at first without mappings, that is dropped behind it. Anonymous memory is written to `swap`,
    /// or stays.
    ///
    /// # Errors
    /// There is no memory for it; nothing was done.
    pub fn with<R>(
        owners: &'a Owners<'a, M>,
        swap: Option<&'a dyn Store>,
        work: impl FnOnce(Pin<&PageCache<'_, M>>) -> R,
    ) -> Result<R, CreateError> {
        // INVARIANT: CACHE-5, it does not get out of here, and is dropped before the borrows end, also while unwinding.
        let cache = pin!(Self::over(owners, swap)?);
        Ok(work(cache.into_ref()))
    }

    fn over(owners: &'a Owners<'a, M>, swap: Option<&'a dyn Store>) -> Result<Self, CreateError> {
        let nodes = TreeNodes::new(owners.caches)?;
        let swap = swap.map(|store| Swap::new(owners.caches, store)).transpose()?;
        let (lru, events) = (Lru::new(), Events::default());
        let (mappings, visits) = (AtomicU64::new(0), AtomicU64::new(0));
        Ok(Self { owners, nodes, lru, swap, events, mappings, visits, _looked_at: PhantomPinned })
    }

    /// The owners of its folios.
    pub const fn owners(&self) -> &'a Owners<'a, M> {
        self.owners
    }

    pub(super) const fn pages(&self) -> &'a PageAllocator<'a, M> {
        self.owners.pages()
    }

    pub(super) fn walk(&self) -> Walking<'a> {
        self.pages().gate().enter()
    }

    /// What it holds, and what has happened.
    pub fn report(&self) -> CacheReport {
        let events = &self.events;
        let load = |event: &AtomicU64| event.load(Ordering::Relaxed);
        CacheReport {
            inactive: self.lru.pages(self.owners.machine(), Generation::Inactive, ZoneKind::Highmem),
            active: self.lru.pages(self.owners.machine(), Generation::Active, ZoneKind::Highmem),
            swapped: self.swap.as_ref().map_or(Count(0), Swap::taken),
            read: load(&events.read),
            written: load(&events.written),
            swapped_in: load(&events.swapped_in),
            swapped_out: load(&events.swapped_out),
            reclaimed: load(&events.reclaimed),
            copied: load(&events.copied),
        }
    }

    /// Does what may lack memory until it does not, or nothing is to be had any more. The caller holds no lock.
    ///
    /// # Errors
    /// Whatever the last attempt gives.
    pub fn with_reclaim<T, E>(&self, attempt: impl FnMut() -> Result<T, E>) -> Result<T, E> {
        self.pages().with_reclaim(attempt)
    }

    /// The largest folio there can be.
    pub(super) const fn largest_order() -> Order {
        <M::Geometry as crate::machine::Geometry>::MAX_ORDER
    }
}

pub(super) fn count(event: &AtomicU64, pages: u32) {
    event.fetch_add(u64::from(pages), Ordering::Relaxed);
}

impl<M: Machine> Shrinker for PageCache<'_, M> {
    fn reclaimable(&self) -> Count {
        let report = self.report();
        Count(report.inactive.0 + report.active.0)
    }

    fn shrink(&self, shortage: &Shortage) -> Count {
        self.reclaim_for(shortage)
    }
}

impl<M: Machine> Drop for PageCache<'_, M> {
    fn drop(&mut self) {
        // Acquire pairs with the release of the last mapping that went.
        let left = self.mappings.load(Ordering::Acquire);
        if left > 0 {
            forgotten(left);
        }
        // Acquire pairs with the end of the visit. None begins any more, where no folio stands.
        while self.visits.load(Ordering::Acquire) > 0 {
            crate::sync::spin_loop();
        }
    }
}

/// Somebody who has come to a cache by a folio, and goes on in it when the folio may stand there no more: it waits for that.
pub(super) struct Visit<'c>(&'c AtomicU64);

impl<'c> Visit<'c> {
    /// Begins while a folio that stands in the cache is locked.
    pub(super) fn of<M: Machine>(cache: &'c PageCache<'_, M>) -> Self {
        // Relaxed: who drops the cache comes after the folio's lock.
        cache.visits.fetch_add(1, Ordering::Relaxed);
        Self(&cache.visits)
    }
}

impl Drop for Visit<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Release);
    }
}

/// Stops for good, whoever would catch the panic: pages would lead to what is gone.
extern "C" fn forgotten(mappings: u64) -> ! {
    panic!("invariant CACHE-5 broken: the page cache goes, but {mappings} mappings do not");
}

impl<M: Machine> fmt::Debug for PageCache<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PageCache").field("lru", &self.lru).field("swap", &self.swap).finish_non_exhaustive()
    }
}
