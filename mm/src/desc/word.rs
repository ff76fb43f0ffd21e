//! The page descriptor: two words, the allocator's (`allocator_word`) and the owner's (`owner_word`), and the order in which
//! they are written and read.
//!
//! While nobody owns the page, the second word is a number: for a free block its position on its list, for a node the
//! first position under it (the way back to its parent's slot), for a block in flight between lists the next one in
//! flight, for a block at hand of a CPU its head's own number, and zero for an allocated one that nobody owns.
//!
//! That a page's memory lies may be said by anybody at any time, of a block whose owner is just about to halve it, join it or
//! have another group pay for it. So those change what differs, in one atomic step, and what is said meanwhile stays.
//!
//! Invariants: FREE-1 (a free block's position stands in its head), HWPOISON-1 (the head of an allocated block says so if the
//! memory of one of its pages lies, and no block that is free has such a page).
//! Source: K. Overstreet, "Struct page proposal", linux-mm, 2021-09-23.

use super::allocator_word::{AllocatorWord, HAS_HWPOISONED, HWPOISON, ListId, PageState};
use super::owner_word::OwnerWord;
use crate::OwnerKind;
use crate::charge::GroupId;
use crate::migratetype::Migratetype;
use crate::sync::{AtomicPtr, AtomicU64, Ordering};
use crate::units::{Order, Pfn, ZoneId};

/// A node's place in its list: the level above the entries (a leaf is 1) and the first position under it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct NodePlace {
    pub(crate) level: u8,
    pub(crate) first: Position,
}

/// A position on one end of a freelist, counted from its bottom.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(transparent)]
pub(crate) struct Position(pub(crate) u32);

/// The descriptor of one base page: two words, and not a bit more.
#[derive(Debug)]
#[repr(C, align(16))]
pub(crate) struct Page {
    allocator: AtomicU64,
    allocatee: AtomicPtr<()>,
}

#[cfg(not(loom))]
const _: () = assert!(size_of::<Page>() == 16 && align_of::<Page>() == 16);
#[cfg(not(loom))]
const _: () = assert!(core::mem::offset_of!(Page, allocator) == 0 && core::mem::offset_of!(Page, allocatee) == 8);

/// The end of a chain of blocks in flight: no frame's number, nor what a block at hand says.
const NO_NEXT: u64 = 0x1_0000_0001;

impl Page {
    /// A descriptor of a page that heads nothing.
    pub(crate) fn new(word: AllocatorWord) -> Self {
        Self { allocator: AtomicU64::new(word.0), allocatee: AtomicPtr::new(OwnerWord::PLAIN.bits()) }
    }

    /// The first word. Acquire pairs with the release in [`Page::publish`]: who sees a state sees the second word
    /// that belongs to it, or a later one.
    pub(crate) fn word(&self) -> AllocatorWord {
        AllocatorWord(self.allocator.load(Ordering::Acquire))
    }

    /// Makes the page a free block's head at `position` of `list`.
    pub(crate) fn set_free(&self, list: ListId, zone: ZoneId, position: Position) {
        self.set_position(position);
        self.publish(AllocatorWord::free(list, zone));
    }

    /// Makes the page a node of `list`.
    pub(crate) fn set_node(&self, list: ListId, zone: ZoneId, place: NodePlace) {
        self.set_position(place.first);
        self.publish(AllocatorWord::node(list, place.level, zone));
    }

    /// Makes the page the head of an allocated block without an owner.
    pub(crate) fn set_allocated(&self, migratetype: Migratetype, order: Order, zone: ZoneId) {
        self.set_owner(OwnerWord::PLAIN);
        self.publish(AllocatorWord::allocated(migratetype, order, zone));
    }

    /// Puts the block that this heads at hand of a CPU, where its number stands by now: a free one, or one that was allocated
    /// with this word, without an owner and uncharged.
    #[inline(always)]
    pub(crate) fn keep_at_hand(&self, allocated: AllocatorWord) {
        self.publish(allocated.when_cached());
    }

    /// Makes a block at hand of a CPU an allocated one, which has no owner yet.
    #[inline(always)]
    pub(crate) fn hand_out(&self, allocated: AllocatorWord) {
        self.publish(allocated);
    }

    /// Whether the second word is this, which is [of a block at hand](OwnerWord::at_hand).
    #[inline(always)]
    pub(crate) fn is_at_hand(&self, number: OwnerWord) -> bool {
        self.allocatee() == number
    }

    /// Marks the second word of the block at hand that frame `head` heads. Says whether it was as it is to be.
    pub(crate) fn mark(&self, head: Pfn) -> bool {
        let unmarked = self.is_at_hand(OwnerWord::at_hand(head));
        self.set_owner(OwnerWord::number(NO_NEXT));
        unmarked
    }

    /// Takes the mark away.
    pub(crate) fn unmark(&self, head: Pfn) {
        self.set_owner(OwnerWord::at_hand(head));
    }

