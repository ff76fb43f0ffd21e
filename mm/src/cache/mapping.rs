//! A memory object: what stands at which index, where contents come from, and what it stands in front of.

use core::fmt;
use core::marker::PhantomPinned;
use core::pin::Pin;
use core::sync::atomic::Ordering;

use super::page_cache::PageCache;
use super::reverse_map::{Family, Leave};
use super::store::{Store, StoreRef, any_store};
use super::swap::Swap;
use crate::descriptor::Descriptor;
use crate::folio::LockedFolio;
use crate::machine::Machine;
use crate::owner::{Folio, FolioRef, Owners};
use crate::slab::{Counted, NoMemory};
use crate::tree::{Entry, Extent, NodeReserve, Tree};
use crate::units::{Count, Order, PAGE_SIZE, PageIndex, StoreSlot};

/// A reference to a mapping. With the last one it goes, and all that stands in it.
pub type MappingRef<'a, M> = Counted<'a, M, Mapping<'a, M>>;

/// A file, or anonymous memory, by pages. Linux's `struct address_space`.
pub struct Mapping<'a, M: Machine> {
    pub(super) cache: &'a PageCache<'a, M>,
    pub(super) contents: Contents<'a, M>,
    /// The largest folio that is made here.
    pub(crate) largest: Order,
    pub(super) tree: FolioTree<'a, M>,
    pub(super) family: Counted<'a, M, Family<M>>,
    /// Until it is empty its folios lead to it.
    _looked_at: PhantomPinned,
}

pub(super) type FolioTree<'a, M> = Tree<'a, Descriptor<Folio>, State<'a, M>>;

/// Where contents come from that are not in memory.
pub(super) enum Contents<'a, M: Machine> {
    /// The store, which they go back to.
    File(StoreRef<'a, M>),
    /// Zeroes, or the swap store, which they go to.
    Anonymous,
}

/// What the tree's lock guards besides.
pub(super) struct State<'a, M: Machine> {
    /// What is seen where nothing stands.
    pub(super) behind: Option<MappingRef<'a, M>>,
    /// Whether that is being taken over, so that nobody else may look at it.
    pub(super) absorbing: bool,
    /// Pages in folios that stand here.
    pub(super) pages: u64,
    /// Where the next read begins, if reads go on in order, and how large a folio it is to get.
    pub(super) ahead: (PageIndex, Order),
}

impl<M: Machine> PageCache<'_, M> {
    /// A file whose contents are a store's, which is the mapping's from then on, since folios lead there for as long as they
    /// stand, whatever becomes of the result. Folios are made as large as `largest`, if there is memory.
    ///
    /// # Errors
    /// There is no memory for the mapping, and the store is dropped: who will try again keeps a reference to it.
    pub fn file<'s>(
        self: Pin<&'s Self>,
        store: impl Store + 'static,
        largest: Order,
    ) -> Result<MappingRef<'s, M>, NoMemory> {
        let this = self.get_ref();
        this.mapping(Contents::File(any_store(this.owners.caches, store)?), largest, None)
    }

    /// Anonymous memory: zeroes, until they are written.
    ///
    /// # Errors
    /// There is no memory for the mapping.
    pub fn anonymous<'s>(self: Pin<&'s Self>, largest: Order) -> Result<MappingRef<'s, M>, NoMemory> {
        self.get_ref().mapping(Contents::Anonymous, largest, None)
    }

    pub(super) fn mapping<'s>(
        &'s self,
        contents: Contents<'s, M>,
        largest: Order,
        behind: Option<MappingRef<'s, M>>,
    ) -> Result<MappingRef<'s, M>, NoMemory> {
        let caches = self.owners.caches;
        let family = match &behind {
            Some(behind) if behind.is_anonymous() => behind.family.get(),
            _ => Counted::new(caches, Family::new()).map_err(|(_, error)| error)?,
        };
        let state = State { behind, absorbing: false, pages: 0, ahead: (PageIndex(0), Order::ZERO) };
        let largest = largest.min(PageCache::<M>::largest_order());
        self.mappings.fetch_add(1, Ordering::Relaxed);
        let mapping =
            Mapping { cache: self, contents, largest, tree: self.nodes.tree(state), family, _looked_at: PhantomPinned };
        Counted::new(caches, mapping).map_err(|(_, error)| error)
    }
}

impl<'a, M: Machine> Mapping<'a, M> {
    pub(super) const fn machine(&self) -> &'a M {
        self.cache.owners.machine()
    }

    /// The owners of its folios.
    pub(crate) const fn owners(&self) -> &'a Owners<'a, M> {
        self.cache.owners
    }

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
        match &self.contents {
            Contents::File(store) => PageIndex(store.size().0.div_ceil(PAGE_SIZE as u64)),
            Contents::Anonymous => PageIndex(1 << 52),
        }
    }

    /// Pages in memory.
    pub fn pages(&self) -> u64 {
        self.tree.lock(self.machine()).pages
    }

    /// The regions that may map its folios.
    pub fn family(&self) -> Counted<'a, M, Family<M>> {
        self.family.get()
    }

    /// What is seen where nothing stands. Who looks for a page asks [for it](Self::behind_at).
    pub(super) fn behind(&self) -> Option<MappingRef<'a, M>> {
        self.tree.lock(self.machine()).behind.as_ref().map(Counted::get)
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

    /// Takes away every entry that leads to a folio that stands here.
    pub(super) fn unmap_folio(&self, folio: &LockedFolio<'_, M>, leave: Leave) {
        self.family.unmap(folio, leave);
    }

    /// Gives places of the swap store back.
    pub(super) fn release(&self, slot: StoreSlot, order: Order) {
        if let Some(swap) = &self.cache.swap {
            swap.release(slot, Count(order.pages()));
        }
    }

    /// Gives back what an entry has beyond itself, of something that is not in memory.
    pub(super) fn release_entry(&self, entry: Entry<Descriptor<Folio>>, order: Order) {
        if let Entry::Stored(slot) = entry {
            self.release(slot, order);
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
impl<M: Machine> Drop for Mapping<'_, M> {
    /// Nobody refers to the mapping, so nobody maps what stands in it; what is dirty in a file's is lost.
    fn drop(&mut self) {
        let emptied = self.truncate(PageIndex(0));
        debug_assert!(emptied.is_ok(), "nothing begins before the first page");
        // One behind the other, however long the chain is.
        let mut behind = self.tree.lock(self.machine()).behind.take();
        while let Some(mapping) = behind {
            let only = mapping.is_only();
            behind = if only { mapping.tree.lock(mapping.machine()).behind.take() } else { None };
        }
        // Release: what was done to the cache is done when that goes.
        self.cache.mappings.fetch_sub(1, Ordering::Release);
    }
}

impl<M: Machine> fmt::Debug for Mapping<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.is_anonymous() { "anonymous" } else { "file" };
        write!(f, "Mapping({kind}, {} pages)", self.pages())
    }
}
