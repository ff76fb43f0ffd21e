//! A part of an address space: which addresses show what, and what users may do there.
//!
//! A region never changes. Whoever wants another one makes it, puts it in the old one's place, and drops that: so those who
//! come by the reverse map, which know nothing of the space's lock, always see one that is whole. While both are there both
//! lead to the same entries. The old one is listed first, and a large entry that is not cut yet may reach beyond the new one:
//! so what is done to a folio's entries is done by the old one, and the new one finds nothing left to do. Only that an entry
//! was used may be said again in between, and the new one leaves that as it is (`rewrite`).
//!
//! Invariants: SPACE-2 (every entry for a page lies in a region, and leads to what the region shows there; one that lets
//! users write leads to a folio of the region's own mapping). MAP-1 needs every region listed from before its first entry
//! is made until after its last one is gone.
#![expect(unsafe_code, reason = "a region is listed where it stands")]

use core::fmt;
use core::ptr::{self, NonNull};

use arrayvec::ArrayVec;
use intrusive_collections::RBTreeAtomicLink;
use thiserror::Error;

use super::gather::Entries;
use super::mmu::{Accessed, Mmu, PageProtection};
use super::range::AddressRange;
use super::tables::Tables;
use crate::cache::{Family, Leave, Listed, MappingRef, MapsFolios};
use crate::folio::LockedFolio;
use crate::machine::Machine;
use crate::owner::FolioRef;
use crate::slab::{Counted, KmemCaches, NoMemory};
use crate::sync::AtomicPtr;
use crate::units::{Order, PAGE_SHIFT, PageIndex, Pfn, VirtualAddress};

/// Whether what is written to a region is seen by others that show the same.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sharing {
    /// It is, and stays so over a fork.
    Shared,
    /// It is not.
    Private,
}

/// What a region shows.
pub(super) enum Backing<'a, M: Machine> {
    /// A mapping, from an index on. If it is private, nobody else writes it.
    Mapping(MappingRef<'a, M>, PageIndex, Sharing),
    /// Frames that belong to no folio.
    Frames(Pfn),
}

/// What a region is made of.
pub(super) struct Spec<'a, M: Machine> {
    pub(super) range: AddressRange,
    pub(super) protection: PageProtection,
    pub(super) backing: Backing<'a, M>,
}

impl<M: Machine> Spec<'_, M> {
    /// The same for a part of the range.
    #[expect(clippy::cast_possible_truncation, reason = "frames are counted in 32 bits, and the region shows them")]
    pub(super) fn part(&self, range: AddressRange) -> Self {
        let before = self.range.pages_to(range.start());
        let backing = match &self.backing {
            Backing::Mapping(mapping, index, sharing) => Backing::Mapping(mapping.get(), index.plus(before), *sharing),
            Backing::Frames(first) => Backing::Frames(first.plus(before as u32)),
        };
        Self { range, protection: self.protection, backing }
    }
}

/// A family, and the region's place in its list.
type Listing<'a, M> = (Counted<'a, M, Family<M>>, Listed<M>);

/// A region, in its place.
pub(super) struct Region<'a, M: Machine, U: Mmu> {
    pub(super) link: RBTreeAtomicLink,
    /// The reference that the space's tree has.
    pub(super) kept: AtomicPtr<()>,
    spec: Spec<'a, M>,
    tables: Counted<'a, M, Tables<'a, M, U>>,
    /// The families whose folios it may map: its mapping's, and that of the file behind it.
    families: ArrayVec<Listing<'a, M>, 2>,
}

/// A region as a value.
pub(super) type RegionRef<'a, M, U> = Counted<'a, M, Region<'a, M, U>>;

