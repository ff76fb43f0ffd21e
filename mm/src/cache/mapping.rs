//! A memory object: what stands at which index, where contents come from, and what it stands in front of.
#![expect(unsafe_code, reason = "folios have a reference that their tree stands for")]

use core::fmt;
use core::ptr::NonNull;

use super::page_cache::PageCache;
use super::reverse_map::{Family, Leave};
use super::store::Store;
use super::swap::Swap;
use crate::descriptor::Descriptor;
use crate::folio::{FrozenFolio, LockedFolio};
use crate::machine::Machine;
use crate::owner::{Folio, FolioFlags, FolioRef};
use crate::slab::{Counted, NoMemory};
use crate::tree::{Entry, Extent, Found, InsertError, NodeReserve, Tree};
use crate::units::{Count, Order, PAGE_SIZE, PageIndex, StoreSlot};

/// A reference to a mapping. With the last one it goes, and all that stands in it.
pub type MappingRef<'a, M> = Counted<'a, M, Mapping<'a, M>>;

/// A file, or anonymous memory, by pages. Linux's `struct address_space`.
pub struct Mapping<'a, M: Machine> {
    pub(super) cache: &'a PageCache<'a, M>,
    pub(super) contents: Contents<'a>,
    /// The largest folio that is made here.
    pub(crate) largest: Order,
    pub(super) tree: FolioTree<'a, M>,
    pub(super) family: Counted<'a, M, Family<M>>,
}

pub(super) type FolioTree<'a, M> = Tree<'a, Descriptor<Folio>, State<'a, M>>;

/// Where contents come from that are not in memory.
pub(super) enum Contents<'a> {
    /// The store, which they go back to.
    File(&'a dyn Store),
    /// Zeroes, or the swap store, which they go to.
    Anonymous,
}

/// What the tree's lock guards besides.
pub(super) struct State<'a, M: Machine> {
    /// What is seen where nothing stands.
    pub(super) behind: Option<MappingRef<'a, M>>,
    /// Pages in folios that stand here.
    pub(super) pages: u64,
    /// Where the next read begins, if reads go on in order, and how large a folio it is to get.
    pub(super) ahead: (PageIndex, Order),
}

impl<M: Machine> PageCache<'_, M> {
    /// A file whose contents are a store's. Folios are made as large as `largest`, if there is memory.
    ///
    /// # Errors
    /// There is no memory for the mapping.
    pub fn file<'s>(&'s self, store: &'s dyn Store, largest: Order) -> Result<MappingRef<'s, M>, NoMemory> {
        self.mapping(Contents::File(store), largest, None)
    }

    /// Anonymous memory: zeroes, until they are written.
    ///
    /// # Errors
    /// There is no memory for the mapping.
    pub fn anonymous(&self, largest: Order) -> Result<MappingRef<'_, M>, NoMemory> {
        self.mapping(Contents::Anonymous, largest, None)
    }

    pub(super) fn mapping<'s>(
        &'s self,
        contents: Contents<'s>,
        largest: Order,
        behind: Option<MappingRef<'s, M>>,
    ) -> Result<MappingRef<'s, M>, NoMemory> {
        let caches = self.owners.caches;
        let family = match &behind {
            Some(behind) if behind.is_anonymous() => behind.family.get(),
            _ => Counted::new(caches, Family::new()).map_err(|(_, error)| error)?,
        };
        let state = State { behind, pages: 0, ahead: (PageIndex(0), Order::ZERO) };
        let largest = largest.min(PageCache::<M>::largest_order());
        let mapping = Mapping { cache: self, contents, largest, tree: self.nodes.tree(state), family };
        Counted::new(caches, mapping).map_err(|(_, error)| error)
    }
}

impl<'a, M: Machine> Mapping<'a, M> {
    /// The address that folios know it by.
    pub(super) const fn address(&self) -> *mut () {
        core::ptr::from_ref(self).cast_mut().cast()
    }

    /// Whether the contents are in memory or in the swap store, and nowhere else.
    pub(super) const fn is_anonymous(&self) -> bool {
        matches!(self.contents, Contents::Anonymous)
    }

    /// One past the last page there can be.
    pub fn end(&self) -> PageIndex {
        match self.contents {
            Contents::File(store) => PageIndex(store.size().0.div_ceil(PAGE_SIZE as u64)),
            Contents::Anonymous => PageIndex(1 << 52),
        }
    }

    /// Pages in memory.
    pub fn pages(&self) -> u64 {
        self.tree.lock().pages
    }

