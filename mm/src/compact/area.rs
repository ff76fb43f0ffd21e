//! An aligned run of frames that is to be one free block: what stands in it, and whether that can move.
//!
//! The look finds out cheaply what would make all work vain. What it finds may have changed when the pages are asked to
//! move, so it decides nothing but whether to try.

use super::Compactor;
use super::migrate::MigrateError;
use super::report::{Moved, Refusal};
use crate::OwnerKind;
use crate::machine::Machine;
use crate::owner::{Reference, Seen, Sighting, TableLevel};
use crate::page::Claim;
use crate::space::Mmu;
use crate::units::{Count, Pfn, PfnRange};

/// What did not move, and why.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct InTheWay {
    pub(super) head: Pfn,
    pub(super) why: Refusal,
}

impl<'a, M: Machine, U: Mmu> Compactor<'a, M, U> {
    /// Pages in use that would have to move for the area to be free; none if it is one free block.
    ///
    /// # Errors
    /// The first that cannot.
    pub(super) fn survey(&self, area: PfnRange) -> Result<u32, Refusal> {
        let walker = self.owners().walk();
        let zone = self.pages().zone_around(area.start);
        let mut used = 0;
        for sighting in walker.blocks(area) {
            let block = sighting.range();
            match sighting.seen() {
                Seen::Free if block.intersection(area) == area => return Ok(0),
                Seen::Hole | Seen::Reserved | Seen::Offline => return Err(Refusal::NotWhole),
                Seen::Isolated | Seen::Moving => return Err(Refusal::Unsettled),
                _ if self.pages().zone_around(sighting.head()) != zone => return Err(Refusal::NotWhole),
                Seen::Free => {}
                // A node is as good as free, but with the others an area is not yet one block.
                Seen::Node => used += 1,
                // As good as free, too, once it is drained.
                Seen::Cached => used += block.intersection(area).pages(),
                Seen::Allocated(_) if block.intersection(area) != block => return Err(Refusal::NotWhole),
                Seen::Allocated(kind) => {
                    used += block.pages();
                    Self::could_move(&sighting, kind)?;
                }
            }
        }
        // Free blocks alone would have merged, were they not on their way just now.
        Ok(used.max(1))
    }

    /// Whether the owner of a block might let it go.
    pub(super) fn could_move(sighting: &Sighting<'_, 'a, M>, kind: OwnerKind) -> Result<(), Refusal> {
        match (kind, sighting.get()) {
            (OwnerKind::Folio | OwnerKind::PageTable, None) => Err(Refusal::Unsettled),
            (_, Some(Reference::Folio(folio))) if folio.pins() > Count(0) => Err(MigrateError::Pinned.into()),
            (_, Some(Reference::Folio(folio))) if folio.place().0.is_null() => Err(MigrateError::Unlisted.into()),
            (_, Some(Reference::Folio(_))) => Ok(()),
            (_, Some(Reference::PageTable(table))) => {
                let moves = table.place().is_some() && table.level() < TableLevel(U::ROOT.0);
                if moves { Ok(()) } else { Err(MigrateError::Fixed.into()) }
            }
            _ => Err(Refusal::Unmovable(kind)),
        }
    }

    /// Claims what is free in the area, the pages of freelists' nodes too, which move out.
    pub(super) fn claim_free(&self, claim: &mut Claim<'a, M>, moved: &mut Moved) {
        let mut at = claim.area().start;
        while at < claim.area().end {
            let (run, nodes) = self.free_run(claim, at);
            // Somebody may have taken a part of it just now; then there is another round.
            if !run.is_empty()
                && let Ok(range) = self.pages().alloc_contig(run)
            {
                moved.nodes.0 += nodes;
                range.into_blocks().for_each(|block| claim.add(block));
            }
            at = run.end.plus(1);
        }
    }

    /// The free frames from one on that are not claimed, and how many of them are nodes. Empty if it is not free.
    fn free_run(&self, claim: &Claim<'a, M>, start: Pfn) -> (PfnRange, u32) {
        let walker = self.owners().walk();
        let (mut at, mut nodes) = (start, 0);
        while at < claim.area().end && !claim.has(at) {
            let sighting = walker.look(at);
            match sighting.seen() {
                Seen::Free => at = sighting.range().end.min(claim.area().end),
                Seen::Node => {
                    nodes += 1;
                    at = at.plus(1);
                }
                _ => break,
            }
        }
        (PfnRange::new(start, at), nodes)
    }

    /// Asks each owner that is left in the area to move, and claims what it leaves. Memory that lies has no owner who might.
    ///
    /// # Errors
    /// The first that did not, or that never will.
    pub(super) fn vacate(&self, claim: &mut Claim<'a, M>, moved: &mut Moved) -> Result<(), InTheWay> {
        let mut outcome = Ok(());
        let mut at = claim.area().start;
        while at < claim.area().end {
            let from = at;
            at = at.plus(1);
            if claim.has(from) {
                continue;
            }
            let owner = {
                let walker = self.owners().walk();
                let sighting = walker.look(from);
                match (sighting.seen(), sighting.get()) {
                    (Seen::Allocated(_), Some(owner)) => owner,
                    (Seen::Allocated(OwnerKind::Poisoned), None) => continue,
                    (Seen::Allocated(kind), None) if !kind.has_descriptor() => {
                        return Err(InTheWay { head: from, why: Refusal::Unmovable(kind) });
                    }
                    _ => continue,
                }
            };
            let block = owner.range();
            at = block.end;
            if block.intersection(claim.area()) != block {
                return Err(InTheWay { head: block.start, why: Refusal::NotWhole });
            }
            match self.move_owner(owner, moved) {
                Ok(left) => claim.add(left),
                Err(why) => {
                    let in_the_way = InTheWay { head: block.start, why };
                    if !why.may_pass() {
                        return Err(in_the_way);
                    }
                    outcome = outcome.and(Err(in_the_way));
                }
            }
        }
        outcome
    }

    fn move_owner(&self, owner: Reference<'a, M>, moved: &mut Moved) -> Result<crate::page::Block<'a, M>, Refusal> {
        match owner {
            Reference::Folio(folio) => {
                let pages = folio.order().pages();
                let left = self.move_folio(folio)?;
                moved.folios.0 += pages;
                Ok(left)
            }
            Reference::PageTable(table) => {
                let left = self.move_table(table)?;
                moved.tables.0 += 1;
                Ok(left)
            }
            other => Err(Refusal::Unmovable(other.kind())),
        }
    }
}
