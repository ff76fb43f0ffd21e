//! A section goes out of use: what can move does, and what cannot keeps it in use.
//!
//! One look finds what would make all work vain. Then all that is free is claimed, and what moves leaves its place to the claim;
//! so nothing comes in again meanwhile. Memory that lies may stay: nobody uses it.
//!
//! Cost: a look at every block of the section, and for each page in use a copy and what its entries cost.
//! Source: Linux's `offline_pages`.

use thiserror::Error;

use super::report::{Moved, Refusal};
use super::{Compactor, InTheWay, ROUNDS};
use crate::ContigError;
use crate::OwnerKind;
use crate::machine::Machine;
use crate::owner::Seen;
use crate::page::Claim;
use crate::space::Mmu;
use crate::units::{Pfn, PfnRange};

/// Why a section stays in use; all of it is, though pages may have moved.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum OfflineError {
    /// What stands at this frame does not move.
    #[error("{0:?}: {1}")]
    Stays(Pfn, Refusal),
    /// The frame is no memory that could go, or somebody has taken it meanwhile.
    #[error(transparent)]
    InTheWay(#[from] ContigError),
}

impl From<InTheWay> for OfflineError {
    fn from(InTheWay { head, why }: InTheWay) -> Self {
        Self::Stays(head, why)
    }
}

impl<M: Machine, U: Mmu> Compactor<'_, M, U> {
    /// Takes the section around a frame out of use until it is taken in again
    /// ([`online_pages`](crate::page::PageAllocator::online_pages)): its folios and page tables move elsewhere. Says which
    /// frames those are. The caller holds no lock.
    ///
    /// # Errors
    /// Names the first frame that is in the way.
    pub fn offline_pages(&self, pfn: Pfn) -> Result<PfnRange, OfflineError> {
        let section = self.pages().section_of(pfn);
        self.survey_section(section)?;
        let mut claim = Claim::new(self.pages(), section);
        let mut moved = Moved::none();
        for round in 0..ROUNDS {
            if round > 0 {
                // What somebody freed meanwhile may be at hand of a CPU.
                self.pages().drain();
            }
            self.claim_free(&mut claim, &mut moved);
            match self.vacate(&mut claim, &mut moved) {
                Ok(()) => {}
                Err(InTheWay { why, .. }) if why.may_pass() && round + 1 < ROUNDS => {}
                Err(in_the_way) => return Err(in_the_way.into()),
            }
        }
        Ok(self.pages().offline_claimed(claim)?)
    }

    /// Whether all of a section might go.
    fn survey_section(&self, section: PfnRange) -> Result<(), OfflineError> {
        let walker = self.owners().walk();
        for sighting in walker.blocks(section) {
            let head = sighting.head();
            match sighting.seen() {
                Seen::Hole | Seen::Reserved | Seen::Offline => return Err(ContigError::NotManaged(head).into()),
                Seen::Free | Seen::Node | Seen::Cached | Seen::Isolated | Seen::Moving => {}
                Seen::Allocated(OwnerKind::Poisoned) => {}
                Seen::Allocated(kind) => match Self::could_move(&sighting, kind) {
                    Err(why) if !why.may_pass() => return Err(OfflineError::Stays(head, why)),
                    _ => {}
                },
            }
        }
        Ok(())
    }
}
