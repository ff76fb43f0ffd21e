//! Fragmented machines, whose users must notice nothing.

use core::num::NonZeroU16;
use core::pin::Pin;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::vec;
use std::vec::Vec;

use super::*;
use crate::OwnerKind;
use crate::boot_map::{BootMap, Region, RegionKind};
use crate::cache::{MappingRef, PageCache, Store, StoreError};
use crate::host::{HostMachine, HostMmu, at_each_step, ballast, orders_that_take_all, scaled};
use crate::machine::Standard;
use crate::owner::{Folio, FolioRef, PageTypes, Reference};
use crate::page::Request;
use crate::slab::KmemCaches;
use crate::space::{Access, AddressRange, FaultError, PageProtection, Sharing, Space, SpaceRef};
use crate::units::{Bytes, FileOffset, NodeId, PAGE_SIZE, PageIndex, PhysAddr, VirtualAddress};

mod blocks;
mod failing;
mod fragmented;
mod migrate;
mod offline;
mod stress;

/// Tables of sixteen entries: there are many of them.
type Unit<'m> = HostMmu<'m, Standard, 4>;
type UserSpace<'r> = Space<'r, HostMachine, Unit<'r>>;
type UserSpaceRef<'r> = SpaceRef<'r, HostMachine, Unit<'r>>;
type File<'r> = MappingRef<'r, HostMachine>;
type FolioOf<'r> = FolioRef<'r, HostMachine>;

/// Linux's order of a large page.
const PAGEBLOCK: Order = Order::of(9);
const CPUS: u16 = 4;

/// A file of the host's.
struct HostFile(Mutex<Vec<u8>>);

impl HostFile {
    fn pages(pages: usize) -> Arc<Self> {
        Arc::new(Self(Mutex::new(vec![0; pages * PAGE_SIZE])))
    }

    fn with<R>(&self, offset: FileOffset, len: usize, work: impl FnOnce(&mut [u8]) -> R) -> R {
        let start = usize::try_from(offset.0).expect("small");
        work(&mut self.0.lock().expect("no test fails with the lock")[start..start + len])
    }
}

impl Store for HostFile {
    fn size(&self) -> FileOffset {
        FileOffset(self.0.lock().expect("as above").len() as u64)
    }

    fn read(&self, offset: FileOffset, bytes: &mut [u8]) -> Result<(), StoreError> {
        self.with(offset, bytes.len(), |file| bytes.copy_from_slice(file));
        Ok(())
    }

    fn write(&self, offset: FileOffset, bytes: &[u8]) -> Result<(), StoreError> {
        self.with(offset, bytes.len(), |file| file.copy_from_slice(bytes));
        Ok(())
    }
}

struct Rig<'r> {
    pages: &'r PageAllocator<'r, HostMachine>,
    owners: &'r Owners<'r, HostMachine>,
    cache: Pin<&'r PageCache<'r, HostMachine>>,
    unit: &'r Unit<'r>,
    spaces: Pin<&'r Spaces<'r, HostMachine, Unit<'r>>>,
    compactor: Compactor<'r, HostMachine, Unit<'r>>,
}

/// Runs a test on a machine of so many MiB, of which those from `lowmem` on are highmem. Afterwards nothing is left.
fn with_rig<R>(mib: u32, lowmem: u32, test: impl FnOnce(&Rig<'_>) -> R) -> R {
    let cpus = NonZeroU16::new(CPUS).expect("not zero");
    let machine = HostMachine::new(Pfn::new(mib << 8), Pfn::new(lowmem << 8), cpus).expect("the host lends memory");
    let memory = Region { start: PhysAddr(0), len: u64::from(mib) << 20, kind: RegionKind::Usable, node: NodeId(0) };
    let mut map: BootMap = BootMap::new(&[memory]).expect("the map is sound");
    let pages = machine.allocator(&mut map).expect("the tables fit");
    let free = pages.free_pages();
    let result = {
        let caches = KmemCaches::new(&pages).expect("there is memory");
        let owners = Owners::new(&caches).expect("there is memory");
        let unit = Unit::new(&machine);
        let result = PageCache::with(&owners, None, |cache| {
            Spaces::with(cache, &unit, |spaces| {
                let compactor = Compactor::new(spaces.get_ref());
                let (pages, owners, unit) = (&pages, &owners, &unit);
                let rig = Rig { pages, owners, cache, unit, spaces, compactor };
                let with_both = || pages.with_shrinker(&caches, || test(&rig));
                pages.with_shrinker(&*cache, with_both).flatten().expect("there is room for two")
            })
        });
        let result = result.expect("there is memory");
        owners.verify().expect("every page leads to its owner");
        for report in owners.reports().filter(|report| report.kind != OwnerKind::Slab) {
            assert_eq!(report.blocks, Count(0), "{} left", report.kind.name());
        }
        result
    };
    pages.verify().expect("the page allocator is sound");
    assert_eq!(pages.free_pages(), free, "pages were lost");
    result
}

fn at(page: u64) -> VirtualAddress {
    VirtualAddress(page << 12)
}

fn pages(start: u64, pages: u64) -> AddressRange {
    AddressRange::of_pages(at(start), pages)
}

impl<'r> Rig<'r> {
    fn space(&self) -> UserSpaceRef<'r> {
        self.spaces.create().expect("there is memory")
    }

    /// Writes a word into a page, as a user.
    fn set(&self, space: &UserSpace<'_>, page: u64, word: u64) {
        let fault = |address, access| space.fault(address, access);
        self.unit.store(space.root(), at(page), &word.to_le_bytes(), fault).expect("the page can be written");
    }

    /// Reads it.
    fn get(&self, space: &UserSpace<'_>, page: u64) -> Result<u64, FaultError> {
        let mut word = [0; 8];
        let fault = |address, access| space.fault(address, access);
        self.unit.load(space.root(), at(page), &mut word, fault).map(|()| u64::from_le_bytes(word))
    }

    /// Reads it if that takes no fault.
    fn mapped(&self, space: &UserSpace<'_>, page: u64) -> Option<u64> {
        let mut word = [0; 8];
        let load = self.unit.load(space.root(), at(page), &mut word, |_, _| Err(()));
        load.ok().map(|()| u64::from_le_bytes(word))
    }

    fn types(&self) -> PageTypes {
        let walker = self.owners.walk();
        walker.page_types()
    }

    /// Pages of each owner type, and of none.
    fn census(&self) -> (Vec<Count>, u32) {
        let types = self.types();
        assert_eq!(types.moving.pages(), Count(0));
        (OwnerKind::ALL.iter().map(|&kind| types.allocated(kind).pages()).collect(), self.pages.free_pages())
    }

    fn folio_at(&self, mapping: &File<'_>, index: u64) -> FolioOf<'_> {
        let folio = mapping.lookup(PageIndex(index)).expect("it is in memory");
        match self.owners.walk().look(folio.head()).get() {
            Some(Reference::Folio(folio)) => folio,
            other => panic!("{other:?} is no folio"),
        }
    }

    /// Every checker there is.
    fn verify<'s>(&self, spaces: impl IntoIterator<Item = &'s UserSpaceRef<'r>>)
    where
        'r: 's,
    {
        for space in spaces {
            space.verify().unwrap_or_else(|violation| panic!("{:?}: {violation}", space.id()));
        }
        at_each_step(|| {
            self.pages.verify().expect("the pages are sound");
            self.pages.verify_charges().expect("the charges add up");
            self.owners.verify().expect("the owners are sound");
        });
        assert_eq!(self.unit.stale(), None, "somebody did not flush");
    }
}
