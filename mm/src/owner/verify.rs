//! The checker: every page leads to its owner, every owner to its pages, and the counts are those of what there is.
//!
//! A head that names a descriptor is named by it, so no two heads name the same one; and as many heads of a kind are
//! found as owners of it were counted. So each owner has its block (DESC-1).

use super::blocks::PageTypes;
use super::owners::Owners;
use super::walker::{Seen, Sighting};
use crate::OwnerKind;
use crate::desc::owner_word::OwnerWord;
use crate::desc::word::Page;
use crate::invariant::{Invariant, Violation};
use crate::machine::Machine;
use crate::units::Pfn;

impl<M: Machine> Owners<'_, M> {
    /// Checks DESC-1 of every page, and every slab, while nobody else is at work. Cost: a pass over all descriptors.
    ///
    /// # Errors
    /// The first violation found.
    pub fn verify(&self) -> Result<(), Violation> {
        self.caches.verify()?;
        let walker = self.walk();
        walker.blocks(walker.frames()).try_for_each(|sighting| self.verify_block(&sighting))?;
        self.verify_counts(&walker.page_types())
    }

    fn verify_block(&self, sighting: &Sighting<'_, '_, M>) -> Result<(), Violation> {
        let head = sighting.head();
        let broken = |pfn, what| Err(Violation::of(Invariant::Desc1, Some(pfn), what));
        match sighting.seen() {
            Seen::Moving => return broken(head, "a page leads to no owner that it could be of"),
            Seen::Isolated => return broken(head, "a block is in flight"),
            Seen::Allocated(kind) => {
                if self.pages().page_state(head).1 != sighting.order() {
                    return broken(head, "an owner's block is not as large as the owner says");
                }
                // Slabs name themselves in every page; they have a checker of their own.
                if kind == OwnerKind::Slab {
                    return Ok(());
                }
            }
            Seen::Hole | Seen::Reserved | Seen::Offline | Seen::Free | Seen::Node | Seen::Cached => {
                if self.names_owner(head) {
                    return broken(head, "a page that is not allocated names an owner");
                }
            }
        }
        // Whoever looks an address up in a tail must find no owner that is gone.
        let tails = sighting.range().frames().skip(1);
        match tails.into_iter().find(|&pfn| self.names_owner(pfn)) {
            Some(tail) => broken(tail, "a tail names an owner"),
            None => Ok(()),
        }
    }

    fn names_owner(&self, pfn: Pfn) -> bool {
        self.pages().page(pfn).map(Page::owner).is_some_and(OwnerWord::is_owned)
    }

    fn verify_counts(&self, found: &PageTypes) -> Result<(), Violation> {
        let counted = |kind| {
            let tally = found.allocated(kind);
            (tally.blocks(), tally.pages())
        };
        match self.reports().find(|report| (report.blocks, report.pages) != counted(report.kind)) {
            Some(_) => {
                Err(Violation::of(Invariant::Desc1, None, "there are owners without their blocks, or miscounted"))
            }
            None => Ok(()),
        }
    }
}
