//! How objects lie in a slab: slots of one stride, as many as fit, and from an address back to its slot without a
//! division.
//!
//! A slot is named by the address of its *mark*, eight bytes of which the upper four say whether its object is free. The mark
//! of an object that may be overwritten while it is free is its first eight bytes. A constructed object keeps what it is, so
//! its mark stands behind it; or behind the part that it keeps, if that is not all.
//!
//! A debugged cache has bytes of its own around each object (`debug`): a red zone in front, and more behind.
//!
//! Cost: the slot of an address is one multiplication and one rotation, which also tell an address that is no object's.
//! Source: D. Lemire, O. Kaser, N. Kurz, "Faster remainder by direct computation", 2019 (divisibility by a constant);
//! H. Warren, "Hacker's Delight", section 10-17.

use crate::image::{Note, NoteFull, layout};
use crate::units::{Order, PAGE_SHIFT};

/// Objects that a slab has at most: what its bitmap has bits for.
pub(super) const MAX_OBJECTS: u32 = 512;

/// The largest order that a slab of several objects has: above, blocks are hard to come by.
const PREFERRED_ORDER: usize = 3;

/// Bytes of a mark.
pub(super) const MARK: u32 = 8;

/// Whether an object keeps its contents while it is free.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum WhileFree {
    Forgotten,
    /// So many bytes of it: a multiple of a mark's.
    KeptTo(u32),
    Kept,
}

/// Bytes that a cache keeps around each object, besides its mark.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Around {
    /// In front: a multiple of the alignment.
    pub(super) front: u32,
    /// Behind the object, and in front of a mark that stands there.
    pub(super) zone: u32,
    /// Behind that.
    pub(super) records: u32,
}

/// Where objects lie in a slab.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct SlabLayout {
    /// From one slot to the next, in bytes.
    pub(super) stride: u32,
    /// From an object's start to its mark, in bytes.
    pub(super) mark: u32,
    /// From the start of a slab to that of its first object, in bytes.
    pub(super) front: u32,
    /// Bytes of an object.
    pub(super) size: u32,
    /// Slots of a slab.
    pub(super) objects: u32,
    /// The slab's pages.
    pub(super) order: Order,
    /// The inverse of the stride's odd part, modulo 2^32.
    inverse: u32,
    /// The stride's trailing zeros.
    shift: u32,
}

impl SlabLayout {
    /// Objects of `size` bytes, aligned to `align`. `None` if not even one fits into a block of `largest` order, or the
    /// alignment is none.
    pub(super) fn new(size: u32, align: u32, contents: WhileFree, around: Around, largest: Order) -> Option<Self> {
        let align = align.max(MARK);
        if size == 0 || !align.is_power_of_two() {
            return None;
        }
        let rounded = size.checked_next_multiple_of(MARK)?;
        let (front, zone_end) = (around.front, rounded.checked_add(around.zone)?);
        let (mark, bytes) = match contents {
            WhileFree::Forgotten => (0, zone_end),
            WhileFree::KeptTo(kept) if kept.checked_add(MARK)? <= rounded => (kept, zone_end),
            WhileFree::KeptTo(_) | WhileFree::Kept => (zone_end, zone_end.checked_add(MARK)?),
        };
        let stride = bytes.checked_add(around.records)?.checked_add(front)?.checked_next_multiple_of(align)?;
        let order = Self::best_order(stride, largest)?;
        if align > order_bytes(order) {
            return None;
        }
        let objects = (order_bytes(order) / stride).min(MAX_OBJECTS);
        let shift = stride.trailing_zeros();
        Some(Self { stride, mark, front, size, objects, order, inverse: inverse_of(stride >> shift), shift })
    }

    /// For who reads an image of memory.
    pub(super) fn write_note(note: &mut Note) -> Result<(), NoteFull> {
        layout!(note, Self as "SlabLayout": stride, mark, front, objects, order)
    }

    /// The bits that are clear in every object's address and in no other's, of those in a slab; all bits if there are
    /// no such bits.
    pub(super) const fn address_mask(&self) -> usize {
        let exact = self.stride.is_power_of_two() && self.mark == 0;
        if exact && self.objects * self.stride == order_bytes(self.order) {
            self.stride as usize - 1
        } else {
            usize::MAX
        }
    }

    /// The smallest block that holds enough objects, so that what is left of it, less than one more, is little; else the smallest
    /// that holds one.
    fn best_order(stride: u32, largest: Order) -> Option<Order> {
        let holds = |order: &Order, enough: u32| order_bytes(*order) / stride >= enough;
        let preferred = || (0..=PREFERRED_ORDER.min(largest.index())).map(Order::of);
        [16, 8, 4]
            .into_iter()
            .find_map(|enough| preferred().find(|order| holds(order, enough)))
            .or_else(|| (0..=largest.index()).map(Order::of).find(|order| holds(order, 1)))
    }

