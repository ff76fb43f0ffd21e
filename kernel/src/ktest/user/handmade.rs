//! An address space of four tables, filled by hand: a test knows what every entry says.

use alloc::vec::Vec;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};

use kernel_core::layout::{TABLE_ENTRIES, USERS};
use mm::machine::Machine;
use mm::owner::{Owned, PageTable, TableLevel};
use mm::page::Request;
use mm::space::{Access, Accessed, FaultError, Mmu, PageEntry, PageProtection, TableEntry};
use mm::units::{Order, PAGE_SIZE, Pfn, VirtualAddress};
use spin::Mutex;

use crate::ktest::NotPassed;
use crate::ktest::space::Live;
use crate::platform::Platform;
use crate::user::live::{Unresolved, UserSpace};
use crate::user::mmu::ProcessorTables;

/// Where a page of the space stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct PageNumber(pub(super) usize);

/// What a fault may do: called with what the access was, it gives what to map.
pub(super) type Policy = fn(&Handmade, PageNumber, Access) -> Option<PageEntry>;

/// A space of 2 MiB, in which faults do what the test says.
pub(super) struct Handmade {
    pub(super) mmu: ProcessorTables,
    platform: &'static Platform,
    /// From the root down.
    tables: [Owned<'static, Platform, PageTable>; 4],
    policy: Policy,
    faults: Mutex<Vec<(VirtualAddress, Access)>>,
}

/// Where the space begins.
const START: VirtualAddress = VirtualAddress(USERS.start + (3 << 39) + (5 << 30) + (7 << 21));

/// An entry for one frame that nobody has accessed.
pub(super) const fn entry(frame: Pfn, protection: PageProtection) -> PageEntry {
    PageEntry { frame, protection, accessed: Accessed::No }
}

/// Resolves nothing.
pub(super) const fn refuse(_: &Handmade, _: PageNumber, _: Access) -> Option<PageEntry> {
    None
}

impl Handmade {
    pub(super) fn new(live: Live, policy: Policy) -> Result<Self, NotPassed> {
        let mmu = ProcessorTables::new(live.space);
        let table = |level| -> Result<_, NotPassed> {
            let request = Request::new(Order::ZERO);
            let mut table =
                live.owners.alloc(request, PageTable::new(TableLevel(level))).map_err(|(_, error)| error)?;
            table.bytes_mut().ok_or("a page table is highmem")?.fill(0);
            Ok(table)
        };
        let tables = [table(4)?, table(3)?, table(2)?, table(1)?];
        let space = Self { mmu, platform: live.platform, tables, policy, faults: Mutex::new(Vec::with_capacity(64)) };
        space.mmu.init_root(space.entries(TableLevel(4)));
        for level in [4, 3, 2] {
            let below = space.tables[5 - level].head();
            let level = TableLevel(u8::try_from(level).unwrap_or(0));
            let entry = space.mmu.encode(TableEntry::Table(below), level);
            space.slot(START, level).store(entry, Ordering::Relaxed);
        }
        Ok(space)
    }

    fn entries(&self, level: TableLevel) -> &[AtomicU64; TABLE_ENTRIES] {
        let table = self.platform.direct_map(self.tables[4 - usize::from(level.0)].head());
        let table: NonNull<[AtomicU64; TABLE_ENTRIES]> = table.cast();
        // SAFETY: the table is a page of entries, which this keeps.
        unsafe { table.as_ref() }
    }

    fn slot(&self, address: VirtualAddress, level: TableLevel) -> &AtomicU64 {
        let index = address.0 >> (12 + 9 * (level.0 - 1)) & (TABLE_ENTRIES as u64 - 1);
        &self.entries(level)[usize::try_from(index).unwrap_or(0)]
    }

    /// The address of a page.
    #[expect(clippy::unused_self, reason = "it is this space's")]
    pub(super) const fn address(&self, page: PageNumber) -> VirtualAddress {
        START.plus((page.0 * PAGE_SIZE) as u64)
    }

    /// Says what stands at a page, and flushes nothing.
    pub(super) fn set(&self, page: PageNumber, entry: TableEntry) {
        let bits = self.mmu.encode(entry, TableLevel::LEAF);
        self.slot(self.address(page), TableLevel::LEAF).store(bits, Ordering::Relaxed);
    }

    /// What stands at a page.
    pub(super) fn get(&self, page: PageNumber) -> TableEntry {
        let bits = self.slot(self.address(page), TableLevel::LEAF).load(Ordering::Relaxed);
        self.mmu.decode(bits, TableLevel::LEAF)
    }

    /// Says what stands for all 2 MiB, and flushes nothing.
    pub(super) fn set_all(&self, entry: TableEntry) {
        self.slot(START, TableLevel(2)).store(self.mmu.encode(entry, TableLevel(2)), Ordering::Relaxed);
    }

    pub(super) fn flush(&self, first: PageNumber, end: PageNumber) {
        self.mmu.flush(self.root(), self.address(first)..self.address(end));
    }

    /// The faults since this was asked last.
    pub(super) fn take_faults(&self) -> Vec<(VirtualAddress, Access)> {
        self.faults.lock().drain(..).collect()
    }
}

// SAFETY: it was made with the kernel's half, and owns its tables.
unsafe impl UserSpace for Handmade {
    fn root(&self) -> Pfn {
        self.tables[0].head()
    }

    fn fault(&self, address: VirtualAddress, access: Access) -> Result<(), Unresolved> {
        self.faults.lock().push((address, access));
        let page = PageNumber(usize::try_from(address.0.wrapping_sub(START.0) >> 12).unwrap_or(usize::MAX));
        let refused = FaultError::Denied(address, access);
        let entry = (self.policy)(self, page, access).filter(|_| page.0 < TABLE_ENTRIES).ok_or(refused)?;
        self.set(page, TableEntry::Page(entry));
        self.flush(page, PageNumber(page.0 + 1));
        Ok(())
    }
}
