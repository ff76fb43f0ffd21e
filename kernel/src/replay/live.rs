//! The blocks that a replay holds, by their names in the trace.
//!
//! A table of bare frame numbers in memory of its own: a trace may name more blocks than the boot heap has bytes.

use mm::ContigError;
use mm::page::{Block, ContigRange, FreeError};
use mm::trace::BlockId;
use mm::units::{Order, PAGE_SIZE, Pfn};
use mm::zone::ZoneKind;

use crate::memory::Allocator;
use crate::platform::Platform;

/// A block's name: an index into the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Id(pub(super) u32);

impl From<BlockId> for Id {
    fn from(id: BlockId) -> Self {
        // A name beyond 32 bits is none of any table's.
        Self(u32::try_from(id.index()).unwrap_or(u32::MAX))
    }
}

/// A head in the table. No block begins at frame 0, which stands for none.
type Entry = [u8; size_of::<u32>()];

const NONE: Entry = [0; size_of::<u32>()];

/// The blocks; dropping this frees them.
///
/// # Invariants
/// LIVE: every entry but [`NONE`] heads an allocated block that nobody else owns.
#[derive(Debug)]
pub(super) struct LiveBlocks {
    allocator: &'static Allocator,
    table: ContigRange<'static, Platform>,
    blocks: u32,
}

impl LiveBlocks {
    /// A table for so many blocks, in the direct map.
    ///
    /// # Errors
    /// There is no room for it.
    pub(super) fn new(allocator: &'static Allocator, blocks: u32) -> Result<Self, ContigError> {
        let bytes = u64::from(blocks.max(1)) * size_of::<Entry>() as u64;
        let pages = u32::try_from(bytes.div_ceil(PAGE_SIZE as u64)).map_err(|_| ContigError::NoSuchRun)?;
        let mut table = allocator.alloc_contig_aligned(pages, Order::ZERO, ZoneKind::Normal)?;
        table.bytes_mut().ok_or(ContigError::NoSuchRun)?.fill(0);
        Ok(Self { allocator, table, blocks })
    }

    /// Every name there may be.
    pub(super) fn ids(&self) -> impl Iterator<Item = Id> + use<> {
        (0..self.blocks).map(Id)
    }

    fn entry(&mut self, id: Id) -> Option<&mut Entry> {
        self.table.bytes_mut()?.as_chunks_mut().0.get_mut(id.0 as usize)
    }

    /// Keeps a block under a name.
    ///
    /// # Errors
    /// Gives it back if the name is taken, or none of the table's.
    pub(super) fn insert(&mut self, id: Id, block: Block<'static, Platform>) -> Result<(), Block<'static, Platform>> {
        match self.entry(id) {
            Some(entry) if *entry == NONE => {
                // INVARIANT: LIVE, what owned the block is gone when the entry has it.
                *entry = block.into_raw().number().to_le_bytes();
                Ok(())
            }
            _ => Err(block),
        }
    }

    /// Takes the block of this name out; `None` if there is none.
    ///
    /// # Errors
    /// The allocator says that the block is none.
    pub(super) fn take(&mut self, id: Id) -> Result<Option<Block<'static, Platform>>, FreeError> {
        let Some(entry) = self.entry(id).filter(|entry| **entry != NONE) else { return Ok(None) };
        let head = Pfn::new(u32::from_le_bytes(core::mem::replace(entry, NONE)));
        // SAFETY: LIVE, the block was the entry's alone, and the entry has just lost it.
        unsafe { self.allocator.from_raw(head) }.map(Some)
    }
}

impl Drop for LiveBlocks {
    fn drop(&mut self) {
        for id in self.ids() {
            // What the allocator does not know as a block cannot be freed either.
            drop(self.take(id));
        }
    }
}
