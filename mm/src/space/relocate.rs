//! Page tables that move: what a table says is copied, and the one entry that leads to it, which its place gives away, is
//! changed. The processor may mark entries of the old one meanwhile; that is lost, and does no harm.
#![expect(unsafe_code, reason = "answers for the reference that an entry is")]

use thiserror::Error;

use super::mmu::{Mmu, TableEntry};
use super::spaces::Spaces;
use super::walk::Shape;
use crate::folio::copy_frames;
use crate::machine::Machine;
use crate::owner::{PageTable, Shared, TableLevel};
use crate::page::Block;
use crate::units::{Count, Order};

/// Why a page table stays where it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum TableStays {
    /// It is not a user's, or its space has gone.
    #[error("the page table is of no user's space")]
    NotAUsers,
    /// Processors know it by its address.
    #[error("the page table is the topmost one of its space")]
    Root,
    /// Somebody else looks at it.
    #[error("the page table is being looked at")]
    Busy,
    /// The new block is highmem, no single page, or another allocator's.
    #[error("no page table can be there")]
    Unsuitable,
}

impl<M: Machine, U: Mmu> Spaces<'_, M, U> {
    /// Moves a page table to another block, and gives the one where it was.
    ///
    /// # Errors
    /// See [`TableStays`]; the new block comes back.
    pub fn move_table<'s>(
        &'s self,
        table: Shared<'s, M, PageTable>,
        block: Block<'s, M>,
    ) -> Result<Block<'s, M>, (Block<'s, M>, TableStays)> {
        let owners = self.cache().get_ref().owners();
        if !core::ptr::eq(table.owners(), owners) {
            return Err((block, TableStays::NotAUsers));
        }
        let pages = owners.pages();
        if !core::ptr::eq(block.allocator(), pages)
            || block.order() != Order::ZERO
            || block.head() >= pages.machine().direct_map_end()
        {
            return Err((block, TableStays::Unsuitable));
        }
        let level = table.level();
        if level == U::ROOT {
            return Err((block, TableStays::Root));
        }
        let tables = table.place().and_then(|place| Some((place.address, self.tables(place.space)?)));
        let Some((address, tables)) = tables else { return Err((block, TableStays::NotAUsers)) };
        let locked = tables.lock();
        let above = locked.table_at(address, TableLevel(level.0 + 1));
        let Some(above) = above.filter(|above| above.entry(address) == TableEntry::Table(table.head())) else {
            return Err((block, TableStays::NotAUsers));
        };
        // SAFETY: the other reference is the entry's, which the space's lock keeps.
        let Ok(mut frozen) = (unsafe { table.freeze(Count(1)) }) else { return Err((block, TableStays::Busy)) };
        let (old, new) = (frozen.head(), block.head());
        copy_frames(pages, old, new, Order::ZERO);
        match frozen.relocate(block) {
            Ok(old) => {
                above.store(address, TableEntry::Table(new));
                let span = Shape::<U>::around(address, above.level());
                tables.mmu().flush(tables.root(), span.start()..span.end());
                drop(frozen.thaw());
                Ok(old)
            }
            Err(block) => Err((block, TableStays::Unsuitable)),
        }
    }
}
