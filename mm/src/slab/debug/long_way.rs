//! Allocating, freeing and checking objects of debugged caches, under their cache's lock.
//!
//! The machine is told only when the lock is free again.
#![expect(unsafe_code, reason = "reaches objects by bare pointers")]

use core::fmt;
use core::panic::Location;
use core::ptr::NonNull;

use super::corruption::Corruption;
use super::spec::DebugFlags;
use super::track::{History, Track};
use super::watch::{Finding, Use, Watch, Where};
use crate::machine::Machine;
use crate::slab::cache::{Cache, CacheName};
use crate::slab::caches::KmemCaches;
use crate::slab::cpu::Slot;
use crate::slab::descriptor::SlabPointer;
use crate::slab::free::{Address, FreeObjectError};
use crate::slab::lists::{Place, Presence, SlabList, Slabs};
use crate::units::Pfn;

impl Cache {
    /// The start of a slot's place.
    fn place(&self, slot: Slot) -> Where {
        // SAFETY: every slot has that much in front of it, its object included.
        unsafe { slot.sub((self.layout.mark + self.layout.front) as usize) }
    }

    fn corruption(&self, watch: &Watch, place: Where, finding: Finding) -> Corruption {
        let front = self.layout.front;
        // SAFETY: the lock is held, and a record was written when the slab was made.
        let history = unsafe { watch.history(place) };
        Corruption {
            cache: self.name,
            object: Address::of(place.map_addr(|place| place.saturating_add(front as usize))),
            part: finding.part,
            offset: finding.at.cast_signed().wrapping_sub(front.cast_signed()),
            byte: finding.byte,
            history,
        }
    }
}

/// An operation of a cache that is traced.
struct Traced<'t> {
    cache: &'t CacheName,
    what: &'static str,
    object: Address,
    track: Track,
}

impl fmt::Display for Traced<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "trace: cache {} {} {:?} at {}", self.cache, self.what, self.object, self.track)
    }
}

