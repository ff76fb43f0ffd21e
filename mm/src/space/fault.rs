//! Page faults: an access that the tables do not allow, and the entry that it needs.
//!
//! What a page shows is for its region's mapping to say, which also reads, makes and copies ([`Mapping::fault`]). It gives a
//! folio that is locked, so that until the entry is made nobody takes it out of its mapping. A folio that stands in the
//! region's own mapping is what users see, whatever entries say. One that stands behind is, unless something has come to
//! stand in front of it meanwhile; so that is asked once more under the tables' lock: whoever puts something in front takes
//! that lock afterwards, and finds the entry.
//!
//! What was copied to stand in front is what users see, even if there is no memory for the table that its entry needs: the
//! entry that leads to what is behind goes, and the next access faults.
//!
//! With the page that is wanted others of its folio are mapped, as far as one leaf reaches: all of them, if the folio is
//! the mapping's own; a few around, if it stands behind, where each has to be asked for.
//!
//! Invariants: CACHE-3 (an entry lets users write only if the folio is dirty), SPACE-2.
//!
//! [`Mapping::fault`]: crate::cache::Mapping::fault

use thiserror::Error;

use super::gather::Entries;
use super::map::{MapError, Present, Run};
use super::mmu::{Access, Mmu, PageProtection, TableEntry};
use super::range::AddressRange;
use super::region::{Backing, Region};
use super::spaces::Space;
use super::tables::{Attempt, Locked, Provision};
use super::walk::{LARGE, Shape};
use crate::cache::{CacheError, Faulted, Intent, Mapping, Shown, Writable};
use crate::machine::Machine;
use crate::owner::{FolioRef, OwnError, TableLevel};
use crate::units::{Count, PAGE_SIZE, PageIndex, Pfn, VirtualAddress};

/// Pages that are mapped with one that stands behind, at most, that one included. Linux's `fault_around_bytes`.
const AROUND: u64 = 16;

/// Why an access cannot go on; everything is as before.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum FaultError {
    /// Nothing is shown there.
    #[error("nothing is mapped at {0:?}")]
    NoRegion(VirtualAddress),
    /// What is shown there may not be used so.
    #[error("{1:?} is not allowed at {0:?}")]
    Denied(VirtualAddress, Access),
    /// The file that is shown there ends before.
    #[error("the file mapped at {0:?} ends before")]
    Beyond(VirtualAddress),
    /// What was shown there was in memory that failed, and is nowhere else. Linux: `VM_FAULT_HWPOISON`, a `SIGBUS`.
    #[error("the memory behind {0:?} has failed")]
    Poisoned(VirtualAddress),
    /// The contents cannot be had.
    #[error(transparent)]
    Contents(#[from] CacheError),
    /// The page cannot be mapped.
    #[error(transparent)]
    Map(#[from] MapError),
}

impl From<OwnError> for FaultError {
    fn from(error: OwnError) -> Self {
        Self::Map(error.into())
    }
}

/// What came of a folio that was to be mapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Installed {
    /// It is.
    Done,
    /// Something stands in front of it by now.
    Hidden,
}

impl<'a, M: Machine, U: Mmu> Space<'a, M, U> {
    /// Lets an access to an address go on, or says why it cannot. The caller holds no lock, and the processor tries again.
    ///
    /// # Errors
    /// See [`FaultError`].
    pub fn fault(&self, address: VirtualAddress, access: Access) -> Result<(), FaultError> {
        let regions = self.regions.read(self.machine());
        let region = regions.find(address).ok_or(FaultError::NoRegion(address))?;
        self.fault_in(region, address, access)
    }

    /// The same, in a region that the caller keeps from changing.
    pub(super) fn fault_in(
        &self,
        region: &Region<'a, M, U>,
        address: VirtualAddress,
        access: Access,
    ) -> Result<(), FaultError> {
        if !region.protection().allows(access) {
            return Err(FaultError::Denied(address, access));
        }
        match region.backing() {
            Backing::Mapping(mapping, ..) => {
                self.fault_folio(region, mapping, region.index_at(address), address, access)
            }
            Backing::Frames(first) => self.fault_frame(region, *first, address),
        }
    }

