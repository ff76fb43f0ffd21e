//! Address spaces: made, given regions, and gone with their last reference.
//!
//! Invariants: SPACE-3 (no space outlives what all share, as folios lead to mappings, these to regions, and these to the `Mmu`:
//! that is pinned before there is a space, so that it stays where it is until it is dropped, and then there must be none.
//! Where the `Mmu` does not live for ever, `with` lends it and drops it, and nobody has it otherwise: what is leaked is never
//! dropped, while the `Mmu` goes).
#![expect(unsafe_code, reason = "spaces are found by number")]

use core::fmt;
use core::marker::PhantomPinned;
use core::pin::{Pin, pin};

use thiserror::Error;

use super::mmu::{Mmu, PageProtection};
use super::range::AddressRange;
use super::region::{Backing, Region, RegionError, Sharing, Spec};
use super::regions::Regions;
use super::registry::{Registered, Registry};
use super::tables::{Locked, Provision, Tables};
use crate::cache::{Mapping, MappingRef, PageCache};
use crate::lock::RwLock;
use crate::lock_order::class;
use crate::machine::Machine;
use crate::owner::OwnError;
use crate::slab::{Counted, KmemCaches, NoMemory};
use crate::units::{Order, PAGE_SHIFT, PAGE_SIZE, PageIndex, Pfn, SpaceId, VirtualAddress};

/// All address spaces of a machine. If somebody forgot one, the machine stops when this is dropped.
///
/// What borrows for ever is made by [`new`](Self::new), to be pinned. Any other is lent by [`with`](Self::with), and nobody has it:
/// a value that is leaked is never dropped, while what it borrows goes, where a forgotten space still leads.
pub struct Spaces<'a, M: Machine, U: Mmu> {
    cache: Pin<&'a PageCache<'a, M>>,
    mmu: &'a U,
    registry: Registry,
    /// Spaces lead to it.
    _looked_at: PhantomPinned,
}

/// A reference to a space. With the last one it goes, and everything that is mapped in it.
pub type SpaceRef<'a, M, U> = Counted<'a, M, Space<'a, M, U>>;

/// An address space.
pub struct Space<'a, M: Machine, U: Mmu> {
    pub(super) spaces: Pin<&'a Spaces<'a, M, U>>,
    /// Goes before what is found by it.
    _numbered: Numbered<'a, M, U>,
    pub(super) tables: Counted<'a, M, Tables<'a, M, U>>,
    /// Faults and pins read them.
    pub(super) regions: RwLock<class::Regions, Regions<'a, M, U>>,
}

/// A space's number, which it has until this is dropped.
struct Numbered<'a, M: Machine, U: Mmu> {
    spaces: Pin<&'a Spaces<'a, M, U>>,
    place: Counted<'a, M, Registered>,
}

impl<M: Machine, U: Mmu> Drop for Numbered<'_, M, U> {
    fn drop(&mut self) {
        // SAFETY: it was added when this was made.
        unsafe { self.spaces.registry.remove(self.spaces.machine(), &self.place) };
    }
}

/// Why there is no new space.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum SpaceError {
    /// There is no memory for its topmost table.
    #[error("no memory for a page table: {0}")]
    Table(#[from] OwnError),
    /// There is no memory for what describes it.
    #[error("no memory for an address space: {0}")]
    NoMemory(#[from] NoMemory),
    /// There are as many as can be numbered.
    #[error("there are as many address spaces as can be numbered")]
    TooMany,
}

impl<M: Machine, U: Mmu> Spaces<'static, M, U> {
    /// Room for spaces, of what lives for ever.
    pub fn new(cache: Pin<&'static PageCache<'static, M>>, mmu: &'static U) -> Self {
        Self { cache, mmu, registry: Registry::new(), _looked_at: PhantomPinned }
    }
}

