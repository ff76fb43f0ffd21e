//! Sections out of use: their free blocks come off the lists, nodes in them move out, and the zone is the smaller for it.
//!
//! Invariants: ACCT-1, RSRV-1, HWPOISON-1. Cost: that of a contiguous range.
//! Source: Linux's `offline_pages`, `online_pages`.

use super::Buddy;
use super::contig::ContigError;
use crate::OwnerKind;
use crate::block::FreeBlock;
use crate::machine::{Geometry, Machine};
use crate::migratetype::Migratetype;
use crate::units::{Order, Pfn, PfnRange};

impl<M: Machine> Buddy<'_, '_, M> {
    /// Takes a section out of use of which all is free, a node, known to fail, or of the caller, who has plain blocks of the root
    /// group there. Shows those that were not free first.
    ///
    /// # Errors
    /// Names the first frame that is in the way; nothing has changed.
    pub(crate) fn offline(
        &mut self,
        section: PfnRange,
        has: impl Fn(Pfn) -> bool,
        mut free: impl FnMut(Pfn, Order),
    ) -> Result<(), ContigError> {
        let used = self.check_vacant(section, has, &mut free)?;
        self.pull_blocks(section);
        self.empty_nodes(section);
        self.zone.highatomic.retain(|head| *head != section.start);
        self.set_types(section);
        self.map.page(section.start).set_offline(M::Geometry::MAX_ORDER, self.zone.id);
        section.frames().skip(1).for_each(|pfn| self.map.page(pfn).set_tail_marked());
        self.zone.lose(section.pages() - used);
        self.zone.managed -= section.pages();
        self.zone.present -= section.pages();
        self.zone.pivot.uncover(section);
        // Nothing more of it: the pivot is where it is for what is left.
        self.zone.lose(0);
        self.drain();
        Ok(())
    }

    /// Takes in a section that was out of use, and shows what of it stays out.
    pub(crate) fn online(&mut self, section: PfnRange, keep: impl FnMut(Pfn)) {
        self.zone.managed += section.pages();
        self.zone.present += section.pages();
        self.zone.pivot.cover(section);
        self.free_sound(FreeBlock::claim(section.start, M::Geometry::MAX_ORDER), keep);
    }

    fn set_types(&self, section: PfnRange) {
        let block = FreeBlock::claim(section.start, M::Geometry::MAX_ORDER);
        Self::set_migratetype(self.map.known_section(section.start), &block, Migratetype::Movable);
        let _ = block.into_head();
    }

    /// Pages of a section that are not free, though none is in the way; shows them if so.
    fn check_vacant(
        &self,
        section: PfnRange,
        has: impl Fn(Pfn) -> bool,
        show: &mut impl FnMut(Pfn, Order),
    ) -> Result<u32, ContigError> {
        let used = |at: Pfn| {
            let page = self.map.page(at);
            let word = page.word();
            let ours = word.is_allocated_in(self.zone.id) && word.group().is_root();
            let plain = has(at) && !page.owner().is_owned();
            (ours && (plain || page.owner().is(OwnerKind::Poisoned))).then_some(word.order())
        };
        let mut at = section.start;
        while at < section.end {
            let vacant = match used(at) {
                Some(order) => PfnRange::new(at, at.plus(order.pages())),
                None => self.free_block(at)?,
            };
            at = vacant.end;
        }
        let mut pages = 0;
        let mut at = section.start;
        while at < section.end {
            let order = used(at);
            if let Some(order) = order {
                show(at, order);
                pages += order.pages();
            }
            at = match order {
                Some(order) => at.plus(order.pages()),
                None => self.free_block(at)?.end,
            };
        }
        Ok(pages)
    }
}
