//! How many page-table entries lead to a folio, and whether they are all one address space's: one word, whatever the
//! folio's size.
//!
//! ```text
//!   63        48 47        24 23         0
//!  +------------+------------+------------+
//!  |   first    | its share  |  entries   |
//!  +------------+------------+------------+
//! ```
//!
//! `first` is the space that found the folio unmapped. As long as all entries are its own the folio is *exclusive*, which
//! is never said wrongly: every entry counts in `entries`, and in the share only if `first` made it. Once another space
//! has mapped the folio, `first` stays whom it was until nobody maps it any more. So when it leaves and one other
//! remains, "maybe shared" is said of a folio that is not: the price of one word for a thousand pages.
//!
//! Invariants: MAP-1 (the entries counted are those of all page tables).
//! Source: D. Hildenbrand, "mm: MM owner tracking for large folios (!hugetlb) + CONFIG_NO_PAGE_MAPCOUNT", Linux 6.15.

use thiserror::Error;

use core::num::NonZeroU16;

use crate::sync::{AtomicU64, Ordering};
use crate::units::{Count, SpaceId};

const ENTRIES: u64 = (1 << SHARE_SHIFT) - 1;
const SHARE_SHIFT: u32 = 24;
const FIRST_SHIFT: u32 = 48;

/// Who maps a folio.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MappedBy {
    /// Nobody.
    Nobody,
    /// This space alone.
    Exclusive(SpaceId),
    /// Several spaces, or one that was not the first.
    MaybeShared,
}

/// How a folio is mapped, at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mappings {
    /// Base pages mapped, each as often as it is; an entry for a larger page counts for all pages in it.
    pub entries: Count,
    /// By whom.
    pub by: MappedBy,
}

/// As many page-table entries lead to the folio as can be counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error("more page-table entries would lead to the folio than can be counted")]
pub struct TooManyMappings;

/// Whether a change was between none and some.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Edge {
    /// There were none, or are none now.
    Crossed,
    /// There were some and are some.
    Inside,
}

#[derive(Debug)]
pub(super) struct MapCount(AtomicU64);

impl MapCount {
    pub(super) fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Counts entries of a space, at least one.
    pub(super) fn add(&self, SpaceId(space): SpaceId, Count(more): Count) -> Result<Edge, TooManyMappings> {
        let add = |word: u64| {
            let (first, share, entries) = parts(word);
            let entries = (entries + u64::from(more) <= ENTRIES).then(|| entries + u64::from(more))?;
            match entries - u64::from(more) {
                0 => Some(word_of(space.get(), entries, entries)),
                _ if first == space.get() => Some(word_of(first, share + u64::from(more), entries)),
                _ => Some(word_of(first, share, entries)),
            }
        };
        // Relaxed: entries are made and read under the tables' locks.
        let before = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).map_err(|_| TooManyMappings)?;
        Ok(if before & ENTRIES == 0 { Edge::Crossed } else { Edge::Inside })
    }

    /// Takes entries of a space away that were counted.
    ///
    /// # Panics
    /// MAP-1 is broken: they were not.
    pub(super) fn remove(&self, SpaceId(space): SpaceId, Count(fewer): Count) -> Edge {
        let remove = |word: u64| {
            let (first, share, entries) = parts(word);
            let entries = entries.checked_sub(u64::from(fewer))?;
            match entries {
                0 => Some(0),
                _ if first == space.get() => Some(word_of(first, share.checked_sub(u64::from(fewer))?, entries)),
                _ => Some(word_of(first, share, entries)),
            }
        };
        match self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, remove) {
            Ok(before) if before & ENTRIES == u64::from(fewer) => Edge::Crossed,
            Ok(_) => Edge::Inside,
            Err(_) => panic!("invariant MAP-1 broken: an entry goes that was not counted"),
        }
    }

    pub(super) fn get(&self) -> Mappings {
        let (first, share, entries) = parts(self.0.load(Ordering::Relaxed));
        let by = match NonZeroU16::new(first) {
            None => MappedBy::Nobody,
            Some(first) if share == entries => MappedBy::Exclusive(SpaceId(first)),
            Some(_) => MappedBy::MaybeShared,
        };
        Mappings { entries: Count(u32::try_from(entries).unwrap_or(u32::MAX)), by }
    }
}

fn parts(word: u64) -> (u16, u64, u64) {
    let first = u16::try_from(word >> FIRST_SHIFT).unwrap_or(u16::MAX);
    (first, word >> SHARE_SHIFT & ENTRIES, word & ENTRIES)
}

const fn word_of(first: u16, share: u64, entries: u64) -> u64 {
    (first as u64) << FIRST_SHIFT | share << SHARE_SHIFT | entries
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn space(number: u16) -> SpaceId {
        SpaceId(NonZeroU16::new(number).expect("not zero"))
    }

    #[test]
    fn a_folio_is_exclusive_until_another_space_maps_it_and_again_when_that_one_leaves() {
        let count = MapCount::new();
        assert_eq!(count.get(), Mappings { entries: Count(0), by: MappedBy::Nobody });
        assert_eq!(count.add(space(7), Count(512)), Ok(Edge::Crossed));
        assert_eq!(count.get().by, MappedBy::Exclusive(space(7)));
        assert_eq!(count.add(space(9), Count(1)), Ok(Edge::Inside));
        assert_eq!(count.get(), Mappings { entries: Count(513), by: MappedBy::MaybeShared });
        assert_eq!(count.remove(space(9), Count(1)), Edge::Inside);
        assert_eq!(count.get().by, MappedBy::Exclusive(space(7)));
        assert_eq!(count.remove(space(7), Count(512)), Edge::Crossed);
        assert_eq!(count.get().by, MappedBy::Nobody);
    }

    #[test]
    fn when_the_first_space_leaves_the_one_that_remains_is_maybe_shared_by_design() {
        let count = MapCount::new();
        for number in [1, 2] {
            count.add(space(number), Count(4)).expect("that many can be counted");
        }
        let _ = count.remove(space(1), Count(4));
        assert_eq!(count.get(), Mappings { entries: Count(4), by: MappedBy::MaybeShared });
        assert_eq!(count.remove(space(2), Count(4)), Edge::Crossed);
        assert_eq!(count.add(space(2), Count(1)), Ok(Edge::Crossed));
        assert_eq!(count.get().by, MappedBy::Exclusive(space(2)));
    }

    #[test]
    fn what_cannot_be_counted_is_refused_and_nothing_has_changed() {
        let count = MapCount::new();
        let most = Count(u32::try_from(ENTRIES).expect("24 bits"));
        assert_eq!(count.add(space(u16::MAX), most), Ok(Edge::Crossed));
        assert_eq!(count.add(space(1), Count(1)), Err(TooManyMappings));
        assert_eq!(count.get(), Mappings { entries: most, by: MappedBy::Exclusive(space(u16::MAX)) });
    }

    #[test]
    #[should_panic(expected = "MAP-1")]
    fn an_entry_of_the_first_space_that_was_another_ones_is_noticed() {
        let count = MapCount::new();
        for number in [1, 2] {
            count.add(space(number), Count(2)).expect("that many can be counted");
        }
        let _ = count.remove(space(1), Count(3));
    }
}
