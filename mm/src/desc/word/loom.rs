//! Models of memory that fails in a block whose owner changes it (HWPOISON-1).
//!
//! Run with `RUSTFLAGS="--cfg loom" cargo test -p mm --lib loom`.

use ::loom::sync::Arc;
use ::loom::thread;
use core::ptr::NonNull;

use super::*;
use crate::desc::allocator_word::PageState;

const ZONE: ZoneId = ZoneId(0);
const PAIR: Order = Order::of(1);

/// Two frames: a block, or two.
struct Pair([Page; 2]);

impl Pair {
    fn whole() -> Self {
        let head = AllocatorWord::allocated(Migratetype::Movable, PAIR, ZONE);
        Self([Page::new(head), Page::new(AllocatorWord::TAIL)])
    }

    fn owner() -> OwnerWord {
        OwnerWord::described(OwnerKind::KernelStack, NonNull::<u128>::dangling())
    }

    fn halve(&self) {
        self.0[0].halve(&self.0[1], Order::ZERO, Self::owner());
    }

    fn join(&self) {
        self.0[0].join(&self.0[1], PAIR).expect("they are alike");
    }

    fn head_of(&self, pfn: usize) -> usize {
        if self.0[pfn].word().is_tail() { 0 } else { pfn }
    }

    /// The memory of a frame fails, as `PageAllocator::fail` has it. Says whether that was settled.
    fn fail(&self, pfn: usize) -> bool {
        let page = &self.0[pfn];
        assert!(page.set_hwpoison(), "it has not failed before");
        let settled = (0..6).any(|_| self.note(pfn).is_some());
        if !settled {
            page.clear_hwpoison();
        }
        settled
    }

    fn note(&self, pfn: usize) -> Option<()> {
        let head = self.head_of(pfn);
        let page = &self.0[head];
        let word = page.word();
        if !word.is(PageState::Allocated) || head + word.order().pages() as usize <= pfn {
            return None;
        }
        if !word.has_hwpoisoned() {
            page.note_hwpoisoned(word)?;
        }
        (self.head_of(pfn) == head).then_some(())
    }

    /// It is sound again, as `PageAllocator::unpoison` has it.
    fn mend(&self, pfn: usize) {
        let head = self.head_of(pfn);
        let page = &self.0[head];
        self.0[pfn].clear_hwpoison();
        let word = page.word();
        let mut frames = head..head + word.order().pages() as usize;
        if word.is(PageState::Allocated) && !frames.any(|frame| self.0[frame].word().is_hwpoison()) {
            let _ = page.note_sound(word);
        }
    }

    /// HWPOISON-1, of a frame that has failed, or has not.
    fn check(&self, pfn: usize, failed: bool) {
        assert_eq!(self.0[pfn].word().is_hwpoison(), failed, "what is said of a frame stays");
        let head = self.0[self.head_of(pfn)].word();
        assert!(head.is(PageState::Allocated));
        assert!(head.has_hwpoisoned() || !failed, "its head does not say so");
    }
}

/// The owner does some work on its block while the memory of its upper frame fails. Whoever is told by the head that memory
/// fails finds which.
fn against(prepare: fn(&Pair), work: fn(&Pair)) {
    let mut builder = ::loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(move || {
        let pair = Pair::whole();
        prepare(&pair);
        let pair = Arc::new(pair);
        let failing = thread::spawn({
            let pair = Arc::clone(&pair);
            move || pair.fail(1)
        });
        work(&pair);
        let told = pair.0[pair.head_of(1)].word().has_hwpoisoned();
        assert!(!told || pair.0[1].word().is_hwpoison(), "the head says so before the frame does");
        let failed = failing.join().expect("it failed");
        pair.check(1, failed);
    });
}

#[test]
fn memory_that_fails_in_a_block_that_is_halved_is_known_to_the_half_it_is_in() {
    against(|_| (), Pair::halve);
}

#[test]
fn memory_that_fails_in_a_block_that_is_joined_is_known_to_the_whole() {
    against(Pair::halve, Pair::join);
}

#[test]
fn memory_that_fails_in_a_block_that_is_halved_and_joined_is_known_to_the_whole() {
    against(
        |_| (),
        |pair| {
            pair.halve();
            pair.join();
        },
    );
}

#[test]
fn memory_that_fails_in_a_block_whose_payer_changes_is_known_to_it() {
    against(|_| (), |pair| pair.0[0].set_group(GroupId::from_bits(3)));
}

/// The memory of a frame is sound again while the owner does some work on its blocks.
fn sound(prepare: fn(&Pair), pfn: usize, work: fn(&Pair), failed: [bool; 2]) {
    ::loom::model(move || {
        let pair = Pair::whole();
        prepare(&pair);
        let pair = Arc::new(pair);
        let mending = thread::spawn({
            let pair = Arc::clone(&pair);
            move || pair.mend(pfn)
        });
        work(&pair);
        mending.join().expect("it is sound");
        assert!(pair.0.iter().all(|page| page.word().is_intact()), "a word is broken");
        assert!(pair.0[1].word().is_mere_tail() || !pair.0[1].word().is_tail(), "a tail says what only heads do");
        (0..2).for_each(|pfn| pair.check(pfn, failed[pfn]));
    });
}

#[test]
fn a_block_that_is_joined_while_one_of_two_failed_frames_is_mended_says_that_the_other_fails() {
    sound(
        |pair| {
            pair.halve();
            assert!(pair.fail(0) && pair.fail(1));
        },
        0,
        Pair::join,
        [false, true],
    );
}

#[test]
fn a_block_that_is_joined_while_its_only_failed_frame_is_mended_is_whole() {
    sound(
        |pair| {
            pair.halve();
            assert!(pair.fail(1));
        },
        1,
        Pair::join,
        [false, false],
    );
}

#[test]
fn a_block_that_is_halved_while_one_of_two_failed_frames_is_mended_says_that_the_other_fails() {
    sound(|pair| assert!(pair.fail(0) && pair.fail(1)), 1, Pair::halve, [true, false]);
}
