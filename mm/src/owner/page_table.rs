//! Page tables: how far above pages they stand, the lock on their entries, and how many of those lead anywhere.
//!
//! What an entry looks like, the kernel knows. Whoever changes one holds the table's [guard](TableGuard) and counts it,
//! so an empty table is known for one at once, and what the counts say can be compared with the tables themselves. A
//! user's table names its space and the addresses that it serves, so that whoever meets it by its frame finds the entry
//! that leads to it.

use super::reference::Reference;
use super::walker::Walker;
use crate::descriptor::Descriptor;
use crate::image::{Note, NoteFull, layout};
use crate::lock::{Mutex, MutexGuard};
use crate::lock_order::class;
use crate::machine::Machine;
use crate::units::{Count, SpaceId, VirtualAddress};

/// How far a page table stands above the pages it leads to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct TableLevel(pub u8);

impl TableLevel {
    /// Leads to pages itself.
    pub const LEAF: Self = Self(1);

    /// The level of the tables that this level's lead to; `None` for a leaf.
    #[must_use]
    pub const fn below(self) -> Option<Self> {
        if self.0 > Self::LEAF.0 { Some(Self(self.0 - 1)) } else { None }
    }
}

/// Entries of a page table that lead somewhere.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct UsedEntries(pub u16);

impl UsedEntries {
    /// One entry more leads somewhere.
    pub const fn add(&mut self) {
        self.0 += 1;
    }

    /// One entry less does.
    ///
    /// # Panics
    /// None did: the count was wrong.
    pub const fn remove(&mut self) {
        self.0 = self.0.checked_sub(1).expect("an entry that led somewhere was counted");
    }

    /// Whether no more than one entry leads anywhere, so that the table is empty without it.
    pub const fn is_last(self) -> bool {
        self.0 <= 1
    }
}

/// The right to change a table's entries, and their count.
pub type TableGuard<'t> = MutexGuard<'t, UsedEntries>;

/// Where a user's table belongs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TablePlace {
    /// The space.
    pub space: SpaceId,
    /// The lowest address that the table serves.
    pub address: VirtualAddress,
}

/// A page table.
#[derive(Debug)]
pub struct PageTable {
    level: TableLevel,
    place: Option<TablePlace>,
    used: Mutex<class::PageTable, UsedEntries>,
}

impl PageTable {
    /// A table without entries.
    pub const fn new(level: TableLevel) -> Self {
        Self::adopted(level, UsedEntries(0))
    }

    /// A table that so many entries of are used already.
    pub const fn adopted(level: TableLevel, used: UsedEntries) -> Self {
        Self { level, place: None, used: Mutex::new(used) }
    }

    /// A user's table without entries.
    pub const fn of_user(level: TableLevel, place: TablePlace) -> Self {
        Self { level, place: Some(place), used: Mutex::new(UsedEntries(0)) }
    }

    /// For who reads an image of memory.
    pub(super) fn write_note(note: &mut Note) -> Result<(), NoteFull> {
        layout!(note, Self as "PageTable": level, used)?;
        let used = Mutex::<class::PageTable, _>::new(UsedEntries(0)).places();
        note.place("PageTable.used.value", used.value)?;
        note.place("PageTable.used.held", used.held)?;
        Descriptor::<Self>::write_note(note, "page_table")
    }

    /// How far above pages it stands.
    pub const fn level(&self) -> TableLevel {
        self.level
    }

    /// Where it belongs; `None` if it is not a user's.
    pub const fn place(&self) -> Option<TablePlace> {
        self.place
    }

    /// Locks the table: whoever holds the guard alone changes entries, and counts them. Not for interrupt handlers.
    pub fn lock<'t>(&'t self, machine: &'t impl Machine) -> TableGuard<'t> {
        self.used.lock(machine)
    }
}

/// The page tables of one level, added up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TablesOfLevel {
    /// Tables.
    pub tables: Count,
    /// Their entries that lead somewhere.
    pub entries: Count,
}

impl<M: Machine> Walker<'_, M> {
    /// Finds and adds up the page tables of a level. Locks each of them, one at a time. Cost: a look at every block.
    pub fn page_tables(&self, level: TableLevel) -> TablesOfLevel {
        let mut sum = TablesOfLevel { tables: Count(0), entries: Count(0) };
        for sighting in self.blocks(self.frames()) {
            if let Some(Reference::PageTable(table)) = sighting.get()
                && table.level() == level
            {
                sum.tables.0 += 1;
                sum.entries.0 += u32::from(table.lock(self.owners().machine()).0);
            }
        }
        sum
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::arena::ArenaMachine;
    use crate::machine::Standard;
    use crate::units::Pfn;

    fn machine() -> ArenaMachine<Standard> {
        ArenaMachine::new(Pfn::new(1), Pfn::new(1))
    }

    #[test]
    fn levels_end_at_the_leaf() {
        let levels = core::iter::successors(Some(TableLevel(4)), |level| level.below());
        assert!(levels.eq([4, 3, 2, 1].map(TableLevel)));
        assert_eq!(TableLevel(0).below(), None);
    }

    #[test]
    fn a_table_is_down_to_its_last_entry_when_one_is_left_or_none() {
        let table = PageTable::adopted(TableLevel::LEAF, UsedEntries(2));
        let machine = machine();
        let mut used = table.lock(&machine);
        assert!(!used.is_last());
        used.remove();
        assert!(used.is_last());
        used.add();
        assert!(!used.is_last());
        used.remove();
        used.remove();
        assert!(used.is_last() && *used == UsedEntries(0));
    }

    #[test]
    #[should_panic(expected = "was counted")]
    fn an_entry_too_many_that_goes_is_noticed() {
        PageTable::new(TableLevel(2)).lock(&machine()).remove();
    }
}
