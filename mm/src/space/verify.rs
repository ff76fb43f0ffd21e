//! The checkers of one space and of all, while nobody is at work in them.

use super::gather::frames;
use super::mmu::{Mmu, PageEntry, PageProtection, TableEntry};
use super::range::AddressRange;
use super::region::{Backing, Region};
use super::spaces::{Space, Spaces};
use super::tables::Locked;
use super::walk::{Shape, Table};
use crate::OwnerKind;
use crate::cache::{Mapping, Shown};
use crate::invariant::{Invariant, Violation};
use crate::machine::Machine;
use crate::owner::{FolioFlags, FolioRef, Reference, Seen, TableLevel, UsedEntries};
use crate::units::{PageIndex, Pfn, VirtualAddress};

impl<M: Machine, U: Mmu> Spaces<'_, M, U> {
    /// Checks SPACE-1 of every space, and MAP-1 in sum: that as many entries lead to folios as folios count. Cost: a look
    /// at every entry, and at every block of memory.
    ///
    /// # Errors
    /// The first violation found.
    pub fn verify(&self) -> Result<(), Violation> {
        let walker = self.cache().owners().walk();
        let mut entries = 0;
        self.try_for_each_tables(|tables| {
            tables.lock().verify(|entry, part| {
                if let TableEntry::Page(page) = entry
                    && walker.look(page.frame).seen() == Seen::Allocated(OwnerKind::Folio)
                {
                    entries += part.pages();
                }
                Ok(())
            })
        })?;
        let mut counted = 0;
        for sighting in walker.blocks(walker.frames()) {
            if let Some(Reference::Folio(folio)) = sighting.get() {
                counted += u64::from(folio.mappings().entries.0);
            }
        }
        if entries == counted {
            Ok(())
        } else {
            Err(Violation::of(Invariant::Map1, None, "folios count other entries than there are"))
        }
    }
}

impl<'a, M: Machine, U: Mmu> Space<'a, M, U> {
    /// Checks SPACE-1, SPACE-2 and CACHE-3 of every entry. Cost: a look at every one, and at what each page shows.
    ///
    /// # Errors
    /// The first violation found.
    pub fn verify(&self) -> Result<(), Violation> {
        let regions = self.regions.read(self.machine());
        self.tables.lock().verify(|entry, part| {
            let region = regions.find(part.start()).filter(|region| region.range().covers(part));
            match (entry, region) {
                (TableEntry::Page(page), Some(region)) => Self::verify_page(page, part, region),
                (TableEntry::Page(page), None) => Err(misled(page.frame, "an entry lies in no region")),
                _ => Err(misled(Pfn::LIMIT, "a page is being moved, and nobody is at work")),
            }
        })
    }

    fn verify_page(page: PageEntry, part: AddressRange, region: &Region<'a, M, U>) -> Result<(), Violation> {
        let allowed = region.protection();
        if page.protection != allowed && page.protection != allowed.without_write() {
            return Err(misled(page.frame, "an entry allows more than its region"));
        }
        let before = region.range().pages_to(part.start());
        for (frame, page_number) in frames(page, part).frames().zip(before..) {
            match region.backing() {
                Backing::Frames(first) if u64::from(frame.number()) != u64::from(first.number()) + page_number => {
                    return Err(misled(frame, "an entry leads to another frame than its region shows"));
                }
                Backing::Frames(_) => {}
                Backing::Mapping(mapping, first, _) => {
                    Self::verify_shown(frame, page.protection, mapping, first.plus(page_number))?;
                }
            }
        }
        Ok(())
    }

    fn verify_shown(
        frame: Pfn,
        protection: PageProtection,
        mapping: &Mapping<'a, M>,
        index: PageIndex,
    ) -> Result<(), Violation> {
        let is_there = |folio: &FolioRef<'a, M>| {
            u64::from(frame.number()) == u64::from(folio.head().number()) + (index.0 - folio.index().0)
        };
        let writes = protection == PageProtection::ReadWrite;
        match mapping.shown(index) {
            Shown::Own(folio) if is_there(&folio) => {
                if writes && !folio.flags().contains(FolioFlags::DIRTY) {
                    return Err(misled(frame, "users may write a folio that is called clean"));
                }
                Ok(())
            }
            Shown::Behind(folio) if is_there(&folio) && !writes => Ok(()),
            Shown::Behind(folio) if is_there(&folio) => Err(misled(frame, "users may write what stands behind")),
            _ => Err(misled(frame, "an entry leads to another page than its region shows")),
        }
    }
}

const fn misled(frame: Pfn, what: &'static str) -> Violation {
    Violation::of(Invariant::Space2, Some(frame), what)
}

impl<'a, M: Machine, U: Mmu> Locked<'_, 'a, M, U> {
    /// Checks SPACE-1 of all tables, and shows every entry for a page, with what it spans, to `check`.
    ///
    /// # Errors
    /// The first violation, found here or by `check`.
    pub(super) fn verify(
        &self,
        mut check: impl FnMut(TableEntry, AddressRange) -> Result<(), Violation>,
    ) -> Result<(), Violation> {
        let users = self.tables().mmu().users();
        self.verify_table(&self.root(), AddressRange::new(users.start, users.end), &mut check)
    }

    fn verify_table(
        &self,
        table: &Table<'_, 'a, M, U>,
        range: AddressRange,
        check: &mut impl FnMut(TableEntry, AddressRange) -> Result<(), Violation>,
    ) -> Result<(), Violation> {
        let mut used = UsedEntries(0);
        for part in Shape::<U>::parts(table.level(), range) {
            let entry = table.entry(part.start());
            if entry != TableEntry::Empty {
                used.add();
            }
            match entry {
                TableEntry::Empty => {}
                TableEntry::Table(frame) => {
                    let below = self.table_at(part.start(), TableLevel(table.level().0 - 1));
                    let Some(below) = below.filter(|below| below.frame() == frame) else {
                        return Err(broken(frame, "a table is not where it is looked for"));
                    };
                    self.verify_place(&below, TableLevel(table.level().0 - 1), part.start())?;
                    if below.is_empty() {
                        return Err(broken(frame, "an entry leads to an empty table"));
                    }
                    self.verify_table(&below, part, check)?;
                }
                TableEntry::Page(page) | TableEntry::Moving(page) => {
                    if table.level() != TableLevel::LEAF && !page.frame.is_aligned(Shape::<U>::LARGE_ORDER) {
                        return Err(broken(page.frame, "a large entry leads to a page that is not aligned"));
                    }
                    check(entry, part)?;
                }
            }
        }
        if *table.owner().lock(self.tables().owners().machine()) == used {
            Ok(())
        } else {
            Err(broken(table.frame(), "a table's entries are miscounted"))
        }
    }

    fn verify_place(
        &self,
        table: &Table<'_, 'a, M, U>,
        level: TableLevel,
        address: VirtualAddress,
    ) -> Result<(), Violation> {
        let place = table.owner().place().map(|place| (place.space, place.address));
        if table.level() == level && place == Some((self.tables().id(), address)) {
            Ok(())
        } else {
            Err(broken(table.frame(), "a table is not of the level, space or address that it says"))
        }
    }
}

const fn broken(table: Pfn, what: &'static str) -> Violation {
    Violation::of(Invariant::Space1, Some(table), what)
}
