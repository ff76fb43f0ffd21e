//! The zone's blocks in use, one after the other: what the charges are counted against.

use super::Buddy;
use crate::desc::allocator_word::{AllocatorWord, PageState};
use crate::machine::{Geometry, Machine};
use crate::units::Pfn;

impl<M: Machine> Buddy<'_, '_, M> {
    /// The heads of the zone's allocated blocks with their words, in ascending order. Cost: a look at every block in the
    /// zone's span.
    pub(crate) fn allocated_blocks(&self) -> impl Iterator<Item = (Pfn, AllocatorWord)> {
        let mut at = self.zone.span.start;
        core::iter::from_fn(move || {
            while at < self.zone.span.end {
                let pfn = at;
                let Some(section) = self.map.populated_section(pfn) else {
                    at = pfn.plus(1).align_up(M::Geometry::MAX_ORDER);
                    continue;
                };
                let word = section.page(pfn).word();
                let block = matches!(
                    word.state(),
                    Some(PageState::Allocated | PageState::Free | PageState::Cached | PageState::Offline)
                );
                at = pfn.plus(if block { word.order().pages() } else { 1 });
                if word.is_allocated_in(self.zone.id) {
                    return Some((pfn, word));
                }
            }
            None
        })
    }
}
