//! Changing what stands in tables: pages go, are used in fewer ways, are marked as moving and put back. What nothing is
//! left of goes with it, up to the root.

use super::gather::{Entries, Gather};
use super::mmu::{Accessed, Mmu, PageEntry, PageProtection, TableEntry};
use super::range::AddressRange;
use super::tables::Locked;
use super::walk::{Shape, Step, Table};
use crate::cache::Leave;
use crate::machine::Machine;
use crate::owner::FolioRef;
use crate::units::{Count, Pfn, PfnRange};

impl<'a, M: Machine, U: Mmu> Locked<'_, 'a, M, U> {
    /// Replaces every entry of pages in a range by what `change` makes of it, which must be no other page. Large ones that
    /// are not all inside of the range must stay what they are: another folio's, if this is about one.
    pub(super) fn rewrite(
        &mut self,
        range: AddressRange,
        entries: Entries,
        mut change: impl FnMut(TableEntry, AddressRange) -> TableEntry,
    ) {
        let mut gather = Gather::new(self.tables(), entries);
        self.rewrite_in(&self.root(), range, &mut change, &mut gather);
    }

    fn rewrite_in(
        &self,
        table: &Table<'_, 'a, M, U>,
        range: AddressRange,
        change: &mut impl FnMut(TableEntry, AddressRange) -> TableEntry,
        gather: &mut Gather<'_, 'a, M, U>,
    ) {
        for part in Shape::<U>::parts(table.level(), range) {
            let whole = Shape::<U>::around(part.start(), table.level());
            match self.step(table, part.start()) {
                Step::Empty => {}
                Step::Table(next) => {
                    self.rewrite_in(&next, part, change, gather);
                    if next.is_empty() {
                        gather.table(self.unhang(table, next), whole);
                    }
                }
                Step::Page(_) | Step::Moving if part != whole => {
                    let entry = table.entry(part.start());
                    assert!(
                        change(entry, whole) == entry,
                        "a large entry at {whole:?} is changed in part, at {part:?}"
                    );
                }
                Step::Page(_) | Step::Moving => match table.change(part.start(), |entry| change(entry, whole)) {
                    (TableEntry::Page(old), TableEntry::Page(new)) if old.protection == new.protection => {}
                    (TableEntry::Page(_), TableEntry::Page(_)) => gather.stale(whole),
                    (TableEntry::Page(old), _) => gather.page(old, whole),
                    _ => {}
                },
            }
        }
    }

    /// Takes everything out of a range.
    pub(super) fn unmap(&mut self, range: AddressRange, entries: Entries) {
        self.rewrite(range, entries, |_, _| TableEntry::Empty);
    }

    /// Lets the pages in a range be used in these ways at most. What may be written from now on is so at the next fault.
    pub(super) fn protect(&mut self, range: AddressRange, entries: Entries, protection: PageProtection) {
        let narrowed = |page: PageEntry| {
            let keeps = page.protection == protection;
            PageEntry { protection: if keeps { protection } else { protection.without_write() }, ..page }
        };
        self.rewrite(range, entries, |entry, _| match entry {
            TableEntry::Page(page) => TableEntry::Page(narrowed(page)),
            TableEntry::Moving(page) => TableEntry::Moving(narrowed(page)),
            other => other,
        });
    }

    /// Takes a folio's pages out of a range.
    pub(super) fn unmap_folio(&mut self, range: AddressRange, folio: PfnRange, leave: Leave) {
        self.rewrite(range, Entries::OfFolios, |entry, _| match (entry, leave) {
            (TableEntry::Page(page), Leave::Nothing) if folio.contains(page.frame) => TableEntry::Empty,
            (TableEntry::Page(page), Leave::Moving) if folio.contains(page.frame) => TableEntry::Moving(page),
            // It was to be put back by somebody who has let go of the folio's lock since.
            (TableEntry::Moving(page), Leave::Nothing) if folio.contains(page.frame) => TableEntry::Empty,
            (other, _) => other,
        });
    }

    /// Puts a folio back where its pages stood before they moved from the block at `old`.
    pub(super) fn put_back(&mut self, range: AddressRange, old: Pfn, folio: &FolioRef<'_, M>) {
        let space = self.tables().id();
        let frames = PfnRange::new(old, old.plus(folio.order().pages()));
        self.rewrite(range, Entries::OfFolios, |entry, part| match entry {
            TableEntry::Moving(page) if frames.contains(page.frame) => {
                let frame = folio.head().plus(page.frame.number() - old.number());
                let pages = Count(super::gather::frames(page, part).pages());
                // What cannot be counted comes back by a fault.
                match folio.add_mappings(space, pages) {
                    Ok(()) => TableEntry::Page(PageEntry { frame, ..page }),
                    Err(_) => TableEntry::Empty,
                }
            }
            other => other,
        });
    }

    /// Lets nobody write a folio's pages in a range.
    pub(super) fn write_protect(&mut self, range: AddressRange, folio: PfnRange) {
        let read_only = |page: PageEntry| PageEntry { protection: page.protection.without_write(), ..page };
        self.rewrite(range, Entries::OfFolios, |entry, _| match entry {
            TableEntry::Page(page) if folio.contains(page.frame) => TableEntry::Page(read_only(page)),
            TableEntry::Moving(page) if folio.contains(page.frame) => TableEntry::Moving(read_only(page)),
            other => other,
        });
    }

    /// Whether any of a folio's pages in a range was used since this was last asked. Processors that still know a
    /// translation may use it without saying so again. Of a large entry that reaches beyond the range, which is to be cut
    /// there, this is said, and not forgotten: it may be used at any time, also since the region was asked that shows all
    /// of it.
    pub(super) fn take_accessed(&mut self, range: AddressRange, folio: PfnRange) -> Accessed {
        let mut accessed = Accessed::No;
        self.rewrite(range, Entries::OfFolios, |entry, whole| match entry {
            TableEntry::Page(page) if folio.contains(page.frame) && page.accessed == Accessed::Yes => {
                accessed = Accessed::Yes;
                let left = if range.covers(whole) { Accessed::No } else { Accessed::Yes };
                TableEntry::Page(PageEntry { accessed: left, ..page })
            }
            other => other,
        });
        accessed
    }
}
