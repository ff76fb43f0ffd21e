//! Charge groups: who pays for how many pages, whatever the pages are used for.
//!
//! A group counts the pages of the blocks that name it, and may have a limit. The name stands in the first word of a
//! block's head, the page allocator's own: so typed pages and plain ones are charged alike, no owner takes part, and
//! freeing needs to be told nothing. What names no other group is the [root](GroupId::ROOT)'s: kernel memory that nobody
//! is charged for. Nobody counts it, as it is what the other groups leave of the used pages.
//!
//! Invariants: ACCT-2 (the charges add up): a group's counter is the sum of the blocks that name it.
//! Cost: 16 bytes a group, one page for the whole table. A charge is one compare-and-swap, and so is taking it back.
//!
//! Memory order: usage and limit are one word, so that no charge slips in between the look at the limit and the
//! addition. The counters guard no other memory, so they are relaxed; only where a number is used again must the new
//! group's first counts come behind the old one's last, hence release where a charge is taken back and acquire where a
//! group is made. Interrupt handlers charge and take back at any time: what they interrupt tries again.
//!
//! Source: J. Weiner, linux-mm, 2021-10-25: accounting should interface with "the broadest, most generic definition of
//! 'chunk of memory'". Linux's `page_counter`.

use core::fmt;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use thiserror::Error;

use crate::boot_map::{BootMap, CarveError};
use crate::early::{MetadataBytes, carve_slice};
use crate::image::{Note, NoteFull, layout};
use crate::machine::Machine;
use crate::units::{NodeId, PAGE_SIZE};

/// The name of a charge group. It may outlive the group: then it names none, until the number is used again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(transparent)]
pub struct GroupId(u8);

impl GroupId {
    /// The group of everything that is not charged to another; it is always there and has no limit.
    pub const ROOT: Self = Self(0);

    /// Numbers there are, the root's among them.
    pub(crate) const COUNT: usize = 1 << u8::BITS;

    /// The group that eight bits stand for.
    pub(crate) const fn from_bits(bits: u8) -> Self {
        Self(bits)
    }

    /// The number itself.
    pub const fn number(self) -> u8 {
        self.0
    }

    /// The number as an index.
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// Whether this is the root, to which nothing need be charged.
    pub const fn is_root(self) -> bool {
        self.0 == 0
    }
}

/// Why pages were not charged; nothing has changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum ChargeError {
    /// The group would have more pages than it may.
    #[error("group {} may have {limit} pages, and would have more", .group.number())]
    OverLimit {
        /// The group.
        group: GroupId,
        /// The most pages that it may have.
        limit: u32,
    },
    /// There is no such group, or it was dropped and only waits for its last pages.
    #[error("there is no group {}", .0.number())]
    NoGroup(GroupId),
}

/// Every group has a number, and all numbers are taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error("there are {} charge groups, and no more can be told apart", GroupId::COUNT)]
pub struct TooManyGroups;

/// A group is not empty; it is given back.
#[derive(Debug, Error)]
#[error("group {} is still charged for {pages} pages", .group.id().number())]
pub struct StillCharged<'m> {
    /// The group.
    pub group: ChargeGroup<'m>,
    /// Pages that it was charged for at that moment.
    pub pages: u32,
}

/// Usage and limit in one word.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Balance(u64);

impl Balance {
    /// No group: a number that can be given away.
    const UNUSED: Self = Self(0);
    const USAGE: u64 = u32::MAX as u64;
    const LIMIT_SHIFT: u32 = 32;
    /// What the upper half says of a group without a limit; of one with a limit, it is one more than that, and 0 if
    /// nothing may be charged because nobody has the group any more.
    const UNLIMITED: u32 = u32::MAX;

    /// A new group's. A limit that no machine's memory reaches is none.
    const fn of_new(limit: Option<u32>) -> Self {
        let encoded = match limit {
            Some(limit) => limit.saturating_add(1),
            None => Self::UNLIMITED,
        };
        Self((encoded as u64) << Self::LIMIT_SHIFT)
    }

