//! One slab: the owner of a block that is cut into objects, and which of them are in it.
//!
//! What is free stands in a bitmap here, never in the objects. A slab is on one of its cache's lists; all of its state
//! is guarded by the cache's lock, and whoever holds the lock shows its [`Slabs`](super::lists::Slabs) for it.
//!
//! Invariants: SLAB-1 (an object is in one place: its slab's bitmap, a sheaf, or a user's hands), SLAB-2 (`taken` is the
//! slots less the bits).
#![expect(unsafe_code, reason = "state that the cache's lock guards")]

use core::cell::UnsafeCell;
use core::ptr::NonNull;

use super::cache::Cache;
use super::cpu::Slot;
use super::layout::MAX_OBJECTS;
use super::sides::Sides;
use crate::descriptor::Descriptor;
use crate::image::{Note, NoteFull, layout};
use crate::random::Random;

const WORDS: usize = MAX_OBJECTS as usize / u64::BITS as usize;

/// A slab's descriptor, wherever it stands: as good as `'static` while the slab is on a list of its cache, or a
/// reference is held.
pub(super) type SlabPointer = NonNull<Descriptor<Slab>>;

/// A block cut into objects of one cache.
#[derive(Debug)]
pub struct Slab {
    cache: NonNull<Cache>,
    /// The cache's, at hand.
    sides: Sides,
    /// The first slot.
    first: Slot,
    state: UnsafeCell<SlabState>,
}

// SAFETY: the cache and the first object never change while the slab lives; the state is guarded by the cache's lock.
unsafe impl Send for Slab {}
// SAFETY: as above.
unsafe impl Sync for Slab {}

/// What about a slab changes.
#[derive(Debug)]
pub(super) struct SlabState {
    /// Neighbours on the cache's list.
    pub(super) previous: Option<SlabPointer>,
    pub(super) next: Option<SlabPointer>,
    /// Objects that are not in the slab.
    pub(super) taken: u32,
    /// A bit for each slot whose object is in the slab.
    free: [u64; WORDS],
}

impl Slab {
    /// A slab of which every object is in it.
    pub(super) fn new(cache: &Cache, first: Slot) -> Self {
        let layout = &cache.layout;
        let mut free = [0; WORDS];
        for (word, bits) in (0..).zip(&mut free) {
            let slots = layout.objects.saturating_sub(word * u64::BITS).min(u64::BITS);
            *bits = if slots == 0 { 0 } else { u64::MAX >> (u64::BITS - slots) };
        }
        let state = SlabState { previous: None, next: None, taken: 0, free };
        Self { cache: NonNull::from(cache), sides: cache.sides, first, state: UnsafeCell::new(state) }
    }

    /// For who reads an image of memory.
    pub(super) fn write_note(note: &mut Note) -> Result<(), NoteFull> {
        layout!(note, Self as "Slab": cache, first, state)?;
        layout!(note, SlabState as "SlabState": previous, next, taken, free)?;
        Descriptor::<Self>::write_note(note, "slab")
    }

    /// The cache whose objects these are.
    pub(super) const fn cache(&self) -> NonNull<Cache> {
        self.cache
    }

    /// The cache's sides.
    pub(super) const fn sides(&self) -> Sides {
        self.sides
    }

    /// The first slot.
    pub(super) const fn first(&self) -> Slot {
        self.first
    }

