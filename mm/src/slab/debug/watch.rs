//! The bytes of a debugged cache: what they are to be, writing them, and finding one that is not.
//!
//! All that one state of an object asks for stands in one table, so what is checked is what was written.
#![expect(unsafe_code, reason = "writes and reads what stands around objects")]

use core::ops::Range;
use core::panic::Location;
use core::ptr::NonNull;
use core::slice;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::anatomy::{Anatomy, STATE_BYTES};
use super::corruption::{Byte, Part};
use super::spec::DebugFlags;
use super::track::{self, History, RECORD_BYTES, Track};
use crate::slab::cache::Constructor;
use crate::slab::layout::{SlabLayout, order_bytes};
use crate::units::CpuId;

const RED_INACTIVE: u8 = 0xbb;
const RED_ACTIVE: u8 = 0xcc;
const POISON_FREE: u8 = 0x6b;
const POISON_END: u8 = 0xa5;
const POISON_PADDING: u8 = 0x5a;

/// What an object is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Use {
    Free,
    Allocated,
    /// Found overwritten while it was free: nobody gets it any more.
    Isolated,
}

impl Use {
    /// The word that stands behind an object: nothing that is likely to be written by accident.
    const fn word(self) -> u64 {
        match self {
            Self::Free => 0x9e1f_7a3b_5c84_d260,
            Self::Allocated => 0x3b8c_e5d1_7f42_96a0,
            Self::Isolated => 0xd472_186e_a9b3_0fc5,
        }
    }

    const fn red(self) -> u8 {
        if matches!(self, Self::Allocated) { RED_ACTIVE } else { RED_INACTIVE }
    }
}

/// A byte that is not what it is to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Finding {
    pub(super) part: Part,
    /// From the start of the object's place.
    pub(super) at: u32,
    pub(super) byte: Option<Byte>,
}

/// The start of an object's place; the bytes around the object are whoever's holds the cache's lock, and the object's
/// own while it is free.
pub(super) type Where = NonNull<u8>;

/// How a cache is debugged.
#[derive(Debug)]
pub(in crate::slab) struct Watch {
    pub(in crate::slab) flags: DebugFlags,
    pub(super) anatomy: Anatomy,
    /// Whether a free object's own bytes are anybody's.
    poisoned: Poisoned,
    /// Allocations and frees so far; changes under the cache's lock.
    operations: AtomicU64,
    /// Objects that are isolated; changes under the cache's lock.
    isolated: AtomicU32,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Poisoned {
    Objects,
    /// The constructor's work is to stay.
    PaddingOnly,
    Nothing,
}

impl Watch {
    pub(in crate::slab) fn new(layout: &SlabLayout, flags: DebugFlags, constructor: Option<Constructor>) -> Self {
        let poisoned = match (flags.contains(DebugFlags::POISON), constructor) {
            (false, _) => Poisoned::Nothing,
            (true, None) => Poisoned::Objects,
            (true, Some(_)) => Poisoned::PaddingOnly,
        };
        let anatomy = Anatomy::of(layout, flags);
        Self { flags, anatomy, poisoned, operations: AtomicU64::new(0), isolated: AtomicU32::new(0) }
    }

    /// Objects that nobody has and nobody gets.
    pub(in crate::slab) fn isolated(&self) -> u32 {
        self.isolated.load(Ordering::Relaxed)
    }

    pub(super) fn count_isolated(&self) {
        self.isolated.fetch_add(1, Ordering::Relaxed);
    }

    /// Records the next operation.
    pub(super) fn track(&self, location: &'static Location<'static>, cpu: CpuId) -> Track {
        let operation = self.operations.fetch_add(1, Ordering::Relaxed) + 1;
        Track { location, cpu, operation }
    }

    /// What every byte around an object of this use is to be, and those of the object if it is free.
    fn table(&self, now: Use) -> impl Iterator<Item = (Part, Range<u32>, u8)> + use<> {
        let anatomy = &self.anatomy;
        let object = anatomy.object();
        let last = object.end - 1;
        let zones = self.flags.contains(DebugFlags::RED_ZONE);
        let poison = now == Use::Free && self.poisoned == Poisoned::Objects;
        let padding = self.poisoned != Poisoned::Nothing;
        [
            (zones, Part::LeftRedzone, 0..object.start, now.red()),
            (zones, Part::RightRedzone, object.end..anatomy.zone_end, now.red()),
            (poison, Part::Poison, object.start..last, POISON_FREE),
            (poison, Part::Poison, last..object.end, POISON_END),
            (padding, Part::Padding, anatomy.padding..anatomy.stride, POISON_PADDING),
        ]
        .into_iter()
        .filter_map(|(there, part, range, byte)| there.then_some((part, range, byte)))
    }

    fn has_state(&self) -> bool {
        self.flags.intersects(DebugFlags::LARGER)
    }

    /// Makes the bytes around an object what its use asks for, and those of the object if it is free.
    ///
    /// # Safety
    /// The place is one of the cache's; its lock is held or the slab is new, and the object is nobody's if it is free.
    pub(super) unsafe fn set(&self, place: Where, now: Use) {
        for (_, range, byte) in self.table(now) {
            // SAFETY: the range lies in the place, and its bytes are the caller's.
            let start = unsafe { place.add(range.start as usize) };
            // SAFETY: as above.
            unsafe { start.write_bytes(byte, range.len()) };
        }
        if self.has_state() {
            // SAFETY: as above.
            let state = unsafe { place.add(self.anatomy.state as usize) };
            // SAFETY: as above, and states are aligned to eight.
            unsafe { state.cast::<u64>().write(now.word()) };
        }
    }

