//! Memory that lies: what becomes of a page of which the machine says that it does not hold what was written.
//!
//! ```text
//!   free, a node, at hand of a CPU ──> out of the lists for good                       recovered
//!   in use                         ──> marked, and kept back once its owner frees it   delayed, or ignored if the kernel
//!                                                                                      goes on using it meanwhile
//!   reserved                       ──> marked: nobody ever frees it                    ignored
//! ```
//!
//! Who may do more with a page in use, as the page cache may with a folio, does so on top of this.
//!
//! A page is marked while no CPU can use what it has at hand, and with its zone's lock held: so nobody is just about to free it,
//! or to hand it out. Its owner may be about to halve the block or to join it with another; `desc` says how the mark survives
//! that.
//!
//! Invariants: HWPOISON-1. Cost: every CPU is shut out of what it has at hand for a moment.
//! Source: A. Kleen, "HWPOISON", Linux 2.6.32: `memory_failure`, `unpoison_memory`.

use core::sync::atomic::Ordering;

use thiserror::Error;

use super::allocator::{PageAllocator, ZoneCell};
use crate::OwnerKind;
use crate::block::FreeBlock;
use crate::buddy::Buddy;
use crate::desc::allocator_word::{AllocatorWord, PageState};
use crate::machine::Machine;
use crate::poison;
use crate::specification::Change;
use crate::units::{Count, Order, Pfn, PfnRange};

/// Looks that are taken at a page that changes under them.
const LOOKS: u32 = 32;

/// What a page was when its memory failed. Linux's `enum mf_action_page_type`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FailedPage {
    /// Part of a free block.
    Free,
    /// Part of a free block that a CPU had at hand.
    AtHand,
    /// A free page that served a freelist.
    Node,
    /// Part of an allocated block of such an owner.
    InUse(OwnerKind),
    /// Memory that the allocator was never given.
    Reserved,
    /// Memory that holds page descriptors, or tables that lead to them.
    MemoryMap,
    /// Part of a section that is out of use.
    Offline,
}

/// What has become of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FailureOutcome {
    /// Nobody uses the page, nobody ever will, and nothing is lost. Linux: `MF_RECOVERED`.
    Recovered,
    /// Its owner goes on using it. Once freed it stays out of use. `MF_DELAYED`.
    Delayed,
    /// The kernel itself goes on using it, and what that leads to is not known. Once freed, if that may be, it stays out of
    /// use. `MF_IGNORED`.
    Ignored,
    /// Nobody uses the page any more, or is about to stop, and contents are lost: who asks for them is told so. `MF_FAILED`.
    Failed {
        /// Pages of contents that nobody else has.
        lost: Count,
    },
}

/// What came of a page whose memory failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MemoryFailure {
    /// What it was.
    pub page: FailedPage,
    /// What has become of it.
    pub outcome: FailureOutcome,
}

/// Why nothing has become of it; all is as before.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum FailureError {
    /// The frame is no memory.
    #[error("{0:?} is no memory")]
    NoMemory(Pfn),
    /// That the frame fails was said before.
    #[error("{0:?} is known to fail")]
    Known(Pfn),
    /// What stands there changed during each look, or its descriptor is corrupt.
    #[error("what stands at {0:?} changes too often")]
    Unsettled(Pfn),
}

/// Why a page was not taken in again; all is as before.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum UnpoisonError {
    /// The frame is not known to fail.
    #[error("{0:?} is not known to fail")]
    NotPoisoned(Pfn),
    /// What stands there changed during each look.
    #[error("what stands at {0:?} changes too often")]
    Unsettled(Pfn),
}

impl<'m, M: Machine> PageAllocator<'m, M> {
    /// Takes a page out of use whose memory fails, or has it taken out once its owner frees it. Not for handlers.
    ///
    /// # Errors
    /// See [`FailureError`].
    pub fn memory_failure(&self, pfn: Pfn) -> Result<MemoryFailure, FailureError> {
        let failed = self.with_all_closed(|interrupts, closed| {
            let head = self.map.head_of(pfn).map(|head| self.map.page(head).word());
            let is_at_hand = head.is_some_and(|word| word.is(PageState::Cached));
            if is_at_hand {
                // From here on no CPU has anything at hand, nor can have.
                self.drain_closed(interrupts, closed);
            }
            let failure = self.fail(interrupts, pfn)?;
            // Within the turn: who takes it in again comes behind this.
            self.hwpoisoned.fetch_add(1, Ordering::Relaxed);
            Ok(if is_at_hand { MemoryFailure { page: FailedPage::AtHand, ..failure } } else { failure })
        });
        failed.unwrap_or(Err(FailureError::Unsettled(pfn)))
    }

