//! The look at any frame, at any time, from any CPU, without a lock.
//!
//! Words change under the reader, so nothing that is read is believed because of where it was read. What is reported
//! rests on one load that says by itself of which frames it speaks:
//!
//! * *No owner.* The first word of the block's head says state and order. Heads are written before the blocks beside or
//!   behind them are handed out, and nothing but an operation under the zone's lock widens a block; so a head whose order
//!   reaches the frame speaks of it, at the moment of that load. Rounding down to the head may miss, when blocks split or
//!   merge meanwhile: then the order does not reach the frame, and the look is taken again.
//! * *An owner with a descriptor.* The second word only leads to the descriptor. That is believed if it is alive and
//!   names a block around the frame, in one consistent look ([`Life::look`]). A descriptor lives from after the
//!   block's allocation to before its end, so at the moment of the look this owner had this frame, however old the word
//!   that led there. A word torn from an older or later first word leads to a descriptor that is dead or names another
//!   block, and the look is taken again.
//! * *An owner without one.* Its word names the order it was written for, so it speaks of its frames by itself.
//! * *Plain.* The head's first word was seen allocated around the frame, then its second without an owner, then the first
//!   again, and the same. Had the frame had an owner all the time, its block would have been halved, for the head to
//!   lose that owner, and joined again, for the word to reach the frame once more; and the count in the word of how
//!   often that happened, which both halves inherit and a whole has from the one that has more, would have grown.
//! * *A tail's second word* is never looked at: it may be what an older block left there, a slab that is gone for one.
//!
//! What changes while it is [frozen](super::frozen) is looked for in vain, and then found as it is:
//!
//! * *Moved.* The new block names the descriptor, then the old one does not, and then the descriptor names the new one.
//!   Who comes from the old block meanwhile finds a descriptor that is dead, or names frames that are not the one
//!   looked at.
//! * *Halved.* The upper head has its second word before its first: who finds the new head there finds the new
//!   descriptor, dead until it thaws. Who still climbs to the lower head does not believe its first word, but the
//!   descriptor, which is dead until it names the lower half only. So it does not matter which head is written first.
//! * *Joined.* The upper head becomes a tail before it loses its owner: so who finds a head there finds a descriptor that
//!   is dead, or by now names another block. Who climbs past it and finds the lower head as it was looks again.
//!
//! That the memory behind the second word is still a descriptor, of the kind that the same word says, is the gate's
//! doing ([`WalkGate`]): who walks has said so before reading the word. A reference is taken only of
//! the generation that was seen, and a generation has one owner and one block.
//!
//! Cost: a look is five to six loads for a plain head, four of them dependent, one line more for an owner, and one load for each order
//! that a tail lies behind its head. A walk as such is one atomic addition and a full fence.
//!
//! [`Life::look`]: crate::descriptor::Life::look
//! [`WalkGate`]: crate::descriptor::WalkGate
#![expect(unsafe_code, reason = "follows second words to descriptors")]

#[cfg(all(test, loom))]
mod loom;

use core::fmt;
use core::ptr::NonNull;

use super::owners::Owners;
use super::reference::Reference;
use crate::OwnerKind;
use crate::PageState;
use crate::desc::allocator_word::AllocatorWord;
use crate::desc::owner_word::OwnerWord;
use crate::desc::word::Page;
use crate::descriptor::{Described, Life, Walking};
use crate::machine::Machine;
use crate::units::{Order, Pfn, PfnRange};

/// Looks that are taken at a frame before it is said to be moving.
const LOOKS: u32 = 32;

/// What stands at a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Seen {
    /// No memory.
    Hole,
    /// Memory that the allocator was not given.
    Reserved,
    /// A free block.
    Free,
    /// A free page that serves a freelist.
    Node,
    /// A section that is out of use.
    Offline,
    /// A free block between two lists.
    Isolated,
    /// A free block that a CPU has at hand.
    Cached,
    /// An allocated block, and whose it is.
    Allocated(OwnerKind),
    /// Something that changed during each look.
    Moving,
}

/// A walk. As long as it lasts, no memory of descriptors is given back, so it should not last.
#[derive(Debug)]
pub struct Walker<'o, M: Machine> {
    owners: &'o Owners<'o, M>,
    _walking: Walking<'o>,
}

/// What stood at a frame at one moment.
pub struct Sighting<'w, 'o, M: Machine> {
    walker: &'w Walker<'o, M>,
    found: Found,
}

#[derive(Clone, Copy)]
struct Found {
    head: Pfn,
    order: Order,
    seen: Seen,
    descriptor: Option<(NonNull<Life>, Described)>,
}

impl Found {
    const fn single(pfn: Pfn, seen: Seen) -> Self {
        Self::block(pfn, Order::ZERO, seen)
    }

