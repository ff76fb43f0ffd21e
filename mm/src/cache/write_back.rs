//! From folios to stores.
//!
//! Who is dirty is marked in the tree, so that finding them costs no look at those who are clean. A folio is clean from
//! before it is written: whoever changes it meanwhile makes it dirty again, for the next time.
//!
//! Invariants: CACHE-2, CACHE-3 (users lose the right to write before the folio is called clean).

use super::mapping::{Contents, Mapping};
use super::page_cache::{PageCache, count};
use super::store::{Store, StoreError};
use crate::folio::LockedFolio;
use crate::machine::Machine;
use crate::owner::{FolioFlags, FolioRef};
use crate::tree::{Entry, Extent};
use crate::undo::Undo;
use crate::units::{Count, FileOffset, PAGE_SIZE, PageIndex};

impl<'a, M: Machine> PageCache<'a, M> {
    /// Calls a folio dirty that was written past all page tables, if it still stands anywhere.
    pub(crate) fn written(folio: FolioRef<'a, M>) {
        let folio = folio.lock();
        if let Some(mapping) = Self::mapping_of(&folio) {
            mapping.set_dirty(&folio);
        }
    }
}

impl<'a, M: Machine> Mapping<'a, M> {
    /// Calls a folio dirty that stands here.
    pub(super) fn set_dirty(&self, folio: &LockedFolio<'a, M>) {
        if !folio.set(FolioFlags::DIRTY).contains(FolioFlags::DIRTY) {
            self.tree.lock(self.machine()).mark(Extent::around(folio.index(), folio.order()));
        }
    }

    /// Calls a folio clean that stands here, and that nobody may write without asking from here on.
    fn set_clean(&self, folio: &LockedFolio<'a, M>) {
        self.family.write_protect(folio);
        folio.clear(FolioFlags::DIRTY);
        self.tree.lock(self.machine()).unmark(Extent::around(folio.index(), folio.order()));
    }

    /// Writes everything dirty to the file. Anonymous memory has none. Says how many pages were written.
    ///
    /// # Errors
    /// The store has failed; what was not written is still dirty.
    pub fn write_back(&self) -> Result<Count, StoreError> {
        let mut pages = Count(0);
        let mut next = Some(PageIndex(0));
        while let (Some(index), Contents::File(store)) = (next, &self.contents) {
            let marked = self.tree.lock(self.machine()).next_marked(index);
            let Some(found) = marked else { break };
            next = found.last.0.checked_add(1).map(PageIndex);
            if !matches!(found.entry, Entry::Item(_)) {
                continue;
            }
            let Some(folio) = self.lookup(found.first) else { continue };
            let folio = folio.lock();
            if self.holds(&folio, found.first) && folio.flags().contains(FolioFlags::DIRTY) {
                self.write_folio(&folio, &**store)?;
                pages.0 += folio.order().pages();
            }
        }
        Ok(pages)
    }

    /// Writes a dirty folio that stands here to its file.
    pub(super) fn write_folio(&self, folio: &LockedFolio<'a, M>, store: &dyn Store) -> Result<(), StoreError> {
        self.set_clean(folio);
        // Unless it is written it is dirty again, also if the store panics.
        let unwritten = Undo::new(|| self.set_dirty(folio));
        let start = folio.index().start();
        let left = store.size().0.saturating_sub(start.0);
        self.write_pages(folio, store, start, left)?;
        unwritten.forget();
        count(&self.cache.events.written, folio.order().pages());
        Ok(())
    }

    /// Writes the pages of a folio, whose contents hold still, to a place in a store: so many bytes at most.
    pub(super) fn write_pages(
        &self,
        folio: &LockedFolio<'a, M>,
        store: &dyn Store,
        start: FileOffset,
        most: u64,
    ) -> Result<(), StoreError> {
        folio.set(FolioFlags::WRITEBACK);
        let _ends = Undo::new(|| _ = folio.clear(FolioFlags::WRITEBACK));
        let mut left = most;
        (0..folio.order().pages()).try_for_each(|page| {
            let len = usize::try_from(left).unwrap_or(PAGE_SIZE).min(PAGE_SIZE);
            left -= len as u64;
            let offset = start.plus(u64::from(page) * PAGE_SIZE as u64);
            let write = |bytes: &[u8; PAGE_SIZE]| if len == 0 { Ok(()) } else { store.write(offset, &bytes[..len]) };
            folio.with_stable_page(page, write).unwrap_or(Ok(()))
        })
    }
}
