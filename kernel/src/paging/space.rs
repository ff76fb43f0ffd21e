//! The kernel's address space, changed while it is live: pages of the vmap area come and go one by one, and pages of the
//! image can be taken out. The direct map and the `kmap_local` window are not changed here, but for what is protected
//! ([`protect`](super::protect)).
//!
//! Every table is owned memory ([`PageTable`]). Its lock guards its entries and their count; the reference that keeps it
//! is the entry that leads to it, so whoever reads that entry under the lock of the table above finds a living table. A
//! table that any entry below the root leads to is never empty: new ones are filled while nobody sees them and hung in by one store,
//! and the entry that leads to a table goes with the table's last one.
//!
//! The root never changes: all that it will ever lead to hangs in from the start, and stays there when it becomes empty. So
//! a user's root that has copied the kernel's half of it is never out of date.
//!
//! Locks are taken downwards. A mapping holds two at most; an unmapping keeps those whose tables may become empty. The
//! allocator may be entered under them, and no interrupt handler takes them.
//!
//! A page is flushed, and what the processors remember of the tables that led to it, behind the last store and before the
//! first free: on this CPU, then on all others, which are interrupted for it even where they wait for a lock.
//!
//! Cost: three tables are looked up by their frames, locked and read.

use core::sync::atomic::{AtomicU64, Ordering};

use arrayvec::ArrayVec;
use kernel_core::layout::{DIRECT_MAP, DIRECT_MAP_LIMIT, KMAP_LOCAL, TABLE_ENTRIES, VMAP, kmap_address};
use mm::owner::{OwnError, Owned, Owners, PageTable, Reference, Shared, TableGuard, TableLevel, UsedEntries};
use mm::page::Request;
use mm::units::{Count, Order, Pfn};
use spin::Once;
use thiserror::Error;
use x86_64::VirtAddr;
use x86_64::instructions::tlb;
use x86_64::structures::paging::{Page, PageTableIndex, Size4KiB};

use super::entry::{Entry, Target};
use super::tables::{self, ROOT};
use crate::image::{Protection, ro_after_init};
use crate::nmi::{self, Errand};
use crate::platform::Platform;

pub(super) type Table<'s> = Shared<'s, Platform, PageTable>;

/// Why a page was not mapped; everything is as before.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub(crate) enum MapError {
    /// The page is not in the vmap area.
    #[error("{0:#x} is not in the vmap area")]
    Outside(u64),
    /// There is a page already.
    #[error("there is a page at {0:#x}")]
    Taken(u64),
    /// A table that is missing cannot be had.
    #[error("no memory for a page table: {0}")]
    NoTable(#[from] OwnError),
}

/// Why a page was not unmapped; everything is as before.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub(crate) enum UnmapError {
    /// The page belongs to the direct map or to the `kmap_local` window.
    #[error("{0:#x} stays mapped, or is a kmap_local slot")]
    Fixed(u64),
    /// There is no page of 4 KiB.
    #[error("no page of 4 KiB is mapped at {0:#x}")]
    NotMapped(u64),
}

/// The tables that the kernel runs on.
#[derive(Debug)]
pub(crate) struct Space {
    pub(super) platform: &'static Platform,
    pub(super) owners: &'static Owners<'static, Platform>,
    root: Pfn,
    adopted: Count,
}

ro_after_init! {
    static KERNEL: Once<Space> = Once::new();
}

/// The kernel's space; `None` before its tables have owners.
pub(crate) fn kernel() -> Option<&'static Space> {
    KERNEL.get()
}

