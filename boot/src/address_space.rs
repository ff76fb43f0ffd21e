//! Who has which part of the kernel's virtual address space.
//!
//! A short list of claims: fixed ones as they are asked for, the others at the first free place of the dynamic range,
//! or, with entropy, at the first free place from a random one on.
//!
//! Cost: O(claims) for each claim passed over, of which there are a few dozen.

use arrayvec::ArrayVec;
use x86_64::VirtAddr;

use crate::error::Error;
use crate::kernel_image::MAX_SEGMENTS;
use crate::segment::PAGE;

const MAX_CLAIMS: usize = MAX_SEGMENTS + 16;

/// Where dynamic mappings start unless the kernel says otherwise: level-4 entry 1. Entry 0 stays free for the lower
/// addresses that user space and null pointers have.
const DYNAMIC_START: u64 = 1 << 39;
const DYNAMIC_END: u64 = 0xffff_ffff_ffff_f000;

/// The bits of an address that count; the others repeat the highest of them.
const ADDRESS_BITS: u64 = (1 << 48) - 1;

/// A mapping to find room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// What it is, for the error message.
    pub what: &'static str,
    /// Its length in bytes.
    pub length: u64,
    /// What its address must be a multiple of, in bytes: a power of two, at least a page.
    pub align: u64,
}

impl Extent {
    fn refused(self, at: Option<u64>, reason: &'static str) -> Error {
        Error::Placement { what: self.what, at, length: self.length, reason }
    }
}

/// Random bits for the places of dynamic mappings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entropy(pub u64);

impl Entropy {
    /// The next 64 bits. Source: S. Vigna, splitmix64.
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

/// First and last byte.
#[derive(Debug, Clone, Copy)]
struct Claim {
    first: u64,
    last: u64,
}

/// The address space, as far as it is given away.
///
/// # Invariants
/// Claims do not overlap.
#[derive(Debug)]
pub struct AddressSpace {
    claims: ArrayVec<Claim, MAX_CLAIMS>,
    start: u64,
    end: u64,
    entropy: Option<Entropy>,
}

impl AddressSpace {
    /// An address space whose dynamic mappings lie from `start` up to `end`.
    pub fn new(start: Option<u64>, end: Option<u64>, entropy: Option<Entropy>) -> Self {
        let mut claims = ArrayVec::new();
        // The first page catches null pointers; between the two halves there are no addresses.
        claims.push(Claim { first: 0, last: PAGE - 1 });
        claims.push(Claim { first: 1 << 47, last: !(1 << 47) });
        Self { claims, start: start.unwrap_or(DYNAMIC_START), end: end.unwrap_or(DYNAMIC_END), entropy }
    }

    /// Whether nobody has any byte of `length` bytes from `at` on.
    pub fn is_free(&self, at: u64, length: u64) -> bool {
        at.checked_add(length.saturating_sub(1)).is_some_and(|last| self.in_the_way(at, last).is_none())
    }

    /// Claims a fixed place.
    ///
    /// # Errors
    /// [`Error::Placement`] if it is misaligned, no address, or taken.
    pub fn claim(&mut self, extent: Extent, at: u64) -> Result<VirtAddr, Error> {
        if extent.length == 0 || !at.is_multiple_of(extent.align) {
            return Err(extent.refused(Some(at), "empty or misaligned"));
        }
        if !self.is_free(at, extent.length) {
            return Err(extent.refused(Some(at), "overlaps another mapping, the first page or no addresses at all"));
        }
        let claim = Claim { first: at, last: at + (extent.length - 1) };
        self.claims.try_push(claim).map_err(|_| extent.refused(Some(at), "too many mappings"))?;
        VirtAddr::try_new(at).map_err(|_| extent.refused(Some(at), "not a canonical address"))
    }

    /// Claims a place in the dynamic range.
    ///
    /// # Errors
    /// [`Error::Placement`] if the range has no room.
    pub fn place(&mut self, extent: Extent) -> Result<VirtAddr, Error> {
        let start = self.start;
        let (low, high) = (start & ADDRESS_BITS, self.end & ADDRESS_BITS);
        let from = self.entropy.as_mut().and_then(|entropy| {
            // Without the hole: nearly every number in it would lead to the first address behind it.
            let choices = high.checked_sub(low)?.checked_sub(extent.length)?.checked_add(1)?;
            Some(VirtAddr::new_truncate(low + entropy.next() % choices).as_u64())
        });
        let from = from.filter(|from| (start..self.end).contains(from));
        let at = from.and_then(|from| self.first_fit(extent, from)).or_else(|| self.first_fit(extent, start));
        self.claim(extent, at.ok_or(extent.refused(None, "no room in the dynamic range"))?)
    }

