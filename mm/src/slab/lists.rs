//! What a cache's lock guards: its slabs, by how full they are, and the sheaves that no CPU has.
//!
//! A slab's place follows from how many of its objects are taken, so nothing says it but that. Slabs are linked through
//! their descriptors: any one leaves from the middle.
//!
//! Invariants: SLAB-2 (counts), SLAB-3 (a slab is on the list of its place).
//! Cost: an object goes out of or into a slab in a handful of instructions once its slab is known; lists change only
//! when a slab becomes empty, partial or full.
#![expect(unsafe_code, reason = "the holder of the lock reaches the state of the cache's slabs")]

use super::cpu::Slot;
use super::descriptor::{SlabPointer, SlabState};
use super::layout::SlabLayout;
use super::sheaf::{Sheaf, SheafStack};
use crate::image::{Note, NoteFull, layout};
use crate::random::Random;

/// Where a slab stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Place {
    /// Every object is in the slab.
    Empty,
    Partial,
    /// No object is in the slab.
    Full,
}

impl Place {
    pub(super) const ALL: [Self; 3] = [Self::Empty, Self::Partial, Self::Full];
}

/// A doubly linked list of slabs.
#[derive(Debug)]
pub(super) struct SlabList {
    first: Option<SlabPointer>,
    len: u32,
}

/// Everything of a cache that its lock guards.
#[derive(Debug)]
pub(super) struct Slabs {
    lists: [SlabList; 3],
    /// Objects taken out of a slab that nobody asked for: the descriptor of a slab that describes itself.
    own: u32,
    /// Objects that are not in their slabs, but for those.
    pub(super) taken: u32,
    /// Sheaves that are full, and that are empty.
    pub(super) full_sheaves: SheafStack,
    pub(super) empty_sheaves: SheafStack,
    /// By which objects are chosen; the lowest of a slab without.
    random: Option<Random>,
}

// SAFETY: the slabs and sheaves on the lists are the lists' own, wherever those go.
unsafe impl Send for Slabs {}

/// The state of a slab of the cache whose lock is held.
///
/// # Safety
/// `_proof` is that cache's, and no other state of this slab is borrowed.
unsafe fn state<'s>(_proof: &'s mut SlabList, slab: &'s SlabPointer) -> &'s mut SlabState {
    // SAFETY: a slab on a list, or on its way to one, has a reference: its cache's.
    let slab = unsafe { slab.as_ref() };
    // SAFETY: as above.
    let owner = unsafe { slab.owner() };
    // SAFETY: the caller's promise.
    unsafe { owner.state() }
}

impl SlabList {
    pub(super) const fn new() -> Self {
        Self { first: None, len: 0 }
    }

    pub(super) const fn len(&self) -> u32 {
        self.len
    }

    pub(super) fn push(&mut self, slab: SlabPointer) {
        let next = self.first.replace(slab);
        if let Some(next) = &next {
            // SAFETY: the list is borrowed, and its slabs with it.
            unsafe { state(self, next) }.previous = Some(slab);
        }
        // SAFETY: as above, it has just become one of them.
        let pushed = unsafe { state(self, &slab) };
        (pushed.previous, pushed.next) = (None, next);
        self.len += 1;
    }

    fn remove(&mut self, slab: SlabPointer) {
        // SAFETY: the list is borrowed, and its slabs with it.
        let removed = unsafe { state(self, &slab) };
        let (previous, next) = (removed.previous.take(), removed.next.take());
        let to_here = match &previous {
            // SAFETY: as above.
            Some(previous) => &mut unsafe { state(self, previous) }.next,
            None => &mut self.first,
        };
        assert!(*to_here == Some(slab), "invariant SLAB-3 broken: {slab:p} is not behind the slab that it says");
        *to_here = next;
        if let Some(next) = &next {
            // SAFETY: as above.
            let back = &mut unsafe { state(self, next) }.previous;
            assert!(*back == Some(slab), "invariant SLAB-3 broken: {slab:p} is not in front of the slab that it says");
            *back = previous;
        }
        self.len -= 1;
    }

    pub(super) fn pop(&mut self) -> Option<SlabPointer> {
        let slab = self.first?;
        self.remove(slab);
        Some(slab)
    }

    /// Every slab, from the first.
    pub(super) fn iter(&mut self) -> impl Iterator<Item = SlabPointer> {
        let mut next = self.first;
        core::iter::from_fn(move || {
            let slab = next?;
            // SAFETY: the list is borrowed, and its slabs with it.
            next = unsafe { state(self, &slab) }.next;
            Some(slab)
        })
    }
}

impl Slabs {
    /// No slabs; those to come have `own` objects taken out by themselves.
    pub(super) const fn new(own: u32) -> Self {
        Self {
            lists: [const { SlabList::new() }; 3],
            own,
            taken: 0,
            full_sheaves: SheafStack::new(),
            empty_sheaves: SheafStack::new(),
            random: None,
        }
    }

    /// No slabs; those to come give their objects away in a random order.
    pub(super) const fn shuffled(random: Random) -> Self {
        Self { random: Some(random), ..Self::new(0) }
    }

    /// For who reads an image of memory.
    pub(super) fn write_note(note: &mut Note) -> Result<(), NoteFull> {
        layout!(note, Self as "Slabs": lists, own, taken, full_sheaves, empty_sheaves)?;
        layout!(note, SlabList as "SlabList": first, len)?;
        Sheaf::write_note(note)
    }

    pub(super) fn list(&mut self, place: Place) -> &mut SlabList {
        &mut self.lists[place as usize]
    }

