//! How objects lie in a slab: slots of one stride, as many as fit, and from an address back to its slot without a
//! division.
//!
//! Cost: the slot of an address is one multiplication and one rotation, which also tell an address that is no object's.
//! Source: D. Lemire, O. Kaser, N. Kurz, "Faster remainder by direct computation", 2019 (divisibility by a constant);
//! H. Warren, "Hacker's Delight", section 10-17.

use crate::units::{Order, PAGE_SHIFT};

/// Objects that a slab has at most: what its bitmap has bits for.
pub(super) const MAX_OBJECTS: u32 = 512;

/// The largest order that a slab of several objects has: above, blocks are hard to come by.
const PREFERRED_ORDER: usize = 3;

/// Where objects lie in a slab.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct SlabLayout {
    /// From one object to the next, in bytes.
    pub(super) stride: u32,
    /// From the start of a slot to its object, in bytes.
    pub(super) front: u32,
    /// From an object's start to its mark, in bytes ([`mark`](super::mark)).
    pub(super) mark: u32,
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
    /// Slots of `stride` bytes, with `front` bytes before the object and its mark `mark` bytes behind its start.
    /// `None` if not even one fits into a block of `largest` order.
    pub(super) fn new(size: u32, stride: u32, front: u32, mark: u32, largest: Order) -> Option<Self> {
        let order = Self::best_order(stride, largest)?;
        let objects = (order_bytes(order) / stride).min(MAX_OBJECTS);
        let shift = stride.trailing_zeros();
        Some(Self { stride, front, mark, size, objects, order, inverse: inverse_of(stride >> shift), shift })
    }

    /// The smallest block that holds enough objects and wastes little; else the smallest that holds one.
    fn best_order(stride: u32, largest: Order) -> Option<Order> {
        let fits = |order: &Order| order_bytes(*order) >= stride;
        let preferred = || (0..=PREFERRED_ORDER.min(largest.index())).map(Order::of).filter(fits);
        let good = |order: &Order, enough: u32, share: u32| {
            let objects = (order_bytes(*order) / stride).min(MAX_OBJECTS);
            objects >= enough && order_bytes(*order) - objects * stride <= order_bytes(*order) / share
        };
        [(16, 16), (16, 8), (8, 8), (4, 4)]
            .into_iter()
            .find_map(|(enough, share)| preferred().find(|order| good(order, enough, share)))
            .or_else(|| (0..=largest.index()).map(Order::of).find(fits))
    }

    /// The slot whose object starts `offset` bytes behind the first slot's object; `None` if none does.
    #[inline(always)]
    pub(super) fn slot_at(&self, offset: u32) -> Option<u32> {
        let slot = offset.wrapping_mul(self.inverse).rotate_right(self.shift);
        // What is no multiple of the stride comes out larger than any multiple does.
        (slot < self.objects).then_some(slot)
    }

    /// The slot that `offset` lies in, wherever in it; `None` behind the last.
    pub(super) fn slot_around(&self, offset: u32) -> Option<u32> {
        let slot = offset.checked_add(self.front)? / self.stride;
        (slot < self.objects).then_some(slot)
    }
}

fn order_bytes(order: Order) -> u32 {
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

#[cfg(test)]
mod tests {
    use super::*;

    const LARGEST: Order = Order::of(10);

    fn plain(size: u32) -> SlabLayout {
        SlabLayout::new(size, size, 0, size - 8, LARGEST).expect("an object fits")
    }

    #[test]
    fn every_offset_of_a_slab_is_an_object_exactly_where_one_starts() {
        for size in (8..=700).step_by(8).chain([1024, 1032, 4096, 4104, 12288, 32768, 40000]) {
            let layout = plain(size);
            for offset in 0..order_bytes(layout.order) + 64 {
                let starts = offset.is_multiple_of(size) && offset / size < layout.objects;
                assert_eq!(layout.slot_at(offset), starts.then(|| offset / size), "{size}: {offset}");
            }
        }
    }

    #[test]
    fn an_offset_in_front_of_the_first_object_is_none() {
        for size in [8, 24, 64, 96, 4096] {
            for back in 1..3 * size {
                assert_eq!(plain(size).slot_at(0_u32.wrapping_sub(back)), None, "{size}: -{back}");
            }
        }
    }

    #[test]
    fn a_slab_wastes_at_most_a_quarter_unless_it_holds_less_than_four() {
        for size in (8..32 << 10).step_by(8) {
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
        assert_eq!(SlabLayout::new((4 << 20) + 8, (4 << 20) + 8, 0, 0, LARGEST), None);
    }
}
