//! The tables that were built before there was an allocator become owned memory, like those that come later.

use mm::owner::{OwnError, Owners, PageTable, UsedEntries};
use mm::page::{AdoptError, PageAllocator};
use mm::units::{Count, Pfn, PfnRange};
use thiserror::Error;

use super::space::Space;
use super::tables;
use crate::platform::Platform;

/// Why a table has no owner. It stays in use as it is.
#[derive(Clone, Copy, Debug, Error)]
pub(crate) enum AdoptTableError {
    /// Its frame cannot be taken in.
    #[error("the table at {0:?}: {1}")]
    Frame(Pfn, AdoptError),
    /// There is no descriptor for it.
    #[error("the table at {0:?}: {1}")]
    Owner(Pfn, OwnError),
}

/// Gives every live table an owner that knows its level and counts its entries; from then on they can be changed.
///
/// # Errors
/// See [`AdoptTableError`]; this ends at the first.
///
/// # Safety
/// The live tables were carved out of the memory that the allocator then was given the rest of, but for the window's, and
/// nobody changes them but through the result.
pub(crate) unsafe fn adopt(
    platform: &'static Platform,
    allocator: &'static PageAllocator<'static, Platform>,
    owners: &'static Owners<'static, Platform>,
) -> Result<Space, AdoptTableError> {
    let mut adopted = Count(0);
    tables::try_for_each(platform, |table| {
        let frame = table.frame;
        // SAFETY: the caller's promise: the frame was carved for the table, and is the processor's and this space's.
        let taken_in = unsafe { allocator.adopt(PfnRange::new(frame, frame.plus(1))) };
        let taken_in = taken_in.map_err(|error| AdoptTableError::Frame(frame, error))?;
        let block = taken_in.into_blocks().next().expect("a frame that was taken in is a block");
        match owners.adopt(block, PageTable::adopted(table.level, UsedEntries(table.used))) {
            Ok(table) => {
                // INVARIANT: what leads to a table, entry or register, keeps it.
                let _ = table.into_raw();
                adopted.0 += 1;
                Ok(())
            }
            Err((block, _, error)) => {
                // The processor uses it all the same.
                let _ = block.into_raw();
                Err(AdoptTableError::Owner(frame, error))
            }
        }
    })?;
    Ok(Space::new(platform, owners, tables::root(), adopted))
}
