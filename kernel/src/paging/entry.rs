//! An entry of a page table, as the processor reads it.
//!
//! Source: Intel SDM volume 3, section 5.5, "4-level paging and 5-level paging".

use kernel_core::layout::TABLE_ENTRIES;
use mm::owner::TableLevel;
use mm::units::{PAGE_SIZE, Pfn, PhysAddr};
use x86_64::structures::paging::PageTableFlags;

use crate::image::Protection;

/// What entries that lead to tables allow: everything, so that the last one decides.
pub(crate) const TABLE: PageTableFlags = PageTableFlags::PRESENT.union(PageTableFlags::WRITABLE);
const READ: PageTableFlags = PageTableFlags::PRESENT.union(PageTableFlags::NO_EXECUTE);
const READ_WRITE: PageTableFlags = READ.union(PageTableFlags::WRITABLE);
const DEVICE: PageTableFlags = READ_WRITE.union(PageTableFlags::NO_CACHE).union(PageTableFlags::WRITE_THROUGH);
const READ_EXECUTE: PageTableFlags = PageTableFlags::PRESENT;

/// Where the address stands in an entry.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// The flags of a page.
pub(super) const fn page_flags(protection: Protection) -> PageTableFlags {
    match protection {
        Protection::Read => READ,
        Protection::ReadWrite => READ_WRITE,
        Protection::ReadExecute => READ_EXECUTE,
    }
}

/// An entry's value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Entry(u64);

/// What an entry leads to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Target {
    /// Nothing: it is not present.
    Nothing,
    /// The next table.
    Table(Pfn),
    /// A 4 KiB page.
    Page(Pfn),
    /// A larger page, which no entry of a table below stands for.
    LargePage,
}

impl Entry {
    /// Leads nowhere.
    pub(crate) const NONE: Self = Self(0);

    /// Leads to a 4 KiB page.
    pub(crate) const fn page(frame: Pfn, protection: Protection) -> Self {
        Self(frame.address().0 | page_flags(protection).bits())
    }

    /// Leads to a page of a device's registers.
    pub(crate) const fn device(frame: Pfn) -> Self {
        Self(frame.address().0 | DEVICE.bits())
    }

    /// Leads to a table.
    pub(crate) const fn table(frame: Pfn) -> Self {
        Self(frame.address().0 | TABLE.bits())
    }

    /// The same, and nobody may write there.
    pub(super) const fn read_only(self) -> Self {
        Self(self.0 & !PageTableFlags::WRITABLE.bits())
    }

    /// One of the pages that a large page consists of, as an entry of a table of this level.
    pub(super) const fn part(self, level: TableLevel, number: u64) -> Self {
        let size = (PAGE_SIZE as u64) << (TABLE_ENTRIES.trailing_zeros() * (level.0 as u32 - 1));
        let flags = if level.0 == TableLevel::LEAF.0 { self.0 & !PageTableFlags::HUGE_PAGE.bits() } else { self.0 };
        Self(flags + number * size)
    }

    pub(crate) const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    pub(crate) const fn bits(self) -> u64 {
        self.0
    }

    pub(crate) const fn flags(self) -> PageTableFlags {
        PageTableFlags::from_bits_retain(self.0 & !ADDRESS)
    }

    pub(crate) const fn is_present(self) -> bool {
        self.flags().contains(PageTableFlags::PRESENT)
    }

    /// The physical address in it; a large page's has more flags at its lower end.
    pub(crate) const fn address(self) -> PhysAddr {
        PhysAddr(self.0 & ADDRESS)
    }

    /// What it leads to, in a table of this level.
    ///
    /// # Panics
    /// It leads beyond all memory that this kernel knows of.
    pub(crate) fn target(self, level: TableLevel) -> Target {
        if !self.is_present() {
            return Target::Nothing;
        }
        if level != TableLevel::LEAF && self.flags().contains(PageTableFlags::HUGE_PAGE) {
            return Target::LargePage;
        }
        let frame = Pfn::containing(self.address()).expect("page tables lead to memory below 16 TiB");
        if level == TableLevel::LEAF { Target::Page(frame) } else { Target::Table(frame) }
    }
}