    /// Takes a page in again that was said to fail: for tests, and for who knows better by now. If it is in use, its owner
    /// frees it as ever. Not for handlers.
    ///
    /// # Errors
    /// See [`UnpoisonError`].
    pub fn unpoison_memory(&self, pfn: Pfn) -> Result<(), UnpoisonError> {
        let unpoisoned = self.with_all_closed(|interrupts, _| {
            self.unpoison(interrupts, pfn)?;
            self.hwpoisoned.fetch_sub(1, Ordering::Relaxed);
            Ok(())
        });
        unpoisoned.unwrap_or(Err(UnpoisonError::Unsettled(pfn)))
    }

    /// Pages that are known to fail, whatever they are.
    pub fn hwpoisoned_pages(&self) -> Count {
        Count(self.hwpoisoned.load(Ordering::Relaxed))
    }

    /// Whether a page of the allocated block at `head` is known to fail.
    pub(crate) fn has_hwpoisoned(&self, head: Pfn) -> bool {
        let word = self.map.page(head).word();
        let mut pages = FreeBlock::claim(head, word.order()).range().frames();
        word.has_hwpoisoned() && pages.any(|pfn| self.map.page(pfn).word().is_hwpoison())
    }

    fn fail(&self, interrupts: &M::InterruptGuard<'_>, pfn: Pfn) -> Result<MemoryFailure, FailureError> {
        let page = self.map.get(pfn).ok_or(FailureError::NoMemory(pfn))?;
        for _ in 0..LOOKS {
            let Some(head) = self.map.head_of(pfn) else { continue };
            let word = self.map.page(head).word();
            match word.state() {
                Some(PageState::Hole) => return Err(FailureError::NoMemory(pfn)),
                Some(PageState::Reserved) => {
                    match page.set_hwpoison_reserved() {
                        Some(true) => {}
                        Some(false) => return Err(FailureError::Known(pfn)),
                        None => continue,
                    }
                    let memory_map = self.map.stands_in(self.machine, pfn);
                    let page = if memory_map { FailedPage::MemoryMap } else { FailedPage::Reserved };
                    return Ok(MemoryFailure { page, outcome: FailureOutcome::Ignored });
                }
                Some(PageState::Tail) | None => {}
                Some(_) => {
                    let failed = self.in_zone_of(interrupts, word, |buddy| self.fail_in(buddy, pfn));
                    if let Some(failed) = failed {
                        return failed;
                    }
                }
            }
        }
        Err(FailureError::Unsettled(pfn))
    }

    /// Does some work with the lock of the zone that a word names.
    fn in_zone_of<R>(
        &self,
        interrupts: &M::InterruptGuard<'_>,
        word: AllocatorWord,
        work: impl FnOnce(&mut Buddy<'_, 'm, M>) -> Option<R>,
    ) -> Option<R> {
        let cell: &ZoneCell<M::Geometry> = self.zones.get(word.zone().index())?;
        self.with_buddy_undisturbed(interrupts, cell, work)
    }

    /// The word of the head of the block around a frame, and what that heads; `None` if the block is not of the zone, or is just
    /// being changed.
    fn settled(&self, buddy: &mut Buddy<'_, 'm, M>, pfn: Pfn) -> Option<(Pfn, AllocatorWord)> {
        let head = self.map.head_of(pfn)?;
        let word = self.map.page(head).word();
        let reaches = word.is(PageState::Node) || head.plus(word.order().pages()) > pfn;
        (reaches && word.zone() == buddy.zone().id).then_some((head, word))
    }

    /// `None` if the page has to be looked at again.
    fn fail_in(&self, buddy: &mut Buddy<'_, 'm, M>, pfn: Pfn) -> Option<Result<MemoryFailure, FailureError>> {
        let page = self.map.page(pfn);
        if page.word().is_hwpoison() {
            return Some(Err(FailureError::Known(pfn)));
        }
        let (head, word) = self.settled(buddy, pfn)?;
        let (page, outcome) = match word.state()? {
            state @ (PageState::Free | PageState::Node) => {
                buddy.poison_free(pfn).ok()?;
                self.changed(Change::Allocated(pfn, Order::ZERO));
                let page = if state == PageState::Node { FailedPage::Node } else { FailedPage::Free };
                (page, FailureOutcome::Recovered)
            }
            PageState::Allocated => {
                let owner = self.map.page(head).owner().kind()?;
                if owner == OwnerKind::Poisoned {
                    return Some(Err(FailureError::Known(pfn)));
                }
                page.set_hwpoison();
                if (0..LOOKS).all(|_| self.note(pfn).is_none()) {
                    page.clear_hwpoison();
                    return None;
                }
                (FailedPage::InUse(owner), outcome_in_use(owner))
            }
            PageState::Offline => {
                page.set_hwpoison();
                (FailedPage::Offline, FailureOutcome::Recovered)
            }
            PageState::Hole | PageState::Reserved | PageState::Tail | PageState::Isolated | PageState::Cached => {
                return None;
            }
        };
        Some(Ok(MemoryFailure { page, outcome }))
    }