    /// Lets a group pay for the allocated block that this heads. Only the block's owner calls this, so that nobody
    /// else changes the word meanwhile, but for what it says of memory that lies.
    pub(crate) fn set_group(&self, group: GroupId) {
        let word = self.word();
        self.turn(word, word.charged_to(group));
    }

    /// Makes two blocks of `order` of the allocated block that this heads. The upper one, which `upper` is to head, gets
    /// its owner first: who finds its head finds that.
    pub(crate) fn halve(&self, upper: &Self, order: Order, owner: OwnerWord) {
        let word = self.word();
        let half = word.resized(order);
        upper.set_owner(owner);
        upper.turn(AllocatorWord::TAIL, half.of_other_part());
        // HWPOISON-1: who says so of the whole from here on finds the new head, too.
        if self.turn(word, half).has_hwpoisoned() {
            // Release, as for every head that says so: who sees it sees which page says that it is that one.
            upper.allocator.fetch_or(HAS_HWPOISONED, Ordering::Release);
        }
    }

    /// Makes one block of `order` of two allocated ones of one zone and group, of whose owners this one's stays. The
    /// upper page becomes a tail before it loses its owner: nobody takes it for the head of a plain block.
    ///
    /// `None` if the blocks are not alike, or one of the words is broken.
    pub(crate) fn join(&self, upper: &Self, order: Order) -> Option<()> {
        let (word, uppers) = (self.word(), upper.word());
        if !word.is_like(uppers) || !word.is_intact() || !uppers.is_intact() {
            return None;
        }
        if uppers.has_hwpoisoned() {
            self.allocator.fetch_or(HAS_HWPOISONED, Ordering::Release);
        }
        self.turn(word, word.newer(uppers).resized(order).marked_as(word));
        // What either says may be taken back meanwhile. So the same is said on both sides here, and goes to the whole afterwards.
        let before = upper.turn(uppers, uppers.as_tail().marked_as(uppers));
        if before.has_hwpoisoned() {
            upper.allocator.fetch_and(!HAS_HWPOISONED, Ordering::Relaxed);
            self.allocator.fetch_or(HAS_HWPOISONED, Ordering::Release);
        }
        // No one finds the upper block's owner any more who climbs past its head.
        upper.set_owner(OwnerWord::PLAIN);
        Some(())
    }

    /// Makes a page that was never the allocator's part of an allocated block.
    pub(crate) fn adopt(&self, word: AllocatorWord) {
        self.set_owner(OwnerWord::PLAIN);
        self.turn(AllocatorWord::RESERVED, word);
    }

    /// Says that the page's memory lies.
    pub(crate) fn set_hwpoison(&self) {
        // Relaxed: what is said of the page goes without anything else; its head is told after it.
        self.allocator.fetch_or(HWPOISON, Ordering::Relaxed);
    }

    /// The same of a page that the allocator was never given. Says whether it was not said before; `None` if the allocator has the
    /// page by now.
    pub(crate) fn set_hwpoison_reserved(&self) -> Option<bool> {
        self.mark_reserved(|word| word | HWPOISON)
    }

    /// Takes that back. Says whether it was said; `None` if the allocator has the page by now.
    pub(crate) fn clear_hwpoison_reserved(&self) -> Option<bool> {
        self.mark_reserved(|word| word & !HWPOISON)
    }

    fn mark_reserved(&self, mark: impl FnOnce(u64) -> u64) -> Option<bool> {
        let word = self.word();
        let marked = AllocatorWord(mark(word.0));
        if !word.is(PageState::Reserved) {
            return None;
        }
        // Whoever adopts the page meanwhile looks for marks afterwards, and must find each that was set.
        if marked == word { Some(false) } else { self.replace(word, marked).map(|()| true) }
    }

    /// Says that the page's memory does not lie.
    pub(crate) fn clear_hwpoison(&self) {
        self.allocator.fetch_and(!HWPOISON, Ordering::Relaxed);
    }

    /// Has the head of an allocated block, which was just read as `word`, say that memory of the block may lie. `None` if it
    /// says something else by now.
    pub(crate) fn note_hwpoisoned(&self, word: AllocatorWord) -> Option<()> {
        self.replace(word, AllocatorWord(word.0 | HAS_HWPOISONED))
    }

    /// Has it say that none lies.
    pub(crate) fn note_sound(&self, word: AllocatorWord) -> Option<()> {
        self.replace(word, AllocatorWord(word.0 & !HAS_HWPOISONED))
    }

    /// Makes the page one that is never handed out again, for its memory lies.
    pub(crate) fn set_hwpoisoned(&self, migratetype: Migratetype, zone: ZoneId) {
        self.set_owner(OwnerWord::bare(OwnerKind::Poisoned, Order::ZERO));
        self.publish(AllocatorWord::hwpoisoned(migratetype, zone));
    }

