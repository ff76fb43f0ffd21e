//! What a block's pages can do: stay, move, or be dropped.
//!
//! Blocks of one kind are kept together, one pageblock for one migratetype, so that the pages that can never move do
//! not spread over all of memory. When a kind has run out, it takes from the others in the order given here.
//!
//! One kind is no property of a page, but of whom it is kept for.

/// Whether the pages of a block may be moved or reclaimed by whoever owns them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[repr(u8)]
pub enum Migratetype {
    /// Stays where it is: the kernel's own structures.
    Unmovable = 0,
    /// Can be copied elsewhere and its users redirected: anonymous memory, the page cache.
    Movable = 1,
    /// Cannot be moved, but its contents can be dropped: inode and directory caches.
    Reclaimable = 2,
    /// Set aside for large blocks that somebody needs at once. Nobody asks for this kind, and none takes from it
    /// but in need. Linux's `MIGRATE_HIGHATOMIC`.
    HighAtomic = 3,
}

impl Migratetype {
    /// Every migratetype, in the order of [`index`](Self::index).
    pub const ALL: [Self; 4] = [Self::Unmovable, Self::Movable, Self::Reclaimable, Self::HighAtomic];

    /// Those that pages are asked for by.
    pub const REQUESTED: [Self; 3] = [Self::Unmovable, Self::Movable, Self::Reclaimable];

    /// Linux's name for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unmovable => "Unmovable",
            Self::Movable => "Movable",
            Self::Reclaimable => "Reclaimable",
            Self::HighAtomic => "HighAtomic",
        }
    }

    /// The position in a table with one entry a migratetype.
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The kind that two bits of a table or a descriptor stand for.
    pub(crate) const fn decode(bits: u8) -> Self {
        Self::ALL[(bits & 3) as usize]
    }

    /// Where to look, in this order, when this kind has no free block left: the order Linux uses.
    pub const fn fallbacks(self) -> [Self; 2] {
        match self {
            Self::Unmovable | Self::HighAtomic => [Self::Reclaimable, Self::Movable],
            Self::Movable => [Self::Reclaimable, Self::Unmovable],
            Self::Reclaimable => [Self::Unmovable, Self::Movable],
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::Migratetype;

    #[test]
    fn a_migratetype_falls_back_to_each_of_the_others_once_and_never_to_itself() {
        for (position, migratetype) in Migratetype::ALL.into_iter().enumerate() {
            assert_eq!(migratetype.index(), position);
            assert_eq!(Migratetype::decode(migratetype as u8), migratetype);
        }
        for migratetype in Migratetype::REQUESTED {
            let [first, second] = migratetype.fallbacks();
            assert_ne!(first, second);
            assert_ne!(first, migratetype);
            assert_ne!(second, migratetype);
            assert!(![first, second].contains(&Migratetype::HighAtomic));
        }
    }
}
