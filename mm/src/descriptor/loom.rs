//! Models of what goes without a lock: every interleaving, of three threads those of a few preemptions, and every value that
//! the memory model lets a load see.
//!
//! Run with `RUSTFLAGS="--cfg loom" cargo test -p mm --lib loom`. The orderings that a model rests on are named
//! at it: with any of them weaker, it fails.

use ::loom::sync::atomic::{AtomicU32, Ordering};
use ::loom::sync::{Arc, Mutex};
use ::loom::thread;

use super::*;
use crate::OwnerKind;
use crate::desc::allocator_word::{AllocatorWord, End, ListId, PageState};
use crate::desc::owner_word::OwnerWord;
use crate::desc::word::{Page, Position};
use crate::migratetype::Migratetype;
use crate::units::ZoneId;
use core::ptr::NonNull;

const KIND: OwnerKind = OwnerKind::KernelStack;
const ZONE: ZoneId = ZoneId(0);

/// So many preemptions at most, which keeps models of three threads below seconds: those that fail with an ordering weakened
/// need fewer.
fn bounded(preemptions: usize, check: impl Fn() + Sync + Send + 'static) {
    let mut builder = ::loom::model::Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(Some(preemptions));
    builder.check(check);
}

/// Two blocks of a page each, and a descriptor that serves either. Its owner keeps the number of its block.
struct World {
    pages: [Page; 2],
    descriptor: Descriptor<u32>,
    /// Whether the descriptor is in its cache.
    cached: Mutex<bool>,
    /// How often each block was freed.
    freed: [AtomicU32; 2],
}

impl World {
    /// The descriptor serves the first block.
    fn new() -> Arc<Self> {
        let page = || Page::new(AllocatorWord::allocated(Migratetype::Movable, Order::ZERO, ZONE));
        let world = Arc::new(Self {
            pages: [page(), page()],
            descriptor: Descriptor::unborn(),
            cached: Mutex::new(true),
            freed: [AtomicU32::new(0), AtomicU32::new(0)],
        });
        world.own(0);
        world
    }

    fn page(&self, block: u32) -> &Page {
        &self.pages[block as usize]
    }

    /// Gives a block the descriptor, if it can be had.
    fn own(&self, block: u32) -> bool {
        if !core::mem::take(&mut *self.cached.lock().expect("nobody panicked")) {
            return false;
        }
        // SAFETY: the cache gave it out, so it is dead or unborn.
        unsafe { self.descriptor.begin(Pfn::new(block), Order::ZERO, Keeper::NOBODY, block) };
        self.page(block).set_owner(OwnerWord::described(KIND, NonNull::from(&self.descriptor)));
        true
    }

    /// What whoever gave up the last reference does.
    fn free(&self, block: u32) {
        // SAFETY: the last reference was given up, and this is called once for it.
        assert_eq!(unsafe { self.descriptor.take() }, block);
        self.page(block).set_owner(OwnerWord::PLAIN);
        self.freed[block as usize].fetch_add(1, Ordering::Relaxed);
        *self.cached.lock().expect("nobody panicked") = true;
    }

    fn put(&self, block: u32) {
        match self.descriptor.life().put() {
            Put::Others => {}
            Put::Last => self.free(block),
        }
    }

    /// What a walker does at the frame of a block.
    fn visit(&self, block: u32) {
        let word = self.page(block).owner();
        let Some(descriptor) = word.descriptor::<Descriptor<u32>>(KIND) else { return };
        // SAFETY: the model's only descriptor lives as long as the model.
        let descriptor = unsafe { descriptor.as_ref() };
        let Some(seen) = descriptor.life().look() else { return };
        // Block 0 had the first generation, block 1 the second.
        assert_eq!(seen.generation, Generation(seen.head.number() + 1), "two generations in one look");
        if seen.head != Pfn::new(block) {
            return;
        }
        if descriptor.life().try_get(seen.generation).is_some() {
            // SAFETY: there is a reference.
            assert_eq!(unsafe { *descriptor.owner() }, block, "another block's owner");
            self.put(block);
        }
    }
}

/// Rests on: both fences and the acquire in `look`, both releases in `begin`, the orderings of `put`, the
/// generation in `try_get`. The acquire in `try_get` is for who has not looked before.
#[test]
fn a_walker_finds_the_owner_that_a_block_has_while_its_descriptor_goes_to_another() {
    ::loom::model(|| {
        let world = World::new();
        let walking = thread::spawn({
            let world = Arc::clone(&world);
            move || [0, 1].map(|block| world.visit(block))
        });
        world.put(0);
        let reborn = world.own(1);
        walking.join().expect("the walker saw nothing wrong");
        assert_eq!(world.freed[0].load(Ordering::Relaxed), 1);
        if reborn {
            world.put(1);
            assert_eq!(world.freed[1].load(Ordering::Relaxed), 1);
        }
    });
}

/// Rests on: the orderings of `put`, the acquire in `put_only`.
#[test]
fn the_last_of_several_references_frees_once_and_nothing_is_had_after_it() {
    bounded(3, || {
        let world = World::new();
        let walkers = [0, 1].map(|_| {
            let world = Arc::clone(&world);
            thread::spawn(move || world.visit(0))
        });
        // Conversion to a plain block if nobody else refers to it, else the owner goes.
        match world.descriptor.life().put_only() {
            Put::Last => world.free(0),
            Put::Others => world.put(0),
        }
        for walker in walkers {
            walker.join().expect("a walker saw nothing wrong");
        }
        assert_eq!(world.freed[0].load(Ordering::Relaxed), 1);
        assert_eq!(world.descriptor.life().references(), 0);
        assert_eq!(world.descriptor.life().look(), None);
    });
}

