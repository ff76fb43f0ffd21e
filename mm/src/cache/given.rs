//! Folios that somebody else has made, given to a mapping, and contents taken away again.
//!
//! Who walks may have found such a folio, and locked it, before it was given. So it is frozen first, and locked before it
//! thaws.
#![expect(unsafe_code, reason = "owns a folio again that the mapping did not take")]

use thiserror::Error;

use super::fill::CacheError;
use super::mapping::Mapping;
use super::standing::{Forgotten, NotInserted};
use crate::folio::LockedFolio;
use crate::machine::Machine;
use crate::owner::{Folio, FolioFlags, Owned};
use crate::slab::NoMemory;
use crate::tree::{Entry, Found};
use crate::units::PageIndex;

/// Why a folio does not stand in a mapping.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum GiveError {
    /// Its owners are not the cache's.
    #[error("the folio has other owners than the cache")]
    Foreign,
    /// Somebody else refers to it.
    #[error("the folio is referred to")]
    Referred,
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
    /// See [`GiveError`]; the folio comes back.
    pub fn give(&self, folio: Owned<'a, M, Folio>, index: PageIndex) -> Result<(), (Owned<'a, M, Folio>, GiveError)> {
        if !core::ptr::eq(folio.owners(), self.cache.owners) {
            return Err((folio, GiveError::Foreign));
        }
        let (order, pages) = (folio.order(), u64::from(folio.order().pages()));
        if index.align_down(order) != index || index.plus(pages) > self.end() {
            return Err((folio, GiveError::NoPlace(index)));
        }
        let mut left = Some(folio);
        let given = self.cache.with_reclaim(|| match left.take().map(|folio| self.give_once(folio, index)) {
            Some(Err((folio, error))) => {
                left = Some(folio);
                // For anything else memory would not help.
                if matches!(error, GiveError::NoMemory(_)) { Err(error) } else { Ok(Err(error)) }
            }
            Some(Ok(())) | None => Ok(Ok(())),
        });
        match (given.flatten(), left) {
            (Err(error), Some(folio)) => Err((folio, error)),
            _ => Ok(()),
        }
    }

    fn give_once(&self, folio: Owned<'a, M, Folio>, index: PageIndex) -> Result<(), (Owned<'a, M, Folio>, GiveError)> {
        let folio = folio.freeze().map_err(|folio| (folio, GiveError::Referred))?;
        folio.set(FolioFlags::LOCKED);
        match self.insert(LockedFolio::held(folio.thaw()), index) {
            Ok(_locked) => Ok(()),
            Err((folio, why)) => {
                // SAFETY: it was owned until it was frozen.
                let folio = unsafe { Owned::from_shared(folio.unlock()) };
                Err(match why {
                    NotInserted::Occupied => (folio, GiveError::Occupied(index)),
                    NotInserted::NoMemory => (folio, CacheError::from(NoMemory).into()),
                })
            }
        }
    }

    /// Gives up the folio that covers an index, or what was written out for it: all of it, as if it had never been there.
    pub fn forget(&self, index: PageIndex) {
        loop {
            let found = self.tree.lock(self.machine()).next(index).filter(|found| found.first <= index);
            match found {
                None => return,
                Some(Found { entry: Entry::Stored(_) | Entry::Lost, .. }) => {
                    if self.forget_absent(index) == Forgotten::Done {
                        return;
                    }
                }
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