    /// The regions that may map its folios.
    pub fn family(&self) -> Counted<'a, M, Family<M>> {
        self.family.get()
    }

    /// What is seen where nothing stands.
    pub(super) fn behind(&self) -> Option<MappingRef<'a, M>> {
        self.tree.lock().behind.as_ref().map(Counted::get)
    }

    /// The file that stands at the end of the chain, whose family must know of regions that map this; `None` if that is
    /// this one, or there is none.
    pub fn file_behind(&self) -> Option<MappingRef<'a, M>> {
        let mut next = self.behind();
        while let Some(mapping) = next {
            next = mapping.behind();
            if next.is_none() && !mapping.is_anonymous() {
                return Some(mapping);
            }
        }
        None
    }

    /// Whether the folio stands here and covers the index. Stable only under the folio's lock.
    pub(crate) fn holds(&self, folio: &FolioRef<'_, M>, index: PageIndex) -> bool {
        let (mapping, first) = folio.place();
        mapping == self.address() && first <= index && index.0 - first.0 < u64::from(folio.order().pages())
    }

    /// Puts a folio that stands nowhere, and that nobody else has, at an index that is aligned to its size. It is locked
    /// before anybody sees it.
    ///
    /// # Errors
    /// Something stands there, or there is no memory for the tree; the folio comes back.
    pub(super) fn insert(
        &self,
        folio: FolioRef<'a, M>,
        index: PageIndex,
    ) -> Result<LockedFolio<'a, M>, (FolioRef<'a, M>, NotInserted)> {
        let mut reserve = self.cache.nodes.no_reserve();
        folio.set(FolioFlags::LOCKED);
        let kept = folio.get().into_kept();
        loop {
            let mut tree = self.tree.lock();
            folio.set_place(self.address(), index);
            let extent = Extent::around(index, folio.order());
            let why = match tree.insert(extent, Entry::Item(kept), &mut reserve) {
                Ok(()) => {
                    tree.pages += u64::from(folio.order().pages());
                    self.cache.lru.add(&folio);
                    return Ok(LockedFolio::held(folio));
                }
                Err(InsertError::Nodes(lacking)) => {
                    drop(tree);
                    match reserve.refill(lacking.0) {
                        Ok(()) => continue,
                        Err(NoMemory) => NotInserted::NoMemory,
                    }
                }
                Err(InsertError::Occupied(_)) => NotInserted::Occupied,
            };
            folio.set_place(core::ptr::null_mut(), PageIndex(0));
            // SAFETY: the reference was kept for the tree, which did not take it.
            drop(unsafe { FolioRef::from_kept(self.cache.owners, kept) });
            return Err((LockedFolio::held(folio).unlock(), why));
        }
    }

    /// Puts a folio, with its contents, where they were written out. Says whether they still were there.
    pub(super) fn put_back(&self, folio: &LockedFolio<'a, M>, extent: Extent, slot: StoreSlot) -> PutBack {
        let mut tree = self.tree.lock();
        let there = tree.next(extent.first()).is_some_and(|found| {
            found.entry == Entry::Stored(slot) && (found.first, found.last) == (extent.first(), extent.last())
        });
        if !there {
            return PutBack::Gone;
        }
        folio.set_place(self.address(), extent.first());
        let replaced = tree.replace(extent, Entry::Item(folio.get().into_kept()));
        assert!(replaced.is_ok(), "invariant TREE-1 broken: an entry was found and is none");
        tree.mark(extent);
        tree.pages += u64::from(folio.order().pages());
        self.cache.lru.add(folio);
        PutBack::Done
    }

    /// Takes a folio out that stands here. Gives the reference that the tree had, for which no value stands.
    pub(super) fn take_out(&self, folio: &LockedFolio<'a, M>) -> NonNull<Descriptor<Folio>> {
        self.cache.lru.remove(folio);
        self.vacate(folio, folio.order(), None)
    }

    /// Takes a frozen folio out that stands here. In its place is from then on what was written out, or nothing.
    pub(super) fn take_out_frozen(&self, folio: &FrozenFolio<'a, M>, stored: Option<StoreSlot>) {
        self.cache.lru.remove_frozen(folio);
        let _ = self.vacate(folio, folio.order(), stored);
    }

    fn vacate(&self, folio: &Folio, order: Order, stored: Option<StoreSlot>) -> NonNull<Descriptor<Folio>> {
        let mut reserve = self.cache.nodes.no_reserve();
        let mut tree = self.tree.lock();
        let extent = Extent::around(folio.index(), order);
        tree.unmark(extent);
        let taken = match stored {
            Some(slot) => tree.replace(extent, Entry::Stored(slot)),
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
        folio.clear(FolioFlags::DIRTY);
        drop(folio.unlock());
        // SAFETY: the tree's reference, which it has just given up.
        drop(unsafe { FolioRef::from_kept(self.cache.owners, kept) });
    }

    /// Takes away every entry that leads to a folio that stands here.
    pub(super) fn unmap_folio(&self, folio: &LockedFolio<'_, M>, leave: Leave) {
        self.family.unmap(folio, leave);
    }

    /// Gives up all contents from an index on. A folio that begins before it stays, with zeroes from there.
    pub fn truncate(&self, from: PageIndex) {
        let mut next = Some(from);
        while let Some(index) = next {
            let found = self.tree.lock().next(index);
            let Some(Found { first, last, entry }) = found else { return };
            next = last.0.checked_add(1).map(PageIndex);
            match entry {
                Entry::Stored(_) => self.forget_stored(index),
                Entry::Item(_) => {
                    let Some(folio) = self.lookup(first.max(index)) else { continue };
                    let folio = folio.lock();
                    if !self.holds(&folio, first.max(index)) {
                        next = Some(index);
                    } else if folio.index() < from {
                        self.unmap_folio(&folio, Leave::Nothing);
                        let pages = from.0 - folio.index().0;
                        (pages..u64::from(folio.order().pages())).for_each(|page| {
                            let page = usize::try_from(page).unwrap_or(0);
                            folio.copy_from(crate::units::Bytes(page * PAGE_SIZE), &[0; PAGE_SIZE]);
                        });
                        self.set_dirty(&folio);
                    } else {
                        self.discard(folio);
                    }
                }
            }
        }
    }

    /// Gives up what stands whole at or behind `from` and before `end`, for nobody will ask for it again.
    pub(crate) fn give_up(&self, from: PageIndex, end: PageIndex) {
        let mut next = Some(from);
        while let Some(index) = next {
            let found = self.tree.lock().next(index);
            let Some(Found { first, last, entry }) = found.filter(|found| found.last < end) else { return };
            next = last.0.checked_add(1).map(PageIndex);
            if first < from {
                continue;
            }
            match entry {
                Entry::Stored(_) => self.forget_stored(first),
                Entry::Item(_) => {
                    let Some(folio) = self.lookup(first) else { continue };
                    let folio = folio.lock();
                    if self.holds(&folio, first) {
                        self.discard(folio);
                    } else {
                        next = Some(first);
                    }
                }
            }
        }
    }

    /// Gives up the place of what was written out, from an index on to the end of the entry; what is before goes too.
    pub(super) fn forget_stored(&self, index: PageIndex) {
        let mut reserve = self.cache.nodes.no_reserve();
        let mut tree = self.tree.lock();
        let Some(Found { first, last, entry: Entry::Stored(slot) }) = tree.next(index) else { return };
        let Some(extent) = extent_of(first, last) else { return };
        if tree.remove(extent, &mut reserve).is_ok() {
            drop(tree);
            self.release(slot, extent.order());
        }
    }

    /// Gives places of the swap store back.
    pub(super) fn release(&self, slot: StoreSlot, order: Order) {
        if let Some(swap) = &self.cache.swap {
            swap.release(slot, Count(order.pages()));
        }
    }

    pub(super) fn swap(&self) -> Option<&Swap<'a, M>> {
        self.cache.swap.as_ref()
    }

    /// Nodes for changes to the tree.
    pub(super) fn reserve(&self) -> NodeReserve<'a, 'a, M> {
        self.cache.nodes.no_reserve()
    }
}

/// The extent that begins and ends there, if one does.
pub(super) fn extent_of(first: PageIndex, last: PageIndex) -> Option<Extent> {
    let pages = last.0 - first.0 + 1;
    let order = Order::new(u8::try_from(pages.trailing_zeros()).ok()?)?;
    pages.is_power_of_two().then(|| Extent::around(first, order))
}

/// Whether a folio was put where its contents were written out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum PutBack {
    /// It was.
    Done,
    /// Something else stands there by now.
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

impl<M: Machine> Drop for Mapping<'_, M> {
    /// Nobody refers to the mapping, so nobody maps what stands in it; what is dirty in a file's is lost.
    fn drop(&mut self) {
        self.truncate(PageIndex(0));
        // One behind the other, however long the chain is.
        let mut behind = self.tree.lock().behind.take();
        while let Some(mapping) = behind {
            let only = mapping.is_only();
            behind = if only { mapping.tree.lock().behind.take() } else { None };
        }
    }
}

impl<M: Machine> fmt::Debug for Mapping<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.is_anonymous() { "anonymous" } else { "file" };
        write!(f, "Mapping({kind}, {} pages)", self.pages())
    }
}
