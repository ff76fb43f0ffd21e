//! From a user's addresses to the folios behind them, pinned: for devices, and for whoever reads or writes a user's memory
//! without being that user. What is not there yet is faulted in; to be written, it is copied first if it is not the
//! space's own.
//!
//! A pin keeps folios where they are: they are not reclaimed, split or moved as long as it lives. It says nothing of the
//! space, which may unmap them meanwhile.
//!
//! Source: Linux's `pin_user_pages`; M. Wilcox, "Folios and get_user_pages", LSFMM 2022.

use core::fmt;

use arrayvec::ArrayVec;
use thiserror::Error;

use super::fault::FaultError;
use super::gather::folio_at;
use super::mmu::{Access, Mmu, TableEntry};
use super::region::{Backing, Region};
use super::spaces::Space;
use crate::cache::PageCache;
use crate::machine::Machine;
use crate::owner::{FolioRef, PinnedFolio, Seen};
use crate::units::{Bytes, PAGE_SHIFT, PAGE_SIZE, VirtualAddress};

/// Runs that are pinned at once.
const RUNS: usize = 16;

/// Why a user's addresses cannot be pinned.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum GupError {
    /// The access cannot go on.
    #[error(transparent)]
    Fault(#[from] FaultError),
    /// What is shown there is no folio, but this.
    #[error("what is mapped at {0:?} is no folio: {1:?}")]
    NotAFolio(VirtualAddress, Seen),
}

/// A run of a user's bytes, and where they are.
pub struct UserRun<'a, M: Machine> {
    folio: PinnedFolio<'a, M>,
    access: Access,
    offset: usize,
    len: usize,
}

impl<'a, M: Machine> UserRun<'a, M> {
    /// The folio that they are all in.
    pub const fn folio(&self) -> &FolioRef<'a, M> {
        self.folio.folio()
    }

    /// Where in the folio the first one is.
    pub const fn offset(&self) -> Bytes {
        Bytes(self.offset)
    }

    /// How many there are.
    pub const fn len(&self) -> Bytes {
        Bytes(self.len)
    }
}

impl<M: Machine> Drop for UserRun<'_, M> {
    fn drop(&mut self) {
        // Write-back may have called it clean since it was faulted in, and nothing but this knows that it was written.
        if self.access == Access::Write {
            PageCache::written(self.folio().get());
        }
    }
}

impl<M: Machine> fmt::Debug for UserRun<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UserRun({} of {:?} from {})", self.len(), self.folio(), self.offset())
    }
}

/// A user's bytes, pinned in the order of their addresses until this drops.
#[derive(Debug)]
#[must_use = "the folios are unpinned when this drops"]
pub struct UserPages<'a, M: Machine>(ArrayVec<UserRun<'a, M>, RUNS>);

impl<'a, M: Machine> UserPages<'a, M> {
    /// The runs.
    pub fn runs(&self) -> &[UserRun<'a, M>] {
        &self.0
    }

    /// How many bytes were pinned: fewer than asked for, if these are in more folios than are pinned at once.
    pub fn len(&self) -> Bytes {
        Bytes(self.0.iter().map(|run| run.len).sum())
    }

    /// Whether none was.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds the bytes of one page.
    fn push(&mut self, folio: FolioRef<'a, M>, access: Access, offset: usize, len: usize) -> Pushed {
        if let Some(last) = self.0.last_mut()
            && (last.folio().head(), last.offset + last.len) == (folio.head(), offset)
        {
            last.len += len;
            return Pushed::In;
        }
        let run = UserRun { folio: PinnedFolio::new(folio), access, offset, len };
        if self.0.try_push(run).is_ok() { Pushed::In } else { Pushed::Full }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Pushed {
    In,
    Full,
}

impl<'a, M: Machine, U: Mmu> Space<'a, M, U> {
    /// Pins the folios behind so many bytes from `address` on, for a kind of access, as many as are pinned at once.
    ///
    /// # Errors
    /// See [`GupError`]; nothing is pinned.
    pub fn get_user_pages(
        &self,
        address: VirtualAddress,
        Bytes(len): Bytes,
        access: Access,
    ) -> Result<UserPages<'a, M>, GupError> {
        let regions = self.regions.read(self.machine());
        let mut pages = UserPages(ArrayVec::new());
        let (mut at, mut left) = (address, len);
        while left > 0 {
            let region = regions.find(at).ok_or(FaultError::NoRegion(at))?;
            let (folio, page) = self.folio_behind(region, at, access)?;
            let within = usize::try_from(at.0 - at.page().0).unwrap_or(0);
            let part = left.min(PAGE_SIZE - within);
            if pages.push(folio, access, (page << PAGE_SHIFT) + within, part) == Pushed::Full {
                break;
            }
            (at, left) = (at.plus(part as u64), left - part);
        }
        Ok(pages)
    }

    /// The folio that an access to an address reaches, and which of its pages.
    fn folio_behind(
        &self,
        region: &Region<'a, M, U>,
        address: VirtualAddress,
        access: Access,
    ) -> Result<(FolioRef<'a, M>, usize), GupError> {
        if let Backing::Frames(first) = region.backing() {
            let offset = u32::try_from(region.range().pages_to(address)).unwrap_or(u32::MAX);
            let walker = self.tables.owners().walk();
            return Err(GupError::NotAFolio(address, walker.look(first.plus(offset)).seen()));
        }
        loop {
            // A reference taken under the lock is taken while an entry leads there, so the pages cannot have moved.
            let locked = self.tables.lock();
            if let (TableEntry::Page(entry), whole) = locked.entry(address)
                && entry.protection.allows(access)
            {
                let within = u32::try_from(whole.pages_to(address)).unwrap_or(u32::MAX);
                let frame = entry.frame.plus(within);
                let folio = folio_at(&self.tables, frame);
                let page = (frame.number() - folio.head().number()) as usize;
                return Ok((folio, page));
            }
            drop(locked);
            self.fault_in(region, address, access)?;
        }
    }
}