    /// Makes the page the head of a section that is out of use.
    pub(crate) fn set_offline(&self, order: Order, zone: ZoneId) {
        let word = AllocatorWord::offline(order, zone);
        self.set_owner(OwnerWord::PLAIN);
        self.publish(AllocatorWord(word.0 | self.word().0 & HWPOISON));
    }

    /// Puts the page behind its block's head, of memory that nobody has; that it lies stays said.
    pub(crate) fn set_tail_marked(&self) {
        self.set_owner(OwnerWord::PLAIN);
        self.publish(self.word().as_tail());
    }

    /// Makes the page the head of a block in flight, in front of `next`.
    pub(crate) fn set_isolated(&self, order: Order, zone: ZoneId, next: Option<Pfn>) {
        self.set_owner(OwnerWord::number(next.map_or(NO_NEXT, |pfn| u64::from(pfn.number()))));
        self.publish(AllocatorWord::isolated(order, zone));
    }

    /// Puts the page behind its block's head.
    pub(crate) fn set_tail(&self) {
        self.publish(AllocatorWord::TAIL);
    }

    /// Takes the page out of the allocator's reach.
    pub(crate) fn set_reserved(&self) {
        self.publish(AllocatorWord::RESERVED);
    }

    /// Gives a free block that stays on its list its new position there (FREE-1).
    pub(crate) fn set_position(&self, position: Position) {
        self.set_owner(OwnerWord::number(u64::from(position.0)));
    }

    /// A free block's position, or the first position under a node.
    #[expect(clippy::cast_possible_truncation, reason = "only a position is ever stored while the page is free")]
    pub(crate) fn position(&self) -> Position {
        Position(self.allocatee().as_number() as u32)
    }

    /// Whether the page heads a free block of a list and says that it stands at `position`.
    #[inline(always)]
    pub(crate) fn is_free_at(&self, list: ListId, zone: ZoneId, position: Position) -> bool {
        self.word() == AllocatorWord::free(list, zone) && self.position() == position
    }

    /// A node's place in its list.
    pub(crate) fn place(&self) -> NodePlace {
        NodePlace { level: self.word().level(), first: self.position() }
    }

    /// The block in flight behind this one.
    pub(crate) fn next(&self) -> Option<Pfn> {
        u32::try_from(self.allocatee().as_number()).ok().map(Pfn::new)
    }

    /// Gives an allocated page its owner, or takes it away (`PLAIN`); a page that is not allocated gets a number. Release:
    /// who sees the owner sees its descriptor as it was when it was made known, and who sees that there is none does not
    /// see an older first word than whoever wrote that; pairs with the acquire in [`Page::owner`].
    #[inline(always)]
    pub(crate) fn set_owner(&self, owner: OwnerWord) {
        self.allocatee.store(owner.bits(), Ordering::Release);
    }

    /// The owner, of a page in whatever state: one that is not allocated has none.
    #[inline(always)]
    pub(crate) fn owner(&self) -> OwnerWord {
        OwnerWord::from_bits(self.allocatee.load(Ordering::Acquire))
    }

    #[inline(always)]
    fn allocatee(&self) -> OwnerWord {
        OwnerWord::from_bits(self.allocatee.load(Ordering::Relaxed))
    }

    /// What the words say, without what nobody reads: the second word of a page that is neither free nor a node.
    #[cfg(all(test, not(loom)))]
    pub(crate) fn fingerprint(&self) -> [u64; 2] {
        let word = self.word().of_any_type();
        let placed = word.is_free_or_node();
        [word.0, if placed { u64::from(self.position().0) } else { 0 }]
    }

    /// Changes the word from one to another but for what it says of memory that lies: that stays, where the two say the same of
    /// it. Gives what stood there. As [`publish`](Self::publish) otherwise.
    fn turn(&self, from: AllocatorWord, to: AllocatorWord) -> AllocatorWord {
        // One instruction that gives what stood there, which an exclusive or is not. A mark that is set meanwhile adds its bit to
        // both, as neither had it.
        AllocatorWord(self.allocator.fetch_add(to.0.wrapping_sub(from.0), Ordering::AcqRel))
    }

    /// Release: who sees that a page of the block fails sees which.
    fn replace(&self, from: AllocatorWord, to: AllocatorWord) -> Option<()> {
        let replaced = self.allocator.compare_exchange(from.0, to.0, Ordering::Release, Ordering::Relaxed);
        replaced.is_ok().then_some(())
    }

    /// The state is written last, so that no one reads a new state with the old second word. Pairs with the acquire
    /// in [`Page::word`].
    fn publish(&self, word: AllocatorWord) {
        self.allocator.store(word.0, Ordering::Release);
    }
}

#[cfg(all(test, loom))]
mod loom;
#[cfg(all(test, not(loom)))]
mod tests;
