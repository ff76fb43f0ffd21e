//! Folios that somebody else has made, given to a mapping, and contents taken away again.

use thiserror::Error;

use super::fill::{CacheError, NotMade};
use super::mapping::Mapping;
use crate::machine::Machine;
use crate::owner::{Folio, Owned};
use crate::tree::{Entry, Found};
use crate::units::PageIndex;

/// Why a folio does not stand in a mapping. It is gone.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum GiveError {
    /// A folio of this size cannot stand there.
    #[error("page {:#x} is not aligned to the folio's size, or the mapping ends before the folio does", .0.0)]
    NoPlace(PageIndex),
    /// Something stands there.
    #[error("something stands at page {:#x}", .0.0)]
    Occupied(PageIndex),
    /// There is no memory for the tree.
    #[error(transparent)]
    NoMemory(#[from] CacheError),
}

impl<'a, M: Machine> Mapping<'a, M> {
    /// Lets a folio stand at an index. What it holds is as if it were read: a file's contents, or zeroes.
    ///
    /// # Errors
    /// See [`GiveError`].
    pub fn give(&self, folio: Owned<'a, M, Folio>, index: PageIndex) -> Result<(), GiveError> {
        let (order, pages) = (folio.order(), u64::from(folio.order().pages()));
        if index.align_down(order) != index || index.plus(pages) > self.end() {
            return Err(GiveError::NoPlace(index));
        }
        match self.place(folio.into_shared(), index) {
            Ok(_locked) => Ok(()),
            Err(NotMade::Occupied) => Err(GiveError::Occupied(index)),
            Err(NotMade::NoMemory(error)) => Err(error.into()),
        }
    }

    /// Gives up the folio that covers an index, or what was written out for it: all of it, as if it had never been there.
    pub fn forget(&self, index: PageIndex) {
        loop {
            let found = self.tree.lock(self.machine()).next(index).filter(|found| found.first <= index);
            match found {
                None => return,
                Some(Found { entry: Entry::Stored(_) | Entry::Lost, .. }) => return self.forget_absent(index),
                Some(Found { entry: Entry::Item(_), .. }) => {
                    let Some(folio) = self.lookup(index) else { continue };
                    let folio = folio.lock();
                    if self.holds(&folio, index) {
                        return self.discard(folio);
                    }
                }
            }
        }
    }
}
