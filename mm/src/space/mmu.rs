//! What page tables look like to the processor: the one door between user address spaces and the machine that walks them.
//!
//! A table is a page of 64-bit entries. A kernel says with [`Mmu`] what the entries' bits are and how the processor is
//! made to forget what it knew; all else, which entry leads where and when it may go, is decided here.
#![expect(unsafe_code, reason = "the door itself: implementing it is a promise")]

use core::ops::Range;
use core::sync::atomic::AtomicU64;

pub use crate::cache::Accessed;
use crate::owner::TableLevel;
use crate::units::{Pfn, VirtualAddress};

/// What is done to a user's memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// It is read.
    Read,
    /// It is written.
    Write,
    /// Instructions are fetched from it.
    Execute,
}

/// What a user may do to a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PageProtection {
    /// Read it.
    Read,
    /// Read and write it.
    ReadWrite,
    /// Read and execute it.
    ReadExecute,
}

impl PageProtection {
    /// Whether this is among what it allows.
    pub const fn allows(self, access: Access) -> bool {
        match access {
            Access::Read => true,
            Access::Write => matches!(self, Self::ReadWrite),
            Access::Execute => matches!(self, Self::ReadExecute),
        }
    }

    /// The same, but for writing.
    #[must_use]
    pub const fn without_write(self) -> Self {
        match self {
            Self::Read | Self::ReadWrite => Self::Read,
            Self::ReadExecute => Self::ReadExecute,
        }
    }
}

/// What an entry says of a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PageEntry {
    /// The first frame: aligned to as many pages as the entry maps.
    pub frame: Pfn,
    /// What users may do.
    pub protection: PageProtection,
    /// Whether they did anything. The processor says so by itself.
    pub accessed: Accessed,
}

/// What an entry of a table leads to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TableEntry {
    /// Nothing.
    Empty,
    /// The next table. Never in a table of level [`TableLevel::LEAF`].
    Table(Pfn),
    /// A page: 4 KiB in a leaf, as many of them as a table has entries one level above. Higher up, never.
    Page(PageEntry),
    /// Nothing that the processor would find: the page that stood here is being moved, and will be put back. Where a
    /// page can stand, this can. Linux: a migration entry.
    Moving(PageEntry),
}

/// How the machine translates users' addresses. One value for all address spaces.
///
/// # Safety
/// * MMU-ENTRY: [`decode`](Self::decode) gives back what [`encode`](Self::encode) was given, for every entry that may stand
///   at that level, whatever the processor has marked in it since, but for [`PageEntry::accessed`], which becomes
///   [`Accessed::Yes`] once the page is used. [`TableEntry::Empty`] is 0, and 0 is that.
/// * An encoded page lets users reach the frames that it covers, in the ways that it allows, and nothing else;
///   one that is empty or moving, nothing at all.
/// * MMU-FLUSH: once [`flush`](Self::flush) returns, no CPU uses anything for the addresses but what the tables say
///   now, neither a translation nor a table that led there.
/// * [`init_root`](Self::init_root) leaves the entries for [`users`](Self::users) alone, and nothing that it writes
///   lets users reach anything. [`users`](Self::users) never changes, and begins and ends at multiples of what one entry
///   of a root spans.
pub unsafe trait Mmu: Send + Sync {
    /// The level of a space's topmost table.
    const ROOT: TableLevel = TableLevel(4);
    /// log2 of the entries in a table, 9 at most: then they fill a page. Tests shrink it.
    const TABLE_SHIFT: u32 = 9;

    /// The addresses that may be users'.
    fn users(&self) -> Range<VirtualAddress>;

    /// The bits of an entry in a table of this level.
    fn encode(&self, entry: TableEntry, level: TableLevel) -> u64;

    /// What the bits of an entry in a table of this level mean.
    fn decode(&self, bits: u64, level: TableLevel) -> TableEntry;

    /// Completes a new root, all of whose entries are empty, with what every space shares: the kernel's own half.
    fn init_root(&self, entries: &[AtomicU64]);

    /// Makes every CPU forget what it knew of these addresses in the space whose topmost table is `root`. Called under
    /// spin locks: it must not wait for a CPU that may spin for one with interrupts off, nor allocate.
    fn flush(&self, root: Pfn, addresses: Range<VirtualAddress>);
}
