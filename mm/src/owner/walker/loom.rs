//! Models of a look at a frame while the block around it is moved, halved or joined.
//!
//! Run with `RUSTFLAGS="--cfg loom" cargo test -p mm --lib loom`. The orderings that a model rests on are named
//! at it: with any of them weaker, it fails.

use ::loom::sync::Arc;
use ::loom::sync::atomic::{AtomicU32, Ordering};
use ::loom::thread;

use super::*;
use crate::descriptor::{Descriptor, Keeper, Put};
use crate::migratetype::Migratetype;
use crate::units::ZoneId;

const KIND: OwnerKind = OwnerKind::KernelStack;

fn model(check: impl Fn() + Sync + Send + 'static) {
    let mut builder = ::loom::model::Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(Some(3));
    builder.check(check);
}

/// Two frames, and two descriptors whose owners keep the number of their block's head. The first begins with all of it.
struct World {
    pages: [Page; 2],
    descriptors: [Descriptor<AtomicU32>; 2],
}

impl World {
    /// Both frames are one block, or two of which the second is plain.
    fn new(order: Order) -> Arc<Self> {
        let page = |word| Page::new(word);
        let allocated = AllocatorWord::allocated(Migratetype::Movable, order, ZoneId(0));
        let second = if order == Order::ZERO { allocated } else { AllocatorWord::TAIL };
        let world = Arc::new(Self {
            pages: [page(allocated), page(second)],
            descriptors: [Descriptor::unborn(), Descriptor::unborn()],
        });
        world.own(0, order);
        world
    }

    fn word(&self, which: usize) -> OwnerWord {
        OwnerWord::described(KIND, NonNull::from(&self.descriptors[which]))
    }

    /// Makes the block that begins at a frame the frame's descriptor's.
    fn own(&self, which: usize, order: Order) {
        let head = u32::try_from(which).expect("two frames");
        // SAFETY: it is unborn or dead.
        unsafe { self.descriptors[which].begin(Pfn::new(head), order, Keeper::NOBODY, AtomicU32::new(head)) };
        self.pages[which].set_owner(self.word(which));
    }

    /// Makes a block plain, if nobody else refers to it.
    fn disown(&self, which: usize) -> Put {
        let put = self.descriptors[which].life().put_only();
        if put == Put::Last {
            // SAFETY: the last reference was just given up.
            let _ = unsafe { self.descriptors[which].take() };
            self.pages[which].set_owner(OwnerWord::PLAIN);
        }
        put
    }

    /// Halves the block, if nobody else refers to it.
    fn halve(&self) -> Option<()> {
        self.descriptors[0].life().freeze(1)?;
        // SAFETY: it is unborn, or its block was joined.
        unsafe { self.descriptors[1].prepare(AtomicU32::new(1)) };
        self.pages[0].halve(&self.pages[1], Order::ZERO, self.word(1));
        self.thaw(0, Order::ZERO);
        self.thaw(1, Order::ZERO);
        Some(())
    }

    /// Joins the two blocks, if nobody else refers to them.
    fn join(&self) -> Option<()> {
        self.descriptors[0].life().freeze(1)?;
        if self.descriptors[1].life().freeze(1).is_none() {
            self.thaw(0, Order::ZERO);
            return None;
        }
        self.pages[0].join(&self.pages[1], Order::of(1)).expect("they are alike");
        // SAFETY: it is frozen, and does not thaw.
        let _ = unsafe { self.descriptors[1].take() };
        self.thaw(0, Order::of(1));
        Some(())
    }

    fn thaw(&self, which: usize, order: Order) {
        self.descriptors[which].life().begin(
            Pfn::new(u32::try_from(which).expect("two frames")),
            order,
            Keeper::NOBODY,
            1,
        );
    }

