//! Memory back from folios that nobody uses.
//!
//! Whoever comes last in the inactive generation is asked whether it was used through a page table; if so, it gets
//! another turn, the second time in the active generation. If not, its entries are taken away, what is dirty is written
//! out, and it goes, unless somebody refers to it, has it locked, or pins it. Nothing here waits; and nothing allocates, but
//! to split a folio for which the swap store has no place in one piece.
//!
//! Cost: for each folio that goes, its entries, its tree's slots, and freeing a block.
//! Source: Linux's `shrink_folio_list`.
#![expect(unsafe_code, reason = "answers for the reference that a tree has")]

use super::lru::Generation;
use super::mapping::{Contents, Mapping};
use super::page_cache::{PageCache, count};
use super::reverse_map::{Accessed, Leave};
use super::store::StoreError;
use super::swap::Swap;
use crate::folio::{LockedFolio, SplitTo};
use crate::machine::Machine;
use crate::owner::{FolioFlags, FolioRef};
use crate::shrinker::Shortage;
use crate::undo::Undo;
use crate::units::{Count, Order, PAGE_SIZE, StoreSlot};
use crate::zone::ZoneKind;

impl<'a, M: Machine> PageCache<'a, M> {
    /// Reclaims about as many pages as are wanted, wherever they are; fewer, if after two looks at each folio there are no
    /// more that can go. Says how many. The caller holds no lock but those of folios.
    pub fn reclaim(&self, wanted: Count) -> Count {
        self.reclaim_for(&Shortage::of(wanted))
    }

    /// The same, of pages that help. Folios of other kinds of zones are not looked at; those of other nodes have another turn.
    pub(super) fn reclaim_for(&self, shortage: &Shortage) -> Count {
        let wanted = shortage.wanted;
        let mut reclaimed = Count(0);
        let pages = |generation| self.lru.pages(self.owners.machine(), generation, shortage.highest);
        let [inactive, active] = [Generation::Inactive, Generation::Active].map(pages);
        let mut looks = 2 * (u64::from(inactive.0) + u64::from(active.0));
        let mut in_vain = 0;
        while reclaimed < wanted && looks > 0 {
            // Where none of the inactive ones can go, or helps, others have to become inactive.
            let stuck = in_vain >= pages(Generation::Inactive).0.max(1);
            self.balance(shortage.highest, Some(shortage).filter(|_| stuck));
            in_vain = if stuck { 0 } else { in_vain };
            let Some(folio) = self.lru.oldest(self.owners, Generation::Inactive, shortage.highest) else {
                // All are active, and were used since they were last looked at.
                looks = looks.saturating_sub(u64::from(active.0.max(1)));
                continue;
            };
            let pages = folio.order().pages();
            looks = looks.saturating_sub(u64::from(pages));
            let helps = self.pages().helps(shortage, folio.head());
            let evicted = if helps { self.evict(folio) } else { Count(0) };
            in_vain = if evicted > Count(0) { 0 } else { in_vain + pages };
            reclaimed.0 += evicted.0;
        }
        count(&self.events.reclaimed, reclaimed.0);
        reclaimed
    }

    /// Makes the oldest active folios of a kind of zone and those below inactive that were not used since they were last looked
    /// at, until they are not more than the inactive ones; and as many as `lacking` wants of those that help.
    fn balance(&self, highest: ZoneKind, lacking: Option<&Shortage>) {
        let pages = |generation| self.lru.pages(self.owners.machine(), generation, highest);
        let too_many = || pages(Generation::Active) > pages(Generation::Inactive);
        let mut looks = pages(Generation::Active).0.saturating_mul(1 + u32::from(lacking.is_some()));
        let mut aged = Count(0);
        while looks > 0 && (too_many() || lacking.is_some_and(|lacking| aged < lacking.wanted)) {
            let Some(folio) = self.lru.oldest(self.owners, Generation::Active, highest) else { return };
            looks = looks.saturating_sub(folio.order().pages());
            let Ok(folio) = folio.try_lock() else { continue };
            let used = folio.clear(FolioFlags::REFERENCED).contains(FolioFlags::REFERENCED);
            let mapping = Self::mapping_of(&folio);
            let accessed = mapping.map_or(Accessed::No, |mapping| mapping.family.take_accessed(&folio));
            let helps = lacking.is_some_and(|lacking| self.pages().helps(lacking, folio.head()));
            if !used && accessed == Accessed::No && (helps || too_many()) {
                aged.0 += if helps { folio.order().pages() } else { 0 };
                self.lru.move_to(&folio, Generation::Inactive);
            }
        }
    }

