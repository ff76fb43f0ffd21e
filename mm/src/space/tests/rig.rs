//! Spaces over a page cache: users load and store, and what they find can be compared with all that is known.

use core::ops::Range;
use core::pin::Pin;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::vec;

use super::*;
use crate::OwnerKind;
use crate::cache::{MappingRef, PageCache, Store, StoreError};
use crate::owner::{MappedBy, Reference};
use crate::slab::CreateError;
use crate::space::mmu::Access;
use crate::space::{FaultError, Space, SpaceRef, Spaces};
use crate::units::{FileOffset, PAGE_SIZE};

pub(super) type UserSpace<'r> = Space<'r, HostMachine, Unit<'r>>;
pub(super) type UserSpaceRef<'r> = SpaceRef<'r, HostMachine, Unit<'r>>;
pub(super) type File<'r> = MappingRef<'r, HostMachine>;

/// A file of the host's. Each page begins with its number.
pub(super) struct HostFile(Mutex<Vec<u8>>);

impl HostFile {
    pub(super) fn pages(pages: u8) -> Arc<Self> {
        let mut bytes = vec![0; usize::from(pages) * PAGE_SIZE];
        for page in 0..pages {
            bytes[usize::from(page) * PAGE_SIZE] = page;
        }
        Arc::new(Self(Mutex::new(bytes)))
    }

    pub(super) fn byte(&self, page: usize) -> u8 {
        self.0.lock().expect("no test fails with the lock")[page * PAGE_SIZE]
    }

    fn range(offset: FileOffset, len: usize) -> Range<usize> {
        let start = usize::try_from(offset.0).expect("small");
        start..start + len
    }
}

impl Store for HostFile {
    fn size(&self) -> FileOffset {
        FileOffset(self.0.lock().expect("as above").len() as u64)
    }

    fn read(&self, offset: FileOffset, bytes: &mut [u8]) -> Result<(), StoreError> {
        bytes.copy_from_slice(&self.0.lock().expect("as above")[Self::range(offset, bytes.len())]);
        Ok(())
    }

    fn write(&self, offset: FileOffset, bytes: &[u8]) -> Result<(), StoreError> {
        self.0.lock().expect("as above")[Self::range(offset, bytes.len())].copy_from_slice(bytes);
        Ok(())
    }
}

/// What tests of spaces stand on.
pub(super) struct Rig<'r> {
    pub(super) machine: &'r HostMachine,
    pub(super) pages: &'r PageAllocator<'r, HostMachine>,
    pub(super) owners: &'r Owners<'r, HostMachine>,
    pub(super) cache: Pin<&'r PageCache<'r, HostMachine>>,
    pub(super) unit: &'r Unit<'r>,
    pub(super) spaces: Pin<&'r Spaces<'r, HostMachine, Unit<'r>>>,
}

/// Does `work` with a cache and spaces over what there is.
pub(super) fn over<'a, R>(
    machine: &'a HostMachine,
    pages: &'a PageAllocator<'a, HostMachine>,
    owners: &'a Owners<'a, HostMachine>,
    swap: Option<&'a dyn Store>,
    work: impl FnOnce(&Rig<'_>) -> R,
) -> Result<R, CreateError> {
    let unit = Unit::new(machine);
    PageCache::with(owners, swap, |cache| {
        Spaces::with(cache, &unit, |spaces| work(&Rig { machine, pages, owners, cache, unit: &unit, spaces }))
    })
}

