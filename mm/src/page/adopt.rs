//! Memory that was used before there was an allocator, handed in by its owner: the boot heap, early page tables.
//!
//! Reserved frames become allocated blocks of the root group, in a zone that manages so many pages more from then on.
//! What they hold stays, and so does who owns them; freeing them is freeing as ever, and they merge with what is
//! around.
//!
//! Invariants: ZONE-1 (the blocks lie in one zone, whose span grows around them), ACCT-1 (managed and used pages grow by
//! the same), FREE-6 (once free, memory coalesces over the former hole).
//! Cost: two looks at each frame, one descriptor write, and the watermarks of all zones.
#![expect(unsafe_code, reason = "the caller vouches for owning the frames")]

use thiserror::Error;

use super::allocator::{PageAllocator, ZoneCell};
use super::block::ContigRange;
use crate::machine::Machine;
use crate::specification::Change;
use crate::units::{Pfn, PfnRange};
use crate::zone::ZoneKind;

/// Why frames were not adopted; nothing has changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum AdoptError {
    /// The range is empty.
    #[error("the range is empty")]
    Empty,
    /// A frame of the range is not reserved: it is the allocator's already, or no memory.
    #[error("{0:?} is not reserved memory")]
    NotReserved(Pfn),
    /// From this frame on, the range is memory of another kind.
    #[error("{0:?} lies in another zone")]
    CrossesZone(Pfn),
    /// There is no zone of the kind that the frames are.
    #[error("there is no zone {} to take the memory in", .0.name())]
    NoZone(ZoneKind),
}

impl<M: Machine> PageAllocator<'_, M> {
    /// Takes reserved frames in, as an allocated range: dropping it frees them.
    ///
    /// Of the zones of their kind, the nearest gets the frames; of those that they lie within, the smallest.
    ///
    /// # Errors
    /// The range is empty, crosses from one kind of memory to another, or has a frame that is not reserved; or the
    /// machine has no zone of that kind.
    ///
    /// # Safety
    /// The frames are memory, and the caller's: nobody but the holder of the result uses them from here on, and they
    /// hold nothing of this allocator's own tables.
    pub unsafe fn adopt(&self, range: PfnRange) -> Result<ContigRange<'_, M>, AdoptError> {
        let cell = self.zone_for(range)?;
        match self.with_buddy(cell, |buddy| buddy.adopt_reserved(range)) {
            Ok(()) => {
                self.changed(Change::Given(range));
                self.set_watermarks();
                Ok(ContigRange::own(self, range))
            }
            Err(pfn) => Err(AdoptError::NotReserved(pfn)),
        }
    }

    fn zone_for(&self, range: PfnRange) -> Result<&ZoneCell<M::Geometry>, AdoptError> {
        if range.is_empty() {
            return Err(AdoptError::Empty);
        }
        let frames = |kind: ZoneKind| kind.frames(self.machine.direct_map_end());
        let kind = ZoneKind::ALL.into_iter().find(|&kind| frames(kind).contains(range.start));
        let kind = kind.ok_or(AdoptError::NotReserved(range.start))?;
        if range.end > frames(kind).end {
            return Err(AdoptError::CrossesZone(frames(kind).end));
        }
        let distance = |cell: &&ZoneCell<M::Geometry>| {
            let span = self.report_zone(cell).span;
            let (below, above) = (PfnRange::new(range.end, span.start), PfnRange::new(span.end, range.start));
            (below.pages() + above.pages(), span.pages())
        };
        self.zones.iter().filter(|cell| cell.kind == kind).min_by_key(distance).ok_or(AdoptError::NoZone(kind))
    }
}