    const fn block(head: Pfn, order: Order, seen: Seen) -> Self {
        Self { head, order, seen, descriptor: None }
    }

    const fn range(&self) -> PfnRange {
        PfnRange::new(self.head, self.head.plus(self.order.pages()))
    }

    /// This, if it speaks of the frame.
    fn around(self, pfn: Pfn) -> Option<Self> {
        Some(self).filter(|found| found.range().contains(pfn))
    }

    /// What the words of a head say of a frame. `None` if what was read does not go together.
    fn read(head: Pfn, page: &Page, pfn: Pfn) -> Option<Self> {
        let word = page.word();
        match word.state()? {
            PageState::Hole => Self::single(head, Seen::Hole).around(pfn),
            PageState::Reserved => Self::single(head, Seen::Reserved).around(pfn),
            PageState::Node => Self::single(head, Seen::Node).around(pfn),
            PageState::Offline => Self::block(head, word.order(), Seen::Offline).around(pfn),
            PageState::Free => Self::block(head, word.order(), Seen::Free).around(pfn),
            PageState::Isolated => Self::block(head, word.order(), Seen::Isolated).around(pfn),
            PageState::Cached => Self::block(head, word.order(), Seen::Cached).around(pfn),
            PageState::Allocated => {
                Self::block(head, word.order(), Seen::Allocated(OwnerKind::Plain)).around(pfn)?;
                Self::read_owner(head, word, page)?.around(pfn)
            }
            // It heads nothing any more.
            PageState::Tail => None,
        }
    }

    /// The owner of the block that was seen allocated.
    fn read_owner(head: Pfn, first: AllocatorWord, page: &Page) -> Option<Self> {
        let word: OwnerWord = page.owner();
        let kind = word.kind()?;
        let seen = Seen::Allocated(kind);
        if kind.has_descriptor() {
            let life = word.descriptor::<Life>(kind)?;
            // SAFETY: the gate keeps the memory a descriptor, whose life stands first; it consists of atomics.
            let described = unsafe { life.as_ref() }.look()?;
            let descriptor = Some((life, described));
            return Some(Self { head: described.head, order: described.order, seen, descriptor });
        }
        // What a plain block's second word says besides is a number, if the block has been freed since.
        let order = match kind {
            OwnerKind::Plain => (page.word() == first).then(|| first.order())?,
            _ => word.bare_order()?,
        };
        Some(Self::block(head, order, seen))
    }
}

impl<M: Machine> Owners<'_, M> {
    /// Begins a walk.
    pub fn walk(&self) -> Walker<'_, M> {
        Walker { owners: self, _walking: self.pages().gate().enter() }
    }
}

impl<'o, M: Machine> Walker<'o, M> {
    pub(super) const fn owners(&self) -> &'o Owners<'o, M> {
        self.owners
    }

    /// Says what stands at a frame.
    pub fn look(&self, pfn: Pfn) -> Sighting<'_, 'o, M> {
        let mut looks = (0..LOOKS).map(|_| {
            let found = self.look_once(pfn);
            if found.is_none() {
                crate::sync::spin_loop();
            }
            found
        });
        let found = looks.find_map(|found| found).unwrap_or(Found::single(pfn, Seen::Moving));
        Sighting { walker: self, found }
    }

    /// `None` if what was read does not go together.
    fn look_once(&self, pfn: Pfn) -> Option<Found> {
        let pages = self.owners.pages();
        if pages.page(pfn).is_none() {
            return Some(Found::single(pfn, Seen::Hole));
        }
        let head = pages.head_of(pfn)?;
        Found::read(head, pages.page(head)?, pfn)
    }
}

impl<'o, M: Machine> Sighting<'_, 'o, M> {
    /// What it was.
    pub const fn seen(&self) -> Seen {
        self.found.seen
    }

    /// The first frame of the block.
    pub const fn head(&self) -> Pfn {
        self.found.head
    }

    /// The size of the block.
    pub const fn order(&self) -> Order {
        self.found.order
    }

    /// The frames of the block.
    pub const fn range(&self) -> PfnRange {
        self.found.range()
    }

    /// A reference to the block's owner, if it still is what it was: `None` if the block has been freed since, its
    /// owner has no descriptor, or is one of other [`Owners`] over the same allocator. The reference may outlive the walk.
    pub fn get(&self) -> Option<Reference<'o, M>> {
        let Seen::Allocated(kind) = self.found.seen else { return None };
        let (life, described) = self.found.descriptor?;
        // SAFETY: the gate keeps the memory a descriptor, of the kind that the word which led there said.
        unsafe { Reference::get(self.walker.owners, kind, life, described) }
    }
}

impl<M: Machine> fmt::Debug for Sighting<'_, '_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sighting({:?}, {:?}, {:?})", self.seen(), self.head(), self.order())
    }
}
