//! How low a zone may fall, and for whom.
//!
//! ```text
//!   high   what shrinkers are asked to fill a zone up to
//!   low    below this they are asked
//!   min    ordinary requests leave this much
//!   min/2  those that cannot wait leave this much
//!   0      those by which memory comes back take the last page
//! ```
//!
//! The reserve below `min` is what makes getting memory back possible: writing a page out may take one. All zones of
//! the direct map share Linux's `min_free_kbytes`, the root of 16 times their size; what lies beyond the direct map,
//! which no kernel structure needs, has a small one. A geometry bounds it to a share of the zone
//! ([`Geometry::RESERVE_SHARE`](crate::machine::Geometry::RESERVE_SHARE)), so that small zones stay useful.
//!
//! Requests that could be served from above leave some more to those that cannot (Linux's `lowmem_reserve`).
//!
//! Source: Linux, `__setup_per_zone_wmarks`, `setup_per_zone_lowmem_reserve`, `__zone_watermark_ok`.

use crate::units::{Order, PAGE_SHIFT};
use crate::zone::ZoneKind;

/// Bounds of Linux's `min_free_kbytes`.
const MIN_FREE_KIB: core::ops::RangeInclusive<u64> = 128..=262_144;

/// Bounds of the least that a zone beyond the direct map keeps, in pages.
const HIGHMEM_MIN: core::ops::RangeInclusive<u32> = 32..=128;

/// What a request may be left to wait for, and how far down it may take a zone.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Urgency {
    /// As the ordinary, but would rather have nothing than have others give something up. Linux's `GFP_NOWAIT`.
    Nowait,
    /// May wait until others have given something up. Linux's `GFP_KERNEL`.
    Ordinary,
    /// Cannot wait. Linux's `GFP_ATOMIC`.
    Atomic,
    /// Serves to get memory back. Linux's `__GFP_MEMALLOC`.
    Reserve,
}

/// A level of a zone's free pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Watermark {
    /// What a request has to leave, as urgent as it is.
    Min,
    /// Enough that nobody has to give anything up.
    Low,
}

/// What a zone is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Demand {
    pub(crate) order: Order,
    /// The highest kind of zone that would do.
    pub(crate) highest: ZoneKind,
    pub(crate) urgency: Urgency,
    /// What the zone must have left afterwards.
    pub(crate) leaving: Watermark,
}

impl Demand {
    /// Whether what is set aside for large blocks may serve it: those that cannot wait and want a large one, and those
    /// that may take everything.
    pub(crate) fn may_use_highatomic(self) -> bool {
        match self.urgency {
            Urgency::Nowait | Urgency::Ordinary => false,
            Urgency::Atomic => self.order > Order::ZERO,
            Urgency::Reserve => true,
        }
    }
}

/// A zone's levels, in pages.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Watermarks {
    /// What ordinary requests leave.
    pub min: u32,
    /// Below this, memory is got back.
    pub low: u32,
    /// Up to this.
    pub high: u32,
    /// What must be left besides, by the highest kind of zone that would do for a request.
    pub protection: [u32; ZoneKind::ALL.len()],
}

impl Watermarks {
    /// The levels of a zone of `kind` with `managed` pages, on a machine with `lowmem` pages of managed memory in its
    /// direct map, that keeps no more than one page in `share` for reserves; none at all if that is zero.
    pub(crate) fn new(kind: ZoneKind, managed: u32, lowmem: u32, share: u32) -> Self {
        let Some(most) = managed.checked_div(share) else { return Self::default() };
        let wanted = match kind {
            ZoneKind::Dma32 | ZoneKind::Normal => {
                let pages = u64::from(min_free_pages(lowmem)) * u64::from(managed) / u64::from(lowmem.max(1));
                u32::try_from(pages).unwrap_or(u32::MAX)
            }
            ZoneKind::Highmem => (managed / 1024).clamp(*HIGHMEM_MIN.start(), *HIGHMEM_MIN.end()),
        };
        let min = wanted.min(most);
        Self { min, low: min + min / 4, high: min + min / 2, protection: [0; ZoneKind::ALL.len()] }
    }

    /// The same, of a zone of `kind` whose node has so many managed pages of each kind.
    #[must_use]
    pub(crate) fn protected(self, kind: ZoneKind, managed: [u32; ZoneKind::ALL.len()]) -> Self {
        let mut above = 0u32;
        let protection = ZoneKind::ALL.map(|highest| {
            if highest <= kind {
                return 0;
            }
            above = above.saturating_add(managed[highest as usize]);
            above.checked_div(protection_ratio(kind)).unwrap_or(0)
        });
        Self { protection, ..self }
    }

