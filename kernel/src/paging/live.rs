//! Reads the live page tables. The `kmap_local` window's own is part of the image, which may lie above the direct map:
//! such a table is read through a slot, entry by entry.
//!
//! No lock is taken: who walks is alone, as boot and its tests are, or asks for an address whose tables nobody takes away.

use core::ops::Range;

use kernel_core::layout::{TABLE_ENTRIES, canonical};
use mm::machine::Machine;
use mm::units::{PAGE_SHIFT, Pfn, PhysAddr};
use x86_64::registers::control::Cr3;
use x86_64::structures::paging::PageTableFlags;
use x86_64::structures::paging::page_table::PageTableEntry;

use crate::platform::Platform;

/// log2 of the entries in a table.
const TABLE_SHIFT: u32 = TABLE_ENTRIES.trailing_zeros();
/// The level of the root.
const ROOT_LEVEL: u32 = 4;

/// A mapped page of any size.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Leaf {
    /// The page's first byte.
    pub(crate) address: u64,
    /// The page's size in bytes.
    pub(crate) size: u64,
    /// The physical address of its first byte.
    pub(crate) physical: PhysAddr,
    /// Whether all levels allow writing.
    pub(crate) write: Permission,
    /// Whether all levels allow executing.
    pub(crate) execute: Permission,
    /// Whether all levels allow users anything.
    pub(crate) user: Permission,
}

/// What the tables say to an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Permission {
    Granted,
    Denied,
}

impl Permission {
    fn granted_if(condition: bool) -> Self {
        if condition { Self::Granted } else { Self::Denied }
    }
}

/// The page that holds `address`; `None` if it is not mapped.
pub(crate) fn find(platform: &Platform, address: u64) -> Option<Leaf> {
    let mut found = None;
    for_each_leaf(platform, address..address.saturating_add(1), |leaf| found = Some(leaf));
    found
}

/// Visits every page that the live tables map and that `range` touches, in the order of addresses.
pub(crate) fn for_each_leaf(platform: &Platform, range: Range<u64>, mut visit: impl FnMut(Leaf)) {
    let root = Cr3::read().0.start_address().as_u64();
    let all = PageTableFlags::WRITABLE | PageTableFlags::USER_ACCESSIBLE;
    let walk = Walk { platform, range };
    walk.table(PhysAddr(root), ROOT_LEVEL, 0, all, &mut visit);
}

struct Walk<'p> {
    platform: &'p Platform,
    range: Range<u64>,
}

impl Walk<'_> {
    /// Visits what a table maps; `allowed` is what the levels above allow. Recurses at most four deep.
    fn table(&self, table: PhysAddr, level: u32, base: u64, allowed: PageTableFlags, visit: &mut impl FnMut(Leaf)) {
        let shift = PAGE_SHIFT + TABLE_SHIFT * (level - 1);
        let size = 1_u64 << shift;
        for index in 0..TABLE_ENTRIES {
            let address = canonical(base + ((index as u64) << shift));
            if address >= self.range.end || address + (size - 1) < self.range.start {
                continue;
            }
            let entry = self.entry(table, index);
            let flags = entry.flags();
            if !flags.contains(PageTableFlags::PRESENT) {
                continue;
            }
            let needs_all = PageTableFlags::WRITABLE | PageTableFlags::USER_ACCESSIBLE;
            let allowed = (allowed & flags & needs_all) | ((allowed | flags) & PageTableFlags::NO_EXECUTE);
            let target = PhysAddr(entry.addr().as_u64());
            if level == 1 || flags.contains(PageTableFlags::HUGE_PAGE) {
                let physical = PhysAddr(target.0 & !(size - 1));
                let write = Permission::granted_if(allowed.contains(PageTableFlags::WRITABLE));
                let execute = Permission::granted_if(!allowed.contains(PageTableFlags::NO_EXECUTE));
                let user = Permission::granted_if(allowed.contains(PageTableFlags::USER_ACCESSIBLE));
                visit(Leaf { address, size, physical, write, execute, user });
            } else {
                self.table(target, level - 1, address, allowed, visit);
            }
        }
    }

    fn entry(&self, table: PhysAddr, index: usize) -> PageTableEntry {
        let frame = Pfn::containing(table).expect("the kernel's tables lie below 16 TiB");
        let read = |page: core::ptr::NonNull<u8>| {
            // SAFETY: a table is a page of 512 entries, and `index` is below that.
            let entry = unsafe { page.cast::<PageTableEntry>().add(index) };
            // SAFETY: the page is mapped, and the tables hold still while one CPU runs with them.
            unsafe { entry.read_volatile() }
        };
        if frame < self.platform.direct_map_end() {
            return read(self.platform.direct_map(frame));
        }
        let page = self.platform.kmap_local(frame);
        let entry = read(page);
        // SAFETY: the slot is the youngest, and the entry was copied out of it.
        unsafe { self.platform.kunmap_local(page) };
        entry
    }
}
