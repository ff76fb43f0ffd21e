//! The checker of one space's tables.

use super::mmu::{Mmu, TableEntry};
use super::range::AddressRange;
use super::tables::Locked;
use super::walk::{Shape, Table};
use crate::invariant::{Invariant, Violation};
use crate::machine::Machine;
use crate::owner::{TableLevel, UsedEntries};
use crate::units::{Pfn, VirtualAddress};

impl<M: Machine, U: Mmu> Locked<'_, '_, M, U> {
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
        table: &Table<'_, U>,
        range: AddressRange,
        check: &mut impl FnMut(TableEntry, AddressRange) -> Result<(), Violation>,
    ) -> Result<(), Violation> {
        let mut used = UsedEntries(0);
        for part in Table::<U>::parts(table.level(), range) {
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
        if *table.owner().lock() == used {
            Ok(())
        } else {
            Err(broken(table.frame(), "a table's entries are miscounted"))
        }
    }

    fn verify_place(&self, table: &Table<'_, U>, level: TableLevel, address: VirtualAddress) -> Result<(), Violation> {
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