    /// The mapping in which a folio stands, as long as it is locked.
    pub(crate) fn mapping_of<'f>(folio: &'f LockedFolio<'a, M>) -> Option<&'f Mapping<'a, M>> {
        let (mapping, _) = folio.place();
        // SAFETY: FOLIO-1, the folio leaves its mapping only under its lock, and no mapping goes before its folios.
        unsafe { mapping.cast::<Mapping<'a, M>>().as_ref() }
    }

    /// Takes a folio out of memory, if it can go. Says how many pages that gave.
    fn evict(&self, folio: FolioRef<'a, M>) -> Count {
        if folio.pins().0 > 0 {
            return Count(0);
        }
        let Ok(folio) = folio.try_lock() else { return Count(0) };
        let Some(mapping) = Self::mapping_of(&folio) else { return Count(0) };
        if mapping.family.take_accessed(&folio) == Accessed::Yes {
            mapping.mark_accessed(&folio);
            return Count(0);
        }
        mapping.unmap_folio(&folio, Leave::Nothing);
        if folio.mappings().entries.0 > 0 {
            return Count(0);
        }
        let stored = match mapping.write_out(&folio) {
            Ok(stored) => stored,
            // There may be places for its pages one by one. If they cannot be had, it stays.
            Err(StoreError::Full) if folio.order() > Order::ZERO && self.swap.is_some() => {
                let _ = self.split(folio, SplitTo::Uniform(Order::ZERO));
                return Count(0);
            }
            Err(_) => return Count(0),
        };
        let address: *const Mapping<'a, M> = mapping;
        // SAFETY: the one other reference is the tree's, which nobody gives up without the lock.
        let frozen = match unsafe { folio.freeze(Count(1)) } {
            Ok(frozen) => frozen,
            Err(folio) => {
                // SAFETY: as in `mapping_of`: the lock was never let go.
                let mapping = unsafe { &*address };
                mapping.take_back(&folio, stored);
                return Count(0);
            }
        };
        // SAFETY: as above.
        let mapping = unsafe { &*address };
        mapping.take_out_frozen(&frozen, stored);
        let (block, _) = frozen.into_block();
        Count(block.order().pages())
    }
}

impl<'a, M: Machine> Mapping<'a, M> {
    /// Writes a dirty folio that stands here, and that nobody maps, to where it is found again: for anonymous memory a
    /// place in the swap store.
    fn write_out(&self, folio: &LockedFolio<'a, M>) -> Result<Option<StoreSlot>, StoreError> {
        if !folio.flags().contains(FolioFlags::DIRTY) {
            return Ok(None);
        }
        if let Contents::File(store) = &self.contents {
            return self.write_folio(folio, &**store).map(|()| None);
        }
        let swap = self.swap().ok_or(StoreError::Full)?;
        let slot = swap.take(folio.order()).ok_or(StoreError::Full)?;
        let most = u64::from(folio.order().pages()) * PAGE_SIZE as u64;
        let unwritten = Undo::new(|| self.release(slot, folio.order()));
        self.write_pages(folio, swap.store(), Swap::<M>::offset(slot), most)?;
        unwritten.forget();
        count(&self.cache.events.swapped_out, folio.order().pages());
        Ok(Some(slot))
    }

    /// The folio stays after all, and what was written out for it is not needed.
    fn take_back(&self, folio: &LockedFolio<'a, M>, stored: Option<StoreSlot>) {
        if let Some(slot) = stored {
            self.release(slot, folio.order());
        }
    }
}