    fn first_fit(&self, extent: Extent, from: u64) -> Option<u64> {
        let mut at = from.checked_next_multiple_of(extent.align)?;
        loop {
            let last = at.checked_add(extent.length.checked_sub(1)?)?;
            if last >= self.end {
                return None;
            }
            match self.in_the_way(at, last) {
                None => return Some(at),
                Some(claim) => at = claim.last.checked_add(1)?.checked_next_multiple_of(extent.align)?,
            }
        }
    }

    fn in_the_way(&self, first: u64, last: u64) -> Option<Claim> {
        self.claims.iter().copied().find(|claim| claim.first <= last && first <= claim.last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pages(pages: u64) -> Extent {
        Extent { what: "a test", length: pages * PAGE, align: PAGE }
    }

    #[test]
    fn dynamic_mappings_fill_the_range_around_fixed_ones_and_then_fail() {
        let mut space = AddressSpace::new(Some(0x10_0000), Some(0x10_5000), None);
        space.claim(pages(1), 0x10_1000).unwrap();
        let places: Vec<_> = [2, 1, 1].map(|count| space.place(pages(count)).unwrap().as_u64()).into();
        assert_eq!(places, [0x10_2000, 0x10_0000, 0x10_4000]);
        assert!(matches!(space.place(pages(1)), Err(Error::Placement { at: None, .. })));
    }

    #[test]
    fn nothing_dynamic_is_placed_over_the_hole_between_the_halves() {
        let mut space = AddressSpace::new(Some((1 << 47) - PAGE), None, None);
        assert_eq!(space.place(pages(2)).unwrap().as_u64(), 0xffff_8000_0000_0000);
        assert_eq!(space.place(pages(1)).unwrap().as_u64(), 0x7fff_ffff_f000);
    }

    #[test]
    fn a_bad_fixed_place_is_refused() {
        let mut space = AddressSpace::new(None, None, None);
        space.claim(pages(2), 0xffff_ffff_8000_0000).unwrap();
        for at in [0, 0x1234, 0xffff_ffff_8000_1000, 0xffff_ffff_7fff_f000, 1 << 47, 0xffff_ffff_ffff_f000] {
            assert!(space.claim(pages(2), at).is_err(), "{at:#x}");
        }
        assert!(space.claim(Extent { length: u64::MAX, ..pages(1) }, 0x1000).is_err());
        assert!(space.claim(pages(0), 0x1000).is_err());
    }

    #[test]
    fn impossible_alignments_and_lengths_are_errors() {
        let mut space = AddressSpace::new(None, None, Some(Entropy(7)));
        assert!(space.place(Extent { align: 1 << 63, ..pages(1) }).is_err());
        assert!(space.place(Extent { length: u64::MAX, ..pages(1) }).is_err());
        let mut backwards = AddressSpace::new(Some(0x9000), Some(0x1000), Some(Entropy(7)));
        assert!(backwards.place(pages(1)).is_err());
    }

    #[test]
    fn entropy_moves_mappings_but_never_out_of_the_range_nor_onto_each_other() {
        let mut seen = Vec::new();
        for seed in 0..50 {
            let mut space = AddressSpace::new(Some(0x10_0000), Some(0x20_0000), Some(Entropy(seed)));
            let places: Vec<_> = (0..8).map(|_| space.place(pages(16)).unwrap().as_u64()).collect();
            assert!(places.iter().all(|at| (0x10_0000..=0x1f_0000).contains(at)));
            seen.push(places[0]);
        }
        seen.sort_unstable();
        seen.dedup();
        assert!(seen.len() > 20, "{} places", seen.len());
    }

    #[test]
    fn entropy_spreads_over_both_halves_and_not_to_the_edge_of_the_hole() {
        let places: Vec<_> = (0..64)
            .map(|seed| AddressSpace::new(None, None, Some(Entropy(seed))).place(pages(16)).unwrap().as_u64())
            .collect();
        let upper = places.iter().filter(|&&at| at >> 47 != 0).count();
        assert!((16..48).contains(&upper), "{upper} of 64 in the upper half");
        assert!(!places.contains(&0xffff_8000_0000_0000));
    }
}
