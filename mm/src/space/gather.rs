//! What was taken out of tables, and may go once no processor remembers it: flushed in batches, then given up.
//!
//! Source: Linux's `mmu_gather`.

use arrayvec::ArrayVec;

use super::mmu::{Mmu, PageEntry};
use super::range::AddressRange;
use super::tables::Tables;
use crate::machine::Machine;
use crate::owner::{FolioRef, Owned, PageTable, Reference};
use crate::units::{Count, Pfn, PfnRange};

/// Runs of frames that are waited for at once.
const RUNS: usize = 16;

/// Emptied tables that are.
const TABLES: usize = 8;

/// Whose pages entries lead to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Entries {
    /// Folios', which count them.
    OfFolios,
    /// Somebody else's, who sees to it that the pages stay.
    OfFrames,
}

/// What waits to be given up.
pub(super) struct Gather<'t, 'a, M: Machine, U: Mmu> {
    tables: &'t Tables<'a, M, U>,
    entries: Entries,
    /// All addresses that are to be flushed.
    stale: Option<AddressRange>,
    runs: ArrayVec<PfnRange, RUNS>,
    emptied: ArrayVec<Owned<'a, M, PageTable>, TABLES>,
}

impl<'t, 'a, M: Machine, U: Mmu> Gather<'t, 'a, M, U> {
    /// For a change of the tables, whose lock is held as long as this lives.
    pub(super) const fn new(tables: &'t Tables<'a, M, U>, entries: Entries) -> Self {
        Self { tables, entries, stale: None, runs: ArrayVec::new_const(), emptied: ArrayVec::new_const() }
    }

    /// What processors may know of these addresses is no longer so.
    pub(super) fn stale(&mut self, range: AddressRange) {
        self.stale = Some(match self.stale {
            Some(all) => AddressRange::new(all.start().min(range.start()), all.end().max(range.end())),
            None => range,
        });
    }

    /// The page that stood in a range has no entry there any more.
    pub(super) fn page(&mut self, entry: PageEntry, range: AddressRange) {
        self.stale(range);
        if self.entries == Entries::OfFrames {
            return;
        }
        let run = frames(entry, range);
        match self.runs.last_mut() {
            Some(last) if last.end == run.start => last.end = run.end,
            _ => {
                if self.runs.is_full() {
                    self.flush();
                }
                self.runs.push(run);
            }
        }
    }

    /// The table that served a range is in no other any more.
    pub(super) fn table(&mut self, table: Owned<'a, M, PageTable>, range: AddressRange) {
        if self.emptied.is_full() {
            self.flush();
        }
        self.stale(range);
        self.emptied.push(table);
    }

    /// Makes processors forget, then gives up all that waited for that.
    pub(super) fn flush(&mut self) {
        // Nothing is gathered that is not stale.
        let Some(stale) = self.stale.take() else { return };
        self.tables.mmu().flush(self.tables.root(), stale.start()..stale.end());
        for run in self.runs.take() {
            unmapped(self.tables, run);
        }
        self.emptied.clear();
    }
}

impl<M: Machine, U: Mmu> Drop for Gather<'_, '_, M, U> {
    fn drop(&mut self) {
        self.flush();
    }
}

/// The frames that an entry maps at a range.
#[expect(clippy::cast_possible_truncation, reason = "no entry maps more pages than a block has")]
pub(super) const fn frames(entry: PageEntry, range: AddressRange) -> PfnRange {
    PfnRange::new(entry.frame, entry.frame.plus(range.pages() as u32))
}

/// Tells the folios of a run of frames that so many entries fewer lead to them.
fn unmapped<M: Machine, U: Mmu>(tables: &Tables<'_, M, U>, run: PfnRange) {
    let mut left = run;
    while !left.is_empty() {
        let folio = folio_at(tables, left.start);
        let part = left.intersection(folio.range());
        folio.remove_mappings(tables.id(), Count(part.pages()));
        left = PfnRange::new(part.end, left.end);
    }
}

/// The folio that an entry leads to, or led to until it was taken out: it is still counted there.
pub(super) fn folio_at<'a, M: Machine, U: Mmu>(tables: &Tables<'a, M, U>, frame: Pfn) -> FolioRef<'a, M> {
    let walker = tables.owners().walk();
    let sighting = walker.look(frame);
    match sighting.get() {
        Some(Reference::Folio(folio)) => folio,
        _ => panic!("invariant SPACE-2 broken: an entry leads to {frame:?}, which is {sighting:?}"),
    }
}
