//! The long ways of allocating and freeing: a CPU's sheaf is empty or full, the CPU is closed, or interrupted.
//!
//! Cost: one lock; a sheaf changes hands, or at most a sheaf of objects goes out of or into slabs.
#![expect(unsafe_code, reason = "reaches slabs and sheaves by bare pointers")]

use core::panic::Location;
use core::ptr::NonNull;

use arrayvec::ArrayVec;

use super::cache::{Cache, unmark};
use super::caches::{KmemCaches, NoMemory};
use super::cpu::{CpuSheaf, Held, Slot};
use super::descriptor::SlabPointer;
use super::lists::{Presence, SlabList, Slabs};
use super::sheaf::{SHEAF_OBJECTS, Sheaf, SheafStack};
use crate::machine::Machine;

/// Full sheaves that a cache keeps for whatever CPU comes, and as many empty ones.
const KEPT_SHEAVES: u32 = 8;

impl<M: Machine> KmemCaches<'_, M> {
    /// Allocates an object when none is at hand; gives its slot.
    #[cold]
    #[inline(never)]
    #[track_caller]
    pub(super) fn alloc_slowly(&self, cache: &Cache) -> Result<Slot, NoMemory> {
        let caller = Location::caller();
        let find = || match &cache.watch {
            Some(watch) => self.find_debugged(cache, watch, caller),
            None => self.find(cache).inspect(|&slot| unmark(slot)),
        };
        let mut grown = Ok(());
        loop {
            match (find(), grown) {
                (Some(slot), _) => return Ok(slot),
                (None, Err(no_memory)) => return Err(no_memory),
                (None, Ok(())) => {}
            }
            grown = self.grow(cache);
            if grown.is_err() {
                // What stands in other CPUs' sheaves is free as well.
                self.gather(cache);
            }
        }
    }

    /// An object of a sheaf or a slab that there is.
    fn find(&self, cache: &Cache) -> Option<Slot> {
        let machine = self.pages.machine();
        let _interrupts = machine.disable_interrupts();
        match cache.cpu(machine.cpu()).with(cache.sheaf_objects, |held| refill(cache, held)) {
            Some(found) => found,
            None => take_one(cache),
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
        let mut discarded = SlabList::new();
        {
            let _interrupts = machine.disable_interrupts();
            let stowed =
                cache.cpu(machine.cpu()).with(cache.sheaf_objects, |held| self.stow(cache, held, slot, &mut discarded));
            if stowed.is_none() {
                self.put_back(cache, core::iter::once(slot), &mut discarded);
            }
        }
        self.discard(discarded);
    }

    /// Makes room at hand for an object and puts it there.
    fn stow(&self, cache: &Cache, held: &mut Held, slot: Slot, discarded: &mut SlabList) {
        let limit = cache.sheaf_objects as usize;
        if held.spare.is_some() && held.spare_objects().len() < limit {
            held.swap();
        } else if let Some(empty) = self.empty_sheaf(cache, held)
            && let Some(full) = held.exchange(Some(empty))
        {
            match held.spare.replace(full) {
                None => {}
                Some(full) => self.hand_over(cache, full, discarded),
            }
        } else {
            let half = held.with_objects(|objects| objects.drain(limit / 2..).collect::<ArrayVec<_, SHEAF_OBJECTS>>());
            self.put_back(cache, half.into_iter().flatten(), discarded);
        }
        held.with_objects(|objects| objects.push(slot));
    }

    /// An empty sheaf: one that the cache has, or a new one as long as the CPU has no spare or the cache few full ones.
    fn empty_sheaf(&self, cache: &Cache, held: &Held) -> Option<NonNull<Sheaf>> {
        let mut slabs = cache.slabs.lock();
        let kept = slabs.empty_sheaves.pop();
        let more = held.spare.is_none() || slabs.full_sheaves.len() < KEPT_SHEAVES;
        drop(slabs);
        kept.or_else(|| more.then(|| self.new_sheaf().ok()).flatten())
    }

    /// Gives a full sheaf of a CPU to all.
    fn hand_over(&self, cache: &Cache, full: NonNull<Sheaf>, discarded: &mut SlabList) {
        let mut slabs = cache.slabs.lock();
        if slabs.full_sheaves.len() < KEPT_SHEAVES {
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
        cache.slabs.lock().empty_sheaves.push(sheaf);
    }

    /// Puts free objects back into their slabs; slabs that become empty, and are too many, go to `discarded`.
    pub(super) fn put_back(&self, cache: &Cache, slots: impl Iterator<Item = Slot>, discarded: &mut SlabList) {
        let mut slabs = cache.slabs.lock();
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

    /// Whether a slot that bears the mark is free: in its slab, or in a sheaf.
    #[cold]
    pub(super) fn is_free(&self, cache: &Cache, slot: Slot) -> bool {
        let (slab, number) = self.slab_and_number(cache, slot);
        let machine = self.pages.machine();
        let _interrupts = machine.disable_interrupts();
        let mut slabs = cache.slabs.lock();
        let in_slab = slabs.has(slab, number) == Presence::Here;
        let in_sheaf = slabs.sheaves().any(|sheaf| sheaf.objects.contains(&slot));
        drop(slabs);
        let holds = |held: &mut Held| held.at_hand().contains(&slot) || held.spare_objects().contains(&slot);
        let _one_at_a_time = cache.closing.lock();
        let on_cpu = |cpu: &CpuSheaf| cpu.close(cache.sheaf_objects, || machine.heavy_barrier(), holds) == Some(true);
        in_slab || in_sheaf || cache.all_cpus(self.cpus).iter().any(on_cpu)
    }

    /// [`gather`](Self::gather) for all caches.
    #[cfg(test)]
    pub(super) fn gather_all(&self) {
        let Ok(()) = self.try_for_each_cache(|cache| {
            self.gather(cache);
            Ok::<_, core::convert::Infallible>(())
        });
    }

    /// Brings the objects in all CPUs' sheaves back into their slabs, and gives back no slab.
    pub(super) fn gather(&self, cache: &Cache) {
        let machine = self.pages.machine();
        let mut discarded = SlabList::new();
        {
            let Some(_one_at_a_time) = cache.closing.try_lock() else { return };
            let _interrupts = machine.disable_interrupts();
            for cpu in cache.all_cpus(self.cpus) {
                let taken = cpu.close(
                    cache.sheaf_objects,
                    || machine.heavy_barrier(),
                    |held| (held.with_objects(core::mem::take), held.spare.take()),
                );
                let Some((at_hand, spare)) = taken else { continue };
                self.put_back(cache, at_hand.into_iter().flatten(), &mut discarded);
                if let Some(spare) = spare {
                    self.empty(cache, spare, &mut discarded);
                }
            }
            let mut full = core::mem::replace(&mut cache.slabs.lock().full_sheaves, SheafStack::new());
            while let Some(sheaf) = full.pop() {
                self.empty(cache, sheaf, &mut discarded);
            }
        }
        self.discard(discarded);
    }
}

/// Puts a sheaf with objects at hand and takes one; `None` if the cache has none.
fn refill(cache: &Cache, held: &mut Held) -> Option<Slot> {
    if held.at_hand().is_empty() {
        if held.spare_objects().is_empty() {
            let mut slabs = cache.slabs.lock();
            if let Some(full) = slabs.full_sheaves.pop() {
                let empty = held.exchange(Some(full));
                give_sheaf(&mut slabs, empty);
            } else {
                held.with_objects(|objects| {
                    // Half a sheaf: so there is room for what is freed next.
                    let wanted = (cache.sheaf_objects as usize).div_ceil(2);
                    slabs.take(wanted, &cache.layout, |object| objects.push(object));
                });
            }
        } else {
            held.swap();
        }
    }
    held.with_objects(ArrayVec::pop).flatten()
}

fn give_sheaf(slabs: &mut Slabs, sheaf: Option<NonNull<Sheaf>>) {
    if let Some(sheaf) = sheaf {
        slabs.empty_sheaves.push(sheaf);
    }
}

/// Takes one object out of a slab.
fn take_one(cache: &Cache) -> Option<Slot> {
    let mut found = None;
    cache.slabs.lock().take(1, &cache.layout, |object| found = Some(object));
    found
}
