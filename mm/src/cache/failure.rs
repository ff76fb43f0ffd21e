//! Memory that lies, of folios: everybody stops using the page, and who asks for what only it had is told so.
//!
//! ```text
//!   of many pages        ──> split: only the page with the failure goes
//!   clean                ──> unmapped, out of its mapping: read again from where it came            recovered
//!   dirty                ──> the same, and its mapping says from then on that the page is lost      failed
//!   somebody refers to it: the same, but the page is used until the last reference goes             delayed
//!   in no mapping        ──> marked only: nobody knows who uses it                                  delayed
//! ```
//!
//! Page tables only remember what mappings say. So no entry has to say that a page has failed: its mapping does, and whoever
//! faults there finds that, through whatever space, and whoever reads or writes the file. What is lost is so until somebody
//! truncates the mapping before it.
//!
//! Cost: that of taking a folio out.
//! Source: Linux's `memory_failure`, `me_pagecache_dirty`.
#![expect(unsafe_code, reason = "a folio's reference leaves its tree")]

use super::page_cache::{PageCache, Visit};
use crate::OwnerKind;
use crate::folio::SplitTo;
use crate::machine::Machine;
use crate::owner::{FolioRef, Reference, Seen};
use crate::page::{FailedPage, FailureError, FailureOutcome, MemoryFailure};
use crate::units::{Count, Order, Pfn};

/// Times that a folio is looked for that changes just then.
const ROUNDS: u32 = 1 << 10;

impl<M: Machine> PageCache<'_, M> {
    /// Takes a page out of use whose memory fails, and its contents out of the mapping in which they stand. The caller holds no
    /// lock. Not for handlers.
    ///
    /// # Errors
    /// See [`FailureError`].
    pub fn memory_failure(&self, pfn: Pfn) -> Result<MemoryFailure, FailureError> {
        let failure = self.pages().memory_failure(pfn)?;
        if failure.page != FailedPage::InUse(OwnerKind::Folio) {
            return Ok(failure);
        }
        Ok(MemoryFailure { outcome: self.give_up_failed(pfn), ..failure })
    }

    /// Takes the folio with a page that is marked out of its mapping.
    fn give_up_failed(&self, pfn: Pfn) -> FailureOutcome {
        for _ in 0..ROUNDS {
            let folio = {
                let walker = self.owners.walk();
                let sighting = walker.look(pfn);
                match (sighting.seen(), sighting.get()) {
                    (_, Some(Reference::Folio(folio))) => folio,
                    // It is being split, joined or moved.
                    (Seen::Allocated(OwnerKind::Folio) | Seen::Moving, None) => continue,
                    _ => break,
                }
            };
            let folio = folio.lock();
            if !folio.range().contains(pfn) {
                continue;
            }
            // Which may be another one over the same owners.
            let cache = Self::mapping_of(&folio).map(|mapping| mapping.cache);
            let _visit = cache.map(Visit::of);
            let folio = match cache.filter(|_| folio.order() > Order::ZERO) {
                None => folio,
                Some(cache) => match cache.split(folio, SplitTo::Around(pfn, Order::ZERO)) {
                    Ok(()) => continue,
                    Err((folio, _)) => folio,
                },
            };
            let Some(mapping) = Self::mapping_of(&folio) else { break };
            let (kept, lost) = mapping.take_out_failed(&folio);
            drop(folio.unlock());
            // SAFETY: the tree's reference, which it has just given up.
            drop(unsafe { FolioRef::from_kept(self.owners, kept) });
            if lost > Count(0) {
                return FailureOutcome::Failed { lost };
            }
            break;
        }
        match self.owners.walk().look(pfn).seen() {
            Seen::Allocated(OwnerKind::Poisoned) => FailureOutcome::Recovered,
            _ => FailureOutcome::Delayed,
        }
    }
}
