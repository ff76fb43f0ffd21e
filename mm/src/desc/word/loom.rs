//! Models of memory that fails in a block whose owner changes it (HWPOISON-1).
//!
//! Run with `RUSTFLAGS="--cfg loom" cargo test -p mm --lib loom`.

use ::loom::sync::Arc;
use ::loom::thread;
use core::ptr::NonNull;

use super::*;
use crate::desc::allocator_word::PageState;

const ZONE: ZoneId = ZoneId(0);
const WHOLE: Order = Order::of(2);
const HALF: Order = Order::of(1);

/// Four frames: a block, or two halves.
struct Frames([Page; 4]);

impl Frames {
    fn whole() -> Self {
        let page = |frame| match frame {
            0 => Page::new(AllocatorWord::allocated(Migratetype::Movable, WHOLE, ZONE)),
            _ => Page::new(AllocatorWord::TAIL),
        };
        Self(core::array::from_fn(page))
    }

    fn owner() -> OwnerWord {
        OwnerWord::described(OwnerKind::KernelStack, NonNull::<u128>::dangling())
    }

    fn halve(&self) {
        self.0[0].halve(&self.0[2], HALF, Self::owner());
    }

    fn join(&self) {
        self.0[0].join(&self.0[2], WHOLE).expect("they are alike");
    }

    fn head_of(&self, pfn: usize) -> usize {
        let heads = [pfn, pfn & !1, 0];
        heads.into_iter().find(|&head| !self.0[head].word().is_tail()).expect("the first frame heads a block")
    }

    /// The memory of a frame fails, as `PageAllocator::fail` has it. Says whether that was settled.
    fn fail(&self, pfn: usize) -> bool {
        let page = &self.0[pfn];
        page.set_hwpoison();
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

    /// Whoever is told by a frame's head that memory fails finds which: this one.
    fn look(&self, pfn: usize) {
        if self.0[self.head_of(pfn)].word().has_hwpoisoned() {
            assert!(self.0[pfn].word().is_hwpoison(), "a head says so before the frame does");
        }
    }

    /// HWPOISON-1, of frames of which some have failed.
    fn check(&self, failed: &[usize]) {
        for pfn in 0..self.0.len() {
            assert_eq!(self.0[pfn].word().is_hwpoison(), failed.contains(&pfn), "what is said of a frame stays");
            let head = self.0[self.head_of(pfn)].word();
            assert!(head.is(PageState::Allocated));
            assert!(head.has_hwpoisoned() || !failed.contains(&pfn), "its head does not say so");
        }
    }
}

fn model(check: impl Fn() + Sync + Send + 'static) {
    let mut builder = ::loom::model::Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(Some(2));
    builder.check(check);
}

/// The owner does some work on its block while the memory of a frame in the upper half fails, and somebody else looks there.
///
/// Rests on: the acquire and the release in `turn`, the release in `replace`, those when a half is told of what the whole was
/// and the other way round.
fn against(prepare: fn(&Frames), work: fn(&Frames)) {
    model(move || {
        let frames = Frames::whole();
        prepare(&frames);
        let frames = Arc::new(frames);
        let failing = thread::spawn({
            let frames = Arc::clone(&frames);
            move || frames.fail(3)
        });
        let looking = thread::spawn({
            let frames = Arc::clone(&frames);
            move || frames.look(3)
        });
        work(&frames);
        frames.look(3);
        looking.join().expect("it saw nothing wrong");
        let failed = failing.join().expect("it failed");
        frames.check(if failed { &[3] } else { &[] });
    });
}

#[test]
fn memory_that_fails_in_a_block_that_is_halved_is_known_to_the_half_it_is_in() {
    against(|_| (), Frames::halve);
}

#[test]
fn memory_that_fails_while_it_is_adopted_is_known_to_its_head_or_looked_at_again() {
    model(|| {
        let page = Arc::new(Page::new(AllocatorWord::RESERVED));
        let failing = thread::spawn({
            let page = Arc::clone(&page);
            move || page.set_hwpoison_reserved() == Some(true)
        });
        // As `Buddy::adopt_reserved` has it.
        page.adopt(AllocatorWord::allocated(Migratetype::Movable, Order::ZERO, ZONE));
        if page.word().is_hwpoison() {
            page.note_hwpoisoned(page.word()).expect("nobody else changes it");
        }
        let failed = failing.join().expect("it failed, or was told to look again");
        let word = page.word();
        assert_eq!((word.is_hwpoison(), word.has_hwpoisoned()), (failed, failed), "{word:?}");
        assert!(word.is_intact() && page.clear_hwpoison_reserved().is_none());
    });
}

#[test]
fn memory_that_fails_in_a_block_that_is_joined_is_known_to_the_whole() {
    against(Frames::halve, Frames::join);
}

#[test]
fn memory_that_fails_in_a_block_that_is_halved_and_joined_is_known_to_the_whole() {
    against(
        |_| (),
        |frames| {
            frames.halve();
            frames.join();
        },
    );
}

#[test]
fn memory_that_fails_in_a_block_whose_payer_changes_is_known_to_it() {
    against(|_| (), |frames| frames.0[0].set_group(GroupId::from_bits(3)));
}

/// The memory of a frame is sound again while the owner does some work on its blocks.
fn sound(prepare: fn(&Frames), pfn: usize, work: fn(&Frames), failed: &'static [usize]) {
    model(move || {
        let frames = Frames::whole();
        prepare(&frames);
        let frames = Arc::new(frames);
        let mending = thread::spawn({
            let frames = Arc::clone(&frames);
            move || frames.mend(pfn)
        });
        work(&frames);
        mending.join().expect("it is sound");
        for page in &frames.0 {
            let word = page.word();
            assert!(word.is_intact() && (word.is_mere_tail() || !word.is_tail()), "a word is broken: {word:?}");
        }
        frames.check(failed);
    });
}

#[test]
fn a_block_that_is_joined_while_one_of_two_failed_frames_is_mended_says_that_the_other_fails() {
    sound(
        |frames| {
            frames.halve();
            assert!(frames.fail(0) && frames.fail(3));
        },
        0,
        Frames::join,
        &[3],
    );
}

#[test]
fn a_block_that_is_joined_while_its_only_failed_frame_is_mended_is_whole() {
    sound(
        |frames| {
            frames.halve();
            assert!(frames.fail(2));
        },
        2,
        Frames::join,
        &[],
    );
}

#[test]
fn a_block_that_is_halved_while_one_of_two_failed_frames_is_mended_says_that_the_other_fails() {
    sound(|frames| assert!(frames.fail(0) && frames.fail(3)), 3, Frames::halve, &[0]);
}