    #[expect(clippy::cast_possible_truncation, reason = "the lower half is meant")]
    const fn usage(self) -> u32 {
        self.0 as u32
    }

    /// The most pages that may be charged; `None` if there is no group to charge.
    const fn most(self) -> Option<u32> {
        match (self.0 >> Self::LIMIT_SHIFT) as u32 {
            Self::UNLIMITED => Some(u32::MAX),
            encoded => encoded.checked_sub(1),
        }
    }

    fn plus(self, pages: u32) -> Option<Self> {
        let usage = self.usage().checked_add(pages)?;
        (usage <= self.most()?).then_some(Self(self.0 + u64::from(pages)))
    }

    /// With so many pages fewer; what a corrupt descriptor has too many must not reach into the limit.
    fn minus(self, pages: u32) -> Self {
        Self(self.0 - u64::from(pages.min(self.usage())))
    }
}

#[derive(Debug)]
struct Slot {
    balance: AtomicU64,
    peak: AtomicU32,
    refused: AtomicU32,
}

const _: () = assert!(size_of::<Slot>() * GroupId::COUNT == PAGE_SIZE);

impl Slot {
    fn balance(&self) -> Balance {
        Balance(self.balance.load(Ordering::Relaxed))
    }

    /// Makes a group here, if there is none.
    fn claim(&self, limit: Option<u32>) -> bool {
        let (unused, new) = (Balance::UNUSED.0, Balance::of_new(limit).0);
        // Acquire pairs with the release in `uncharge`: what the last group counted is counted.
        let claimed = self.balance.compare_exchange(unused, new, Ordering::Acquire, Ordering::Relaxed).is_ok();
        if claimed {
            self.peak.store(0, Ordering::Relaxed);
            self.refused.store(0, Ordering::Relaxed);
        }
        claimed
    }
}

/// All charge groups of an allocator: 255 and the root.
#[derive(Clone, Copy, Debug)]
pub struct ChargeGroups<'m> {
    /// INVARIANT: one for each number; the root's is never used.
    slots: &'m [Slot],
}

impl<'m> ChargeGroups<'m> {
    /// Carves the table.
    ///
    /// # Errors
    /// The direct map has no room for it.
    pub(crate) fn carve<M: Machine, const CAPACITY: usize>(
        machine: &'m M,
        boot_map: &mut BootMap<CAPACITY>,
        bytes: &mut MetadataBytes,
    ) -> Result<Self, CarveError> {
        let slot = |_| Slot {
            balance: AtomicU64::new(Balance::UNUSED.0),
            peak: AtomicU32::new(0),
            refused: AtomicU32::new(0),
        };
        let (slots, carved) = carve_slice(machine, boot_map, NodeId(0), GroupId::COUNT, slot)?;
        bytes.groups += carved;
        Ok(Self { slots })
    }

    /// For who reads an image of memory.
    pub(crate) fn write_note(self, note: &mut Note) -> Result<(), NoteFull> {
        note.place("groups", self.slots.as_ptr().addr())?;
        layout!(note, Slot as "Group": balance)
    }

