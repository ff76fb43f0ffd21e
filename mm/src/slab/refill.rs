//! The long ways of allocating and freeing: a CPU's sheaf is empty or full, the CPU is closed, or interrupted.
//!
//! A CPU is busy meanwhile, with interrupts off, and nothing is allocated or waited for but the cache's lock.
//!
//! Cost: one lock; a sheaf changes hands, or at most a sheaf of objects goes out of or into slabs.
#![expect(unsafe_code, reason = "reaches slabs and sheaves by bare pointers")]

use core::num::NonZeroU16;
use core::panic::Location;
use core::ptr::NonNull;

use arrayvec::ArrayVec;

use super::cache::{Cache, check_free, unmark};
use super::caches::{KmemCaches, NoMemory};
use super::cpu::{ClosedCpus, Held, Slot};
use super::descriptor::SlabPointer;
use super::lists::{Presence, SlabList, Slabs};
use super::sheaf::{SHEAF_OBJECTS, Sheaf};
use crate::lock_order::Work;
use crate::machine::Machine;

/// Bytes of objects in full sheaves that a cache keeps for whatever CPU comes, with as many empty ones: what is freed in a row
/// is likely allocated in a row, and then no slab is looked at. A shrinker takes them back.
const KEPT_BYTES: u32 = 256 << 10;

/// The fewest full sheaves that a cache keeps, however large its objects.
const KEPT_SHEAVES: u32 = 8;

/// Full sheaves that a cache keeps.
pub(super) fn kept_sheaves(cache: &Cache) -> u32 {
    (KEPT_BYTES / (cache.layout.stride * cache.sheaf_objects).max(1)).max(KEPT_SHEAVES)
}

