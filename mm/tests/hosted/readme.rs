//! README's example of how the crate is used: compiled, run, and word for word what stands there.

use std::error::Error;
use std::num::NonZeroU16;
use std::sync::Mutex;

use mm::boot_map::{BootMap, Region, RegionKind};
use mm::cache::{PageCache, Store, StoreError};
use mm::compact::Compactor;
use mm::host::{HostMachine, HostMmu};
use mm::machine::Standard;
use mm::owner::{Owners, PageTable, TableLevel};
use mm::page::{PageAllocator, Request};
use mm::slab::{CacheSpec, KmemCaches};
use mm::space::{Access, AddressRange, PageProtection, Sharing, Spaces};
use mm::units::{Count, FileOffset, NodeId, Order, PAGE_SIZE, PageIndex, Pfn, PfnRange, PhysAddr, VirtualAddress};

/// Pages that are kept in memory of the process.
struct Kept(Mutex<Vec<u8>>);

impl Kept {
    fn of_pages(pages: usize) -> Self {
        Self(Mutex::new(vec![7; pages * PAGE_SIZE]))
    }
}

impl Store for Kept {
    fn size(&self) -> FileOffset {
        FileOffset(self.0.lock().expect("nobody fails with it").len() as u64)
    }

    fn read(&self, offset: FileOffset, bytes: &mut [u8]) -> Result<(), StoreError> {
        let start = usize::try_from(offset.0).map_err(|_| StoreError::Beyond(offset))?;
        let kept = self.0.lock().expect("nobody fails with it");
        bytes.copy_from_slice(kept.get(start..start + bytes.len()).ok_or(StoreError::Beyond(offset))?);
        Ok(())
    }

    fn write(&self, offset: FileOffset, bytes: &[u8]) -> Result<(), StoreError> {
        let start = usize::try_from(offset.0).map_err(|_| StoreError::Beyond(offset))?;
        let mut kept = self.0.lock().expect("nobody fails with it");
        kept.get_mut(start..start + bytes.len()).ok_or(StoreError::Beyond(offset))?.copy_from_slice(bytes);
        Ok(())
    }
}

#[test]
fn the_example_works() -> Result<(), Box<dyn Error>> {
    let machine = HostMachine::<Standard>::new(Pfn::new(0x8000), Pfn::new(0x4000), NonZeroU16::MIN)?;
    let regions = [Region { start: PhysAddr(0), len: 128 << 20, kind: RegionKind::Usable, node: NodeId(0) }];
    let frames = PfnRange::new(Pfn::new(0x6123), Pfn::new(0x6234));
    let (swap, store, tables) = (Kept::of_pages(64), Kept::of_pages(32), HostMmu::<Standard>::new(&machine));
    let address = VirtualAddress(0x40_0000);
    let addresses = AddressRange::of_pages(address, 32);
    let mut bytes = [0; 100];

    // As in README, from here on
    let mut map: BootMap = BootMap::new(&regions)?; // any order, overlapping, unaligned: sorted out or refused
    // SAFETY: what the map calls usable is memory, and nobody else's. Descriptors come out of it, in the direct map.
    let allocator = unsafe { PageAllocator::new(&machine, &mut map) }?;

    let block = allocator.alloc(Request::movable(Order::of(3)))?; // owned: dropping it frees it
    let page = allocator.alloc_raw(Request::new(Order::ZERO))?; // bare: a frame number, to be freed by it alone
    let range = allocator.alloc_contig(frames)?; // exactly these frames, out of the middle
    let pages = allocator.alloc_bulk::<64>(Request::movable(Order::ZERO)); // up to so many at once
    allocator.tick(); // now and then, on every CPU: unused blocks go back

    let caches = KmemCaches::new(&allocator)?;
    let cache = caches.create(CacheSpec::new("inode", 600))?;
    let inode = cache.alloc()?; // owned; kmalloc and kfree are bare
    let owners = Owners::new(&caches)?;
    let table = owners.alloc(Request::new(Order::ZERO), PageTable::new(TableLevel(1))).map_err(|(_, error)| error)?;

    // Pages lead to caches and spaces, so both are only lent. Tables are an Mmu: what an entry looks like, and flushes.
    let report = PageCache::with(&owners, Some(&swap), |cache| {
        Spaces::with(cache, &tables, |spaces| -> Result<_, Box<dyn Error>> {
            let file = cache.file(store, Order::of(5))?; // what stands behind it is a Store, and its own; swap is one, too
            file.read(FileOffset(0), &mut bytes)?;
            let space = spaces.create()?;
            space.map_file(addresses, &file, PageIndex(0), PageProtection::ReadWrite, Sharing::Private)?;
            space.fault(address, Access::Write)?; // from the page-fault handler
            Ok(Compactor::new(&spaces).compact(Order::of(9), Count(4), drop))
        })
    })??;
    // up to here

    assert_eq!((block.range().pages(), range.range(), pages.heads().len()), (8, frames, 64));
    assert_eq!((inode.address().addr().get() % 8, bytes), (0, [7; 100]));
    assert!(report.free >= Count(4), "{report:?}");
    drop(table);
    // SAFETY: nobody else knows of it.
    unsafe { allocator.free_raw(page) }?;
    owners.verify()?;
    Ok(())
}

#[test]
fn it_is_what_stands_there() {
    let (readme, here) = (include_str!("../../../README.md"), include_str!("readme.rs"));
    let example =
        here.split("// As in README, from here on\n").nth(1).and_then(|rest| rest.split("    // up to here").next());
    let unindented = |line| str::strip_prefix(line, "    ").unwrap_or(line);
    let example: Vec<_> = example.expect("it is marked").lines().map(unindented).collect();
    assert!(readme.contains(&format!("```rust\n{}\n```\n", example.join("\n"))), "README has another example");
}
