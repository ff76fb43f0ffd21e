//! The second word of allocated blocks, for those who give them owners.

use super::allocator::PageAllocator;
use super::block::Block;
use crate::desc::owner_word::OwnerWord;
use crate::desc::word::Page;
use crate::descriptor::WalkGate;
use crate::machine::Machine;
use crate::units::{Pfn, PfnRange, PhysAddr};

impl<'m, M: Machine> PageAllocator<'m, M> {
    /// The descriptor of a frame; `None` if nothing stands so high.
    #[inline(always)]
    pub(crate) fn page(&self, pfn: Pfn) -> Option<&'m Page> {
        self.map.get(pfn)
    }

    /// The descriptor of the frame at a physical address; `None` if nothing stands so high.
    #[inline(always)]
    pub(crate) fn page_at(&self, address: PhysAddr) -> Option<&'m Page> {
        self.map.at(address)
    }

    /// Who follows owner words without a lock passes here.
    pub(crate) fn gate(&self) -> &WalkGate {
        &self.gate
    }

    /// The nearest page at or below `pfn` that heads something, as [`PageMap::head_of`](crate::desc::map::PageMap::head_of).
    pub(crate) fn head_of(&self, pfn: Pfn) -> Option<Pfn> {
        self.map.head_of(pfn)
    }

    /// Whether the section around `pfn` has descriptors of its own.
    pub(crate) fn is_populated(&self, pfn: Pfn) -> bool {
        self.map.is_populated(pfn)
    }

    /// All frames that may have descriptors.
    pub(crate) fn frames(&self) -> PfnRange {
        PfnRange::new(Pfn::new(0), self.map.end())
    }

    /// The block that `head` heads: the caller has taken it from its owner.
    pub(crate) fn own_described(&self, head: Pfn) -> Block<'_, M> {
        Block::own(self, head, self.map.page(head).word().order())
    }

    /// Says in the head of an allocated block, which the caller owns, who owns the block.
    pub(crate) fn set_head_owner(&self, head: Pfn, owner: OwnerWord) {
        self.map.page(head).set_owner(owner);
    }

    /// Says in every page of an allocated block, which the caller owns, who owns it.
    pub(crate) fn set_owner(&self, pages: PfnRange, owner: OwnerWord) {
        for pfn in pages.frames() {
            self.map.page(pfn).set_owner(owner);
        }
    }
}
