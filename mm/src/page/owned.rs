//! The second word of allocated blocks, for those who give them owners.

use core::ptr::NonNull;

use super::allocator::PageAllocator;
use super::block::Block;
use crate::OwnerKind;
use crate::desc::owner_word::OwnerWord;
use crate::desc::word::Page;
use crate::descriptor::{Descriptor, WalkGate};
use crate::machine::{Geometry, Machine};
use crate::specification::Change;
use crate::units::{Order, Pfn, PfnRange, PhysAddr};

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
        let word = self.map.page(head).word();
        assert!(
            word.is_intact(),
            "invariant WORD-1 broken: a bit of the descriptor of {head:?}, which is owned, has flipped"
        );
        Block::own(self, head, word.order())
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

    /// Gives the owner of the block at `old` the plain block at `new` instead. Gives the old one, plain.
    pub(crate) fn give_block_to<T>(
        &self,
        new: Pfn,
        old: Pfn,
        kind: OwnerKind,
        descriptor: NonNull<Descriptor<T>>,
    ) -> Block<'_, M> {
        self.set_head_owner(new, OwnerWord::described(kind, descriptor));
        self.set_head_owner(old, OwnerWord::PLAIN);
        self.own_described(old)
    }

    /// Makes two blocks of `order` of the allocated block at `low`, which the caller owns. Both are the same group's, and
    /// `owner` owns the upper one.
    pub(crate) fn halve(&self, low: Pfn, order: Order, owner: OwnerWord) {
        let section = self.map.known_section(low);
        section.page(low).halve(section.page(low.buddy(order)), order, owner);
        self.changed(Change::Halved(low, order));
    }

    /// Makes one block of the two of `order` at `low` and `upper`, which the caller owns; the lower one's owner owns it.
    /// Says how large it is; `None` if they are not two halves of one block, or not of one zone and group: then nothing has
    /// changed.
    pub(crate) fn join(&self, low: Pfn, upper: Pfn, order: Order) -> Option<Order> {
        let joined = order.up().filter(|&joined| joined <= M::Geometry::MAX_ORDER && low.is_aligned(joined))?;
        if low.buddy(order) != upper {
            return None;
        }
        let section = self.map.known_section(low);
        section.page(low).join(section.page(upper), joined)?;
        self.changed(Change::Joined(low, order));
        Some(joined)
    }
}
