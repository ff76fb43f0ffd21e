//! Folios made smaller where they stand.
//!
//! Descriptors and nodes are had first. Then the tree gets a slot for each piece, all of which still lead to the whole,
//! so that nothing has changed for anybody; the whole is unmapped and frozen; and piece by piece takes its slots and
//! thaws. What goes wrong before it is frozen leaves it as it was, but for the entries that led to it.
//!
//! Cost: a descriptor, its slots and a place in the lists for each piece.
//! Source: Linux's `folio_split`.
#![expect(unsafe_code, reason = "answers for the reference that a tree has")]

use super::mapping::Mapping;
use super::page_cache::PageCache;
use super::reverse_map::Leave;
use crate::folio::{FrozenFolio, LockedFolio, SplitError, SplitTo};
use crate::machine::Machine;
use crate::owner::Folio;
use crate::slab::NoMemory;
use crate::tree::{Entry, Extent, NodeReserve, NodesLacking};
use crate::units::Count;

/// Nodes that it takes to put a folio's slots together again: the root, if it has been lowered below them.
const TO_COLLAPSE: u32 = 1;

impl<'a, M: Machine> PageCache<'a, M> {
    /// Splits a folio that stands in a mapping of this cache. The pieces stand where it stood, in the state that it had.
    ///
    /// # Errors
    /// Says why not; the folio comes back as it was, but perhaps unmapped.
    pub fn split(&self, folio: LockedFolio<'a, M>, to: SplitTo) -> Result<(), (LockedFolio<'a, M>, SplitError)> {
        let ours = Self::mapping_of(&folio).filter(|mapping| core::ptr::eq(mapping.cache, self));
        let Some(mapping) = ours else { return Err((folio, SplitError::Nowhere)) };
        // SAFETY: FOLIO-1, the folio stays in its mapping as long as it is locked, and no mapping goes before its folios.
        let mapping: &Mapping<'a, M> = unsafe { &*core::ptr::from_ref(mapping) };
        let Some(Count(pieces)) = to.pieces(folio.head(), folio.order()) else {
            return Err((folio, SplitError::NoSuchPieces));
        };
        if folio.pins().0 > 0 {
            return Err((folio, SplitError::Pinned));
        }
        let mut descriptors = match self.owners.descriptors::<Folio>(Count(pieces - 1)) {
            Ok(descriptors) => descriptors,
            Err(error) => return Err((folio, error.into())),
        };
        let mut reserve = mapping.reserve();
        if let Err(error) = mapping.make_slots(&folio, to, &mut reserve) {
            return Err((folio, error.into()));
        }
        mapping.unmap_folio(&folio, Leave::Nothing);
        let whole = Extent::around(folio.index(), folio.order());
        // SAFETY: the one other reference is the tree's, which nobody gives up without the lock.
        let frozen = match unsafe { folio.freeze(Count(1)) } {
            Ok(frozen) => frozen,
            Err(folio) => {
                // What was left for that may have gone into the slots, if the tree shrank before they were made.
                let _ = reserve.refill(Count(TO_COLLAPSE));
                let collapsed = mapping.tree.lock(mapping.machine()).collapse(whole, &mut reserve);
                assert!(
                    collapsed.is_ok(),
                    "invariant CACHE-1 broken: a folio that was not split cannot stand as it stood"
                );
                return Err((folio, SplitError::Referred));
            }
        };
        self.lru.remove_frozen(&frozen);
        let mut tree = mapping.tree.lock(mapping.machine());
        let divided = frozen.split(to, &mut descriptors, |mut piece: FrozenFolio<'a, M>| {
            piece.keep(Count(1));
            let extent = Extent::around(piece.index(), piece.order());
            let replaced = tree.replace(extent, Entry::Item(piece.descriptor()));
            assert!(replaced.is_ok(), "invariant CACHE-1 broken: a piece of a folio has no slots of its own");
            let piece = LockedFolio::held(piece.thaw());
            self.lru.add(&piece);
        });
        assert!(divided.is_ok(), "invariant DESC-1 broken: a folio cannot be split though descriptors were set aside");
        Ok(())
    }
}

impl<'a, M: Machine> Mapping<'a, M> {
    /// Gives each piece of a folio slots of its own, which still lead to the whole. What it wants to stand as it stood is left in
    /// the reserve, however the tree shrinks meanwhile.
    fn make_slots(
        &self,
        folio: &LockedFolio<'a, M>,
        to: SplitTo,
        reserve: &mut NodeReserve<'_, 'a, M>,
    ) -> Result<(), NoMemory> {
        let (extent, order) = match to {
            SplitTo::Uniform(order) => (Extent::around(folio.index(), folio.order()), order),
            SplitTo::Around(pfn, order) => {
                let page = folio.index().plus(u64::from(pfn.number() - folio.head().number()));
                (Extent::around(page, folio.order().min(Extent::SLOT)), order)
            }
        };
        loop {
            // The lock is let go before anything is allocated.
            let expanded = self.tree.lock(self.machine()).expand(extent, order, reserve);
            match expanded {
                Ok(()) => return Ok(()),
                Err(NodesLacking(Count(lacking))) => reserve.refill(Count(lacking + TO_COLLAPSE))?,
            }
        }
    }
}