    /// Slabs there are.
    pub(super) fn count(&self) -> u32 {
        self.lists.iter().map(SlabList::len).sum()
    }

    /// Slabs in use or not, by place.
    pub(super) const fn count_of(&self, place: Place) -> u32 {
        self.lists[place as usize].len()
    }

    pub(super) const fn place(&self, taken: u32, layout: &SlabLayout) -> Place {
        if taken == self.own {
            Place::Empty
        } else if taken == layout.objects {
            Place::Full
        } else {
            Place::Partial
        }
    }

    /// Adds a slab that is on no list.
    pub(super) fn add(&mut self, slab: SlabPointer, layout: &SlabLayout) {
        // SAFETY: the slab is the caller's, who holds the lock.
        let taken = unsafe { state(&mut self.lists[0], &slab) }.taken;
        self.taken += taken - self.own;
        let place = self.place(taken, layout);
        self.list(place).push(slab);
    }

    /// Takes up to `wanted` objects out of slabs, partial ones first.
    pub(super) fn take(&mut self, wanted: usize, layout: &SlabLayout, mut each: impl FnMut(Slot)) {
        let mut left = wanted;
        let mut random = self.random;
        while left > 0 {
            let partial = self.list(Place::Partial).first;
            let Some(slab) = partial.or(self.list(Place::Empty).first) else { break };
            // SAFETY: the slab is on a list of this cache, so there is a reference.
            let descriptor = unsafe { slab.as_ref() };
            // SAFETY: as above.
            let first = unsafe { descriptor.owner() }.first();
            let found = self.with_state(slab, layout, |state| {
                // SAFETY: the slot is below the slab's objects.
                let each = |slot| each(unsafe { first.add(slot as usize * layout.stride as usize) });
                match &mut random {
                    Some(random) => state.take_at_random(left, random, each),
                    None => state.take(left, each),
                }
            });
            assert!(found > 0, "invariant SLAB-2 broken: {slab:p} is not full, and has no object");
            left -= found;
        }
        self.random = random;
    }

    /// Puts the object of `slot` back into its slab.
    ///
    /// # Panics
    /// SLAB-1 is broken: it is there already.
    pub(super) fn put(&mut self, slab: SlabPointer, slot: u32, layout: &SlabLayout) {
        self.with_state(slab, layout, |state| state.put(slot));
    }

    /// Takes the object of `slot` out of its slab, which may have it or not.
    pub(super) fn take_slot(&mut self, slab: SlabPointer, slot: u32, layout: &SlabLayout) {
        self.with_state(slab, layout, |state| state.take_slot(slot));
    }

    /// Whether the object of `slot` is in its slab.
    pub(super) fn has(&mut self, slab: SlabPointer, slot: u32) -> Presence {
        // SAFETY: the lists are borrowed, and the slab is on one of them.
        if unsafe { state(&mut self.lists[0], &slab) }.has(slot) { Presence::Here } else { Presence::Elsewhere }
    }

    /// The slab behind one of these lists' slabs.
    pub(super) fn behind(&mut self, slab: SlabPointer) -> Option<SlabPointer> {
        // SAFETY: the lists are borrowed, and the slab is on one of them.
        unsafe { state(&mut self.lists[0], &slab) }.next
    }

    /// Objects that are not in their slabs, those that nobody asked for among them.
    pub(super) fn taken_with_own(&self) -> u32 {
        self.taken + self.own * self.count()
    }

    /// What the slab itself says of its counts.
    pub(super) fn counts(&mut self, slab: SlabPointer) -> SlabCounts {
        // SAFETY: as above.
        let state = unsafe { state(&mut self.lists[0], &slab) };
        SlabCounts { taken: state.taken, in_slab: state.in_slab() }
    }

    /// Takes empty slabs off their list, for their pages to be given back, while more than `keep` are left.
    pub(super) fn take_empty(&mut self, keep: u32, discarded: &mut SlabList) {
        while self.count_of(Place::Empty) > keep
            && let Some(slab) = self.list(Place::Empty).pop()
        {
            discarded.push(slab);
        }
    }

    /// Changes what a slab of these lists holds, and moves it to the list where it then belongs.
    fn with_state<R>(&mut self, slab: SlabPointer, layout: &SlabLayout, change: impl FnOnce(&mut SlabState) -> R) -> R {
        // SAFETY: the lists are borrowed, and the slab is on one of them.
        let changing = unsafe { state(&mut self.lists[0], &slab) };
        let before = changing.taken;
        let result = change(changing);
        let after = changing.taken;
        self.taken = (self.taken + after).wrapping_sub(before);
        let (from, to) = (self.place(before, layout), self.place(after, layout));
        if from != to {
            // Whether anybody has any of its objects hangs on that.
            let SlabCounts { taken, in_slab } = self.counts(slab);
            let is_right = taken.checked_add(in_slab) == Some(layout.objects);
            assert!(is_right, "invariant SLAB-2 broken: {slab:p} does not have the objects that it counts");
            self.list(from).remove(slab);
            self.list(to).push(slab);
        }
        result
    }

    /// Every sheaf that no CPU has.
    pub(super) fn sheaves(&self) -> impl Iterator<Item = &Sheaf> {
        self.full_sheaves.iter().chain(self.empty_sheaves.iter())
    }
}

/// Whether an object is in its slab.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Presence {
    Here,
    Elsewhere,
}

/// What a slab says of itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct SlabCounts {
    pub(super) taken: u32,
    pub(super) in_slab: u32,
}
