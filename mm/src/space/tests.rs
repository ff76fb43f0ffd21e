//! Address spaces on a machine in software, whose processor remembers what it was not told to forget.

use core::num::NonZeroU16;
use std::vec::Vec;

use super::mmu::{Accessed, PageEntry, PageProtection, TableEntry};
use super::range::AddressRange;
use crate::boot_map::{BootMap, Region, RegionKind};
use crate::host::{HostMachine, HostMmu, scaled};
use crate::owner::{Folio, FolioRef, OwnError, Owners};
use crate::page::{PageAllocator, Request};
use crate::slab::KmemCaches;
use crate::units::{Count, NodeId, Order, Pfn, PhysAddr, SpaceId, VirtualAddress};

mod cut;
mod failures;
mod faults;
mod foreign;
mod model;
mod moving;
mod pins;
mod rig;
mod stress;
mod tables;
mod unwound;

/// Tables of sixteen entries: a large page has sixteen pages, a space has 8192.
const SHIFT: u32 = 4;
type Unit<'m> = HostMmu<'m, crate::machine::Standard, SHIFT>;
type Refs<'a> = FolioRef<'a, HostMachine>;

const LARGE: Order = Order::of(SHIFT as usize);
/// Pages that a table of each level spans: of leaves, of those above, and above those.
const LEAF_PAGES: u64 = 1 << SHIFT;

fn at(page: u64) -> VirtualAddress {
    VirtualAddress(page << 12)
}

fn pages(start: u64, pages: u64) -> AddressRange {
    AddressRange::of_pages(at(start), pages)
}

fn id(number: u16) -> SpaceId {
    SpaceId(NonZeroU16::new(number).expect("not zero"))
}

const END: Pfn = Pfn::new(scaled(0x2000, 0x600));
const LOWMEM_END: Pfn = Pfn::new(scaled(0x1000, 0x400));

/// A machine with lowmem and highmem.
fn with_machine<R>(test: impl FnOnce(&HostMachine, &PageAllocator<'_, HostMachine>) -> R) -> R {
    let cpus = NonZeroU16::new(4).expect("not zero");
    let machine = HostMachine::new(END, LOWMEM_END, cpus).expect("the host lends memory");
    let memory = Region { start: PhysAddr(0), len: END.address().0, kind: RegionKind::Usable, node: NodeId(0) };
    let mut map: BootMap = BootMap::new(&[memory]).expect("the map is sound");
    let pages = machine.allocator(&mut map).expect("the tables fit");
    let free = pages.free_pages();
    let result = test(&machine, &pages);
    pages.verify().expect("the page allocator is sound");
    assert_eq!(pages.free_pages(), free, "pages were lost");
    result
}