impl<'a, M: Machine, U: Mmu> Spaces<'a, M, U> {
    /// Does `work` with room for spaces, of which there are none at first and none behind it. What they are to map is had from
    /// the cache in there: mappings and spaces live equally long.
    pub fn with<R>(cache: Pin<&'a PageCache<'a, M>>, mmu: &'a U, work: impl FnOnce(Pin<&Spaces<'_, M, U>>) -> R) -> R {
        // INVARIANT: SPACE-3, it does not get out of here, and is dropped before the borrows end, also while unwinding.
        let spaces = pin!(Self { cache, mmu, registry: Registry::new(), _looked_at: PhantomPinned });
        work(spaces.into_ref())
    }

    /// The cache whose folios spaces map.
    pub const fn cache(&self) -> Pin<&'a PageCache<'a, M>> {
        self.cache
    }

    fn machine(&self) -> &'a M {
        self.cache.owners().machine()
    }

    fn caches(&self) -> &'a KmemCaches<'a, M> {
        self.cache.owners().caches
    }

    /// Makes a space in which nothing is mapped.
    ///
    /// # Errors
    /// There is no memory for it, or no number; nothing is lost.
    pub fn create<'s>(self: Pin<&'s Self>) -> Result<SpaceRef<'s, M, U>, SpaceError> {
        let created = self.cache.with_reclaim(|| match self.create_once() {
            // Memory would not help.
            Err(SpaceError::TooMany) => Ok(None),
            created => created.map(Some),
        });
        created?.ok_or(SpaceError::TooMany)
    }

    fn create_once<'s>(self: Pin<&'s Self>) -> Result<SpaceRef<'s, M, U>, SpaceError> {
        let this = self.get_ref();
        let caches = this.caches();
        let place = Counted::new(caches, Registered::new()).map_err(|(_, error)| error)?;
        // SAFETY: it is in an object, and `Numbered` takes it off before that goes.
        let id = unsafe { this.registry.add(this.machine(), &place) }.ok_or(SpaceError::TooMany)?;
        let numbered = Numbered { spaces: self, place };
        let tables = Tables::new(this.cache.owners(), this.mmu, id)?;
        let tables = Counted::new(caches, tables).map_err(|(_, error)| error)?;
        this.registry.set_tables(&numbered.place, &tables);
        let space = Space { spaces: self, _numbered: numbered, tables, regions: RwLock::new(Regions::new()) };
        Counted::new(caches, space).map_err(|(_, error)| error.into())
    }

    /// Shows the tables of every space to `visit`, until it fails.
    pub(super) fn try_for_each_tables<E>(
        &self,
        visit: impl FnMut(&Tables<'_, M, U>) -> Result<(), E>,
    ) -> Result<(), E> {
        // SAFETY: all spaces here were made by `create`.
        unsafe { self.registry.try_for_each(self.machine(), visit) }
    }

    /// The tables of the space with a number; they stay as long as they are referred to.
    pub(crate) fn tables(&self, space: SpaceId) -> Option<Counted<'_, M, Tables<'_, M, U>>> {
        // SAFETY: all spaces here were made by `create`, and borrow from this.
        unsafe { self.registry.find(self.machine(), space) }
    }
}

impl<M: Machine, U: Mmu> Drop for Spaces<'_, M, U> {
    fn drop(&mut self) {
        if !self.registry.is_empty(self.machine()) {
            forgotten();
        }
    }
}

/// Stops for good, whoever would catch the panic: folios would lead to what is gone.
extern "C" fn forgotten() -> ! {
    panic!("invariant SPACE-3 broken: what all spaces share goes, but a space does not");
}

impl<M: Machine, U: Mmu> fmt::Debug for Spaces<'_, M, U> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spaces").finish_non_exhaustive()
    }
}

