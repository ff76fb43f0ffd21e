//! Contents for an index: made, read, or read back.
//!
//! A folio is made as large as reads go on in order: each that begins where the last one ended doubles it, up to what the
//! mapping allows; so a file that is read from its start is read ahead. If memory is not there in such a piece, or
//! something stands in the way, a smaller one is made, down to a page; only for that is anything reclaimed.
//!
//! What was written out is read back as the folio that it was, or page by page if there is no block that large. The folio stands
//! in the mapping while it is read, locked and not up to date, and keeps its place in the swap store until it was (CACHE-4). So what
//! is read is never older than what somebody else has read back, changed and written out since.
//!
//! Source: Linux's `page_cache_ra_order`.

use thiserror::Error;

use super::lookup::Standing;
use super::mapping::{Contents, Mapping, extent_of};
use super::page_cache::count;
use super::standing::{NotInserted, PutBack, is_stored};
use super::store::{Store, StoreError};
use super::swap::Swap;
use crate::folio::LockedFolio;
use crate::machine::Machine;
use crate::owner::{Folio, FolioFlags, FolioRef, OwnError};
use crate::page::Request;
use crate::slab::NoMemory;
use crate::tree::{Entry, Extent, Found, NodesLacking};
use crate::units::{Count, FileOffset, Order, PAGE_SIZE, PageIndex, StoreSlot};

