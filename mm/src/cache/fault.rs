//! What a user's access at an index needs: a folio with contents, which may be written if that is what is wanted.
//!
//! A mapping that stands in front of others has what was written through it, and shows what is behind wherever it has
//! nothing. So to read is to look down the chain; to write is to find it in front, or to copy what is behind there. What
//! stands nowhere is made in front, but for a file's, which is read where it belongs.
//!
//! The folio comes locked: until it is unlocked nobody takes it out of its mapping, so the caller can map it and let go.
//!
//! Invariants: CACHE-3 (whoever may write gets a folio that is dirty).

use super::fill::{CacheError, NotMade};
use super::mapping::{Mapping, MappingRef};
use super::page_cache::count;
use super::shadow::Behind;
use crate::folio::LockedFolio;
use crate::machine::Machine;
use crate::owner::{FolioFlags, FolioRef};
use crate::units::{Order, PageIndex};

/// What an access is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Intent {
    /// To look.
    Read,
    /// To change.
    Write,
}

/// Whether an entry that leads to the folio may let users write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Writable {
    /// It may.
    Yes,
    /// A write has to fault first: the folio is clean, or somebody else's too.
    No,
}

/// A folio that was faulted in.
#[derive(Debug)]
pub struct Faulted<'a, M: Machine> {
    /// The folio, locked, with its contents.
    pub folio: LockedFolio<'a, M>,
    /// Whether it may be written.
    pub writable: Writable,
}

impl<'a, M: Machine> Mapping<'a, M> {
    /// The folio that is seen at an index through this mapping, with its contents. A use.
    ///
    /// # Errors
    /// See [`CacheError`].
    pub fn read_folio(&self, index: PageIndex) -> Result<FolioRef<'a, M>, CacheError> {
        Ok(self.fault(index, Intent::Read, Order::LIMIT)?.folio.unlock())
    }

    /// The folio that a user sees at an index through this mapping, or one of its own if it is to be written. Where
    /// nothing stands yet, one of `largest` at most is made.
    ///
    /// # Errors
    /// See [`CacheError`].
    pub fn fault(&self, index: PageIndex, intent: Intent, largest: Order) -> Result<Faulted<'a, M>, CacheError> {
        if index >= self.end() {
            return Err(CacheError::Beyond(index));
        }
        loop {
            if let Some(folio) = self.uptodate(index)? {
                let folio = folio.lock();
                if self.holds(&folio, index) {
                    self.mark_accessed(&folio);
                    return Ok(self.faulted(folio, intent));
                }
                continue;
            }
            self.absorb();
            let behind = match self.behind_at(index) {
                Behind::Mapping(behind) => Some(behind),
                Behind::Nothing => None,
                Behind::Again => {
                    crate::sync::spin_loop();
                    continue;
                }
            };
            let seen = match &behind {
                Some(behind) => seen(behind.get(), index)?,
                None => None,
            };
            match (seen, intent) {
                // Nothing was ever written there, or it is the file's, and not read yet.
                (None, _) => {
                    let order = match (self.is_anonymous(), &behind) {
                        (false, _) => self.wanted_order(index),
                        (true, None) => largest.min(self.largest),
                        // More than a page might hide what is behind.
                        (true, Some(_)) => Order::ZERO,
                    };
                    drop(self.make(index, order)?);
                }
                (Some(seen), Intent::Read) => {
                    let folio = seen.folio.lock();
                    if seen.mapping.holds(&folio, index) {
                        seen.mapping.mark_accessed(&folio);
                        return Ok(Faulted { folio, writable: Writable::No });
                    }
                }
                (Some(seen), Intent::Write) => {
                    if let Some(folio) = self.copy(index, seen)? {
                        return Ok(self.faulted(folio, intent));
                    }
                }
            }
        }
    }

    /// One of this mapping's own, locked.
    fn faulted(&self, folio: LockedFolio<'a, M>, intent: Intent) -> Faulted<'a, M> {
        if intent == Intent::Write {
            self.set_dirty(&folio);
        }
        let writable = if folio.flags().contains(FolioFlags::DIRTY) { Writable::Yes } else { Writable::No };
        Faulted { folio, writable }
    }

    /// Copies a page of what stands behind to a folio of this mapping's own. `None` if either has changed meanwhile.
    fn copy(&self, index: PageIndex, seen: Seen<'a, M>) -> Result<Option<LockedFolio<'a, M>>, CacheError> {
        let copy = self.new_folio(Order::ZERO)?;
        let original = seen.folio.lock();
        if !seen.mapping.holds(&original, index) {
            return Ok(None);
        }
        let page = u32::try_from(index.0 - original.index().0).unwrap_or(u32::MAX);
        if copy.copy_page(0, &original, page).is_none() {
            return Ok(None);
        }
        drop(original);
        copy.set(FolioFlags::UPTODATE);
        match self.place(copy, index) {
            Ok(copy) => {
                count(&self.cache.events.copied, 1);
                Ok(Some(copy))
            }
            Err(NotMade::Occupied) => Ok(None),
            Err(NotMade::NoMemory(error)) => Err(error),
        }
    }
}

/// A folio, and the mapping that it stood in.
struct Seen<'a, M: Machine> {
    folio: FolioRef<'a, M>,
    mapping: MappingRef<'a, M>,
}

/// The folio at an index that is seen through a mapping, and whose it is; `None` where nothing stands.
fn seen<'a, M: Machine>(mapping: MappingRef<'a, M>, index: PageIndex) -> Result<Option<Seen<'a, M>>, CacheError> {
    let mut mapping = mapping;
    loop {
        if let Some(folio) = mapping.uptodate(index)? {
            return Ok(Some(Seen { folio, mapping }));
        }
        match mapping.behind_at(index) {
            Behind::Again => crate::sync::spin_loop(),
            Behind::Mapping(behind) => mapping = behind,
            Behind::Nothing if mapping.is_anonymous() => return Ok(None),
            Behind::Nothing => {
                let folio = mapping.read_folio(index)?;
                return Ok(Some(Seen { folio, mapping }));
            }
        }
    }
}