impl<M: Machine> KmemCaches<'_, M> {
    /// Allocates an object when none is at hand; gives its slot.
    #[cold]
    #[inline(never)]
    #[track_caller]
    pub(super) fn alloc_slowly(&self, cache: &Cache, patience: Patience) -> Result<Slot, NoMemory> {
        let caller = Location::caller();
        let machine = self.pages.machine();
        let find = || match &cache.watch {
            Some(watch) => self.find_debugged(cache, watch, caller),
            None => self.find(cache).inspect(|&slot| unmark(machine, slot)),
        };
        let mut grown = Ok(());
        loop {
            match (find(), grown) {
                (Some(slot), _) => {
                    cache.fence_allocated(machine, slot);
                    self.init_on_alloc(cache, slot);
                    return Ok(slot);
                }
                (None, Err(no_memory)) => return Err(no_memory),
                (None, Ok(())) => {}
            }
            grown = self.grow(cache, patience);
            if grown.is_err() && patience == Patience::Waits {
                // What stands in other CPUs' sheaves is free as well.
                self.gather(cache);
            }
        }
    }

    /// An object of a sheaf or a slab that there is.
    fn find(&self, cache: &Cache) -> Option<Slot> {
        let machine = self.pages.machine();
        let _interrupts = machine.disable_interrupts();
        match cache.sides.of(machine.cpu()).with(machine, cache.sheaf_objects, |held| self.refill(cache, held)) {
            Some(found) => found,
            None => self.take_one(cache),
        }
    }

    /// Takes back an object when there is no room at hand.
    #[cold]
    #[inline(never)]
    #[track_caller]
    pub(super) fn free_slowly(&self, cache: &Cache, slot: Slot) {
        let machine = self.pages.machine();
        if let Some(watch) = &cache.watch {
            if let Err(error) = self.free_debugged(cache, watch, slot, Location::caller()) {
                // Whoever frees what he owns asks for no answer.
                self.report_bug(&error);
            }
            return;
        }
        self.init_on_free(cache, slot);
        let mut discarded = SlabList::new();
        let mut sheaf = Fresh::NotAsked;
        loop {
            let _interrupts = machine.disable_interrupts();
            let stow = |held: &mut Held<'_>| self.stow(cache, held, slot, &mut sheaf, &mut discarded);
            match cache.sides.of(machine.cpu()).with(machine, cache.sheaf_objects, stow) {
                Some(Stowed::Done) => break,
                Some(Stowed::SheafWanted) => {}
                None => {
                    self.put_back(cache, core::iter::once(slot), &mut discarded);
                    break;
                }
            }
            drop(_interrupts);
            // Who frees may hold locks that shrinkers take.
            sheaf = self.new_sheaf(Patience::Never).map_or(Fresh::NoMemory, Fresh::Had);
        }
        if let Fresh::Had(sheaf) = sheaf {
            // A handler has made room meanwhile.
            self.free_for(self.first.sheaves, sheaf.cast());
        }
        self.discard(discarded);
    }

    /// Makes room at hand for an object and puts it there.
    fn stow(
        &self,
        cache: &Cache,
        held: &mut Held<'_>,
        slot: Slot,
        fresh: &mut Fresh,
        discarded: &mut SlabList,
    ) -> Stowed {
        let limit = cache.sheaf_objects as usize;
        if held.at_hand().len() == limit {
            if held.sheaves.spare.is_some() && held.spare_objects().len() < limit {
                held.swap();
            } else {
                match self.empty_sheaf(cache, held, fresh) {
                    Empty::Sheaf(empty) => {
                        let full = held.exchange(Some(empty));
                        let spare = core::mem::replace(&mut held.sheaves.spare, full);
                        if let Some(full) = spare {
                            self.hand_over(cache, full, discarded);
                        }
                    }
                    Empty::Wanted => return Stowed::SheafWanted,
                    Empty::None => {
                        let half = held
                            .with_objects(|objects| objects.drain(limit / 2..).collect::<ArrayVec<_, SHEAF_OBJECTS>>());
                        self.put_back(cache, half.into_iter().flatten(), discarded);
                    }
                }
            }
        }
        held.with_objects(|objects| objects.push(slot));
        Stowed::Done
    }

    /// An empty sheaf: one that the cache has, or a fresh one as long as the CPU has no spare or the cache few full ones.
    fn empty_sheaf(&self, cache: &Cache, held: &Held<'_>, fresh: &mut Fresh) -> Empty {
        let mut slabs = cache.slabs.lock(self.pages.machine());
        if let Some(kept) = slabs.empty_sheaves.pop() {
            return Empty::Sheaf(kept);
        }
        let more = held.sheaves.spare.is_none() || slabs.full_sheaves.len() < kept_sheaves(cache);
        match core::mem::replace(fresh, Fresh::NoMemory) {
            Fresh::Had(sheaf) => Empty::Sheaf(sheaf),
            Fresh::NotAsked if more => Empty::Wanted,
            _ => Empty::None,
        }
    }

    /// Gives a full sheaf of a CPU to all.
    fn hand_over(&self, cache: &Cache, full: NonNull<Sheaf>, discarded: &mut SlabList) {
        let mut slabs = cache.slabs.lock(self.pages.machine());
        if slabs.full_sheaves.len() < kept_sheaves(cache) {
            slabs.full_sheaves.push(full);
            return;
        }
        drop(slabs);
        self.empty(cache, full, discarded);
    }

    /// Puts the objects of a sheaf that is nobody's back into their slabs, and keeps the sheaf.
    fn empty(&self, cache: &Cache, mut sheaf: NonNull<Sheaf>, discarded: &mut SlabList) {
        // SAFETY: the sheaf is nobody's.
        let objects = core::mem::take(&mut unsafe { sheaf.as_mut() }.objects);
        self.put_back(cache, objects.into_iter(), discarded);
        cache.slabs.lock(self.pages.machine()).empty_sheaves.push(sheaf);
    }

    /// Puts free objects back into their slabs; slabs that become empty, and are too many, go to `discarded`.
    pub(super) fn put_back(&self, cache: &Cache, slots: impl Iterator<Item = Slot>, discarded: &mut SlabList) {
        let mut slabs = cache.slabs.lock(self.pages.machine());
        for slot in slots {
            let (slab, number) = self.slab_and_number(cache, slot);
            slabs.put(slab, number, &cache.layout);
        }
        slabs.take_surplus(cache.stability, discarded);
    }

    /// The slab of a slot of this cache, and its number there.
    ///
    /// # Panics
    /// SLAB-3 is broken: it is none.
    pub(super) fn slab_and_number(&self, cache: &Cache, slot: Slot) -> (SlabPointer, u32) {
        let found = self.slab_of(slot).and_then(|slab| {
            // SAFETY: SLAB-1, an object outside its slab keeps the slab from being given back.
            let descriptor = unsafe { slab.as_ref() };
            // SAFETY: as above.
            let owner = unsafe { descriptor.owner() };
            Some((slab, cache.layout.slot_at(owner.offset(slot))?))
        });
        found.unwrap_or_else(|| panic!("invariant SLAB-3 broken: {slot:p} of cache {} is in no slab", cache.name))
    }

    /// Whether a slot that bears the mark is free: in its slab, or in a sheaf. In an interrupt handler, which cannot look
    /// into other CPUs' sheaves (SHEAF-2), what is found nowhere else is taken for free: an object lost does less harm than
    /// one that two have.
    #[cold]
    pub(super) fn is_free(&self, cache: &Cache, slot: Slot) -> bool {
        let machine = self.pages.machine();
        let holds = |held: &mut Held<'_>| held.at_hand().contains(&slot) || held.spare_objects().contains(&slot);
        if machine.context().work == Work::Handler {
            let _interrupts = machine.disable_interrupts();
            let here = cache.sides.of(machine.cpu()).with(machine, cache.sheaf_objects, holds);
            let elsewhere = cache.sheaf_objects > 0 && (here.is_none() || self.cpus > NonZeroU16::MIN);
            return here == Some(true) || elsewhere || self.is_with_all(cache, slot);
        }
        let _one_at_a_time = cache.closing.lock(machine);
        let closed = ClosedCpus::close(cache.sides.all(self.cpus), cache.sheaf_objects, || machine.heavy_barrier());
        let mut found = false;
        let closed = closed.map(|mut closed| {
            closed.each(|held| found |= holds(held));
            closed
        });
        // As long as all CPUs are closed nothing goes from a sheaf of theirs to those of all.
        let found = found || self.is_with_all(cache, slot);
        drop(closed);
        found
    }

    /// Whether an object is in its slab, or in a sheaf that no CPU has.
    fn is_with_all(&self, cache: &Cache, slot: Slot) -> bool {
        let (slab, number) = self.slab_and_number(cache, slot);
        self.with_slabs(cache, |slabs| {
            slabs.has(slab, number) == Presence::Here || slabs.sheaves().any(|sheaf| sheaf.objects.contains(&slot))
        })
    }

    /// [`gather`](Self::gather) for all caches.
    #[cfg(all(test, not(loom)))]
    pub(crate) fn gather_all(&self) {
        let Ok(()) = self.try_for_each_cache(|cache| {
            self.gather(cache);
            Ok::<_, core::convert::Infallible>(())
        });
    }

    /// Brings the objects in sheaves back into their slabs, and gives back those that are empty then and too many; says how many
    /// pages. An interrupt handler does not reach the CPUs' own (SHEAF-2).
    pub(super) fn gather(&self, cache: &Cache) -> u32 {
        let machine = self.pages.machine();
        let mut discarded = SlabList::new();
        // To the end: who asks whether an object is free does not look while one is on its way.
        let one_at_a_time = (machine.context().work == Work::Task).then(|| cache.closing.lock(machine));
        if one_at_a_time.is_some() {
            let closed = ClosedCpus::close(cache.sides.all(self.cpus), cache.sheaf_objects, || machine.heavy_barrier());
            if let Some(mut closed) = closed {
                closed.each(|held| {
                    let _interrupts = machine.disable_interrupts();
                    let at_hand = held.with_objects(core::mem::take);
                    self.put_back(cache, at_hand.into_iter().flatten(), &mut discarded);
                    if let Some(spare) = held.sheaves.spare.take() {
                        self.empty(cache, spare, &mut discarded);
                    }
                });
            }
        }
        while let Some(sheaf) = self.with_slabs(cache, |slabs| slabs.full_sheaves.pop()) {
            let _interrupts = machine.disable_interrupts();
            self.empty(cache, sheaf, &mut discarded);
        }
        drop(one_at_a_time);
        self.discard(discarded)
    }

    /// Puts a sheaf with objects at hand and takes one; `None` if the cache has none.
    fn refill(&self, cache: &Cache, held: &mut Held<'_>) -> Option<Slot> {
        let machine = self.pages.machine();
        if held.at_hand().is_empty() {
            if held.spare_objects().is_empty() {
                let mut slabs = cache.slabs.lock(self.pages.machine());
                if let Some(full) = slabs.full_sheaves.pop() {
                    let empty = held.exchange(Some(full));
                    give_sheaf(&mut slabs, empty);
                } else {
                    held.with_objects(|objects| {
                        // Half a sheaf: so there is room for what is freed next.
                        let wanted = (cache.sheaf_objects as usize).div_ceil(2);
                        slabs.take(wanted, &cache.layout, |slot| objects.push(free_in_slab(machine, cache, slot)));
                    });
                }
            } else {
                held.swap();
            }
        }
        held.with_objects(ArrayVec::pop).flatten()
    }

    /// Takes one object out of a slab.
    fn take_one(&self, cache: &Cache) -> Option<Slot> {
        let machine = self.pages.machine();
        let mut found = None;
        let mut slabs = cache.slabs.lock(machine);
        slabs.take(1, &cache.layout, |slot| found = Some(free_in_slab(machine, cache, slot)));
        found
    }
}

/// Whether somebody may be asked to give something up, and CPUs be waited for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Patience {
    Waits,
    Never,
}

/// What comes out of its slab.
#[inline(always)]
fn free_in_slab<M: Machine>(machine: &M, cache: &Cache, slot: Slot) -> Slot {
    check_free(machine, slot);
    cache.fence_free(machine, slot);
    slot
}

/// A sheaf that freeing may need, had before the CPU is busy: under that nothing is allocated.
#[derive(Debug)]
enum Fresh {
    NotAsked,
    Had(NonNull<Sheaf>),
    NoMemory,
}

/// Where a full sheaf can be changed for an empty one.
enum Empty {
    Sheaf(NonNull<Sheaf>),
    /// A fresh one is to be had first.
    Wanted,
    None,
}

/// Whether an object was put at hand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stowed {
    Done,
    SheafWanted,
}

fn give_sheaf(slabs: &mut Slabs, sheaf: Option<NonNull<Sheaf>>) {
    if let Some(sheaf) = sheaf {
        slabs.empty_sheaves.push(sheaf);
    }
}