    fn fault_folio(
        &self,
        region: &Region<'a, M, U>,
        mapping: &Mapping<'a, M>,
        index: PageIndex,
        address: VirtualAddress,
        access: Access,
    ) -> Result<(), FaultError> {
        let intent = if access == Access::Write { Intent::Write } else { Intent::Read };
        let mut provision = Provision::none();
        loop {
            let faulted = mapping.fault(index, intent, region.largest(address)).map_err(|error| match error {
                CacheError::Beyond(_) => FaultError::Beyond(address),
                CacheError::Lost(_) => FaultError::Poisoned(address),
                other => other.into(),
            })?;
            let wanted = match self.install(region, mapping, index, address, &faulted, &mut provision) {
                Ok(Installed::Done) => return Ok(()),
                Ok(Installed::Hidden) => continue,
                Err(Attempt::Failed(error)) => return Err(error.into()),
                Err(Attempt::Lacking(wanted)) => wanted,
            };
            // The folio is unlocked before anything is allocated.
            drop(faulted);
            self.spaces.cache().with_reclaim(|| provision.fill(&self.tables, &wanted))?;
        }
    }

    /// Maps a folio that is locked at an address that shows it, and around.
    fn install(
        &self,
        region: &Region<'a, M, U>,
        mapping: &Mapping<'a, M>,
        index: PageIndex,
        address: VirtualAddress,
        faulted: &Faulted<'a, M>,
        provision: &mut Provision<'a, M>,
    ) -> Result<Installed, Attempt<MapError>> {
        let folio = &faulted.folio;
        let own = mapping.holds(folio, index);
        // INVARIANT: CACHE-3, and what stands behind is nobody's to write.
        let protection = match faulted.writable {
            Writable::Yes => region.protection(),
            Writable::No => region.protection().without_write(),
        };
        let shows = region.shows(folio.index(), folio.order());
        let mut locked = self.tables.lock();
        let range = if own {
            let leaf = AddressRange::new(
                Shape::<U>::table_base(address, TableLevel::LEAF),
                Shape::<U>::around(address, LARGE).end(),
            );
            shows.intersection(leaf)
        } else {
            if mapping.hides(index) {
                return Ok(Installed::Hidden);
            }
            let page = AddressRange::page(address);
            match locked.entry(address).0 {
                TableEntry::Page(_) => page,
                _ => locked.bare_around(mapping, folio, index, address, shows),
            }
        };
        let offset = index.0 - folio.index().0 - range.pages_to(address);
        let offset = Count(u32::try_from(offset).unwrap_or(u32::MAX));
        let run = Run::of_folio(folio, offset, range, protection).ok_or(Attempt::Failed(MapError::Outside))?;
        let mapped = locked.map(&run, Present::Replace, provision);
        if mapped.is_err() && own {
            locked.unmap_behind(address, folio);
        }
        mapped.map(|()| Installed::Done)
    }

