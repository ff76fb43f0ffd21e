//! What stands around an object, in its place of one stride.
//!
//! ```text
//!   0       front     +size                                                    stride
//!   | red zone | object | red zone | mark, if behind | state | who had it | padding |
//! ```

use core::ops::Range;

use super::spec::DebugFlags;
use super::track::RECORD_BYTES;
use crate::slab::layout::{Around, MARK, SlabLayout};

/// Bytes of the word that says what an object is.
pub(super) const STATE_BYTES: u32 = 8;

/// Bytes of a red zone behind an object, what aligns it not counted.
const ZONE: u32 = 8;

/// Offsets in the place of an object, whose red zone in front starts at 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::slab) struct Anatomy {
    /// The object.
    pub(super) object: (u32, u32),
    /// Where the red zone behind it ends: where it starts if there is none.
    pub(super) zone_end: u32,
    /// The word that says what it is.
    pub(super) state: u32,
    /// The records: of who allocated it, and of who freed it.
    pub(super) records: u32,
    /// Where padding starts.
    pub(super) padding: u32,
    /// Where the next place is.
    pub(super) stride: u32,
}

impl Anatomy {
    /// What these flags need around an object of this alignment.
    pub(in crate::slab) const fn around(flags: DebugFlags, align: u32) -> Around {
        let (front, zone) = if flags.contains(DebugFlags::RED_ZONE) { (align, ZONE) } else { (0, 0) };
        let state = if flags.intersects(DebugFlags::LARGER) { STATE_BYTES } else { 0 };
        let records = if flags.contains(DebugFlags::USER) { 2 * RECORD_BYTES } else { 0 };
        Around { front, zone, records: state + records }
    }

    /// The anatomy of objects that lie like this.
    pub(in crate::slab) fn of(layout: &SlabLayout, flags: DebugFlags) -> Self {
        let around = Self::around(flags, layout.front);
        let object = (layout.front, layout.front + layout.size);
        let behind = layout.front + layout.size.next_multiple_of(MARK) + around.zone;
        let zone_end = if around.zone > 0 { behind } else { object.1 };
        let state = if layout.mark > 0 { behind + MARK } else { behind };
        let (records, padding) = (state + STATE_BYTES, state + around.records);
        Self { object, zone_end, state, records, padding, stride: layout.stride }
    }

    pub(super) const fn object(&self) -> Range<u32> {
        self.object.0..self.object.1
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::slab::layout::WhileFree;
    use crate::units::Order;

    /// Of objects of 13 bytes, which no mark ends with.
    fn of(flags: DebugFlags) -> Anatomy {
        let around = Anatomy::around(flags, MARK);
        let layout = SlabLayout::new(13, MARK, WhileFree::Forgotten, around, Order::of(3)).expect("an object fits");
        Anatomy::of(&layout, flags)
    }

    #[test]
    fn a_red_zone_reaches_from_the_object_to_what_is_behind_and_ends_where_it_starts_if_there_is_none() {
        let zones = of(DebugFlags::RED_ZONE);
        assert_eq!((zones.object, zones.zone_end, zones.state), ((8, 21), 32, 32));
        let poison = of(DebugFlags::POISON);
        assert_eq!((poison.object, poison.zone_end, poison.state), ((0, 13), 13, 16));
    }

    #[test]
    fn two_records_stand_behind_the_state_and_only_where_they_are_asked_for() {
        let users = of(DebugFlags::USER);
        assert_eq!((users.state, users.records, users.padding), (16, 24, 24 + 2 * RECORD_BYTES));
        let poison = of(DebugFlags::POISON);
        assert_eq!((poison.state, poison.padding, poison.stride), (16, 24, 24));
    }
}