    /// Shows what it consists of to `see`: what it is for, where it is and how long.
    #[cfg(all(test, not(loom), not(miri)))]
    pub(super) fn each_part(&self, mut see: impl FnMut(&'static str, NonNull<u8>, usize)) {
        see("slab: cache", NonNull::from(&self.cache).cast(), 8);
        see("slab: sides", NonNull::from(&self.sides).cast(), 8);
        see("slab: first slot", NonNull::from(&self.first).cast(), 8);
        // SAFETY: nobody changes it meanwhile.
        let state = unsafe { self.state() };
        see("slab: links", NonNull::from(&state.previous).cast(), 8);
        see("slab: links", NonNull::from(&state.next).cast(), 8);
        see("slab: count", NonNull::from(&state.taken).cast(), 4);
        see("slab: bitmap", NonNull::from(&state.free).cast(), size_of_val(&state.free));
    }

    /// How far behind the first slot another is; what lies in front of it is far behind.
    #[expect(clippy::cast_possible_truncation, reason = "a block is at most 4 GiB, and the slot lies in it")]
    pub(super) fn offset(&self, slot: Slot) -> u32 {
        slot.addr().get().wrapping_sub(self.first.addr().get()) as u32
    }

    /// What about the slab changes.
    ///
    /// # Safety
    /// The cache's lock is held, and no other borrow of this slab's state lives.
    #[expect(clippy::mut_from_ref, reason = "the cache's lock guards it, and the caller holds it")]
    pub(super) unsafe fn state(&self) -> &mut SlabState {
        // SAFETY: the caller has the state to itself.
        unsafe { &mut *self.state.get() }
    }
}

impl SlabState {
    /// Takes the objects of the lowest free slots out, one call of `each` for a slot, while `wanted` is not reached.
    /// Gives how many.
    pub(super) fn take(&mut self, wanted: usize, mut each: impl FnMut(u32)) -> usize {
        let mut found = 0;
        for (word, bits) in (0..).zip(&mut self.free) {
            while *bits != 0 && found < wanted {
                each(word * u64::BITS + bits.trailing_zeros());
                *bits &= *bits - 1;
                found += 1;
                self.taken += 1;
            }
        }
        found
    }

    /// The same, of slots chosen at random. Cost: a look at all of the bitmap for each.
    pub(super) fn take_at_random(&mut self, wanted: usize, random: &mut Random, mut each: impl FnMut(u32)) -> usize {
        let mut found = 0;
        while found < wanted {
            let left = self.in_slab();
            if left == 0 {
                break;
            }
            let slot = self.nth_in_slab(random.below(left));
            each(slot);
            self.take_slot(slot);
            found += 1;
        }
        found
    }

    /// The n-th slot whose object is in the slab, of which there are more.
    fn nth_in_slab(&self, n: u32) -> u32 {
        let mut left = n;
        for (word, &bits) in (0..).zip(&self.free) {
            if left < bits.count_ones() {
                let lower = (0..left).fold(bits, |bits, _| bits & (bits - 1));
                return word * u64::BITS + lower.trailing_zeros();
            }
            left -= bits.count_ones();
        }
        panic!("invariant SLAB-2 broken: a slab has fewer than {n} objects in it, and said that it had more");
    }

    /// Takes one slot's object out. Nothing if it is not in.
    pub(super) fn take_slot(&mut self, slot: u32) {
        if self.has(slot) {
            self.free[Self::word(slot)] ^= Self::bit(slot);
            self.taken += 1;
        }
    }

    /// Puts a slot's object back.
    ///
    /// # Panics
    /// SLAB-1 is broken: the object is in the slab.
    pub(super) fn put(&mut self, slot: u32) {
        assert!(!self.has(slot), "invariant SLAB-1 broken: the object of slot {slot} is in its slab already");
        self.free[Self::word(slot)] |= Self::bit(slot);
        self.taken -= 1;
    }

    /// Whether a slot's object is in the slab.
    pub(super) fn has(&self, slot: u32) -> bool {
        self.free[Self::word(slot)] & Self::bit(slot) != 0
    }

    /// Objects in the slab.
    pub(super) fn in_slab(&self) -> u32 {
        self.free.iter().map(|bits| bits.count_ones()).sum()
    }

    const fn word(slot: u32) -> usize {
        (slot / u64::BITS) as usize % WORDS
    }

    const fn bit(slot: u32) -> u64 {
        1 << (slot % u64::BITS)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::vec::Vec;

    use super::*;

    /// A slab has this object, or has it not: the first words have gaps, one is full and one is empty.
    fn is_in(slot: u32) -> bool {
        match slot / u64::BITS {
            0 | 3 => slot.is_multiple_of(7),
            1 => true,
            2 => false,
            _ => slot.is_multiple_of(64) || slot == MAX_OBJECTS - 1,
        }
    }

    #[test]
    fn every_object_that_is_in_a_slab_is_found_by_its_number() {
        let mut state = SlabState { previous: None, next: None, taken: MAX_OBJECTS, free: [0; WORDS] };
        let slots: Vec<u32> = (0..MAX_OBJECTS).filter(|&slot| is_in(slot)).collect();
        for &slot in &slots {
            state.put(slot);
        }
        let found: Vec<u32> = (0..state.in_slab()).map(|n| state.nth_in_slab(n)).collect();
        assert_eq!(found, slots);
    }
}
