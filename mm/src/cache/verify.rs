//! The checker of a mapping, while nobody is at work in it.

use super::lookup::Standing;
use super::mapping::Mapping;
use crate::invariant::{Invariant, Violation};
use crate::machine::Machine;
use crate::owner::FolioFlags;
use crate::tree::Entry;
use crate::units::PageIndex;

impl<M: Machine> Mapping<'_, M> {
    /// Checks CACHE-1, CACHE-2, LRU-1 and TREE-1 of this mapping and of what is behind it. Cost: a look at every entry.
    ///
    /// # Errors
    /// The first violation found.
    pub fn verify(&self) -> Result<(), Violation> {
        let broken = |invariant, pfn, what| Err(Violation::of(invariant, pfn, what));
        self.tree.lock(self.machine()).verify()?;
        let mut pages = 0;
        let mut next = Some(PageIndex(0));
        while let Some(index) = next {
            let found = self.tree.lock(self.machine()).next(index);
            let Some(found) = found else { break };
            next = found.last.0.checked_add(1).map(PageIndex);
            let Entry::Item(_) = found.entry else { continue };
            let Some(Standing::Folio(folio)) = self.standing(found.first) else {
                return broken(Invariant::Cache1, None, "an entry leads to no folio");
            };
            let head = Some(folio.head());
            let count = u64::from(folio.order().pages());
            if folio.index() != found.first || found.last.0 - found.first.0 + 1 != count {
                return broken(Invariant::Cache1, head, "a folio does not stand in the slots that its size covers");
            }
            let flags = folio.flags();
            if flags.contains(FolioFlags::LOCKED) {
                return broken(Invariant::Cache1, head, "a folio is locked, and nobody is at work");
            }
            let marked = self.tree.lock(self.machine()).next_marked(found.first);
            let marked = marked.is_some_and(|marked| marked.first == found.first);
            if marked != flags.contains(FolioFlags::DIRTY) {
                return broken(Invariant::Cache2, head, "a folio is dirty and not marked, or marked and clean");
            }
            if !folio.lru.is_linked() {
                return broken(Invariant::Lru1, head, "a folio stands in a mapping and in no generation");
            }
            pages += count;
        }
        if pages != self.pages() {
            return broken(Invariant::Cache1, None, "a mapping has other pages than it counts");
        }
        match self.behind() {
            Some(behind) => behind.verify(),
            None => Ok(()),
        }
    }
}
