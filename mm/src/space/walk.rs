//! One space's tables, seen under its lock: from the root down, table by table, slot by slot.
//!
//! Invariant SPACE-1: an entry of a user's half leads to a table only if that table is owned memory of this space, placed
//! there ([`PageTable::place`]), not empty, and given up to the entry by [`Owned::into_raw`]. Its count of used entries is
//! that of those that are not empty. All of this is changed under the space's lock alone; the processor marks entries of
//! pages as accessed, and changes nothing else.
#![expect(unsafe_code, reason = "entries lead to tables, and tables are frames")]

use core::marker::PhantomData;
use core::slice;
use core::sync::atomic::{AtomicU64, Ordering};

use super::mmu::{Mmu, PageEntry, TableEntry};
use super::range::AddressRange;
use super::tables::{Locked, Provision, Tables};
use crate::OwnerKind;
use crate::desc::word::Page;
use crate::descriptor::Descriptor;
use crate::machine::Machine;
use crate::owner::{Owned, PageTable, TableLevel, UsedEntries};
use crate::units::{Order, PAGE_SHIFT, Pfn, VirtualAddress};

/// The level whose entries may be pages of as many frames as a table has entries.
pub(super) const LARGE: TableLevel = TableLevel(2);

/// What tables of an [`Mmu`] span.
pub(super) struct Shape<U>(PhantomData<U>);

impl<U: Mmu> Shape<U> {
    /// Entries in a table.
    pub(super) const ENTRIES: usize = {
        assert!(U::TABLE_SHIFT <= 9, "a table is a page");
        assert!(U::ROOT.0 > LARGE.0, "roots lead to no pages");
        1 << U::TABLE_SHIFT
    };

    /// The order of what a large entry maps.
    pub(super) const LARGE_ORDER: Order = Order::of(U::TABLE_SHIFT as usize);

    /// Bytes that one entry of a table of this level spans.
    pub(super) const fn span(level: TableLevel) -> u64 {
        1 << (PAGE_SHIFT + U::TABLE_SHIFT * (level.0 as u32 - 1))
    }

    /// What an entry of a table of this level spans around an address.
    pub(super) const fn around(address: VirtualAddress, level: TableLevel) -> AddressRange {
        let span = Self::span(level);
        let start = VirtualAddress(address.0 & !(span - 1));
        AddressRange::new(start, start.plus(span))
    }

    /// The lowest address that the table of this level around an address serves.
    pub(super) const fn table_base(address: VirtualAddress, level: TableLevel) -> VirtualAddress {
        Self::around(address, TableLevel(level.0 + 1)).start()
    }

    /// The parts of a range, which lies in one table of this level, that its entries span.
    pub(super) fn parts(level: TableLevel, range: AddressRange) -> impl Iterator<Item = AddressRange> + use<U> {
        let mut next = range.start();
        core::iter::from_fn(move || {
            let part = AddressRange::new(next, Self::around(next, level).end().min(range.end()));
            next = part.end();
            (!part.is_empty()).then_some(part)
        })
    }

    #[expect(clippy::cast_possible_truncation, reason = "below the number of entries")]
    const fn index(address: VirtualAddress, level: TableLevel) -> usize {
        (address.0 / Self::span(level)) as usize & (Self::ENTRIES - 1)
    }
}

/// A table, looked at under its space's lock.
///
/// # Invariants
/// It is one of its space's, and stays so while this lives (SPACE-1).
pub(super) struct Table<'t, 'a, M: Machine, U: Mmu> {
    tables: &'t Tables<'a, M, U>,
    frame: Pfn,
    level: TableLevel,
    slots: &'t [AtomicU64],
}

/// What an entry leads to.
pub(super) enum Step<'t, 'a, M: Machine, U: Mmu> {
    Empty,
    Table(Table<'t, 'a, M, U>),
    Page(PageEntry),
    Moving,
}