impl<'a, M: Machine, U: Mmu> Region<'a, M, U> {
    /// Makes a region that the reverse map knows.
    ///
    /// # Errors
    /// There is no memory for it.
    pub(super) fn new(
        caches: &'a KmemCaches<'a, M>,
        tables: &Counted<'a, M, Tables<'a, M, U>>,
        spec: Spec<'a, M>,
    ) -> Result<RegionRef<'a, M, U>, NoMemory> {
        let mut families = ArrayVec::new();
        if let Backing::Mapping(mapping, ..) = &spec.backing {
            families.push((mapping.family(), Listed::new()));
            families.extend(mapping.file_behind().map(|file| (file.family(), Listed::new())));
        }
        let (link, kept) = (RBTreeAtomicLink::new(), AtomicPtr::new(ptr::null_mut()));
        let region = Self { link, kept, spec, tables: tables.get(), families };
        let region = Counted::new(caches, region).map_err(|(_, error)| error)?;
        let address: NonNull<dyn MapsFolios<M> + '_> = NonNull::<Self>::from(&*region);
        for (family, place) in &region.families {
            // SAFETY: the place is a part of the region, which does not move, and takes itself off before it goes.
            unsafe { family.list(caches.pages.machine(), place, address) };
        }
        Ok(region)
    }

    pub(super) const fn spec(&self) -> &Spec<'a, M> {
        &self.spec
    }

    pub(super) const fn range(&self) -> AddressRange {
        self.spec.range
    }

    pub(super) const fn protection(&self) -> PageProtection {
        self.spec.protection
    }

    pub(super) const fn backing(&self) -> &Backing<'a, M> {
        &self.spec.backing
    }

    pub(super) const fn entries(&self) -> Entries {
        match self.spec.backing {
            Backing::Mapping(..) => Entries::OfFolios,
            Backing::Frames(_) => Entries::OfFrames,
        }
    }

    /// What the region's mapping would show at an address, inside or not; below its first page, that one.
    pub(super) fn index_at(&self, address: VirtualAddress) -> PageIndex {
        let Backing::Mapping(_, first, _) = self.spec.backing else { return PageIndex(0) };
        let start = self.range().start();
        let away = start.page().0.abs_diff(address.page().0) >> PAGE_SHIFT;
        if address < start { PageIndex(first.0.saturating_sub(away)) } else { first.plus(away) }
    }

    /// The addresses in it that show pages of a folio, which begins at `index`.
    pub(super) fn shows(&self, index: PageIndex, order: Order) -> AddressRange {
        let Backing::Mapping(_, first, _) = self.spec.backing else {
            return AddressRange::of_pages(self.range().start(), 0);
        };
        let end = index.0.saturating_add(u64::from(order.pages()));
        let (from, to) = (index.0.max(first.0) - first.0, end.max(first.0) - first.0);
        let address = |pages: u64| self.range().start().plus(pages.saturating_mul(1 << PAGE_SHIFT));
        AddressRange::new(address(from), address(to)).intersection(self.range())
    }

    /// The largest folio that could stand in the region's mapping around an address and would be shown whole.
    pub(super) fn largest(&self, address: VirtualAddress) -> Order {
        let Backing::Mapping(mapping, first, _) = &self.spec.backing else { return Order::ZERO };
        let index = self.index_at(address);
        let fits = |order: &Order| {
            let pages = u64::from(order.pages());
            let start = index.align_down(*order);
            *order <= mapping.largest && start >= *first && start.0 - first.0 + pages <= self.range().pages()
        };
        core::iter::successors(Some(Order::ZERO), |order| order.up()).take_while(fits).last().unwrap_or(Order::ZERO)
    }
}

impl<M: Machine, U: Mmu> MapsFolios<M> for Region<'_, M, U> {
    fn unmap(&self, folio: &LockedFolio<'_, M>, leave: Leave) {
        self.tables.lock().unmap_folio(self.shows(folio.index(), folio.order()), folio.range(), leave);
    }

    fn put_back(&self, folio: &FolioRef<'_, M>, old: Pfn) {
        self.tables.lock().put_back(self.shows(folio.index(), folio.order()), old, folio);
    }

    fn write_protect(&self, folio: &LockedFolio<'_, M>) {
        self.tables.lock().write_protect(self.shows(folio.index(), folio.order()), folio.range());
    }

    fn take_accessed(&self, folio: &LockedFolio<'_, M>) -> Accessed {
        self.tables.lock().take_accessed(self.shows(folio.index(), folio.order()), folio.range())
    }
}

impl<M: Machine, U: Mmu> Drop for Region<'_, M, U> {
    fn drop(&mut self) {
        for (family, place) in &self.families {
            // SAFETY: the place was listed there, and nowhere else.
            unsafe { family.unlist(self.tables.owners().machine(), place) };
        }
    }
}

impl<M: Machine, U: Mmu> fmt::Debug for Region<'_, M, U> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Region({:?}, {:?})", self.range(), self.protection())
    }
}

/// Why a part of a space was not made, changed or given up; everything is as before.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum RegionError {
    /// The addresses are none, or not all users'.
    #[error("{0:?} is not users'")]
    Outside(AddressRange),
    /// There is a region already.
    #[error("there is a region in {0:?}")]
    Taken(AddressRange),
    /// The mapping, or memory, has no such pages, or other owners know of the mapping's.
    #[error("there are no such pages")]
    NoSuchPages,
    /// There is no memory for what describes it.
    #[error("no memory for a region: {0}")]
    NoMemory(#[from] NoMemory),
    /// There is no memory for a table.
    #[error(transparent)]
    Map(#[from] super::map::MapError),
}

impl From<crate::owner::OwnError> for RegionError {
    fn from(error: crate::owner::OwnError) -> Self {
        Self::Map(error.into())
    }
}

impl From<super::tables::TooManyTables> for RegionError {
    fn from(error: super::tables::TooManyTables) -> Self {
        Self::Map(error.into())
    }
}
