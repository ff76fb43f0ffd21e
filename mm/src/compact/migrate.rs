//! One folio, or one page table, to another block.
//!
//! ```text
//!   lock ─> entries become notes ─> freeze ─> copy ─> another block ─> thaw ─> notes become entries ─> unlock
//!                                      └── somebody else refers to it: notes become what they were
//! ```
//!
//! A note in a page table says that the page is being moved; who faults on it finds the folio through its mapping, and
//! waits for its lock. Who looks the folio up finds it frozen, and looks again. So nobody reaches the bytes while they are
//! copied, and everybody finds them where they are then.
//!
//! The new block is had before any lock is taken.
#![expect(unsafe_code, reason = "answers for the reference that a tree has")]

use thiserror::Error;

use super::Compactor;
use crate::cache::{Leave, PageCache};
use crate::folio::{LockedFolio, copy_frames};
use crate::machine::Machine;
use crate::owner::{FolioFlags, FolioRef, PageTable, Shared};
use crate::page::{Block, Request};
use crate::space::{Mmu, TableStays};
use crate::units::Count;

/// Why a block was not moved; everything is as before.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum MigrateError {
    /// There is no block to move it to.
    #[error("no block to move to")]
    NoMemory,
    /// Somebody holds the folio's lock.
    #[error("it is locked")]
    Locked,
    /// It is being written.
    #[error("it is being written to its store")]
    WriteBack,
    /// Devices or the kernel use its pages by their addresses.
    #[error("it is pinned")]
    Pinned,
    /// Somebody else refers to it.
    #[error("it is referred to")]
    Referred,
    /// It is in no memory object, so nobody knows who refers to it.
    #[error("it is in no memory object")]
    Unlisted,
    /// It is a page table that the kernel or a processor knows by its address.
    #[error("it is a page table that stays")]
    Fixed,
    /// It is not there, or not any more.
    #[error("it is not there, or not any more")]
    Gone,
    /// Its memory has failed: what it holds is not to be spread.
    #[error("its memory has failed")]
    Poisoned,
}

impl MigrateError {
    /// All of them, in the order of their codes.
    pub const ALL: [Self; 9] = [
        Self::NoMemory,
        Self::Locked,
        Self::WriteBack,
        Self::Pinned,
        Self::Referred,
        Self::Unlisted,
        Self::Fixed,
        Self::Gone,
        Self::Poisoned,
    ];

    /// Whether it may be otherwise soon.
    pub(super) const fn may_pass(self) -> bool {
        matches!(self, Self::Locked | Self::WriteBack | Self::Referred | Self::Gone)
    }
}

impl From<TableStays> for MigrateError {
    fn from(why: TableStays) -> Self {
        match why {
            TableStays::Root => Self::Fixed,
            TableStays::NotAUsers => Self::Gone,
            TableStays::Busy => Self::Referred,
            TableStays::Unsuitable => Self::NoMemory,
        }
    }
}

impl<'a, M: Machine, U: Mmu> Compactor<'a, M, U> {
    /// Moves a folio to another block of its size. The caller holds no lock, and no reference but this one.
    ///
    /// # Errors
    /// See [`MigrateError`].
    pub fn migrate(&self, folio: FolioRef<'a, M>) -> Result<(), MigrateError> {
        self.move_folio(folio).map(drop)
    }

    /// Moves a folio. Gives the block that it leaves, plain.
    pub(super) fn move_folio(&self, folio: FolioRef<'a, M>) -> Result<Block<'a, M>, MigrateError> {
        if !core::ptr::eq(folio.owners(), self.owners()) {
            return Err(MigrateError::Gone);
        }
        if folio.pins().0 > 0 {
            return Err(MigrateError::Pinned);
        }
        if self.pages().has_hwpoisoned(folio.head()) {
            return Err(MigrateError::Poisoned);
        }
        let block = self.pages().alloc(Request::movable(folio.order()).nowait()).map_err(|_| MigrateError::NoMemory)?;
        let folio = folio.try_lock().map_err(|_| MigrateError::Locked)?;
        if folio.flags().contains(FolioFlags::WRITEBACK) {
            return Err(MigrateError::WriteBack);
        }
        let family = PageCache::mapping_of(&folio).ok_or(MigrateError::Unlisted)?.family();
        let (old, order) = (folio.head(), folio.order());
        family.unmap(&folio, Leave::Moving);
        // SAFETY: the one other reference is the tree's, which nobody gives up without the lock.
        let (folio, moved) = match unsafe { folio.freeze(Count(1)) } {
            Ok(mut frozen) => {
                copy_frames(self.pages(), old, block.head(), order);
                let left = frozen.relocate(block);
                let folio = LockedFolio::held(frozen.thaw());
                if let Some(mapping) = PageCache::mapping_of(&folio) {
                    mapping.moved(&folio);
                }
                (folio, left.map_err(|_| MigrateError::NoMemory))
            }
            Err(folio) => {
                let pinned = folio.pins().0 > 0;
                (folio, Err(if pinned { MigrateError::Pinned } else { MigrateError::Referred }))
            }
        };
        family.put_back(&folio, old);
        moved
    }

    /// Moves a page table. Gives the page that it leaves, plain.
    pub(super) fn move_table(&self, table: Shared<'a, M, PageTable>) -> Result<Block<'a, M>, MigrateError> {
        if table.place().is_none() {
            return Err(MigrateError::Fixed);
        }
        if self.pages().has_hwpoisoned(table.head()) {
            return Err(MigrateError::Poisoned);
        }
        let request = Request::new(table.order()).nowait();
        let page = self.owners().alloc_pages::<PageTable>(request).map_err(|_| MigrateError::NoMemory)?;
        self.spaces.move_table(table, page).map_err(|(_, why)| why.into())
    }
}