impl<'a, M: Machine, U: Mmu> Locked<'_, 'a, M, U> {
    /// The topmost table.
    pub(super) fn root(&self) -> Table<'_, 'a, M, U> {
        // SAFETY: the root is the space's as long as that lives.
        unsafe { self.at(self.tables().root(), U::ROOT) }
    }

    /// What the entry of a table for an address leads to.
    pub(super) fn step<'l>(&'l self, table: &Table<'l, 'a, M, U>, address: VirtualAddress) -> Step<'l, 'a, M, U> {
        match table.entry(address) {
            TableEntry::Empty => Step::Empty,
            TableEntry::Table(frame) => {
                // SAFETY: SPACE-1, an entry leads there, of a table of the level above.
                Step::Table(unsafe { self.at(frame, TableLevel(table.level.0 - 1)) })
            }
            TableEntry::Page(entry) => Step::Page(entry),
            TableEntry::Moving(_) => Step::Moving,
        }
    }

    /// The table of a level around an address, if there is one.
    pub(super) fn table_at(&self, address: VirtualAddress, level: TableLevel) -> Option<Table<'_, 'a, M, U>> {
        let mut table = self.root();
        while table.level() > level {
            let Step::Table(next) = self.step(&table, address) else { return None };
            table = next;
        }
        Some(table)
    }

    /// The lowest table that there is around all of a range.
    pub(super) fn lowest_around(&self, range: AddressRange) -> Table<'_, 'a, M, U> {
        let mut table = self.root();
        while Shape::<U>::around(range.start(), table.level).covers(range) {
            let Step::Table(next) = self.step(&table, range.start()) else { break };
            table = next;
        }
        table
    }

    /// The entry of the lowest table for an address, and what it spans.
    pub(super) fn entry(&self, address: VirtualAddress) -> (TableEntry, AddressRange) {
        let mut table = self.root();
        while let Step::Table(next) = self.step(&table, address) {
            table = next;
        }
        (table.entry(address), Shape::<U>::around(address, table.level()))
    }

    /// Hangs in the table for an address that is to stand below `above`, once it is filled, in place of what is there. It
    /// was found lacking, and provided.
    pub(super) fn hang<'l>(
        &'l self,
        above: &Table<'l, 'a, M, U>,
        address: VirtualAddress,
        provision: &mut Provision<'a, M>,
        fill: impl FnOnce(&Table<'l, 'a, M, U>),
    ) -> Table<'l, 'a, M, U> {
        let table = above.level.below().and_then(|level| provision.take::<U>(level, address));
        let Some(table) = table else { panic!("invariant SPACE-1 broken: a table is hung in that was not planned") };
        let (frame, level) = (table.head(), table.level());
        let _ = table.into_raw();
        // SAFETY: the space has the table from now on.
        let table = unsafe { self.at(frame, level) };
        fill(&table);
        above.store(address, TableEntry::Table(frame));
        table
    }

    /// Takes an empty table out, to be freed when no processor remembers it.
    #[expect(clippy::needless_pass_by_value, reason = "nobody looks at the table any more")]
    pub(super) fn unhang(&self, above: &Table<'_, 'a, M, U>, table: Table<'_, 'a, M, U>) -> Owned<'a, M, PageTable> {
        let place = table.owner().place().filter(|_| table.is_empty());
        let Some(place) = place else { panic!("invariant SPACE-1 broken: a table goes that is used") };
        let entry = above.store(place.address, TableEntry::Empty);
        assert!(entry == TableEntry::Table(table.frame), "invariant SPACE-1 broken: a table is not where it belongs");
        // SAFETY: the only entry that led to it, and was given it, is gone.
        unsafe { self.tables().owners().from_raw(table.frame) }
    }

    /// # Safety
    /// The frame is a table of this space and level, or to be one, and stays so as long as the result lives.
    unsafe fn at(&self, frame: Pfn, level: TableLevel) -> Table<'_, 'a, M, U> {
        let slots = self.tables().owners().pages().machine().direct_map(frame).cast();
        // SAFETY: tables are lowmem, fill a page at most, and consist of words that anybody changes in one piece.
        let slots = unsafe { slice::from_raw_parts(slots.as_ptr(), Shape::<U>::ENTRIES) };
        Table { tables: self.tables(), frame, level, slots }
    }
}

impl<'t, M: Machine, U: Mmu> Table<'t, '_, M, U> {
    pub(super) const fn frame(&self) -> Pfn {
        self.frame
    }

    pub(super) const fn level(&self) -> TableLevel {
        self.level
    }

    /// What its descriptor keeps.
    pub(super) fn owner(&self) -> &'t PageTable {
        let owner = self.tables.owners().pages().page(self.frame).map(Page::owner);
        let Some(descriptor) = owner.and_then(|owner| owner.descriptor::<Descriptor<PageTable>>(OwnerKind::PageTable))
        else {
            panic!("invariant SPACE-1 broken: an entry leads to {:?}, which is no table", self.frame)
        };
        // SAFETY: SPACE-1, the entry that leads here keeps the descriptor.
        let descriptor = unsafe { descriptor.as_ref() };
        // SAFETY: as above, the entry's reference is there as long as the entry is.
        unsafe { descriptor.owner() }
    }

    pub(super) const fn slots(&self) -> &'t [AtomicU64] {
        self.slots
    }

    /// Whether no entry leads anywhere.
    pub(super) fn is_empty(&self) -> bool {
        *self.owner().lock(self.tables.owners().machine()) == UsedEntries(0)
    }

    fn slot(&self, address: VirtualAddress) -> &'t AtomicU64 {
        &self.slots[Shape::<U>::index(address, self.level)]
    }

    /// The entry for an address.
    pub(super) fn entry(&self, address: VirtualAddress) -> TableEntry {
        self.tables.mmu().decode(self.slot(address).load(Ordering::Acquire), self.level)
    }

    /// Replaces the entry for an address by what `change` makes of it, and counts it. Gives the old one and the new one.
    /// Nothing that the processor marks meanwhile is lost: `change` is asked again.
    pub(super) fn change(
        &self,
        address: VirtualAddress,
        mut change: impl FnMut(TableEntry) -> TableEntry,
    ) -> (TableEntry, TableEntry) {
        let (slot, level) = (self.slot(address), self.level);
        let mut bits = slot.load(Ordering::Acquire);
        loop {
            let old = self.tables.mmu().decode(bits, level);
            let new = change(old);
            if new == old {
                return (old, new);
            }
            // Release: what a new entry leads to is whole before the processor finds it.
            let exchange =
                slot.compare_exchange(bits, self.tables.mmu().encode(new, level), Ordering::AcqRel, Ordering::Acquire);
            match exchange {
                Ok(_) => {
                    self.count(old, new);
                    return (old, new);
                }
                Err(now) => bits = now,
            }
        }
    }

    /// Puts an entry in place of whatever stands there, and gives that.
    pub(super) fn store(&self, address: VirtualAddress, entry: TableEntry) -> TableEntry {
        self.change(address, |_| entry).0
    }

    fn count(&self, old: TableEntry, new: TableEntry) {
        match (old, new) {
            (TableEntry::Empty, TableEntry::Empty) => {}
            (TableEntry::Empty, _) => self.owner().lock(self.tables.owners().machine()).add(),
            (_, TableEntry::Empty) => self.owner().lock(self.tables.owners().machine()).remove(),
            _ => {}
        }
    }
}