impl<M: Machine> KmemCaches<'_, M> {
    /// Makes the bytes of a fresh block what they are to be around free objects, and in them.
    pub(in crate::slab) fn surround_all(&self, cache: &Cache, watch: &Watch, head: Pfn) {
        let slab = self.pages.machine().direct_map(head);
        for number in 0..cache.layout.objects {
            // SAFETY: the places lie in the block, which the caller has just allocated.
            let place = unsafe { slab.add((number * cache.layout.stride) as usize) };
            // SAFETY: the slab is new.
            unsafe { watch.set(place, Use::Free) };
            // SAFETY: as above.
            unsafe { watch.note(place, History::default()) };
        }
        // SAFETY: as above.
        unsafe { watch.set_end(slab, &cache.layout) };
    }

    /// Allocates an object of a slab that there is; those that were written to since they were freed are isolated.
    pub(in crate::slab) fn find_debugged(
        &self,
        cache: &Cache,
        watch: &Watch,
        location: &'static Location<'static>,
    ) -> Option<Slot> {
        loop {
            let (slot, outcome) = self.with_slabs(cache, |slabs| self.take_debugged(cache, watch, slabs, location))?;
            match outcome {
                Ok(track) => {
                    self.trace(cache, watch, "alloc", slot, track);
                    return Some(slot);
                }
                Err(corruption) => self.report_bug(&corruption),
            }
        }
    }

    fn take_debugged(
        &self,
        cache: &Cache,
        watch: &Watch,
        slabs: &mut Slabs,
        location: &'static Location<'static>,
    ) -> Option<(Slot, Result<Track, Corruption>)> {
        let mut found = None;
        slabs.take(1, &cache.layout, |slot| found = Some(slot));
        let slot = found?;
        let place = cache.place(slot);
        // SAFETY: the lock is held, and the object, just taken, is nobody's.
        if let Some(finding) = unsafe { watch.check(place, Use::Free) } {
            let corruption = cache.corruption(watch, place, finding);
            // SAFETY: as above.
            unsafe { watch.set(place, Use::Isolated) };
            watch.count_isolated();
            return Some((slot, Err(corruption)));
        }
        let track = watch.track(location, self.pages.machine().cpu());
        // SAFETY: as above.
        let history = unsafe { watch.history(place) };
        // SAFETY: as above.
        unsafe { watch.set(place, Use::Allocated) };
        // SAFETY: as above.
        unsafe { watch.note(place, History { allocated: Some(track), ..history }) };
        Some((slot, Ok(track)))
    }

    /// Takes back an object, once it is sure that it is allocated and nobody wrote beside it.
    pub(in crate::slab) fn free_debugged(
        &self,
        cache: &Cache,
        watch: &Watch,
        slot: Slot,
        location: &'static Location<'static>,
    ) -> Result<(), FreeObjectError> {
        let (slab, number) = self.slab_and_number(cache, slot);
        let place = cache.place(slot);
        let mut discarded = SlabList::new();
        let track = self.with_slabs(cache, |slabs| {
            // SAFETY: the lock is held.
            let history = unsafe { watch.history(place) };
            // SAFETY: as above.
            let isolated = unsafe { watch.state(place) } == Use::Isolated;
            if isolated || slabs.has(slab, number) == Presence::Here {
                let address = Address::of(cache.object(slot));
                return Err(FreeObjectError::DoubleFree { address, cache: cache.name, history });
            }
            // SAFETY: as above.
            if let Some(finding) = unsafe { watch.check(place, Use::Allocated) } {
                return Err(self.put_right(cache, watch, place, finding).into());
            }
            let track = watch.track(location, self.pages.machine().cpu());
            // SAFETY: as above, and whoever had the object has given it up.
            unsafe { watch.set(place, Use::Free) };
            // SAFETY: as above.
            unsafe { watch.note(place, History { freed: Some(track), ..history }) };
            slabs.put(slab, number, &cache.layout);
            slabs.take_surplus(cache.stability, &mut discarded);
            Ok(track)
        })?;
        self.trace(cache, watch, "free", slot, track);
        self.discard(discarded);
        Ok(())
    }

    /// Tells what was found around an allocated object, and makes it what it was.
    fn put_right(&self, cache: &Cache, watch: &Watch, place: Where, finding: Finding) -> Corruption {
        let corruption = cache.corruption(watch, place, finding);
        // SAFETY: the caller holds the lock, and the object's own bytes are left alone.
        unsafe { watch.set(place, Use::Allocated) };
        // SAFETY: as above.
        unsafe { watch.note(place, corruption.history) };
        corruption
    }

    /// Tells the machine of what nobody else is told of.
    pub(in crate::slab) fn report_bug(&self, bug: &dyn fmt::Display) {
        self.pages.machine().report(&format_args!("BUG: {bug}"));
    }

    fn trace(&self, cache: &Cache, watch: &Watch, what: &'static str, slot: Slot, track: Track) {
        if watch.flags.contains(DebugFlags::TRACE) {
            let object = Address::of(cache.object(slot));
            self.pages.machine().report(&Traced { cache: &cache.name, what, object, track });
        }
    }

    /// Checks every object of a debugged cache, tells the machine of all that was overwritten, and puts it right.
    ///
    /// # Errors
    /// The first that was found.
    pub(in crate::slab) fn validate_cache(&self, cache: &Cache) -> Result<(), Corruption> {
        let Some(watch) = &cache.watch else { return Ok(()) };
        let mut first = Ok(());
        while let Some(corruption) = self.with_slabs(cache, |slabs| self.find_corruption(cache, watch, slabs)) {
            self.report_bug(&corruption);
            first = first.and(Err(corruption));
        }
        first
    }

    /// The first that was overwritten; it is put right, or isolated if nobody has the object.
    fn find_corruption(&self, cache: &Cache, watch: &Watch, slabs: &mut Slabs) -> Option<Corruption> {
        find_slot(cache, slabs, |slabs, slab, number, slot| {
            let place = cache.place(slot);
            if number == 0 {
                // SAFETY: the lock is held, and the first object's place is where the slab starts.
                if let Some(finding) = unsafe { watch.check_end(place, &cache.layout) } {
                    // SAFETY: as above.
                    unsafe { watch.set_end(place, &cache.layout) };
                    return Some(Corruption { history: History::default(), ..cache.corruption(watch, place, finding) });
                }
            }
            if slabs.has(slab, number) == Presence::Here {
                // SAFETY: the lock is held, and the object is in its slab, so it is nobody's.
                let finding = unsafe { watch.check(place, Use::Free) }?;
                let corruption = cache.corruption(watch, place, finding);
                // SAFETY: as above.
                unsafe { watch.set(place, Use::Isolated) };
                watch.count_isolated();
                slabs.take_slot(slab, number, &cache.layout);
                return Some(corruption);
            }
            // SAFETY: the lock is held.
            if unsafe { watch.state(place) } == Use::Isolated {
                return None;
            }
            // SAFETY: as above.
            let finding = unsafe { watch.check(place, Use::Allocated) }?;
            Some(self.put_right(cache, watch, place, finding))
        })
    }

    /// The first object that somebody has, and who.
    pub(in crate::slab) fn first_allocated(&self, cache: &Cache, slabs: &mut Slabs) -> Option<(Address, History)> {
        find_slot(cache, slabs, |slabs, slab, number, slot| {
            if slabs.has(slab, number) == Presence::Here {
                return None;
            }
            let address = Address::of(cache.object(slot));
            let Some(watch) = &cache.watch else { return Some((address, History::default())) };
            let place = cache.place(slot);
            // SAFETY: the lock is held.
            if unsafe { watch.state(place) } == Use::Isolated {
                return None;
            }
            // SAFETY: as above.
            Some((address, unsafe { watch.history(place) }))
        })
    }

    /// Puts isolated objects back, for their slabs to go with their cache.
    pub(in crate::slab) fn release_isolated(&self, cache: &Cache) {
        let Some(watch) = &cache.watch else { return };
        self.with_slabs(cache, |slabs| {
            for _ in 0..watch.isolated() {
                find_slot(cache, slabs, |slabs, slab, number, slot| {
                    let place = cache.place(slot);
                    // SAFETY: the lock is held.
                    let isolated = unsafe { watch.state(place) } == Use::Isolated;
                    if !isolated || slabs.has(slab, number) == Presence::Here {
                        return None;
                    }
                    // SAFETY: as above, and the object is nobody's.
                    unsafe { watch.set(place, Use::Free) };
                    slabs.put(slab, number, &cache.layout);
                    Some(())
                });
            }
        });
    }
}

/// Shows each slot of a cache, with its slab and its number there, to `look`, until that finds what it is looking for.
/// Only when it has found that may it have moved the slab to another list.
fn find_slot<R>(
    cache: &Cache,
    slabs: &mut Slabs,
    mut look: impl FnMut(&mut Slabs, SlabPointer, u32, Slot) -> Option<R>,
) -> Option<R> {
    for place in [Place::Partial, Place::Full, Place::Empty] {
        let mut next = slabs.list(place).iter().next();
        while let Some(slab) = next {
            // SAFETY: the slab is on a list of this cache, whose lock is held.
            let descriptor = unsafe { slab.as_ref() };
            // SAFETY: as above, so it has a reference.
            let first = unsafe { descriptor.owner() }.first();
            for number in 0..cache.layout.objects {
                // SAFETY: the slot is one of the slab's.
                let slot: NonNull<u8> = unsafe { first.add((number * cache.layout.stride) as usize) };
                if let Some(found) = look(slabs, slab, number, slot) {
                    return Some(found);
                }
            }
            next = slabs.behind(slab);
        }
    }
    None
}