/// Why contents are not there; what was there still is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum CacheError {
    /// There is no memory for a folio, and none can be reclaimed.
    #[error("no memory for a folio: {0}")]
    Folio(#[from] OwnError),
    /// There is no memory for a tree, and none can be reclaimed.
    #[error("no memory for a tree's node: {0}")]
    Node(#[from] NoMemory),
    /// The store does not give or take them.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// They were in memory that lies, and nowhere else.
    #[error("page {:#x} of the mapping was lost: its memory has failed", .0.0)]
    Lost(PageIndex),
    /// The mapping ends before.
    #[error("the mapping ends before page {:#x}", .0.0)]
    Beyond(PageIndex),
}

/// The folio that a first read gets, if the mapping allows it: four pages, as Linux's.
const FIRST: Order = Order::of(2);

impl<'a, M: Machine> Mapping<'a, M> {
    /// The folio at an index with its contents, if one stands here or was written out from here.
    pub(super) fn uptodate(&self, index: PageIndex) -> Result<Option<FolioRef<'a, M>>, CacheError> {
        loop {
            match self.standing(index) {
                None => return Ok(None),
                Some(Standing::Stored) => self.read_back(index)?,
                Some(Standing::Lost) => return Err(CacheError::Lost(index)),
                Some(Standing::Folio(folio)) if folio.flags().contains(FolioFlags::UPTODATE) => {
                    return Ok(Some(folio));
                }
                Some(Standing::Folio(folio)) => {
                    // Somebody is about to read it, or has failed to.
                    let folio = folio.lock();
                    if self.holds(&folio, index) && !folio.flags().contains(FolioFlags::UPTODATE) {
                        self.fill(&folio)?;
                    }
                }
            }
        }
    }

    /// How large a folio is to be that is read because of this index.
    pub(super) fn wanted_order(&self, index: PageIndex) -> Order {
        let mut tree = self.tree.lock(self.machine());
        let (next, order) = tree.ahead;
        let order = if index == next && index.0 > 0 { order.up().unwrap_or(order) } else { FIRST };
        let order = order.min(self.largest);
        tree.ahead = (index.align_down(order).plus(u64::from(order.pages())), order);
        order
    }

    /// Makes a folio with contents at an index at which nothing stands, of that order at most. `None` if something does
    /// by now.
    ///
    /// # Errors
    /// See [`CacheError`].
    pub(super) fn make(&self, index: PageIndex, largest: Order) -> Result<Option<LockedFolio<'a, M>>, CacheError> {
        if index >= self.end() {
            return Err(CacheError::Beyond(index));
        }
        let mut order = largest;
        loop {
            match self.make_of(index, order) {
                Ok(folio) => match self.fill(&folio) {
                    Ok(()) => return Ok(Some(folio)),
                    Err(error) => {
                        let alone = folio.order() == Order::ZERO;
                        self.discard(folio);
                        if alone {
                            return Err(error);
                        }
                        // Another page than the one that is wanted may be to blame.
                        order = Order::ZERO;
                    }
                },
                Err(why) => match (order.down(), why) {
                    (Some(smaller), _) => order = smaller,
                    (None, NotMade::Occupied) => return Ok(None),
                    (None, NotMade::NoMemory(error)) => return Err(error),
                },
            }
        }
    }

    fn make_of(&self, index: PageIndex, order: Order) -> Result<LockedFolio<'a, M>, NotMade> {
        let first = index.align_down(order);
        if order > Order::ZERO && (first.plus(u64::from(order.pages())) > self.end() || !self.is_free(first, order)) {
            return Err(NotMade::Occupied);
        }
        let folio = self.new_folio(order).map_err(NotMade::NoMemory)?;
        self.place(folio, first)
    }

    /// Inserts a folio; reclaims if the tree lacks memory.
    pub(super) fn place(&self, folio: LockedFolio<'a, M>, index: PageIndex) -> Result<LockedFolio<'a, M>, NotMade> {
        let mut folio = Some(folio);
        let inserted = self.cache.with_reclaim(|| {
            let fresh = folio.take().ok_or(NotInserted::Occupied);
            match self.insert(fresh?, index) {
                Ok(locked) => Ok(Some(locked)),
                Err((_, NotInserted::Occupied)) => Ok(None),
                Err((back, NotInserted::NoMemory)) => {
                    folio = Some(back);
                    Err(NotInserted::NoMemory)
                }
            }
        });
        match inserted {
            Ok(Some(locked)) => Ok(locked),
            Ok(None) | Err(NotInserted::Occupied) => Err(NotMade::Occupied),
            Err(NotInserted::NoMemory) => Err(NotMade::NoMemory(NoMemory.into())),
        }
    }

    fn is_free(&self, first: PageIndex, order: Order) -> bool {
        let last = first.plus(u64::from(order.pages()) - 1);
        self.tree.lock(self.machine()).next(first).is_none_or(|found| found.first > last)
    }

    /// A folio that stands nowhere, locked: who walks may find it from here on. Large ones are had or not; for a page, others have to go.
    pub(super) fn new_folio(&self, order: Order) -> Result<LockedFolio<'a, M>, CacheError> {
        let owners = self.cache.owners;
        let request = if order == Order::ZERO { Request::movable(order) } else { Request::movable(order).nowait() };
        let alloc = || owners.alloc(request, Folio::new()).map_err(|(_, error)| error);
        let folio = if order == Order::ZERO { self.cache.with_reclaim(alloc)? } else { alloc()? };
        Ok(folio.into_shared().lock())
    }

    /// Gets the contents of a folio that stands here.
    fn fill(&self, folio: &LockedFolio<'a, M>) -> Result<(), CacheError> {
        match &self.contents {
            Contents::Anonymous => self.each_page(folio, |_, bytes| {
                bytes.fill(0);
                Ok(())
            })?,
            Contents::File(store) => {
                self.each_page(folio, |offset, bytes| read_to_end(&**store, offset, bytes))?;
                count(&self.cache.events.read, folio.order().pages());
            }
        }
        folio.set(FolioFlags::UPTODATE);
        Ok(())
    }

    /// Lends each page of a folio to `fill`, with its place in the file.
    fn each_page(
        &self,
        folio: &LockedFolio<'a, M>,
        mut fill: impl FnMut(FileOffset, &mut [u8; PAGE_SIZE]) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        (0..folio.order().pages()).try_for_each(|page| {
            let offset = folio.index().plus(u64::from(page)).start();
            folio.fill_page(page, |bytes| fill(offset, bytes)).unwrap_or(Ok(()))
        })
    }

    /// Reads back what was written out, around an index.
    pub(super) fn read_back(&self, index: PageIndex) -> Result<(), CacheError> {
        let Some(swap) = self.swap() else { return Ok(()) };
        let Some((extent, slot)) = self.stored_at(index) else { return Ok(()) };
        let folio = match self.new_folio(extent.order()) {
            Ok(folio) => folio,
            Err(error) if extent.order() == Order::ZERO => return Err(error),
            Err(_) => return self.divide_stored(extent, slot),
        };
        // It stands there before it is read, so that its place stays taken until it was, and whoever wants it waits.
        if self.put_back(&folio, extent, slot) == PutBack::Gone {
            return Ok(());
        }
        let mut unread = Unread { mapping: self, folio: Some(folio), slot };
        if let Some(folio) = &unread.folio {
            self.read_pages(swap, folio, slot)?;
            folio.set(FolioFlags::UPTODATE);
        }
        let _folio = unread.folio.take();
        swap.release(slot, Count(extent.order().pages()));
        count(&self.cache.events.swapped_in, extent.order().pages());
        Ok(())
    }

    fn read_pages(&self, swap: &Swap<'a, M>, folio: &LockedFolio<'a, M>, slot: StoreSlot) -> Result<(), StoreError> {
        (0..folio.order().pages()).try_for_each(|page| {
            let offset = Swap::<M>::offset(StoreSlot(slot.0 + page));
            folio.fill_page(page, |bytes| swap.store().read(offset, bytes)).unwrap_or(Ok(()))
        })
    }

    /// The run of places that an index was written out to, and what of the mapping it is.
    pub(super) fn stored_at(&self, index: PageIndex) -> Option<(Extent, StoreSlot)> {
        let Found { first, last, entry } = self.tree.lock(self.machine()).next(index)?;
        match entry {
            Entry::Stored(slot) if first <= index => Some((extent_of(first, last)?, slot)),
            _ => None,
        }
    }

    /// Makes each page of what was written out as one an entry of its own.
    pub(super) fn divide_stored(&self, extent: Extent, slot: StoreSlot) -> Result<(), CacheError> {
        let mut reserve = self.reserve();
        loop {
            let mut tree = self.tree.lock(self.machine());
            if !is_stored(&tree, extent, slot) {
                return Ok(());
            }
            if let Err(NodesLacking(lacking)) = tree.expand(extent, Order::ZERO, &mut reserve) {
                drop(tree);
                self.cache.with_reclaim(|| reserve.refill(lacking))?;
                continue;
            }
            for page in 0..extent.order().pages() {
                let entry = Entry::Stored(StoreSlot(slot.0 + page));
                let replaced = tree.replace(Extent::page(extent.first().plus(u64::from(page))), entry);
                assert!(replaced.is_ok(), "invariant TREE-1 broken: an entry was expanded and is none");
            }
            return Ok(());
        }
    }
}

/// A folio that stands where it was written out from, and is not read yet. It goes out again unless it is, also if the store
/// panics.
struct Unread<'u, 'a, M: Machine> {
    mapping: &'u Mapping<'a, M>,
    folio: Option<LockedFolio<'a, M>>,
    slot: StoreSlot,
}

impl<M: Machine> Drop for Unread<'_, '_, M> {
    fn drop(&mut self) {
        if let Some(folio) = self.folio.take() {
            self.mapping.take_out_unread(folio, self.slot);
        }
    }
}

/// Why a folio was not made.
pub(super) enum NotMade {
    /// Something stands where it would.
    Occupied,
    /// There is no memory for it.
    NoMemory(CacheError),
}

/// Reads a page of a store; what is behind the store's end is zero.
fn read_to_end(store: &dyn Store, offset: FileOffset, bytes: &mut [u8; PAGE_SIZE]) -> Result<(), StoreError> {
    let left = usize::try_from(store.size().0.saturating_sub(offset.0)).unwrap_or(PAGE_SIZE).min(PAGE_SIZE);
    let (there, behind) = bytes.split_at_mut(left);
    behind.fill(0);
    if there.is_empty() { Ok(()) } else { store.read(offset, there) }
}
