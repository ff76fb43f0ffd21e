//! Folios come into mappings, and leave them.
//!
//! The tree has a reference of its own to each folio that stands in it, for which no value stands. A folio is locked
//! before anybody finds it, and says where it stands before the tree's lock is let go.
//!
//! Invariants: FOLIO-1, CACHE-1, LRU-1.
#![expect(unsafe_code, reason = "folios have a reference that their tree stands for")]

use core::ptr::NonNull;

use super::fill::CacheError;
use super::mapping::{Mapping, extent_of};
use super::reverse_map::Leave;
use crate::descriptor::Descriptor;
use crate::folio::{FrozenFolio, LockedFolio};
use crate::machine::Machine;
use crate::owner::{Folio, FolioFlags, FolioRef};
use crate::slab::NoMemory;
use crate::tree::{Entry, Extent, Found, InsertError, TreeGuard};
use crate::units::{Bytes, Count, Order, PAGE_SIZE, PageIndex, StoreSlot};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum PutBack {
    /// It was.
    Done,
    /// Something else stands there by now.
    Gone,
}

/// Whether what is not in memory was forgotten.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use = "what stands there by now is still there"]
pub(super) enum Forgotten {
    /// It was.
    Done,
    /// Something in memory stands there by now, or nothing.
    Gone,
}

/// Why a folio was not inserted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum NotInserted {
    /// Something stands there.
    Occupied,
    /// There is no memory for the tree.
    NoMemory,
}