    /// One look at a frame, and a reference to what was seen there. Says what that was.
    fn look(&self, pfn: u32) -> Option<Found> {
        let page = |head: Pfn| &self.pages[head.index()];
        let pfn = Pfn::new(pfn);
        let mut heads = [Order::ZERO, Order::of(1)].map(|order| pfn.align_down(order)).into_iter();
        let head = heads.find(|&head| !page(head).word().is_tail())?;
        let found = Found::read(head, page(head), pfn)?;
        assert!(found.range().contains(pfn));
        if let Some((life, described)) = found.descriptor {
            let descriptor = life.cast::<Descriptor<AtomicU32>>();
            // SAFETY: the model's descriptors live as long as the model.
            let descriptor = unsafe { descriptor.as_ref() };
            if descriptor.life().try_get(described.generation).is_some() {
                // SAFETY: there is a reference.
                let owner = unsafe { descriptor.owner() };
                assert_eq!(owner.load(Ordering::Relaxed), found.head.number(), "another block's owner");
                // The others have theirs as long as this walks.
                assert_eq!(descriptor.life().put(), Put::Others);
            }
        }
        Some(found)
    }
}

/// Rests on: both fences and the acquire in `look`, both releases in `begin`, the acquire in `freeze`.
#[test]
fn whoever_looks_at_a_block_that_moves_finds_it_where_it_is() {
    model(|| {
        let world = World::new(Order::ZERO);
        let walking = thread::spawn({
            let world = Arc::clone(&world);
            move || [0, 1].map(|pfn| world.look(pfn))
        });
        let [old, new] = &world.pages;
        let descriptor = &world.descriptors[0];
        if descriptor.life().freeze(1).is_some() {
            new.set_owner(world.word(0));
            old.set_owner(OwnerWord::PLAIN);
            // SAFETY: it is frozen, and this is who froze it.
            unsafe { descriptor.owner() }.store(1, Ordering::Relaxed);
            descriptor.life().begin(Pfn::new(1), Order::ZERO, Keeper::NOBODY, 1);
        }
        walking.join().expect("the walker saw nothing wrong");
    });
}

/// Rests on: the owner's place before the first word's in `Page::halve`, and its release.
#[test]
fn whoever_looks_at_the_upper_half_of_a_block_that_is_halved_never_sees_it_plain() {
    model(|| {
        let world = World::new(Order::of(1));
        let walking = thread::spawn({
            let world = Arc::clone(&world);
            move || world.look(1)
        });
        let _ = world.halve();
        let found = walking.join().expect("the walker saw nothing wrong");
        assert!(found.is_none_or(|found| found.descriptor.is_some()), "it always has an owner");
    });
}

/// Rests on: the second look at the first word in `read_owner`, the count in it, and the release in `Page::set_owner`.
#[test]
fn an_upper_half_is_not_plain_because_the_lower_one_was_between_two_times_that_they_were_one() {
    model(|| {
        let world = World::new(Order::of(1));
        let walking = thread::spawn({
            let world = Arc::clone(&world);
            move || world.look(1)
        });
        if world.halve().is_some() && world.disown(0) == Put::Last {
            world.own(0, Order::ZERO);
            let _ = world.join();
        }
        let found = walking.join().expect("the walker saw nothing wrong");
        assert!(found.is_none_or(|found| found.descriptor.is_some()), "it always has an owner");
    });
}

/// Rests on: the upper head's being a tail before it has no owner in `Page::join`, and the release in `Page::set_owner`.
#[test]
fn whoever_looks_at_two_blocks_that_are_joined_finds_one_of_them_or_the_whole() {
    model(|| {
        let world = World::new(Order::of(1));
        world.halve().expect("nobody refers to it");
        let walking = thread::spawn({
            let world = Arc::clone(&world);
            move || [1, 0].map(|pfn| world.look(pfn))
        });
        let _ = world.join();
        for found in walking.join().expect("the walker saw nothing wrong") {
            assert!(found.is_none_or(|found| found.descriptor.is_some()), "both always have owners");
        }
    });
}
