//! The allocator's invariants by name, and how to say that one does not hold.

use core::fmt;

use thiserror::Error;

use crate::units::Pfn;

/// The invariants that can be checked by looking. HIGH-1 is the machine's to enforce but for its tags; FREE-5 shows
/// while an operation runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Invariant {
    /// `slot[position(p)] == p` for every free block, and nothing else is in a slot.
    Free1,
    /// No free block's buddy is free at the same order in the same zone.
    Free2,
    /// With k pages free, k order-0 allocations succeed.
    Free3,
    /// Nodes are free pages, and no more of them than the lists' lengths demand.
    Free4,
    /// When everything is free, all has coalesced but for what the nodes keep apart.
    Free6,
    /// Highmem is reached through tagged pointers, and nothing else is.
    High1,
    /// No block straddles a zone, node, section or hole.
    Zone1,
    /// Total = free + allocated, and every page is one of them.
    Acct1,
    /// Who is on a CPU's list says so, and nobody else does.
    Pcp1,
    /// No free block has a page whose memory lies, and the head of an allocated one that has says so.
    Hwpoison1,
    /// Exactly the pageblocks of the blocks that a zone sets aside are of the type for that.
    Rsrv1,
    /// A descriptor and its pages name each other.
    Desc1,
    /// A slab's counts are right.
    Slab2,
    /// A slab is on the list of its place.
    Slab3,
    /// No byte of a debugged slab is written but by its cache, and by owners of objects in them.
    Slab4,
    /// A folio stands in one mapping at most, at its index, in every slot that its size covers.
    Cache1,
    /// Who is marked in a mapping's tree is dirty, and the other way round.
    Cache2,
    /// On the list of its generation is exactly who stands in a mapping.
    Lru1,
    /// A buffer stands in one mapping at most, where it says, and just as long in a generation.
    Buf1,
    /// Which buffer is marked in a mapping's tree is dirty, and the other way round.
    Buf2,
    /// A descriptor's first word has an even number of bits set.
    Word1,
    /// Every charge group's counter is the sum of the blocks that name it, and all groups together are the used pages.
    Acct2,
    /// Every page table that an entry leads to is owned, in its place, not empty, and its entries are counted.
    Space1,
    /// Every entry for a page lies in a region, and leads to what the region's mapping has there.
    Space2,
    /// The entries that a folio counts are those of all page tables.
    Map1,
    /// A tree node's counts and marks are those of its slots, and no node is empty.
    Tree1,
    /// Only what is free is given out, and only what somebody has is taken back, whole.
    Spec1,
    /// What descriptors say of a page is what the specification does.
    Spec2,
}

impl fmt::Display for Invariant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Free1 => "FREE-1",
            Self::Free2 => "FREE-2",
            Self::Free3 => "FREE-3",
            Self::Free4 => "FREE-4",
            Self::Free6 => "FREE-6",
            Self::High1 => "HIGH-1",
            Self::Zone1 => "ZONE-1",
            Self::Acct1 => "ACCT-1",
            Self::Pcp1 => "PCP-1",
            Self::Hwpoison1 => "HWPOISON-1",
            Self::Rsrv1 => "RSRV-1",
            Self::Desc1 => "DESC-1",
            Self::Slab2 => "SLAB-2",
            Self::Slab3 => "SLAB-3",
            Self::Slab4 => "SLAB-4",
            Self::Cache1 => "CACHE-1",
            Self::Cache2 => "CACHE-2",
            Self::Lru1 => "LRU-1",
            Self::Buf1 => "BUF-1",
            Self::Buf2 => "BUF-2",
            Self::Word1 => "WORD-1",
            Self::Acct2 => "ACCT-2",
            Self::Space1 => "SPACE-1",
            Self::Space2 => "SPACE-2",
            Self::Map1 => "MAP-1",
            Self::Tree1 => "TREE-1",
            Self::Spec1 => "SPEC-1",
            Self::Spec2 => "SPEC-2",
        })
    }
}

/// An invariant that does not hold, and where.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error("invariant {invariant} broken: {what}{}", At(*.pfn))]
pub struct Violation {
    /// Which one.
    pub invariant: Invariant,
    /// The page it was found at, if it is about one.
    pub pfn: Option<Pfn>,
    /// What was found.
    pub what: &'static str,
}

impl Violation {
    pub(crate) const fn of(invariant: Invariant, pfn: Option<Pfn>, what: &'static str) -> Self {
        Self { invariant, pfn, what }
    }
}

/// Where something was found, if anywhere.
struct At(Option<Pfn>);

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(pfn) => write!(f, " ({pfn:?})"),
            None => Ok(()),
        }
    }
}