    /// What an object that is not in its slab is.
    ///
    /// # Safety
    /// As for [`set`](Self::set).
    pub(super) unsafe fn state(&self, place: Where) -> Use {
        if !self.has_state() {
            return Use::Allocated;
        }
        // SAFETY: a state lies in the place, and is the caller's.
        let state = unsafe { place.add(self.anatomy.state as usize) };
        // SAFETY: as above, and states are aligned to eight.
        let found = unsafe { state.cast::<u64>().read() };
        if found == Use::Isolated.word() { Use::Isolated } else { Use::Allocated }
    }

    /// Looks for a byte that is not what the object's use asks for.
    ///
    /// # Safety
    /// As for [`set`](Self::set), which was called with this use.
    pub(super) unsafe fn check(&self, place: Where, now: Use) -> Option<Finding> {
        for (part, range, expected) in self.table(now) {
            // SAFETY: the range lies in the place, was written, and is the caller's.
            if let Some(found) = unsafe { first_wrong(place, range, expected) } {
                return Some(Finding { part, ..found });
            }
        }
        if self.has_state() && self.flags.contains(DebugFlags::CONSISTENCY) {
            let state = self.anatomy.state;
            for (at, expected) in (state..state + STATE_BYTES).zip(now.word().to_ne_bytes()) {
                // SAFETY: as above.
                if let Some(found) = unsafe { first_wrong(place, at..at + 1, expected) } {
                    return Some(Finding { part: Part::State, ..found });
                }
            }
        }
        if self.flags.contains(DebugFlags::USER) {
            for number in 0..2 {
                // SAFETY: as above.
                let record = unsafe { self.record(place, number) };
                // SAFETY: a record was written there, when the slab was made if not later.
                if unsafe { track::read(record) }.is_err() {
                    let at = self.anatomy.records + number * RECORD_BYTES;
                    return Some(Finding { part: Part::Record, at, byte: None });
                }
            }
        }
        None
    }

    /// The bytes of a slab behind its last object.
    ///
    /// # Safety
    /// The slab starts there; its cache's lock is held.
    pub(super) unsafe fn check_end(&self, slab: Where, layout: &SlabLayout) -> Option<Finding> {
        if self.poisoned == Poisoned::Nothing {
            return None;
        }
        // SAFETY: the range is the end of the slab, which was written when it was made.
        let found = unsafe { first_wrong(slab, Self::end_of(layout), POISON_PADDING) };
        found.map(|found| Finding { part: Part::SlabPadding, ..found })
    }

    /// Writes the bytes of a slab behind its last object.
    ///
    /// # Safety
    /// As for [`check_end`](Self::check_end).
    pub(super) unsafe fn set_end(&self, slab: Where, layout: &SlabLayout) {
        let range = Self::end_of(layout);
        // SAFETY: the range is the end of the slab, which is the caller's.
        let start = unsafe { slab.add(range.start as usize) };
        // SAFETY: as above.
        unsafe { start.write_bytes(POISON_PADDING, range.len()) };
    }

    const fn end_of(layout: &SlabLayout) -> Range<u32> {
        layout.objects * layout.stride..order_bytes(layout.order)
    }

    /// # Safety
    /// The place is one of the cache's.
    unsafe fn record(&self, place: Where, number: u32) -> NonNull<u8> {
        let at = self.anatomy.records + number * RECORD_BYTES;
        // SAFETY: records lie in the place.
        unsafe { place.add(at as usize) }
    }

    /// Records who allocated an object or freed it, and who that was before.
    ///
    /// # Safety
    /// As for [`set`](Self::set).
    pub(super) unsafe fn note(&self, place: Where, history: History) {
        if !self.flags.contains(DebugFlags::USER) {
            return;
        }
        for (number, track) in (0..).zip([history.allocated, history.freed]) {
            // SAFETY: the caller's promise.
            let record = unsafe { self.record(place, number) };
            // SAFETY: as above: a record lies there, aligned to eight.
            unsafe { track::write(record, track) };
        }
    }

    /// Who had an object; of a broken record nobody knows.
    ///
    /// # Safety
    /// As for [`set`](Self::set), and [`note`](Self::note) was called.
    pub(super) unsafe fn history(&self, place: Where) -> History {
        if !self.flags.contains(DebugFlags::USER) {
            return History::default();
        }
        let [allocated, freed] = [0, 1].map(|number| {
            // SAFETY: the caller's promise.
            let record = unsafe { self.record(place, number) };
            // SAFETY: the caller's promise.
            unsafe { track::read(record) }.unwrap_or(None)
        });
        History { allocated, freed }
    }
}

/// The first byte of a range that is not the expected one.
///
/// # Safety
/// The range from `place` is initialised, and the caller's to read.
unsafe fn first_wrong(place: Where, range: Range<u32>, expected: u8) -> Option<Finding> {
    // SAFETY: the caller's promise.
    let start = unsafe { place.add(range.start as usize) };
    // SAFETY: as above.
    let bytes = unsafe { slice::from_raw_parts(start.as_ptr(), range.len()) };
    // Compared in runs: nearly all of them are as they were left.
    let right = [expected; 64];
    let run = bytes.chunks(right.len()).position(|run| *run != right[..run.len()])?;
    let mut rest = (range.start..).zip(bytes).skip(run * right.len());
    let (at, found) = rest.find(|&(_, &byte)| byte != expected)?;
    Some(Finding { part: Part::Padding, at, byte: Some(Byte { found: *found, expected }) })
}
