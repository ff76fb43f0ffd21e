//! Handlers that allocate and free in front of any instruction of whoever allocates, frees, makes and destroys caches.
//!
//! Neither side may use the process's heap while instructions are counted: what is held stands in arrays.

use core::num::NonZeroU64;
use core::ptr::NonNull;

use super::{Pages, as_if_free, with_pages_of};
use crate::host::HostMachine;
use crate::host::stepping::{Came, When, interrupted};
use crate::page::Request;
use crate::slab::{CacheSpec, Census, KmemCache, KmemCaches};
use crate::units::{Bytes, Count, Order, Pfn};

/// An object with its own address in it, which nobody else may change.
#[derive(Clone, Copy)]
struct Mine(NonNull<u8>);

impl Mine {
    fn of(object: NonNull<u8>) -> Self {
        // SAFETY: the object is as large as that, and the caller's.
        unsafe { object.cast::<usize>().write(object.addr().get()) };
        Self(object)
    }

    fn give_up(self) -> NonNull<u8> {
        // SAFETY: as above.
        let found = unsafe { self.0.cast::<usize>().read() };
        assert_eq!(found, self.0.addr().get(), "the object was given to another as well");
        self.0
    }
}

/// What interrupts: takes and gives back a few of everything, in an order that is its own.
struct Handler<'t, 'a> {
    cache: &'t KmemCache<'a, HostMachine>,
    caches: &'a KmemCaches<'a, HostMachine>,
    objects: [Option<Mine>; 24],
    sized: [Option<Mine>; 8],
    pages: [Option<Pfn>; 4],
    random: u32,
}

impl<'t, 'a> Handler<'t, 'a> {
    const fn new(caches: &'a KmemCaches<'a, HostMachine>, cache: &'t KmemCache<'a, HostMachine>) -> Self {
        Self { cache, caches, objects: [None; 24], sized: [None; 8], pages: [None; 4], random: 1 }
    }

    fn random(&mut self, below: usize) -> usize {
        self.random = self.random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (self.random >> 8) as usize % below
    }

    fn run(&mut self) {
        let object = self.random(self.objects.len());
        match self.objects[object].take() {
            None => self.objects[object] = self.cache.alloc_raw().ok().map(Mine::of),
            Some(mine) => free_of(self.cache, mine),
        }
        if self.random(4) == 0 {
            let sized = self.random(self.sized.len());
            match self.sized[sized].take() {
                None => self.sized[sized] = self.caches.kmalloc(Bytes(8 + 24 * sized)).ok().map(Mine::of),
                Some(mine) => free(self.caches, mine),
            }
        }
        if self.random(16) == 0 {
            let page = self.random(self.pages.len());
            match self.pages[page].take() {
                None => self.pages[page] = self.caches.pages.alloc_raw(Request::new(Order::ZERO)).ok(),
                // SAFETY: it was allocated by this handler, which alone has it.
                Some(page) => assert_eq!(unsafe { self.caches.pages.free_raw(page) }, Ok(())),
            }
        }
    }

    fn finish(&mut self) {
        self.objects.iter_mut().filter_map(Option::take).for_each(|mine| free_of(self.cache, mine));
        self.sized.iter_mut().filter_map(Option::take).for_each(|mine| free(self.caches, mine));
        for page in self.pages.iter_mut().filter_map(Option::take) {
            // SAFETY: as above.
            assert_eq!(unsafe { self.caches.pages.free_raw(page) }, Ok(()));
        }
    }
}

fn free_of(cache: &KmemCache<'_, HostMachine>, mine: Mine) {
    // SAFETY: nobody uses it any more.
    assert_eq!(unsafe { cache.free_raw(mine.give_up()) }, Ok(()));
}

fn free(caches: &KmemCaches<'_, HostMachine>, mine: Mine) {
    // SAFETY: nobody uses it any more.
    assert_eq!(unsafe { caches.kfree(mine.give_up()) }, Ok(()));
}

/// Runs `work` interrupted, on caches of its own, and checks that nothing was lost.
fn run(pages: &Pages<'_>, when: When, work: fn(&KmemCaches<'_, HostMachine>, &KmemCache<'_, HostMachine>)) -> Came {
    let caches = KmemCaches::new(pages).expect("there is memory");
    let cache = caches.create(CacheSpec::new("interrupted", 400)).expect("it fits");
    let mut handler = Handler::new(&caches, &cache);
    let ((), came) = interrupted(pages.machine(), when, || handler.run(), || work(&caches, &cache));
    handler.finish();
    caches.verify().expect("all is well when it is over");
    assert_eq!(caches.census(), Census { objects: Count(0), bytes: Bytes(0) }, "{when:?}");
    assert_eq!(cache.destroy().map_err(|leaked| leaked.objects), Ok(()), "{when:?}");
    came
}

fn every(instructions: u64) -> When {
    When::Every(NonZeroU64::new(instructions).expect("not zero"))
}

/// Fills sheaves and slabs, empties them again, and gives them back.
fn all_ways(caches: &KmemCaches<'_, HostMachine>, cache: &KmemCache<'_, HostMachine>) {
    let mut held = [None; 150];
    for place in &mut held {
        *place = cache.alloc_raw().ok().map(Mine::of);
    }
    assert!(held.iter().all(Option::is_some), "there is memory");
    // Every second one first, so that slabs are partial.
    for start in [0, 1] {
        held.iter_mut().skip(start).step_by(2).filter_map(Option::take).for_each(|mine| free_of(cache, mine));
    }
    cache.shrink();
    let other = caches.create(CacheSpec::new("other", 96)).expect("there is memory");
    let mine = Mine::of(other.alloc_raw().expect("there is memory"));
    free(caches, mine);
    assert!(other.destroy().is_ok());
    let large = Mine::of(caches.kmalloc(Bytes(20_000)).expect("there is memory"));
    free(caches, large);
}

#[test]
fn handlers_at_every_instruction_lose_nothing_and_share_nothing() {
    with_pages_of(1, |pages| {
        for instructions in [1, 7, 41] {
            let came = run(pages, every(instructions), all_ways);
            // What has interrupts off has none, and is the smaller part.
            assert!(came.interrupts * instructions * 3 > came.instructions, "{came:?}");
        }
    });
}

/// What stores the very value that marks it free is searched for; a handler's search ends at other CPUs.
fn store_marks(_: &KmemCaches<'_, HostMachine>, cache: &KmemCache<'_, HostMachine>) {
    for _ in 0..4 {
        let object = cache.alloc_raw().expect("there is memory");
        // SAFETY: the object is as large as that.
        unsafe { object.cast::<u64>().write(as_if_free(object)) };
        // SAFETY: nobody uses it any more.
        assert_eq!(unsafe { cache.free_raw(object) }, Ok(()));
    }
}

#[test]
fn one_interrupt_anywhere_in_the_long_ways_changes_nothing_for_what_it_interrupts() {
    fn empty_to_empty(_: &KmemCaches<'_, HostMachine>, cache: &KmemCache<'_, HostMachine>) {
        let [one, other] = [(); 2].map(|()| Mine::of(cache.alloc_raw().expect("there is memory")));
        free_of(cache, one);
        free_of(cache, other);
        cache.shrink();
    }
    with_pages_of(2, |pages| {
        for work in [empty_to_empty, store_marks] {
            // A stride that shares no factor with a loop's length lands on each of its instructions in some turn.
            let mut first = 1;
            while run(pages, When::Once(NonZeroU64::new(first).expect("not zero")), work).interrupts == 1 {
                first += 61;
            }
            assert!(first > 500, "{first}");
        }
    });
}
