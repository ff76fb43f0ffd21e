//! A random order for any number of frames, without memory for it.

use crate::units::{Pfn, PfnRange};

/// Visits each frame of a range once, in an order that the key decides.
///
/// A counter runs through the next power of two; its values pass through steps that can each be undone (exclusive-or,
/// odd multiple, right shift onto itself), so no two meet; those beyond the range are skipped: fewer than every second.
#[derive(Debug)]
pub(super) struct Permutation {
    range: PfnRange,
    key: u64,
    bits: u32,
    counter: u64,
}

impl Permutation {
    pub(super) fn of(range: PfnRange, key: u64) -> Self {
        let bits = u64::from(range.pages()).next_power_of_two().trailing_zeros().max(1);
        Self { range, key, bits, counter: 0 }
    }

    fn scatter(&self, counter: u64) -> u64 {
        const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
        let mask = (1 << self.bits) - 1;
        let half = self.bits.div_ceil(2);
        (0..3).fold(counter, |value, round: u32| {
            let value = value ^ (self.key >> (round * 16)) & mask;
            let value = value.wrapping_mul(ODD ^ self.key << 1) & mask;
            value ^ value >> half
        })
    }
}

impl Iterator for Permutation {
    type Item = Pfn;

    fn next(&mut self) -> Option<Pfn> {
        while self.counter < 1 << self.bits {
            let place = self.scatter(self.counter);
            self.counter += 1;
            if let Ok(place) = u32::try_from(place)
                && place < self.range.pages()
            {
                return Some(self.range.start.plus(place));
            }
        }
        None
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::vec;
    use std::vec::Vec;

    use super::*;

    #[test]
    fn every_frame_comes_exactly_once_whatever_the_size_and_key() {
        for pages in [0, 1, 2, 3, 5, 16, 17, 1000, 4096, 4097] {
            for key in [0, 1, 42, u64::MAX, 0xdead_beef_0bad_cafe] {
                let range = PfnRange::new(Pfn::new(7), Pfn::new(7 + pages));
                let mut seen = vec![false; pages as usize];
                for pfn in Permutation::of(range, key) {
                    let place = &mut seen[pfn.index() - 7];
                    assert!(!*place, "{pfn:?} twice in {range:?}, key {key}");
                    *place = true;
                }
                assert!(seen.into_iter().all(|seen| seen));
            }
        }
    }

    #[test]
    fn neighbours_seldom_follow_each_other() {
        let range = PfnRange::new(Pfn::new(0), Pfn::new(4096));
        let order: Vec<u32> = Permutation::of(range, 1).map(Pfn::number).collect();
        let neighbours = order.windows(2).filter(|pair| pair[0].abs_diff(pair[1]) == 1).count();
        assert!(neighbours < 64, "{neighbours} pairs of neighbours");
    }
}
