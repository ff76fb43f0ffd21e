//! Takes away the right to write, for good.
//!
//! Whoever may not write a frame at one address may not at another: the frame's page in the direct map loses the right,
//! too. Large pages are split until a page can be told from its neighbours; each table that this takes is filled before it
//! is hung in, and maps what the large page has mapped, so nobody notices.
//!
//! Cost: three tables are looked up for each page, two times; all CPUs forget everything, once.

use core::ops::Range;

use kernel_core::layout::{DIRECT_MAP, DIRECT_MAP_LIMIT, TABLE_ENTRIES};
use mm::machine::Machine;
use mm::owner::{OwnError, PageTable, TableGuard, TableLevel, UsedEntries};
use mm::page::Request;
use mm::units::{Count, Order, PAGE_SIZE, Pfn};
use thiserror::Error;
use x86_64::instructions::tlb;
use x86_64::structures::paging::Page;

use super::entry::{Entry, Target};
use super::live;
use super::space::{Space, Table, load, page_at, store};
use crate::nmi::{self, Errand};

/// Why a page can still be written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub(crate) enum ProtectError {
    /// There is none.
    #[error("no page is mapped at {0:#x}")]
    NotMapped(u64),
    /// A large page cannot be split.
    #[error("no memory for a page table: {0}")]
    NoTable(#[from] OwnError),
}

impl Space {
    /// Makes pages of the kernel's half read-only, and their frames' pages in the direct map. Counts them.
    ///
    /// # Errors
    /// See [`ProtectError`]. The pages before that are read-only.
    pub(crate) fn set_memory_ro(&self, addresses: Range<u64>) -> Result<Count, ProtectError> {
        let mut pages = Count(0);
        let outcome = addresses.step_by(PAGE_SIZE).try_for_each(|address| {
            self.set_page_ro(address)?;
            pages.0 += 1;
            Ok(())
        });
        // No page is global, so this is all of them.
        tlb::flush_all();
        nmi::send_others(Errand::Flush, |_| true);
        outcome.map(|()| pages)
    }

    fn set_page_ro(&self, address: u64) -> Result<(), ProtectError> {
        let leaf = live::find(self.platform, address).ok_or(ProtectError::NotMapped(address))?;
        self.take_write(page_at(address))?;
        let frame = Pfn::containing(leaf.physical).filter(|&frame| frame < self.platform.direct_map_end());
        if let Some(frame) = frame
            && !(DIRECT_MAP..DIRECT_MAP_LIMIT).contains(&address)
        {
            self.take_write(page_at(DIRECT_MAP + frame.address().0))?;
        }
        Ok(())
    }

    fn take_write(&self, page: Page) -> Result<(), ProtectError> {
        let address = page.start_address().as_u64();
        let top = self.top(page).ok_or(ProtectError::NotMapped(address))?;
        self.take_write_below(&top, top.lock(self.platform), page)
    }

    /// Takes the right away below a table that is locked.
    fn take_write_below(&self, table: &Table<'_>, guard: TableGuard<'_>, page: Page) -> Result<(), ProtectError> {
        let slot = self.slot(table, page);
        let entry = load(slot);
        let next = match entry.target(table.level()) {
            Target::Nothing => return Err(ProtectError::NotMapped(page.start_address().as_u64())),
            Target::Page(_) => {
                store(slot, entry.read_only());
                return Ok(());
            }
            Target::Table(next) => next,
            Target::LargePage => {
                let parts = self.parts_of(entry, table.level())?;
                store(slot, Entry::table(parts));
                parts
            }
        };
        let next = self.table(next);
        let below = next.lock(self.platform);
        drop(guard);
        self.take_write_below(&next, below, page)
    }

    /// A new table that maps what a large page does.
    fn parts_of(&self, large: Entry, level: TableLevel) -> Result<Pfn, OwnError> {
        let below = level.below().expect("a large page is none of the smallest");
        // Locks are held, so nobody can be asked to give anything up.
        let request = Request::new(Order::ZERO).atomic();
        let used = UsedEntries(u16::try_from(TABLE_ENTRIES).expect("a table has 512 entries"));
        let table = self.owners.alloc(request, PageTable::adopted(below, used)).map_err(|(_, error)| error)?;
        for (part, slot) in (0..).zip(self.entries(table.head())) {
            store(slot, large.part(below, part));
        }
        Ok(table.into_raw())
    }
}
