//! Who pays: blocks charged to groups, moved between them, and counted against each other.
//!
//! Everything here is off the way of blocks that only the root pays for. A group is charged before the pages are looked
//! for and its name written into the block's head after; freeing reads it there and takes the charge back.
//!
//! Invariants: ACCT-2, between any two operations.
//! Cost: a compare-and-swap for each block charged, recharged or freed.

use super::allocator::{AllocError, PageAllocator};
use super::request::Request;
use crate::charge::{ChargeError, ChargeGroups, GroupId};
use crate::desc::allocator_word::PageState;
use crate::invariant::{Invariant, Violation};
use crate::machine::Machine;
use crate::undo::Undo;
use crate::units::{Order, Pfn};

impl<'m, M: Machine> PageAllocator<'m, M> {
    /// The charge groups.
    pub const fn groups(&self) -> ChargeGroups<'m> {
        self.groups
    }

    /// Charges the request's group for what `alloc` finds.
    #[cold]
    pub(super) fn alloc_charged(
        &self,
        request: Request,
        alloc: impl FnOnce() -> Result<Pfn, AllocError>,
    ) -> Result<Pfn, AllocError> {
        let (groups, group, pages) = (self.groups, request.group, request.order.pages());
        groups.charge(group, pages)?;
        // A shrinker may panic.
        let charged = Undo::new(|| groups.uncharge(group, pages));
        let head = alloc()?;
        self.map.page(head).set_group(group);
        // The block is charged from here on.
        charged.forget();
        Ok(head)
    }

    /// Takes back what an allocated block is charged for, before it is freed; `None` if nobody pays for it, or somebody owns
    /// it, or it is no such block.
    pub(super) fn uncharge(&self, head: Pfn) -> Option<()> {
        let page = self.map.get(head)?;
        let word = page.word();
        let is_plain = word.is(PageState::Allocated) && word.is_intact() && !page.owner().is_owned();
        if !is_plain || word.group().is_root() {
            return None;
        }
        page.set_group(GroupId::ROOT);
        self.groups.uncharge(word.group(), word.order().pages());
        Some(())
    }

    /// The group that pays for the allocated block at `head`.
    pub(crate) fn group_of(&self, head: Pfn) -> GroupId {
        self.map.page(head).word().group()
    }

    /// Lets another group pay for the block of `order` at `head`, which the caller owns.
    pub(super) fn recharge(&self, head: Pfn, order: Order, group: GroupId) -> Result<(), ChargeError> {
        let page = self.map.page(head);
        let payer = page.word().group();
        if payer != group {
            self.groups.charge(group, order.pages())?;
            page.set_group(group);
            self.groups.uncharge(payer, order.pages());
        }
        Ok(())
    }

    /// Lets the groups of two allocated blocks of one size, which the caller owns, pay for the other one each.
    pub(crate) fn swap_groups(&self, one: Pfn, other: Pfn) {
        let (group, others) = (self.group_of(one), self.group_of(other));
        self.map.page(one).set_group(others);
        self.map.page(other).set_group(group);
    }

    /// Checks ACCT-2: every group's counter is the sum of the blocks that name it, and all groups together, the root
    /// included, are the used pages. Holds while nobody allocates or frees. Cost: a pass over the heads of all blocks,
    /// with each zone's lock held in turn.
    ///
    /// # Errors
    /// The first violation found; a block that names no group is one.
    pub fn verify_charges(&self) -> Result<(), Violation> {
        let broken = |pfn, what| Violation::of(Invariant::Acct2, pfn, what);
        let mut charged = [0_u32; GroupId::COUNT];
        for cell in self.zones {
            let (named, used) = self.with_buddy(cell, |buddy| {
                let mut named = 0;
                for (head, word) in buddy.allocated_blocks() {
                    let group = word.group();
                    if !group.is_root() && self.groups.usage(group) == 0 {
                        return Err(broken(Some(head), "a block names a group that pays for nothing"));
                    }
                    charged[group.index()] += word.order().pages();
                    named += word.order().pages();
                }
                let zone = buddy.report(self.cached_pages(cell.id));
                Ok((named, zone.managed - zone.free))
            })?;
            if named != used {
                return Err(broken(None, "the groups together do not pay for the zone's used pages"));
            }
        }
        // The root's pages are what is left.
        let mut groups = (0..=u8::MAX).map(GroupId::from_bits).zip(charged).skip(1);
        if groups.all(|(group, pages)| self.groups.usage(group) == pages) {
            return Ok(());
        }
        Err(broken(None, "a group's counter is not the sum of the blocks that name it"))
    }
}
