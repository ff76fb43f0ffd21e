//! The early carve-out: memory for what must exist before there is an allocator.
//!
//! Descriptors, page tables and the boot heap come from here. Each piece is cut from the *bottom* of the *highest*
//! usable run that has room below the limit: so a run never falls apart in two, pieces taken one after another lie
//! side by side in one reserved extent, and the low memory that old devices need stays free.

use thiserror::Error;

use crate::units::{NodeId, Pfn, PfnRange};

use super::{BootMap, Extent, RegionKind};

/// Why nothing could be carved out; the map is as before.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum CarveError {
    /// No usable run has that many frames below the limit.
    #[error("no run of {pages} usable frames below {limit:?}: the longest has {longest}")]
    OutOfMemory {
        /// Frames asked for.
        pages: u32,
        /// Where they were to end at the latest.
        limit: Pfn,
        /// Frames in the longest run below the limit.
        longest: u32,
    },
    /// The map has no room to remember another reserved extent.
    #[error("the map has room for {capacity} extents")]
    TooManyExtents {
        /// How many fit.
        capacity: usize,
    },
}

impl<const CAPACITY: usize> BootMap<CAPACITY> {
    /// Takes `pages` neighbouring frames below `limit` out of usable memory; from now on they are reserved.
    ///
    /// Memory of the preferred node is taken if it has such a run, that of any other node otherwise. No pages are an
    /// empty run. Costs one pass over the extents.
    ///
    /// # Errors
    /// No run below the limit is long enough, or there is no room for another extent.
    pub fn carve(&mut self, pages: u32, limit: Pfn, preferred: Option<NodeId>) -> Result<PfnRange, CarveError> {
        if pages == 0 {
            return Ok(PfnRange::new(Pfn::new(0), Pfn::new(0)));
        }
        let below_limit = |extent: &Extent| match extent.kind {
            RegionKind::Usable => extent.range.intersection(PfnRange::new(Pfn::new(0), limit)).pages(),
            RegionKind::Reserved => 0,
        };
        let fits = |extent: &Extent| below_limit(extent) >= pages;
        let index = preferred
            .and_then(|node| self.extents.iter().rposition(|extent| extent.node == node && fits(extent)))
            .or_else(|| self.extents.iter().rposition(fits))
            .ok_or_else(|| CarveError::OutOfMemory {
                pages,
                limit,
                longest: self.extents.iter().map(below_limit).max().unwrap_or(0),
            })?;
        self.reserve_bottom(index, pages)
    }

    /// Makes the first `pages` frames of a usable extent reserved.
    fn reserve_bottom(&mut self, index: usize, pages: u32) -> Result<PfnRange, CarveError> {
        let source = self.extents[index];
        let range = PfnRange::new(source.range.start, source.range.start.plus(pages));
        let carved = Extent { range, kind: RegionKind::Reserved, ..source };
        if range == source.range {
            self.extents[index] = carved;
            self.join(index);
            self.join(index.saturating_sub(1));
            return Ok(range);
        }
        match index.checked_sub(1).map(|index| &mut self.extents[index]) {
            Some(previous) if previous.continues_in(carved) => {
                previous.range.end = range.end;
                self.extents[index].range.start = range.end;
            }
            _ => {
                if self.extents.try_insert(index, carved).is_err() {
                    return Err(CarveError::TooManyExtents { capacity: CAPACITY });
                }
                self.extents[index + 1].range.start = range.end;
            }
        }
        Ok(range)
    }

    /// Makes one of the extent at `index` and the next, if they are the same thing.
    fn join(&mut self, index: usize) {
        if let [extent, next, ..] = self.extents[index..]
            && extent.continues_in(next)
        {
            self.extents[index].range.end = next.range.end;
            self.extents.remove(index + 1);
        }
    }
}