/// Runs a test on a machine with a swap store of 1024 pages. Afterwards nothing is left.
pub(super) fn with_rig<R>(test: impl FnOnce(&Rig<'_>) -> R) -> R {
    with_machine(|machine, pages| {
        let caches = KmemCaches::new(pages).expect("there is memory");
        let owners = Owners::new(&caches).expect("there is memory");
        let swap = HostFile(Mutex::new(vec![0; 1024 * PAGE_SIZE]));
        let result = over(machine, pages, &owners, Some(&swap), |rig| {
            let with_both = || pages.with_shrinker(&caches, || test(rig));
            let result = pages.with_shrinker(&*rig.cache, with_both).flatten().expect("there is room for two");
            assert_eq!(rig.cache.report().swapped, Count(0), "places in the swap store were lost");
            result
        });
        let result = result.expect("there is memory");
        owners.verify().expect("every page leads to its owner");
        for report in owners.reports().filter(|report| report.kind != OwnerKind::Slab) {
            assert_eq!(report.blocks, Count(0), "{} left", report.kind.name());
        }
        result
    })
}

impl<'r> Rig<'r> {
    pub(super) fn space(&self) -> UserSpaceRef<'r> {
        self.spaces.create().expect("there is memory")
    }

    pub(super) fn load(
        &self,
        space: &UserSpace<'_>,
        address: VirtualAddress,
        len: usize,
    ) -> Result<Vec<u8>, FaultError> {
        let mut bytes = vec![0; len];
        self.unit.load(space.root(), address, &mut bytes, |address, access| space.fault(address, access))?;
        Ok(bytes)
    }

    pub(super) fn store(&self, space: &UserSpace<'_>, address: VirtualAddress, bytes: &[u8]) -> Result<(), FaultError> {
        self.unit.store(space.root(), address, bytes, |address, access| space.fault(address, access))
    }

    /// The first byte of a page, for a user who may read it.
    pub(super) fn byte(&self, space: &UserSpace<'_>, page: u64) -> u8 {
        self.load(space, at(page), 1).expect("the page can be read")[0]
    }

    /// Writes the first byte of a page, for a user who may.
    pub(super) fn set(&self, space: &UserSpace<'_>, page: u64, byte: u8) {
        self.store(space, at(page), &[byte]).expect("the page can be written");
    }

    /// What can be read of a page without a fault.
    pub(super) fn mapped(&self, space: &UserSpace<'_>, page: u64) -> Option<u8> {
        let mut byte = [0];
        let load = self.unit.load(space.root(), at(page), &mut byte, |_, _| Err(()));
        load.ok().map(|()| byte[0])
    }

    /// Whether a page can be written without a fault.
    pub(super) fn writes(&self, space: &UserSpace<'_>, page: u64) -> bool {
        // An access of no length would do; a byte that is read back does, too.
        self.mapped(space, page)
            .is_some_and(|byte| self.unit.store(space.root(), at(page), &[byte], |_, _| Err(Access::Write)).is_ok())
    }

    /// Checks all that can be checked: SPACE-1, SPACE-2 and CACHE-3 of each space, MAP-1 of every folio there is, and
    /// that no processor remembers what is no longer so.
    pub(super) fn verify<'s>(&self, spaces: impl IntoIterator<Item = &'s UserSpaceRef<'r>>)
    where
        'r: 's,
    {
        let mut entries: BTreeMap<Pfn, BTreeMap<u16, u32>> = BTreeMap::new();
        for space in spaces {
            space.verify().unwrap_or_else(|violation| panic!("{:?}: {violation}", space.id()));
            let count = |entry: TableEntry, range: AddressRange| {
                if let TableEntry::Page(page) = entry {
                    for frame in (page.frame.number()..).take(usize::try_from(range.pages()).expect("small")) {
                        *entries.entry(Pfn::new(frame)).or_default().entry(space.id().0.get()).or_default() += 1;
                    }
                }
                Ok(())
            };
            space.tables.lock().verify(count).expect("the tables are sound");
        }
        self.spaces.verify().unwrap_or_else(|violation| panic!("{violation}"));
        let walker = self.owners.walk();
        for sighting in walker.blocks(walker.frames()) {
            let Some(Reference::Folio(folio)) = sighting.get() else { continue };
            let mut by_space: BTreeMap<u16, u32> = BTreeMap::new();
            for (_, counts) in entries.range(folio.range().start..folio.range().end) {
                counts.iter().for_each(|(&space, count)| *by_space.entry(space).or_default() += count);
            }
            let mappings = folio.mappings();
            assert_eq!(mappings.entries, Count(by_space.values().sum()), "MAP-1: {folio:?}");
            match mappings.by {
                MappedBy::Nobody => assert!(by_space.is_empty()),
                MappedBy::Exclusive(id) => assert!(by_space.keys().eq([&id.0.get()]), "exclusive is never wrong"),
                MappedBy::MaybeShared => assert!(!by_space.is_empty()),
            }
        }
        assert_eq!(self.unit.stale(), None, "somebody did not flush");
    }
}