    fn slot(self, group: GroupId) -> &'m Slot {
        &self.slots[group.index()]
    }

    fn ids() -> impl Iterator<Item = GroupId> {
        (1..=u8::MAX).map(GroupId)
    }

    /// Makes a group that may be charged for up to `limit` pages, or for all there are. Cost: a look at each number
    /// that is taken.
    ///
    /// # Errors
    /// All numbers are taken, be it by groups that were dropped and still have pages.
    pub fn create(self, limit: Option<u32>) -> Result<ChargeGroup<'m>, TooManyGroups> {
        let id = Self::ids().find(|&id| self.slot(id).claim(limit)).ok_or(TooManyGroups)?;
        Ok(ChargeGroup { groups: self, id })
    }

    /// Every group but the root: those that somebody has, and those that were dropped before their last page was freed.
    pub fn reports(self) -> impl Iterator<Item = GroupReport> {
        Self::ids().filter(move |&id| self.slot(id).balance() != Balance::UNUSED).map(move |id| self.report(id))
    }

    /// Pages that the group is charged for.
    pub(crate) fn usage(self, group: GroupId) -> u32 {
        self.slot(group).balance().usage()
    }

    fn report(self, id: GroupId) -> GroupReport {
        let slot = self.slot(id);
        let balance = slot.balance();
        let limit = balance.most().map_or(Some(0), |most| (most < u32::MAX).then_some(most));
        let (peak, refused) = (slot.peak.load(Ordering::Relaxed), slot.refused.load(Ordering::Relaxed));
        GroupReport { id, usage: balance.usage(), peak, limit, refused }
    }

    /// Charges the group for so many pages more.
    ///
    /// # Errors
    /// There is no such group, or its limit is lower than that.
    pub(crate) fn charge(self, group: GroupId, pages: u32) -> Result<(), ChargeError> {
        if group.is_root() {
            return Ok(());
        }
        let slot = self.slot(group);
        let more = |balance| Balance(balance).plus(pages).map(|charged| charged.0);
        match slot.balance.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more) {
            Ok(before) => {
                slot.peak.fetch_max(Balance(before).usage() + pages, Ordering::Relaxed);
                Ok(())
            }
            Err(balance) => {
                let limit = Balance(balance).most().ok_or(ChargeError::NoGroup(group))?;
                slot.refused.fetch_add(1, Ordering::Relaxed);
                Err(ChargeError::OverLimit { group, limit })
            }
        }
    }

    /// Takes a charge back. With its last page, a group that was dropped leaves its number to another.
    pub(crate) fn uncharge(self, group: GroupId, pages: u32) {
        if group.is_root() {
            return;
        }
        let fewer = |balance| Some(Balance(balance).minus(pages).0);
        // Release pairs with the acquire in `claim`. It never fails, as there always is a next balance.
        let _ = self.slot(group).balance.fetch_update(Ordering::Release, Ordering::Relaxed, fewer);
    }
}

/// A charge group, in the hands of who made it.
///
/// Dropping it leaves what was charged where it is: nothing more can be charged to it then, and its number is used
/// again once its last page is free. [`destroy`](Self::destroy) makes sure that nothing is left.
#[must_use = "nothing can be charged to a group that was dropped"]
pub struct ChargeGroup<'m> {
    groups: ChargeGroups<'m>,
    id: GroupId,
}

impl<'m> ChargeGroup<'m> {
    /// The group's name, for requests.
    pub const fn id(&self) -> GroupId {
        self.id
    }

    /// What it has been charged for.
    pub fn report(&self) -> GroupReport {
        self.groups.report(self.id)
    }

    /// Ends the group.
    ///
    /// # Errors
    /// Gives it back if pages are still charged to it, and says how many.
    pub fn destroy(self) -> Result<(), StillCharged<'m>> {
        let empty = |balance| (Balance(balance).usage() == 0).then_some(Balance::UNUSED.0);
        match self.groups.slot(self.id).balance.fetch_update(Ordering::Release, Ordering::Relaxed, empty) {
            Ok(_) => {
                // Its number may be another's already, which dropping the handle would close.
                core::mem::forget(self);
                Ok(())
            }
            Err(balance) => Err(StillCharged { pages: Balance(balance).usage(), group: self }),
        }
    }
}

impl Drop for ChargeGroup<'_> {
    fn drop(&mut self) {
        self.groups.slot(self.id).balance.fetch_and(Balance::USAGE, Ordering::Release);
    }
}

impl fmt::Debug for ChargeGroup<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ChargeGroup({:?})", self.report())
    }
}

/// A charge group at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GroupReport {
    /// Its name.
    pub id: GroupId,
    /// Pages that it is charged for.
    pub usage: u32,
    /// The most pages that it ever was charged for.
    pub peak: u32,
    /// The most pages that it may be charged for, if there is a limit; none at all once the group was dropped.
    pub limit: Option<u32>,
    /// Charges that the limit refused; modulo 2³².
    pub refused: u32,
}

#[cfg(all(test, not(loom)))]
mod tests;