impl<'a, M: Machine> Mapping<'a, M> {
    /// Puts a folio that stands nowhere at an index that is aligned to its size. Who walks may have found it, and waits for the
    /// lock.
    ///
    /// # Errors
    /// Something stands there, or there is no memory for the tree; the folio comes back.
    pub(super) fn insert(
        &self,
        folio: LockedFolio<'a, M>,
        index: PageIndex,
    ) -> Result<LockedFolio<'a, M>, (LockedFolio<'a, M>, NotInserted)> {
        let mut reserve = self.cache.nodes.no_reserve();
        let extent = Extent::around(index, folio.order());
        loop {
            let mut tree = self.tree.lock(self.machine());
            folio.set_place(self.address(), index);
            let kept = folio.get().into_kept();
            let Err(why) = tree.insert(extent, Entry::Item(kept), &mut reserve) else {
                tree.pages += u64::from(folio.order().pages());
                self.cache.lru.add(&folio);
                return Ok(folio);
            };
            // It must not lead here while nodes are had, which others' code may be asked for.
            folio.set_place(core::ptr::null_mut(), PageIndex(0));
            // SAFETY: the reference was kept for the tree, which did not take it.
            drop(unsafe { FolioRef::from_kept(self.cache.owners, kept) });
            drop(tree);
            match why {
                InsertError::Occupied(_) => return Err((folio, NotInserted::Occupied)),
                InsertError::Nodes(lacking) => {
                    if let Err(NoMemory) = reserve.refill(lacking.0) {
                        return Err((folio, NotInserted::NoMemory));
                    }
                }
            }
        }
    }

    /// Puts a folio where its contents were written out, to be read. Says whether they still were there.
    pub(super) fn put_back(&self, folio: &LockedFolio<'a, M>, extent: Extent, slot: StoreSlot) -> PutBack {
        let mut tree = self.tree.lock(self.machine());
        if !is_stored(&tree, extent, slot) {
            return PutBack::Gone;
        }
        // INVARIANT: CACHE-2, they are nowhere else once they have been read.
        folio.set(FolioFlags::DIRTY);
        folio.set_place(self.address(), extent.first());
        let replaced = tree.replace(extent, Entry::Item(folio.get().into_kept()));
        assert!(replaced.is_ok(), "invariant TREE-1 broken: an entry was found and is none");
        tree.mark(extent);
        tree.pages += u64::from(folio.order().pages());
        self.cache.lru.add(folio);
        PutBack::Done
    }

    /// Takes a folio out that was [put back](Self::put_back), and could not be read: its contents are where they were.
    pub(super) fn take_out_unread(&self, folio: LockedFolio<'a, M>, slot: StoreSlot) {
        self.cache.lru.remove(&folio);
        let kept = self.vacate(&folio, folio.order(), Some(Entry::Stored(slot)));
        self.drop_taken_out(folio, kept);
    }

    /// Takes a folio out that stands here. Gives the reference that the tree had, for which no value stands.
    pub(super) fn take_out(&self, folio: &LockedFolio<'a, M>) -> NonNull<Descriptor<Folio>> {
        self.cache.lru.remove(folio);
        self.vacate(folio, folio.order(), None)
    }

    /// Takes a frozen folio out that stands here. In its place is from then on what was written out, or nothing.
    pub(super) fn take_out_frozen(&self, folio: &FrozenFolio<'a, M>, stored: Option<StoreSlot>) {
        self.cache.lru.remove_frozen(folio);
        let _ = self.vacate(folio, folio.order(), stored.map(Entry::Stored));
    }

    /// Says that a folio that stands here lies in other memory by now.
    pub(crate) fn moved(&self, folio: &LockedFolio<'a, M>) {
        self.cache.lru.relist(folio);
    }

    fn vacate(
        &self,
        folio: &Folio,
        order: Order,
        instead: Option<Entry<Descriptor<Folio>>>,
    ) -> NonNull<Descriptor<Folio>> {
        let mut reserve = self.cache.nodes.no_reserve();
        let mut tree = self.tree.lock(self.machine());
        let extent = Extent::around(folio.index(), order);
        tree.unmark(extent);
        let taken = match instead {
            Some(entry) => tree.replace(extent, entry),
            None => tree.remove(extent, &mut reserve),
        };
        let Ok(Entry::Item(kept)) = taken else {
            panic!("invariant CACHE-1 broken: a folio does not stand at {:?}", folio.index());
        };
        tree.pages -= u64::from(order.pages());
        folio.set_place(core::ptr::null_mut(), PageIndex(0));
        kept
    }

    /// Takes a folio out for good: nobody maps it any more, and it goes with the last reference.
    pub(super) fn discard(&self, folio: LockedFolio<'a, M>) {
        self.unmap_folio(&folio, Leave::Nothing);
        let kept = self.take_out(&folio);
        self.drop_taken_out(folio, kept);
    }

    /// Lets a folio go that was taken out, and the reference that the tree had.
    fn drop_taken_out(&self, folio: LockedFolio<'a, M>, kept: NonNull<Descriptor<Folio>>) {
        folio.clear(FolioFlags::DIRTY);
        drop(folio.unlock());
        // SAFETY: the tree's reference, which it has just given up.
        drop(unsafe { FolioRef::from_kept(self.cache.owners, kept) });
    }

    /// Gives up all contents from an index on. A folio that begins before it stays, with zeroes from there; one that was
    /// written out is read back for that.
    ///
    /// # Errors
    /// That one cannot be read back, and nothing has changed.
    pub fn truncate(&self, from: PageIndex) -> Result<(), CacheError> {
        let mut next = Some(from);
        while let Some(index) = next {
            let found = self.tree.lock(self.machine()).next(index);
            let Some(Found { first, last, entry }) = found else { return Ok(()) };
            let behind = last.0.checked_add(1).map(PageIndex);
            let at = first.max(index);
            // Where something else stands by the time that it is to go, it is looked for again.
            next = Some(at);
            match entry {
                Entry::Stored(_) if first < from => self.read_back(at)?,
                // What was lost with something that stays is still lost.
                Entry::Lost if first < from => next = behind,
                Entry::Stored(_) | Entry::Lost => {
                    if self.forget_absent(at) == Forgotten::Done {
                        next = behind;
                    }
                }
                Entry::Item(_) => {
                    let Some(folio) = self.lookup(at).map(FolioRef::lock) else { continue };
                    if !self.holds(&folio, at) {
                        continue;
                    }
                    // It may have been split since it was found.
                    next = Some(folio.index().plus(u64::from(folio.order().pages())));
                    if folio.index() < from {
                        self.unmap_folio(&folio, Leave::Nothing);
                        let pages = from.0 - folio.index().0;
                        (pages..u64::from(folio.order().pages())).for_each(|page| {
                            let page = usize::try_from(page).unwrap_or(0);
                            folio.copy_from(Bytes(page * PAGE_SIZE), &[0; PAGE_SIZE]);
                        });
                        self.set_dirty(&folio);
                    } else {
                        self.discard(folio);
                    }
                }
            }
        }
        Ok(())
    }

    /// Gives up what stands whole at or behind `from` and before `end`, for nobody will ask for it again.
    pub(crate) fn give_up(&self, from: PageIndex, end: PageIndex) {
        let mut next = Some(from);
        while let Some(index) = next {
            let found = self.tree.lock(self.machine()).next(index);
            let Some(Found { first, last, entry }) = found.filter(|found| found.last < end) else { return };
            let behind = last.0.checked_add(1).map(PageIndex);
            // As in `truncate`.
            next = Some(first.max(index));
            match entry {
                _ if first < from => next = behind,
                Entry::Stored(_) | Entry::Lost => {
                    if self.forget_absent(first) == Forgotten::Done {
                        next = behind;
                    }
                }
                Entry::Item(_) => {
                    let Some(folio) = self.lookup(first).map(FolioRef::lock) else { continue };
                    let extent = Extent::around(folio.index(), folio.order());
                    if self.holds(&folio, first) && (extent.first(), extent.last()) == (first, last) {
                        next = behind;
                        self.discard(folio);
                    }
                }
            }
        }
    }

    /// Takes a folio out, for good, whose memory lies: nobody maps it any more. If nobody else has its contents, that is what is
    /// said in its place from then on. Gives the reference that the tree had, and how many pages are lost.
    pub(super) fn take_out_failed(&self, folio: &LockedFolio<'a, M>) -> (NonNull<Descriptor<Folio>>, Count) {
        self.unmap_folio(folio, Leave::Nothing);
        let lost = folio.flags().contains(FolioFlags::DIRTY);
        self.cache.lru.remove(folio);
        let kept = self.vacate(folio, folio.order(), lost.then_some(Entry::Lost));
        folio.clear(FolioFlags::DIRTY);
        (kept, Count(if lost { folio.order().pages() } else { 0 }))
    }

    /// Gives up what is not in memory and covers an index, all of it: the place where it was written out, or that it was lost.
    pub(super) fn forget_absent(&self, index: PageIndex) -> Forgotten {
        let mut reserve = self.cache.nodes.no_reserve();
        let mut tree = self.tree.lock(self.machine());
        let found = tree.next(index).filter(|found| found.first <= index);
        let Some(Found { first, last, entry: entry @ (Entry::Stored(_) | Entry::Lost) }) = found else {
            return Forgotten::Gone;
        };
        if let Some(extent) = extent_of(first, last)
            && tree.remove(extent, &mut reserve).is_ok()
        {
            drop(tree);
            self.release_entry(entry, extent.order());
        }
        Forgotten::Done
    }
}

/// Whether all of an extent, and nothing else, is what was written out to a run of places.
pub(super) fn is_stored<G>(tree: &TreeGuard<'_, '_, Descriptor<Folio>, G>, extent: Extent, slot: StoreSlot) -> bool {
    tree.next(extent.first()).is_some_and(|found| {
        found.entry == Entry::Stored(slot) && (found.first, found.last) == (extent.first(), extent.last())
    })
}