    /// Maps a run of a folio's pages, from `offset` on, before anybody asks for them: all of it, or nothing. A region must
    /// show them there, and allow what `protection` does; to be written, the folio is called dirty.
    ///
    /// # Errors
    /// See [`FaultError`]: among others the pages are not what is shown there, or something is mapped already.
    pub fn map_folio_range(
        &self,
        folio: &FolioRef<'a, M>,
        Count(offset): Count,
        Count(len): Count,
        address: VirtualAddress,
        protection: PageProtection,
    ) -> Result<(), FaultError> {
        let range = AddressRange::of_pages(address, len.into());
        let regions = self.regions.read(self.machine());
        let region = regions.find(address).filter(|region| region.range().covers(range));
        let region = region.ok_or(FaultError::NoRegion(address))?;
        let access = if protection == PageProtection::ReadWrite { Access::Write } else { Access::Read };
        if protection != region.protection() && protection != region.protection().without_write() {
            return Err(FaultError::Denied(address, access));
        }
        let Backing::Mapping(mapping, ..) = region.backing() else { return Err(MapError::Outside.into()) };
        let index = region.index_at(address);
        let intent = if access == Access::Write { Intent::Write } else { Intent::Read };
        let mut provision = Provision::none();
        loop {
            let faulted = mapping.fault(index, intent, folio.order())?;
            let shown = &faulted.folio;
            let own = mapping.holds(shown, index);
            if own {
                self.tables.lock().unmap_behind(address, shown);
            }
            if !own || shown.head() != folio.head() || shown.index().plus(offset.into()) != index {
                return Err(MapError::Outside.into());
            }
            let run = Run::of_folio(shown, Count(offset), range, protection).ok_or(MapError::Outside)?;
            // The lock is let go before anything is allocated.
            let mapped = self.tables.lock().map(&run, Present::Refuse, &mut provision);
            match mapped {
                Ok(()) => return Ok(()),
                Err(Attempt::Failed(error)) => return Err(error.into()),
                Err(Attempt::Lacking(wanted)) => {
                    drop(faulted);
                    self.spaces.cache().with_reclaim(|| provision.fill(&self.tables, &wanted))?;
                }
            }
        }
    }

    /// Maps a frame that is no folio's.
    fn fault_frame(&self, region: &Region<'a, M, U>, first: Pfn, address: VirtualAddress) -> Result<(), FaultError> {
        let range = AddressRange::page(address);
        let offset = u32::try_from(region.range().pages_to(address)).unwrap_or(u32::MAX);
        let run = Run::of_frames(first.plus(offset), range, region.protection());
        Ok(self.provided(|locked, provision| locked.map(&run, Present::Replace, provision))?)
    }
}

impl<'a, M: Machine, U: Mmu> Locked<'_, 'a, M, U> {
    /// Takes away the entry for an address, however much it maps, if it leads to something else than the folio that users
    /// see there from now on.
    fn unmap_behind(&mut self, address: VirtualAddress, folio: &FolioRef<'a, M>) {
        if let (TableEntry::Page(page), whole) = self.entry(address)
            && !folio.range().contains(page.frame)
        {
            self.unmap(whole, Entries::OfFolios);
        }
    }

    /// The pages around an address, of those that show a folio which stands behind a mapping, at which there is no entry
    /// and nothing stands in front.
    fn bare_around(
        &self,
        mapping: &Mapping<'a, M>,
        folio: &FolioRef<'a, M>,
        index: PageIndex,
        address: VirtualAddress,
        shows: AddressRange,
    ) -> AddressRange {
        let span = PAGE_SIZE as u64 * AROUND;
        let aligned = AddressRange::of_pages(VirtualAddress(address.0 & !(span - 1)), AROUND);
        let around = aligned.intersection(shows).intersection(Shape::<U>::around(address, LARGE));
        let is_bare = |page: &AddressRange| {
            let index = PageIndex(index.0 + around.pages_to(page.start()) - around.pages_to(address));
            let is_seen = matches!(mapping.shown(index), Shown::Behind(seen) if seen.head() == folio.head());
            // What was taken over from behind during the look stands in front by now.
            is_seen && !mapping.hides(index) && self.entry(page.start()).0 == TableEntry::Empty
        };
        let page = AddressRange::page(address);
        let below = core::iter::successors(page.before(), |page| page.before());
        let above = core::iter::successors(Some(page.behind()), |page| Some(page.behind()));
        let within = |page: &AddressRange| around.covers(*page) && is_bare(page);
        let first = below.take_while(within).last().unwrap_or(page);
        let last = above.take_while(within).last().unwrap_or(page);
        AddressRange::new(first.start(), last.end())
    }
}