    /// The slot that is `offset` bytes behind the first one; `None` if there is none.
    #[inline(always)]
    pub(super) fn slot_at(&self, offset: u32) -> Option<u32> {
        let slot = offset.wrapping_mul(self.inverse).rotate_right(self.shift);
        // What is no multiple of the stride comes out larger than any multiple does.
        (slot < self.objects).then_some(slot)
    }
}

pub(super) const fn order_bytes(order: Order) -> u32 {
    order.pages() << PAGE_SHIFT
}

/// The number that an odd one is multiplied with to give 1, modulo 2^32. Newton's iteration doubles the right bits:
/// any odd number is its own inverse modulo 8.
const fn inverse_of(odd: u32) -> u32 {
    let mut inverse = odd;
    let mut right_bits = 3;
    while right_bits < 32 {
        inverse = inverse.wrapping_mul(2_u32.wrapping_sub(odd.wrapping_mul(inverse)));
        right_bits *= 2;
    }
    inverse
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::host::scaled;

    const LARGEST: Order = Order::of(10);
    /// One offset, or size, in so many is looked at.
    const STEP: usize = scaled(1, 249);

    fn plain(size: u32) -> SlabLayout {
        SlabLayout::new(size, 8, WhileFree::Forgotten, Around::default(), LARGEST).expect("an object fits")
    }

    #[test]
    fn every_offset_of_a_slab_is_an_object_exactly_where_one_starts() {
        for size in (8..=700).step_by(8).chain([1024, 1032, 4096, 4104, 12288, 32768, 40000]) {
            let layout = plain(size);
            for offset in (0..order_bytes(layout.order) + 64).step_by(STEP) {
                let starts = offset.is_multiple_of(size) && offset / size < layout.objects;
                assert_eq!(layout.slot_at(offset), starts.then(|| offset / size), "{size}: {offset}");
            }
        }
    }

    #[test]
    fn an_offset_in_front_of_the_first_object_is_none() {
        for size in [8, 24, 64, 96, 4096] {
            for back in (1..3 * size).step_by(STEP) {
                assert_eq!(plain(size).slot_at(0_u32.wrapping_sub(back)), None, "{size}: -{back}");
            }
        }
    }

    #[test]
    fn a_slab_wastes_at_most_a_quarter_unless_it_holds_less_than_four() {
        for size in (8..32 << 10).step_by(8 * STEP) {
            let layout = plain(size);
            let waste = order_bytes(layout.order) - layout.objects * size;
            assert!(layout.objects < 4 || waste * 4 <= order_bytes(layout.order), "{layout:?}");
            assert!(layout.objects >= 1 && layout.objects <= MAX_OBJECTS, "{layout:?}");
            assert!(layout.objects * size <= order_bytes(layout.order), "{layout:?}");
        }
    }

    #[test]
    fn the_sizes_people_use_get_the_slabs_they_expect() {
        let shape = |size| (plain(size).order.index(), plain(size).objects);
        assert_eq!([8, 64, 256].map(shape), [(0, 512), (0, 64), (0, 16)]);
        assert_eq!([1024, 4096, 8192].map(shape), [(2, 16), (3, 8), (3, 4)]);
        assert_eq!(shape(4 << 20), (10, 1));
        for (size, align) in [((4 << 20) + 8, 8), (0, 8), (8, 24), (8, 8 << 20), (u32::MAX, 8)] {
            assert_eq!(
                SlabLayout::new(size, align, WhileFree::Forgotten, Around::default(), LARGEST),
                None,
                "{size} {align}"
            );
        }
    }

    #[test]
    fn the_address_mask_tells_objects_from_what_is_between_them_wherever_it_is_used() {
        for size in (8..=700).step_by(8).chain([1024, 2048, 4096, 8192]) {
            let layout = plain(size);
            let mask = layout.address_mask();
            assert_eq!(mask == usize::MAX, !size.is_power_of_two(), "{size}");
            for offset in (0..order_bytes(layout.order)).step_by(STEP).filter(|_| mask != usize::MAX) {
                assert_eq!(offset as usize & mask == 0, layout.slot_at(offset).is_some(), "{size}: {offset}");
            }
        }
        let kept = SlabLayout::new(64, 64, WhileFree::Kept, Around::default(), LARGEST).expect("an object fits");
        assert_eq!((kept.address_mask(), kept.mark, kept.stride), (usize::MAX, 64, 128));
        let part = |to| SlabLayout::new(64, 16, WhileFree::KeptTo(to), Around::default(), LARGEST).expect("it fits");
        assert_eq!((part(16).address_mask(), part(16).mark, part(16).stride), (usize::MAX, 16, 64));
        assert_eq!([56, 64].map(|to| (part(to).mark, part(to).stride)), [(56, 64), (64, 80)]);
    }
}
