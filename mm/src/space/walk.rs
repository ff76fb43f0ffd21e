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
use super::tables::Tables;
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

    #[expect(clippy::cast_possible_truncation, reason = "below the number of entries")]
    const fn index(address: VirtualAddress, level: TableLevel) -> usize {
        (address.0 / Self::span(level)) as usize & (Self::ENTRIES - 1)
    }
}

/// A table, looked at under its space's lock.
///
/// # Invariants
/// It is one of its space's, and stays so while this lives (SPACE-1).
pub(super) struct Table<'t, U: Mmu> {
    mmu: &'t U,
    frame: Pfn,
    owner: &'t PageTable,
    slots: &'t [AtomicU64],
}

/// What an entry leads to.
pub(super) enum Step<'t, U: Mmu> {
    Empty,
    Table(Table<'t, U>),
    Page(PageEntry),
    Moving(PageEntry),
}

impl<'a, M: Machine, U: Mmu> Tables<'a, M, U> {
    /// The topmost table.
    ///
    /// # Safety
    /// The space's lock is held as long as the result lives.
    pub(super) unsafe fn top(&self) -> Table<'_, U> {
        // SAFETY: the root is the space's as long as it lives.
        unsafe { self.at(self.root()) }
    }

    /// What an entry of a table leads to.
    ///
    /// # Safety
    /// The table is this space's, and the space's lock is held as long as the result lives.
    pub(super) unsafe fn step<'t>(&'t self, table: &Table<'t, U>, address: VirtualAddress) -> Step<'t, U> {
        match table.entry(address) {
            TableEntry::Empty => Step::Empty,
            // SAFETY: SPACE-1, an entry leads there.
            TableEntry::Table(frame) => Step::Table(unsafe { self.at(frame) }),
            TableEntry::Page(entry) => Step::Page(entry),
            TableEntry::Moving(entry) => Step::Moving(entry),
        }
    }

    /// Hangs a new table in where nothing stands, or something that may be forgotten.
    ///
    /// # Safety
    /// As of [`step`](Self::step), and the table was made for this place.
    pub(super) unsafe fn hang<'t>(
        &'t self,
        above: &Table<'t, U>,
        address: VirtualAddress,
        table: Owned<'a, M, PageTable>,
    ) -> Table<'t, U> {
        let frame = table.into_raw();
        above.store(address, TableEntry::Table(frame));
        // SAFETY: SPACE-1, an entry leads there now.
        unsafe { self.at(frame) }
    }

    /// Takes an empty table out, to be freed when no processor remembers it.
    ///
    /// # Safety
    /// As of [`step`](Self::step); nobody uses the table that stands there from now on.
    pub(super) unsafe fn unhang<'t>(&'t self, above: &Table<'t, U>, address: VirtualAddress) -> Owned<'a, M, PageTable> {
        let TableEntry::Table(frame) = above.entry(address) else { panic!("invariant SPACE-1 broken: no table stands there") };
        above.store(address, TableEntry::Empty);
        // SAFETY: the only entry that led to it, and was given it, is gone.
        unsafe { self.owners().from_raw(frame) }
    }

    /// # Safety
    /// The frame is a table of this space, whose lock is held as long as the result lives, and so long it stays one.
    unsafe fn at(&self, frame: Pfn) -> Table<'_, U> {
        let owner = self.owners().pages().page(frame).map(Page::owner);
        let Some(descriptor) = owner.and_then(|owner| owner.descriptor::<Descriptor<PageTable>>(OwnerKind::PageTable))
        else {
            panic!("invariant SPACE-1 broken: an entry leads to {frame:?}, which is no table")
        };
        // SAFETY: the caller's promise: the entry that leads here keeps the descriptor.
        let descriptor = unsafe { descriptor.as_ref() };
        // SAFETY: as above, the entry's reference is there as long as the entry is.
        let owner = unsafe { descriptor.owner() };
        let slots = self.owners().pages().machine().direct_map(frame).cast();
        // SAFETY: tables are lowmem, fill a page at most, and consist of words that anybody changes in one piece.
        let slots = unsafe { slice::from_raw_parts(slots.as_ptr(), Shape::<U>::ENTRIES) };
        Table { mmu: self.mmu(), frame, owner, slots }
    }
}

impl<'t, U: Mmu> Table<'t, U> {
    pub(super) const fn frame(&self) -> Pfn {
        self.frame
    }

    pub(super) const fn level(&self) -> TableLevel {
        self.owner.level()
    }

    pub(super) const fn owner(&self) -> &'t PageTable {
        self.owner
    }

    pub(super) const fn slots(&self) -> &'t [AtomicU64] {
        self.slots
    }

    /// Whether no entry leads anywhere.
    pub(super) fn is_empty(&self) -> bool {
        *self.owner.lock() == UsedEntries(0)
    }

    /// The parts of a range, which lies in this table, that its entries span.
    pub(super) fn parts(&self, range: AddressRange) -> impl Iterator<Item = AddressRange> + use<U> {
        let level = self.level();
        let mut next = range.start();
        core::iter::from_fn(move || {
            let part = AddressRange::new(next, Shape::<U>::around(next, level).end().min(range.end()));
            next = part.end();
            (!part.is_empty()).then_some(part)
        })
    }

    fn slot(&self, address: VirtualAddress) -> &'t AtomicU64 {
        &self.slots[Shape::<U>::index(address, self.level())]
    }

    /// The entry for an address.
    pub(super) fn entry(&self, address: VirtualAddress) -> TableEntry {
        self.mmu.decode(self.slot(address).load(Ordering::Acquire), self.level())
    }

    /// Replaces the entry for an address by what `change` makes of it, and counts it. Gives the old one and the new one.
    /// Nothing that the processor marks meanwhile is lost: `change` is asked again.
    pub(super) fn change(
        &self,
        address: VirtualAddress,
        mut change: impl FnMut(TableEntry) -> TableEntry,
    ) -> (TableEntry, TableEntry) {
        let (slot, level) = (self.slot(address), self.level());
        let mut bits = slot.load(Ordering::Acquire);
        loop {
            let old = self.mmu.decode(bits, level);
            let new = change(old);
            if new == old {
                return (old, new);
            }
            // Release: what a new entry leads to is whole before the processor finds it.
            let exchange = slot.compare_exchange(bits, self.mmu.encode(new, level), Ordering::AcqRel, Ordering::Acquire);
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
            (TableEntry::Empty, _) => self.owner.lock().add(),
            (_, TableEntry::Empty) => self.owner.lock().remove(),
            _ => {}
        }
    }
}