impl Space {
    /// Makes this the kernel's.
    pub(crate) fn install(self) -> &'static Self {
        KERNEL.call_once(|| self)
    }

    /// The space below `root`, all of whose tables have owners but the window's, `adopted` tables.
    pub(super) const fn new(
        platform: &'static Platform,
        owners: &'static Owners<'static, Platform>,
        root: Pfn,
        adopted: Count,
    ) -> Self {
        Self { platform, owners, root, adopted }
    }

    /// The topmost table.
    pub(crate) const fn root(&self) -> Pfn {
        self.root
    }

    /// Tables that were there before the page allocator, and are its memory since.
    pub(crate) const fn adopted(&self) -> Count {
        self.adopted
    }

    /// Maps a page of the vmap area. Whoever uses the page answers for what the frame holds.
    ///
    /// # Errors
    /// See [`MapError`].
    pub(crate) fn map(&self, page: Page, frame: Pfn, protection: Protection) -> Result<(), MapError> {
        self.map_entry(page, Entry::page(frame, protection))
    }

    /// Maps a page of the vmap area to a device's registers: nothing of it is cached.
    ///
    /// # Errors
    /// See [`MapError`].
    pub(crate) fn map_device(&self, page: Page, frame: Pfn) -> Result<(), MapError> {
        self.map_entry(page, Entry::device(frame))
    }

    fn map_entry(&self, page: Page, entry: Entry) -> Result<(), MapError> {
        let address = page.start_address().as_u64();
        if !VMAP.contains(&address) {
            return Err(MapError::Outside(address));
        }
        let top = self.top(page).ok_or(MapError::Outside(address))?;
        self.map_below(&top, top.lock(self.platform), page, entry)
    }

    /// Takes a page out of the vmap area or the image, and frees the tables that this leaves empty. Gives the frame that
    /// was there.
    ///
    /// # Errors
    /// See [`UnmapError`].
    ///
    /// # Safety
    /// Nobody uses the page any more.
    pub(crate) unsafe fn unmap(&self, page: Page) -> Result<Pfn, UnmapError> {
        let address = page.start_address().as_u64();
        if (DIRECT_MAP..DIRECT_MAP_LIMIT).contains(&address)
            || (KMAP_LOCAL..kmap_address(TABLE_ENTRIES)).contains(&address)
        {
            return Err(UnmapError::Fixed(address));
        }
        let mut emptied = Emptied::new();
        let top = self.top(page).ok_or(UnmapError::NotMapped(address))?;
        let (frame, _) = self.unmap_below(&top, top.lock(self.platform), page, &mut emptied)?;
        // This forgets the page, and on its way to any page every table: INVLPG drops the paging-structure caches whole.
        tlb::flush(page.start_address());
        nmi::send_others(if emptied.is_empty() { Errand::Flush } else { Errand::FlushTables }, |_| true);
        drop(emptied);
        Ok(frame)
    }

    /// Gives a new root of a user's the kernel's half.
    pub(crate) fn share_with(&self, root: &[AtomicU64]) {
        let kernels = self.entries(self.root);
        for (slot, kernels) in root.iter().zip(kernels).skip(TABLE_ENTRIES / 2) {
            slot.store(kernels.load(Ordering::Relaxed), Ordering::Relaxed);
        }
    }

    /// The table below the root that `page` is in.
    pub(super) fn top(&self, page: Page) -> Option<Table<'_>> {
        match load(&self.entries(self.root)[usize::from(index(page, ROOT))]).target(ROOT) {
            Target::Table(table) => Some(self.table(table)),
            Target::Nothing | Target::Page(_) | Target::LargePage => None,
        }
    }

    /// Hangs `leaf` in for `page`, below a table that is locked.
    fn map_below(&self, table: &Table<'_>, mut guard: TableGuard<'_>, page: Page, leaf: Entry) -> Result<(), MapError> {
        let slot = self.slot(table, page);
        match load(slot).target(table.level()) {
            Target::Nothing => {
                let entry = self.chain(table.level(), page, leaf)?;
                guard.add();
                store(slot, entry);
                Ok(())
            }
            Target::Table(next) => {
                let next = self.table(next);
                let below = next.lock(self.platform);
                drop(guard);
                self.map_below(&next, below, page, leaf)
            }
            Target::Page(_) | Target::LargePage => Err(MapError::Taken(page.start_address().as_u64())),
        }
    }

    /// The entry for `page` in a table of level `above`: `leaf`, behind as many new tables as it takes. The tables are
    /// all had, or none.
    fn chain(&self, above: TableLevel, page: Page, leaf: Entry) -> Result<Entry, OwnError> {
        let Some(level) = above.below() else { return Ok(leaf) };
        // Locks are held, so nobody can be asked to give anything up.
        let request = Request::new(Order::ZERO).atomic();
        let mut table = self.owners.alloc(request, PageTable::new(level)).map_err(|(_, error)| error)?;
        let head = table.head();
        table.with_page(head, |bytes| bytes.fill(0));
        let entry = self.chain(level, page, leaf)?;
        table.lock(self.platform).add();
        store(&self.entries(head)[usize::from(index(page, level))], entry);
        Ok(Entry::table(table.into_raw()))
    }

    /// Takes the page out below a table that is locked, and the tables that become empty by that. Says whether the table
    /// itself has.
    fn unmap_below<'s>(
        &'s self,
        table: &Table<'_>,
        mut guard: TableGuard<'_>,
        page: Page,
        emptied: &mut Emptied<'s>,
    ) -> Result<(Pfn, Left), UnmapError> {
        let slot = self.slot(table, page);
        let frame = match load(slot).target(table.level()) {
            Target::Nothing | Target::LargePage => {
                return Err(UnmapError::NotMapped(page.start_address().as_u64()));
            }
            Target::Page(frame) => frame,
            Target::Table(next) => {
                let lower = self.table(next);
                let below = lower.lock(self.platform);
                if !below.is_last() {
                    drop(guard);
                    let (frame, _) = self.unmap_below(&lower, below, page, emptied)?;
                    return Ok((frame, Left::Entries));
                }
                let (frame, left) = self.unmap_below(&lower, below, page, emptied)?;
                if left == Left::Entries {
                    return Ok((frame, Left::Entries));
                }
                // SAFETY: the only entry that leads to the table is about to go, and was given the table's reference.
                emptied.push(unsafe { self.owners.from_raw(next) });
                frame
            }
        };
        store(slot, Entry::NONE);
        guard.remove();
        Ok((frame, if *guard == UsedEntries(0) { Left::Nothing } else { Left::Entries }))
    }

    /// The table at a frame that an entry leads to, under the lock of the table above, if that is not the root.
    pub(super) fn table(&self, frame: Pfn) -> Table<'_> {
        let found = self.owners.walk().look(frame).get();
        match found {
            Some(Reference::PageTable(table)) => table,
            other => panic!("invariant DESC-1 broken: an entry leads to {frame:?}, which is {other:?}"),
        }
    }

    pub(super) fn slot(&self, table: &Table<'_>, page: Page) -> &AtomicU64 {
        &self.entries(table.head())[usize::from(index(page, table.level()))]
    }

    pub(super) fn entries(&self, table: Pfn) -> &[AtomicU64; TABLE_ENTRIES] {
        // SAFETY: tables are lowmem, and whoever asks has a reference to this one.
        unsafe { tables::entries(self.platform, table) }
    }
}

/// What an unmapping leaves of a table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Left {
    Entries,
    Nothing,
}

/// The tables that an unmapping leaves empty, from the lowest up: every one but the root and the one below it.
type Emptied<'s> = ArrayVec<Owned<'s, Platform, PageTable>, { ROOT.0 as usize - 2 }>;

pub(super) fn load(slot: &AtomicU64) -> Entry {
    Entry::from_bits(slot.load(Ordering::Acquire))
}

/// Stores an entry behind everything that it leads to.
pub(super) fn store(slot: &AtomicU64, entry: Entry) {
    slot.store(entry.bits(), Ordering::Release);
}

fn index(page: Page, level: TableLevel) -> PageTableIndex {
    match level {
        TableLevel(1) => page.p1_index(),
        TableLevel(2) => page.p2_index(),
        TableLevel(3) => page.p3_index(),
        _ => page.p4_index(),
    }
}

/// The 4 KiB page at an address of the kernel's half.
pub(crate) fn page_at(address: u64) -> Page<Size4KiB> {
    Page::containing_address(VirtAddr::new_truncate(address))
}
