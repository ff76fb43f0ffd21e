//! The blocks that a replay holds, by their names in the trace.

use alloc::collections::TryReserveError;
use alloc::vec::Vec;

use super::held::{Held, Id};

/// Names in one piece of the table: a trace may name more than fit into the largest block.
const PIECE: usize = 1024;

/// The blocks; dropping this frees them.
#[derive(Debug)]
pub(super) struct LiveBlocks {
    pieces: Vec<Vec<Option<Held>>>,
    blocks: u32,
}

impl LiveBlocks {
    /// A table for so many blocks.
    ///
    /// # Errors
    /// There is no room for it.
    pub(super) fn new(blocks: u32) -> Result<Self, TryReserveError> {
        let count = (blocks as usize).div_ceil(PIECE);
        let mut pieces = Vec::new();
        pieces.try_reserve_exact(count)?;
        for _ in 0..count {
            let mut piece = Vec::new();
            piece.try_reserve_exact(PIECE)?;
            piece.resize_with(PIECE, || None);
            pieces.push(piece);
        }
        Ok(Self { pieces, blocks })
    }

    /// Every name there may be.
    pub(super) fn ids(&self) -> impl Iterator<Item = Id> + use<> {
        (0..self.blocks).map(Id)
    }

    fn entry(&mut self, Id(id): Id) -> Option<&mut Option<Held>> {
        if id >= self.blocks {
            return None;
        }
        self.pieces.get_mut(id as usize / PIECE)?.get_mut(id as usize % PIECE)
    }

    /// Whether the name is taken.
    pub(super) fn has(&mut self, id: Id) -> bool {
        self.entry(id).is_some_and(|entry| entry.is_some())
    }

    /// Keeps a block under a name.
    ///
    /// # Errors
    /// Gives it back if the name is taken, or none of the table's.
    pub(super) fn insert(&mut self, id: Id, held: Held) -> Result<(), Held> {
        match self.entry(id) {
            Some(entry @ None) => {
                *entry = Some(held);
                Ok(())
            }
            _ => Err(held),
        }
    }

    /// Takes the block of this name out; `None` if there is none.
    pub(super) fn take(&mut self, id: Id) -> Option<Held> {
        self.entry(id)?.take()
    }
}