/// Rests on: the fences in `enter` and `is_quiet`, the release at a walk's end, the acquire in `is_quiet`.
#[test]
fn descriptors_memory_goes_only_when_nobody_looks_at_it() {
    struct Walked {
        page: Page,
        gate: WalkGate,
        memory: UnsafeCell<u32>,
    }
    ::loom::model(|| {
        let page = Page::new(AllocatorWord::allocated(Migratetype::Movable, Order::ZERO, ZONE));
        let world = Arc::new(Walked { page, gate: WalkGate::new(), memory: UnsafeCell::new(7) });
        // The word only says whether it leads there.
        world.page.set_owner(OwnerWord::bare(OwnerKind::LargeKmalloc, Order::ZERO));
        let walking = thread::spawn({
            let world = Arc::clone(&world);
            move || {
                let _walking = world.gate.enter();
                if world.page.owner().is_owned() {
                    // SAFETY: that nobody writes now is what is checked.
                    assert_eq!(world.memory.with(|memory| unsafe { *memory }), 7);
                }
            }
        });
        world.page.set_owner(OwnerWord::PLAIN);
        if world.gate.is_quiet() {
            // SAFETY: that nobody looks now is what is checked.
            world.memory.with_mut(|memory| unsafe { *memory = 0 });
        }
        walking.join().expect("the walker saw nothing wrong");
    });
}

/// Rests on: the release in `Page::publish`, the acquire in `Page::word`.
#[test]
fn a_new_state_never_comes_with_the_owner_of_an_older_block() {
    ::loom::model(|| {
        let page = Arc::new(Page::new(AllocatorWord::allocated(Migratetype::Movable, Order::of(1), ZONE)));
        page.set_owner(OwnerWord::bare(OwnerKind::LargeKmalloc, Order::of(1)));
        let walking = thread::spawn({
            let page = Arc::clone(&page);
            move || {
                let word = page.word();
                let owner = page.owner();
                if word.is(PageState::Allocated) && word.order() == Order::ZERO {
                    assert!(!owner.is_owned(), "an owner that went before the block came");
                }
                if let Some(order) = owner.bare_order().filter(|_| owner.is_owned()) {
                    assert_eq!(order, Order::of(1));
                }
            }
        });
        page.set_owner(OwnerWord::PLAIN);
        page.set_free(ListId::new(Migratetype::Movable, Order::of(1), End::Near), ZONE, Position(3));
        page.set_allocated(Migratetype::Movable, Order::ZERO, ZONE);
        walking.join().expect("the walker saw nothing wrong");
    });
}

/// Rests on: the release in `Page::set_owner` and the acquire in `Page::owner`, and all that the first model rests on.
#[test]
fn a_walker_never_takes_a_block_that_is_freed_and_allocated_again_for_what_it_was() {
    struct Again {
        page: Page,
        descriptor: Descriptor<u32>,
        /// The block and the descriptor, while nobody has them: what a zone's lock and a cache's guard.
        free: Mutex<bool>,
    }
    impl Again {
        /// The owner of each generation is the generation's number.
        fn own(&self, generation: u32) {
            // SAFETY: it is dead or unborn, and the caller alone has it.
            unsafe { self.descriptor.begin(Pfn::new(0), Order::ZERO, Keeper::NOBODY, generation) };
            self.page.set_owner(OwnerWord::described(KIND, NonNull::from(&self.descriptor)));
        }

        fn put(&self) {
            if self.descriptor.life().put() == Put::Last {
                // SAFETY: the last reference was given up, and this is called once for it.
                let _ = unsafe { self.descriptor.take() };
                self.page.set_free(ListId::new(Migratetype::Movable, Order::ZERO, End::Near), ZONE, Position(1));
                *self.free.lock().expect("nobody panicked") = true;
            }
        }
    }
    bounded(2, || {
        let page = Page::new(AllocatorWord::allocated(Migratetype::Movable, Order::ZERO, ZONE));
        let world = Arc::new(Again { page, descriptor: Descriptor::unborn(), free: Mutex::new(false) });
        world.own(1);
        let walker = thread::spawn({
            let world = Arc::clone(&world);
            move || {
                if !world.page.word().is(PageState::Allocated) {
                    return;
                }
                let Some(found) = world.page.owner().descriptor::<Descriptor<u32>>(KIND) else { return };
                // SAFETY: the model's only descriptor lives as long as the model.
                let descriptor = unsafe { found.as_ref() };
                let Some(seen) = descriptor.life().look() else { return };
                if descriptor.life().try_get(seen.generation).is_some() {
                    // SAFETY: there is a reference.
                    assert_eq!(Generation(unsafe { *descriptor.owner() }), seen.generation, "another one's owner");
                    assert!(world.page.word().is(PageState::Allocated), "a block that is referred to is free");
                    world.put();
                }
            }
        });
        let again = thread::spawn({
            let world = Arc::clone(&world);
            move || {
                let had = core::mem::take(&mut *world.free.lock().expect("nobody panicked"));
                if had {
                    world.page.set_allocated(Migratetype::Movable, Order::ZERO, ZONE);
                    world.own(2);
                    world.put();
                }
                had
            }
        });
        world.put();
        walker.join().expect("the walker saw nothing wrong");
        let _ = again.join().expect("it was free");
        assert!(*world.free.lock().expect("nobody panicked"), "it was freed by whoever was last");
        assert!(world.page.word().is(PageState::Free));
    });
}