    /// HWPOISON-1: has the head of the block that a marked page is in say so. `None` if it was another's meanwhile.
    fn note(&self, pfn: Pfn) -> Option<()> {
        let head = self.map.head_of(pfn)?;
        let page = self.map.page(head);
        let word = page.word();
        if !word.is(PageState::Allocated) || head.plus(word.order().pages()) <= pfn {
            return None;
        }
        if !word.has_hwpoisoned() {
            page.note_hwpoisoned(word)?;
        }
        (self.map.head_of(pfn) == Some(head)).then_some(())
    }

    fn unpoison(&self, interrupts: &M::InterruptGuard<'_>, pfn: Pfn) -> Result<(), UnpoisonError> {
        let not_poisoned = Err(UnpoisonError::NotPoisoned(pfn));
        let Some(page) = self.map.get(pfn) else { return not_poisoned };
        for _ in 0..LOOKS {
            let Some(head) = self.map.head_of(pfn) else { continue };
            let word = self.map.page(head).word();
            match word.state() {
                Some(PageState::Reserved) => match page.clear_hwpoison_reserved() {
                    Some(true) => return Ok(()),
                    Some(false) => return not_poisoned,
                    None => {}
                },
                Some(PageState::Allocated | PageState::Offline) => {
                    if !page.word().is_hwpoison() {
                        return not_poisoned;
                    }
                    let unpoisoned = self.in_zone_of(interrupts, word, |buddy| self.unpoison_in(buddy, pfn));
                    if unpoisoned.is_some() {
                        return Ok(());
                    }
                }
                Some(_) => return not_poisoned,
                None => {}
            }
        }
        Err(UnpoisonError::Unsettled(pfn))
    }

    fn unpoison_in(&self, buddy: &mut Buddy<'_, 'm, M>, pfn: Pfn) -> Option<()> {
        let (head, word) = self.settled(buddy, pfn)?;
        let found = self.map.page(head);
        if word.is(PageState::Allocated) && found.owner().is(OwnerKind::Poisoned) {
            self.changed(Change::Freed(pfn, Order::ZERO));
            poison::on_recovery(self.machine, pfn);
            buddy.unpoison(pfn);
            return Some(());
        }
        self.map.page(pfn).clear_hwpoison();
        if word.is(PageState::Offline) {
            poison::on_recovery(self.machine, pfn);
        }
        // Read before its pages are looked at. If its owner changes it meanwhile, it goes on saying that one of them lies, which
        // costs no more than a look when it is freed.
        let word = found.word();
        if word.is(PageState::Allocated) && !buddy.any_hwpoison(FreeBlock::claim(head, word.order()).range()) {
            let _ = found.note_sound(word);
        }
        Some(())
    }

    /// Frees a block to its zone that is not sound: those of its pages stay out whose memory lies. What is not the head of an
    /// allocated block comes back as the word that says so.
    #[cold]
    #[inline(never)]
    pub(super) fn free_unsound(&self, buddy: &mut Buddy<'_, 'm, M>, pfn: Pfn) -> Result<(), AllocatorWord> {
        let page = self.map.page(pfn);
        let word = page.word();
        if page.owner().is_owned() || !word.is_allocated_in(buddy.zone().id) || !word.is_intact() {
            return Err(word);
        }
        self.changed(Change::Freed(pfn, word.order()));
        for pfn in PfnRange::new(pfn, pfn.plus(word.order().pages())).frames() {
            if self.map.page(pfn).word().is_hwpoison() {
                poison::on_failure(self.machine, pfn);
            } else {
                poison::on_free(self.machine, PfnRange::new(pfn, pfn.plus(1)));
            }
        }
        buddy.free_sound(FreeBlock::claim(pfn, word.order()), |kept| {
            self.changed(Change::Allocated(kept, Order::ZERO));
        });
        Ok(())
    }
}

/// What becomes of a page in use, for all that the allocator knows.
const fn outcome_in_use(owner: OwnerKind) -> FailureOutcome {
    match owner {
        OwnerKind::Plain | OwnerKind::Folio => FailureOutcome::Delayed,
        OwnerKind::Slab
        | OwnerKind::LargeKmalloc
        | OwnerKind::PageTable
        | OwnerKind::CompressedStore
        | OwnerKind::PerCpuArea
        | OwnerKind::KernelStack
        | OwnerKind::Poisoned => FailureOutcome::Ignored,
    }
}
