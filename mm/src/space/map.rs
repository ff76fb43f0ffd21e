//! Putting pages into tables: any run of a folio's pages, or of bare frames, at any address; as large entries where folio,
//! frame and address are aligned to one and the run covers it, else page by page.
//!
//! First all of the run is looked at, and it is found out which tables it takes; then, if they are all at hand, all of it
//! is done. So a run is mapped whole, or nothing has changed.

use thiserror::Error;

use super::gather::{Entries, Gather};
use super::mmu::{Accessed, Mmu, PageEntry, PageProtection, TableEntry};
use super::range::AddressRange;
use super::tables::{Attempt, Locked, Provision, TooManyTables, Wanted};
use super::walk::{LARGE, Shape, Step, Table};
use crate::machine::Machine;
use crate::owner::{FolioRef, OwnError, TableLevel, TooManyMappings};
use crate::units::{Count, Pfn, VirtualAddress};

/// Why a run of pages was not mapped; everything is as before.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum MapError {
    /// There is a page already.
    #[error("there is a page at {0:?}")]
    Taken(VirtualAddress),
    /// The run is not all the folio's, or not all at users' addresses.
    #[error("the run is not all inside of what is mapped, and where")]
    Outside,
    /// A table that is missing cannot be had.
    #[error("no memory for a page table: {0}")]
    NoTable(#[from] OwnError),
    /// The run takes too many tables.
    #[error(transparent)]
    TooManyTables(#[from] TooManyTables),
    /// Too many entries lead to the folio.
    #[error(transparent)]
    TooManyMappings(#[from] TooManyMappings),
}

impl From<MapError> for Attempt<MapError> {
    fn from(error: MapError) -> Self {
        Self::Failed(error)
    }
}

/// What happens to pages that stand where others are to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Present {
    /// They stay, and nothing is mapped.
    Refuse,
    /// They make room. One that is the same page stays, and may be used in more ways than before.
    Replace,
}

/// A run of pages and where it is to be.
pub(super) struct Run<'f, 'a, M: Machine> {
    /// Whose pages they are; `None` for bare frames.
    folio: Option<&'f FolioRef<'a, M>>,
    /// The frame at the first address.
    first: Pfn,
    range: AddressRange,
    protection: PageProtection,
}

impl<'f, 'a, M: Machine> Run<'f, 'a, M> {
    /// The pages of a folio from `offset` on. `None` if they are not all the folio's.
    pub(super) fn of_folio(
        folio: &'f FolioRef<'a, M>,
        Count(offset): Count,
        range: AddressRange,
        protection: PageProtection,
    ) -> Option<Self> {
        let pages = folio.order().pages();
        let inside = offset <= pages && range.pages() <= u64::from(pages - offset);
        inside.then(|| Self { folio: Some(folio), first: folio.head().plus(offset), range, protection })
    }

    /// Frames that belong to no folio.
    pub(super) const fn of_frames(first: Pfn, range: AddressRange, protection: PageProtection) -> Self {
        Self { folio: None, first, range, protection }
    }

    #[expect(clippy::cast_possible_truncation, reason = "a run is of frames, which are 32 bits wide")]
    fn frame_at(&self, address: VirtualAddress) -> Pfn {
        self.first.plus(self.range.pages_to(address) as u32)
    }

    fn entry_at(&self, address: VirtualAddress) -> PageEntry {
        PageEntry { frame: self.frame_at(address), protection: self.protection, accessed: Accessed::No }
    }

    /// Whether one entry of a table of this level can map a part of the run.
    fn fits<U: Mmu>(&self, part: AddressRange, level: TableLevel) -> bool {
        match level {
            TableLevel::LEAF => true,
            LARGE => {
                part == Shape::<U>::around(part.start(), LARGE)
                    && self.frame_at(part.start()).is_aligned(Shape::<U>::LARGE_ORDER)
            }
            _ => false,
        }
    }

    /// Whether an entry of a table of this level maps the same page at an address as the run does.
    #[expect(clippy::cast_possible_truncation, reason = "no entry maps more pages than a block has")]
    fn is_at<U: Mmu>(&self, entry: PageEntry, address: VirtualAddress, level: TableLevel) -> bool {
        let within = Shape::<U>::around(address, level).pages_to(address);
        entry.frame.plus(within as u32) == self.frame_at(address)
    }
}

/// What mapping a run takes.
#[derive(Default)]
struct Plan {
    wanted: Wanted,
    /// Entries, in base pages, that there were not before.
    new: u32,
}

impl Plan {
    #[expect(clippy::cast_possible_truncation, reason = "a run is no longer than a folio")]
    fn count(&mut self, part: AddressRange) {
        self.new += part.pages() as u32;
    }
}

impl<'a, M: Machine, U: Mmu> Locked<'_, 'a, M, U> {
    /// Maps a run whole, or nothing.
    ///
    /// # Errors
    /// It takes tables that are not at hand, or see [`MapError`].
    pub(super) fn map(
        &mut self,
        run: &Run<'_, 'a, M>,
        present: Present,
        provision: &mut Provision<'a, M>,
    ) -> Result<(), Attempt<MapError>> {
        let users = self.tables().mmu().users();
        if !AddressRange::new(users.start, users.end).covers(run.range) {
            return Err(MapError::Outside.into());
        }
        let mut plan = Plan::default();
        let table = self.lowest_around(run.range);
        self.plan(&table, run.range, run, present, &mut plan)?;
        if provision.lacks::<U>(&plan.wanted) {
            return Err(Attempt::Lacking(plan.wanted));
        }
        let entries = match run.folio {
            Some(folio) => {
                if plan.new > 0 {
                    folio.add_mappings(self.tables().id(), Count(plan.new)).map_err(MapError::from)?;
                }
                Entries::OfFolios
            }
            None => Entries::OfFrames,
        };
        let mut gather = Gather::new(self.tables(), entries);
        self.put(&table, run.range, run, provision, &mut gather);
        Ok(())
    }

    /// Finds out what a part of the run takes that lies in one table.
    fn plan(
        &self,
        table: &Table<'_, 'a, M, U>,
        part: AddressRange,
        run: &Run<'_, 'a, M>,
        present: Present,
        plan: &mut Plan,
    ) -> Result<(), MapError> {
        let level = table.level();
        for part in Shape::<U>::parts(level, part) {
            match self.step(table, part.start()) {
                Step::Table(next) => self.plan(&next, part, run, present, plan)?,
                Step::Empty | Step::Moving => Self::plan_new(level, part, run, plan)?,
                Step::Page(_) if present == Present::Refuse => return Err(MapError::Taken(part.start())),
                Step::Page(entry) if run.is_at::<U>(entry, part.start(), level) => {}
                // What is left of a large page is mapped by a table.
                Step::Page(_) => Self::plan_new(level, part, run, plan)?,
            }
        }
        Ok(())
    }

    /// What a part takes that is spanned by an entry of a table of this level which leads to no table.
    fn plan_new(level: TableLevel, part: AddressRange, run: &Run<'_, 'a, M>, plan: &mut Plan) -> Result<(), MapError> {
        let Some(below) = level.below().filter(|_| !run.fits::<U>(part, level)) else {
            plan.count(part);
            return Ok(());
        };
        plan.wanted.want::<U>(below, part.start())?;
        Shape::<U>::parts(below, part).try_for_each(|part| Self::plan_new(below, part, run, plan))
    }

    /// Maps a part of the run that lies in one table.
    fn put(
        &self,
        table: &Table<'_, 'a, M, U>,
        part: AddressRange,
        run: &Run<'_, 'a, M>,
        provision: &mut Provision<'a, M>,
        gather: &mut Gather<'_, 'a, M, U>,
    ) {
        let level = table.level();
        for part in Shape::<U>::parts(level, part) {
            let whole = Shape::<U>::around(part.start(), level);
            match self.step(table, part.start()) {
                Step::Table(next) => self.put(&next, part, run, provision, gather),
                Step::Page(entry) if run.is_at::<U>(entry, part.start(), level) => {
                    let (old, new) = table.change(part.start(), |old| allow(old, run.protection));
                    if old != new {
                        gather.stale(whole);
                    }
                }
                _ if run.fits::<U>(part, level) => {
                    let old = table.store(part.start(), TableEntry::Page(run.entry_at(part.start())));
                    if let TableEntry::Page(old) = old {
                        gather.page(old, whole);
                    }
                }
                Step::Page(entry) => {
                    let next = self.shatter(table, entry, whole, provision, gather);
                    self.put(&next, part, run, provision, gather);
                }
                Step::Empty | Step::Moving => {
                    let next = self.hang(table, part.start(), provision, |_| ());
                    self.put(&next, part, run, provision, gather);
                }
            }
        }
    }

    /// Maps what a large entry maps page by page.
    fn shatter<'l>(
        &'l self,
        table: &Table<'l, 'a, M, U>,
        entry: PageEntry,
        whole: AddressRange,
        provision: &mut Provision<'a, M>,
        gather: &mut Gather<'_, 'a, M, U>,
    ) -> Table<'l, 'a, M, U> {
        let leaf = self.hang(table, whole.start(), provision, |leaf| {
            for (address, page) in whole.addresses().zip(0..) {
                leaf.store(address, TableEntry::Page(PageEntry { frame: entry.frame.plus(page), ..entry }));
            }
        });
        gather.stale(whole);
        leaf
    }

    /// Sees to it that no entry maps pages on both sides of an address.
    ///
    /// # Errors
    /// It takes a table that is not at hand.
    pub(super) fn split_at<E>(
        &mut self,
        address: VirtualAddress,
        provision: &mut Provision<'a, M>,
    ) -> Result<(), Attempt<E>>
    where
        E: From<TooManyTables>,
    {
        let whole = Shape::<U>::around(address, LARGE);
        let Some(table) = self.table_at(address, LARGE).filter(|_| whole.start() != address) else { return Ok(()) };
        match self.step(&table, address) {
            Step::Empty | Step::Table(_) => Ok(()),
            Step::Moving => {
                // Whoever moves it finds nothing to put back; whoever needs it finds it by a fault.
                self.rewrite(whole, Entries::OfFolios, |_, _| TableEntry::Empty);
                Ok(())
            }
            Step::Page(entry) => {
                let mut wanted = Wanted::default();
                wanted.want::<U>(TableLevel::LEAF, address).map_err(|error| Attempt::Failed(error.into()))?;
                if provision.lacks::<U>(&wanted) {
                    return Err(Attempt::Lacking(wanted));
                }
                let mut gather = Gather::new(self.tables(), Entries::OfFolios);
                self.shatter(&table, entry, whole, provision, &mut gather);
                Ok(())
            }
        }
    }
}

/// The entry, allowing what the protection does, or more.
fn allow(entry: TableEntry, protection: PageProtection) -> TableEntry {
    match entry {
        TableEntry::Page(page) if page.protection != PageProtection::ReadWrite => {
            TableEntry::Page(PageEntry { protection, ..page })
        }
        other => other,
    }
}
