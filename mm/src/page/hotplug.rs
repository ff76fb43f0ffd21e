//! Sections that go out of use and come back: memory that is to be pulled out, or given to somebody else.
//!
//! A section is one block of the largest order, as descriptors come. Its descriptors stay. What the zone manages shrinks and
//! grows by it, and so do the marks of how low zones may fall. Pages whose memory lies may be in it; they are as before when it
//! comes back.
//!
//! Here everything goes that is free. Who can make others move, as compaction can, claims what they leave.
//!
//! Invariants: ACCT-1 (managed, present and free pages change by the same), HWPOISON-1, RSRV-1.
//! Cost: every CPU is shut out of what it has at hand for a moment; a word for each frame; the watermarks of all zones.
//! Source: Linux's `offline_pages`, `online_pages`.

use thiserror::Error;

use super::allocator::PageAllocator;
use super::claim::Claim;
use crate::OwnerKind;
use crate::buddy::ContigError;
use crate::desc::allocator_word::PageState;
use crate::machine::{Geometry, Machine};
use crate::poison;
use crate::specification::Change;
use crate::units::{Order, Pfn, PfnRange};

/// The frame is in no section that is out of use; nothing has changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error("{0:?} is not offline")]
pub struct NotOffline(pub Pfn);

impl<M: Machine> PageAllocator<'_, M> {
    /// The section around a frame.
    pub const fn section_of(&self, pfn: Pfn) -> PfnRange {
        let start = pfn.align_down(M::Geometry::MAX_ORDER);
        PfnRange::new(start, start.plus(M::Geometry::MAX_ORDER.pages()))
    }

    /// Takes the section around a frame out of use, if all of it is free, nodes of freelists and what CPUs have at hand
    /// included, or known to fail. Says which frames those are. Not for handlers.
    ///
    /// # Errors
    /// Names the first frame that is in the way; nothing has changed.
    pub fn offline_pages(&self, pfn: Pfn) -> Result<PfnRange, ContigError> {
        self.offline_claimed(Claim::new(self, self.section_of(pfn)))
    }

    /// The same, of a section of which the caller has a part, which goes with it or is freed.
    pub(crate) fn offline_claimed(&self, claim: Claim<'_, M>) -> Result<PfnRange, ContigError> {
        let section = claim.area();
        let not_managed = ContigError::NotManaged(section.start);
        let word = self.map.get(section.start).ok_or(not_managed)?.word();
        if matches!(word.state(), Some(PageState::Hole | PageState::Reserved | PageState::Offline) | None) {
            return Err(not_managed);
        }
        let cell = self.zones.get(word.zone().index()).ok_or(not_managed)?;
        let offline = self.with_all_drained(|interrupts| {
            self.with_buddy_undisturbed(interrupts, cell, |buddy| {
                let has = |pfn| claim.has(pfn);
                buddy.offline(section, has, |head, order| {
                    if !self.map.page(head).owner().is(OwnerKind::Poisoned) {
                        poison::on_free(self.machine, PfnRange::new(head, head.plus(order.pages())));
                    }
                    self.changed(Change::Freed(head, order));
                })?;
                self.changed(Change::Taken(section));
                Ok(())
            })
        });
        offline.unwrap_or(Err(ContigError::InUse(section.start)))?;
        self.set_watermarks();
        Ok(claim.into_area())
    }

    /// Takes the section around a frame in again, free, which was [out of use](Self::offline_pages); but for what is known to
    /// fail by now. Says which frames those are.
    ///
    /// # Errors
    /// It is in use; nothing has changed.
    pub fn online_pages(&self, pfn: Pfn) -> Result<PfnRange, NotOffline> {
        let section = self.section_of(pfn);
        let word = self.map.get(section.start).ok_or(NotOffline(pfn))?.word();
        let cell = self.zones.get(word.zone().index()).ok_or(NotOffline(pfn))?;
        self.with_buddy(cell, |buddy| {
            // Until the zone is locked, others may adopt it into another one, and take that out of use.
            let now = self.map.page(section.start).word();
            if !now.is(PageState::Offline) || now.zone() != word.zone() {
                return Err(NotOffline(pfn));
            }
            self.changed(Change::Given(section));
            buddy.online(section, |kept| self.changed(Change::Allocated(kept, Order::ZERO)));
            Ok(())
        })?;
        self.set_watermarks();
        Ok(section)
    }
}
