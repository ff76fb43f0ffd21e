//! From an index to the folio that covers it, without a lock, while folios come and go.
//!
//! The tree gives an address that was a descriptor's at some moment of the walk; the reference is taken only of a
//! descriptor that is alive; and what then says that it stands in this mapping at this index did so while the reference
//! was held. A folio that is frozen is about to be something else, or what it was: whoever meets one looks again.
//!
//! Cost: a walk, a load for each level of the tree, three loads and a compare-and-swap for the folio.
#![expect(unsafe_code, reason = "follows the tree to descriptors")]

use super::mapping::Mapping;
use crate::machine::Machine;
use crate::owner::{FolioFlags, FolioRef};
use crate::tree::Entry;
use crate::units::PageIndex;

use super::lru::Generation;

/// What stands at an index.
pub(super) enum Standing<'a, M: Machine> {
    /// This folio covers it.
    Folio(FolioRef<'a, M>),
    /// It was written out.
    Stored,
    /// It was lost.
    Lost,
}

/// What is seen at an index without reading anything.
pub(crate) enum Shown<'a, M: Machine> {
    /// A folio of the mapping's own.
    Own(FolioRef<'a, M>),
    /// One that stands behind it.
    Behind(FolioRef<'a, M>),
    /// Nothing that is in memory.
    Nothing,
}

impl<'a, M: Machine> Mapping<'a, M> {
    /// The folio at an index, in whatever state it is.
    pub fn lookup(&self, index: PageIndex) -> Option<FolioRef<'a, M>> {
        match self.standing(index)? {
            Standing::Folio(folio) => Some(folio),
            Standing::Stored | Standing::Lost => None,
        }
    }

    /// What stands at an index.
    #[inline]
    pub(super) fn standing(&self, index: PageIndex) -> Option<Standing<'a, M>> {
        let walking = self.cache.walk();
        loop {
            match self.tree.look(index, &walking)? {
                Entry::Stored(_) => return Some(Standing::Stored),
                Entry::Lost => return Some(Standing::Lost),
                Entry::Item(descriptor) => {
                    // SAFETY: the tree had the address while this walks.
                    let folio = unsafe { FolioRef::find(self.cache.owners, descriptor) };
                    if let Some(folio) = folio.filter(|folio| self.holds(folio, index)) {
                        return Some(Standing::Folio(folio));
                    }
                    crate::sync::spin_loop();
                }
            }
        }
    }

    /// What a user sees at an index through this mapping, as far as it is in memory, and which mapping it stands in.
    pub(crate) fn shown(&self, index: PageIndex) -> Shown<'a, M> {
        match self.standing(index) {
            Some(Standing::Folio(folio)) => return Shown::Own(folio),
            Some(Standing::Stored | Standing::Lost) => return Shown::Nothing,
            None => {}
        }
        let mut behind = self.behind();
        while let Some(mapping) = behind {
            match mapping.standing(index) {
                Some(Standing::Folio(folio)) => return Shown::Behind(folio),
                Some(Standing::Stored | Standing::Lost) => return Shown::Nothing,
                None => behind = mapping.behind(),
            }
        }
        Shown::Nothing
    }

    /// Whether something stands here at an index, in memory or not, so that what is behind is not seen there.
    pub(crate) fn hides(&self, index: PageIndex) -> bool {
        self.standing(index).is_some()
    }

    /// Says that a folio that stands here was used: twice makes it active. Of any other nothing is said.
    pub fn mark_accessed(&self, folio: &FolioRef<'a, M>) {
        // INVARIANT: LRU-1, what stands here comes to no other cache's lists as long as it is referred to.
        if folio.place().0 != self.address() {
            return;
        }
        let before = folio.set(FolioFlags::REFERENCED);
        if before.contains(FolioFlags::REFERENCED) && !before.contains(FolioFlags::ACTIVE) {
            folio.clear(FolioFlags::REFERENCED);
            self.cache.lru.move_to(folio, Generation::Active);
        }
    }
}