    /// What a request has to leave.
    pub(crate) fn floor(&self, demand: Demand) -> u32 {
        let own = match (demand.leaving, demand.urgency) {
            (_, Urgency::Reserve) => return 0,
            (Watermark::Low, _) => self.low,
            (Watermark::Min, Urgency::Atomic) => self.min / 2,
            (Watermark::Min, Urgency::Nowait | Urgency::Ordinary) => self.min,
        };
        own.saturating_add(self.protection[demand.highest as usize])
    }
}

/// Linux's `min_free_kbytes`, in pages.
fn min_free_pages(lowmem: u32) -> u32 {
    let kib = (u64::from(lowmem) << (PAGE_SHIFT - 10)) * 16;
    let kib = kib.isqrt().clamp(*MIN_FREE_KIB.start(), *MIN_FREE_KIB.end());
    u32::try_from(kib >> (PAGE_SHIFT - 10)).unwrap_or(u32::MAX)
}

/// One page in how many of what lies above is what a zone leaves to those who cannot go there: Linux's
/// `sysctl_lowmem_reserve_ratio`. Zero: none.
const fn protection_ratio(kind: ZoneKind) -> u32 {
    match kind {
        ZoneKind::Dma32 => 256,
        ZoneKind::Normal => 32,
        ZoneKind::Highmem => 0,
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const MIB: u32 = 256;

    #[test]
    fn zones_of_the_direct_map_share_linuxs_min_free_kbytes_by_size() {
        // Linux's table: 1 GiB of lowmem keeps 4096 KiB.
        let lowmem = 1024 * MIB;
        let small = Watermarks::new(ZoneKind::Dma32, 256 * MIB, lowmem, 64);
        let large = Watermarks::new(ZoneKind::Normal, 768 * MIB, lowmem, 64);
        assert_eq!((small.min, small.low, small.high), (256, 320, 384));
        assert_eq!(small.min + large.min, 1024);
    }

    #[test]
    fn a_tiny_zone_keeps_no_more_than_its_share_and_one_without_a_share_nothing() {
        let tiny = Watermarks::new(ZoneKind::Dma32, 16 * MIB, 16 * MIB, 64);
        assert_eq!((tiny.min, tiny.low, tiny.high), (64, 80, 96));
        assert_eq!(Watermarks::new(ZoneKind::Highmem, 63, MIB, 64), Watermarks::default());
        assert_eq!(Watermarks::new(ZoneKind::Normal, u32::MAX, u32::MAX, 0), Watermarks::default());
        assert_eq!(Watermarks::new(ZoneKind::Normal, 0, 0, 64), Watermarks::default());
    }

    #[test]
    fn highmem_keeps_little_however_large_it_is() {
        assert_eq!(Watermarks::new(ZoneKind::Highmem, 16 * MIB, 16 * MIB, 64).min, 32);
        assert_eq!(Watermarks::new(ZoneKind::Highmem, u32::MAX, 16 * MIB, 64).min, 128);
    }

    #[test]
    fn a_zone_is_protected_from_those_that_could_go_above_by_what_there_is_above() {
        let managed = [512 * MIB, 1024 * MIB, 4096 * MIB];
        let protection = |kind| Watermarks::default().protected(kind, managed).protection;
        assert_eq!(protection(ZoneKind::Dma32), [0, 4 * MIB, 20 * MIB]);
        assert_eq!(protection(ZoneKind::Normal), [0, 0, 128 * MIB]);
        assert_eq!(protection(ZoneKind::Highmem), [0, 0, 0]);
    }

    #[test]
    fn who_is_more_urgent_leaves_less() {
        let marks = Watermarks { min: 9, low: 11, high: 13, protection: [0, 3, 5] };
        let floor = |urgency, leaving, highest| marks.floor(Demand { order: Order::ZERO, highest, urgency, leaving });
        assert_eq!(floor(Urgency::Ordinary, Watermark::Low, ZoneKind::Dma32), 11);
        assert_eq!(floor(Urgency::Ordinary, Watermark::Min, ZoneKind::Normal), 12);
        assert_eq!(floor(Urgency::Nowait, Watermark::Min, ZoneKind::Highmem), 14);
        assert_eq!(floor(Urgency::Atomic, Watermark::Min, ZoneKind::Dma32), 4);
        assert_eq!(floor(Urgency::Reserve, Watermark::Low, ZoneKind::Highmem), 0);
    }
}