impl<'a, M: Machine, U: Mmu> Space<'a, M, U> {
    pub(super) fn machine(&self) -> &'a M {
        self.tables.owners().machine()
    }

    /// Its number.
    pub fn id(&self) -> SpaceId {
        self.tables.id()
    }

    /// The topmost table: what a processor is given to run in the space, which must be referred to as long.
    pub fn root(&self) -> Pfn {
        self.tables.root()
    }

    /// Shows a mapping, usually a file, from an index on, at so many pages from `address` on. Privately, what is written
    /// is seen here alone.
    ///
    /// # Errors
    /// See [`RegionError`].
    pub fn map_file(
        &self,
        range: AddressRange,
        mapping: &MappingRef<'a, M>,
        index: PageIndex,
        protection: PageProtection,
        sharing: Sharing,
    ) -> Result<(), RegionError> {
        // Whose folio an entry leads to, these spaces' owners must be able to say.
        let is_ours = core::ptr::eq(mapping.owners(), self.spaces.cache.owners());
        if !is_ours || index.0.checked_add(range.pages()).is_none() {
            return Err(RegionError::NoSuchPages);
        }
        let mapping = match sharing {
            Sharing::Shared => mapping.get(),
            Sharing::Private => Mapping::shadow(mapping)?,
        };
        self.add(&Spec { range, protection, backing: Backing::Mapping(mapping, index, sharing) })
    }

    /// Shows new anonymous memory, in folios of `largest` at most. Shared, a fork goes on showing the same.
    ///
    /// # Errors
    /// See [`RegionError`].
    pub fn map_anonymous(
        &self,
        range: AddressRange,
        protection: PageProtection,
        sharing: Sharing,
        largest: Order,
    ) -> Result<(), RegionError> {
        let cache = self.spaces.cache;
        let mapping = cache.with_reclaim(|| cache.anonymous(largest))?;
        // Folios are aligned in the mapping as they are here, so that large ones can have large entries.
        let index = PageIndex(range.start().0 >> PAGE_SHIFT);
        self.add(&Spec { range, protection, backing: Backing::Mapping(mapping, index, sharing) })
    }

    /// Shows frames that belong to no folio, from `first` on: a device's, or the kernel's own.
    ///
    /// # Errors
    /// See [`RegionError`].
    ///
    /// # Safety
    /// As long as the space shows them, users may do with the frames what `protection` says.
    pub unsafe fn map_frames(
        &self,
        range: AddressRange,
        first: Pfn,
        protection: PageProtection,
    ) -> Result<(), RegionError> {
        if range.pages() > u64::from(Pfn::LIMIT.number() - first.number()) {
            return Err(RegionError::NoSuchPages);
        }
        self.add(&Spec { range, protection, backing: Backing::Frames(first) })
    }

    /// Shows nothing at these addresses any more. Regions are cut at both ends. What was private there goes, but for
    /// folios of which a part is still shown.
    ///
    /// # Errors
    /// There is no memory for what is left of a region, or of a large page; see [`RegionError`].
    pub fn unmap(&self, range: AddressRange) -> Result<(), RegionError> {
        let mut regions = self.regions.write(self.machine());
        let old = self.carve(&mut regions, range, |_| None)?;
        self.each_part(&old, range, |locked, part, region| locked.unmap(part, region.entries()));
        old.iter().for_each(|region| Self::give_up_unseen(&regions, region.range().intersection(range), region));
        Ok(())
    }

    /// Gives up what nobody sees any more once a part of a region has gone: what is private there, and what stands across
    /// its ends if no other region shows the rest.
    fn give_up_unseen(regions: &Regions<'a, M, U>, part: AddressRange, region: &Region<'a, M, U>) {
        let Backing::Mapping(mapping, _, Sharing::Private) = region.backing() else { return };
        let shows = |other: &&Region<'a, M, U>| matches!(other.backing(), Backing::Mapping(of, ..) if of.is(mapping));
        let reach = u64::from(Order::LIMIT.pages()) * PAGE_SIZE as u64;
        let below = AddressRange::new(VirtualAddress(part.start().0.saturating_sub(reach)), part.start());
        let above = AddressRange::new(part.end(), part.end().plus(reach));
        let start = regions.overlapping(below).filter(shows).last().map_or(below.start(), |other| other.range().end());
        let end = regions.overlapping(above).find(shows).map_or(above.end(), |other| other.range().start());
        mapping.give_up(region.index_at(start), region.index_at(end));
    }

    /// Lets users do these things with what is shown at these addresses, and no others. Regions are cut at both ends;
    /// where there is none, nothing changes.
    ///
    /// # Errors
    /// There is no memory for a region, or for what is left of a large page; see [`RegionError`].
    pub fn protect(&self, range: AddressRange, protection: PageProtection) -> Result<(), RegionError> {
        let mut regions = self.regions.write(self.machine());
        let old = self.carve(&mut regions, range, |part| Some(Spec { protection, ..part }))?;
        self.each_part(&old, range, |locked, part, region| locked.protect(part, region.entries(), protection));
        Ok(())
    }

    fn users(&self) -> AddressRange {
        let users = self.spaces.mmu.users();
        AddressRange::new(users.start, users.end)
    }

    fn add(&self, spec: &Spec<'a, M>) -> Result<(), RegionError> {
        let range = spec.range;
        if range.is_empty() || !self.users().covers(range) {
            return Err(RegionError::Outside(range));
        }
        let mut regions = self.regions.write(self.machine());
        if regions.first_in(range).is_some() {
            return Err(RegionError::Taken(range));
        }
        regions.insert(self.region(|| spec.part(range))?);
        Ok(())
    }

    /// Makes a region.
    pub(super) fn region(&self, spec: impl Fn() -> Spec<'a, M>) -> Result<Counted<'a, M, Region<'a, M, U>>, NoMemory> {
        self.spaces.cache.with_reclaim(|| Region::new(self.spaces.caches(), &self.tables, spec()))
    }

    /// Replaces what lies in a range by what `change` makes of it, or nothing, and gives the regions that were there.
    /// What they have outside of it stays, in regions of its own. Everything is had first; then no entry straddles either
    /// end; then all is done at once.
    fn carve(
        &self,
        regions: &mut Regions<'a, M, U>,
        range: AddressRange,
        change: impl Fn(Spec<'a, M>) -> Option<Spec<'a, M>>,
    ) -> Result<Regions<'a, M, U>, RegionError> {
        if !self.users().covers(range) {
            return Err(RegionError::Outside(range));
        }
        let mut fresh = Regions::new();
        for region in regions.overlapping(range) {
            let all = region.range();
            let before = AddressRange::new(all.start(), range.start().min(all.end()));
            let behind = AddressRange::new(range.end().max(all.start()), all.end());
            for part in [before, behind].into_iter().filter(|part| !part.is_empty()) {
                fresh.insert(self.region(|| region.spec().part(part))?);
            }
            let inside = region.spec().part(all.intersection(range));
            if let Some(spec) = change(inside) {
                fresh.insert(self.region(|| spec.part(spec.range))?);
            }
        }
        for edge in [range.start(), range.end()] {
            self.provided(|locked, provision| locked.split_at::<RegionError>(edge, provision))?;
        }
        let mut old = Regions::new();
        while let Some(region) = regions.take_first(range) {
            old.insert(region);
        }
        regions.append(fresh);
        Ok(old)
    }

    /// Does something to the entries of each region's part of a range.
    pub(super) fn each_part(
        &self,
        regions: &Regions<'a, M, U>,
        range: AddressRange,
        mut each: impl FnMut(&mut Locked<'_, 'a, M, U>, AddressRange, &Region<'a, M, U>),
    ) {
        for region in regions.overlapping(range) {
            each(&mut self.tables.lock(), region.range().intersection(range), region);
        }
    }

    /// Does what may need tables; reclaims if there is no memory for them.
    pub(super) fn provided<T, E: From<OwnError>>(
        &self,
        attempt: impl FnMut(&mut Locked<'_, 'a, M, U>, &mut Provision<'a, M>) -> Result<T, super::tables::Attempt<E>>,
    ) -> Result<T, E> {
        let cache = self.spaces.cache;
        self.tables.provided(|provision, wanted| cache.with_reclaim(|| provision.fill(&self.tables, wanted)), attempt)
    }
}

impl<M: Machine, U: Mmu> Drop for Space<'_, M, U> {
    fn drop(&mut self) {
        let regions = core::mem::replace(self.regions.get_mut(), Regions::new());
        self.each_part(&regions, AddressRange::ALL, |locked, part, region| locked.unmap(part, region.entries()));
    }
}

impl<M: Machine, U: Mmu> fmt::Debug for Space<'_, M, U> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Space").field("tables", &self.tables.id()).finish_non_exhaustive()
    }
}
