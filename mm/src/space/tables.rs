//! The page tables of one space, and the lock that guards them all.
//!
//! A table that any entry leads to is never empty: new ones are hung in to be filled under the same lock, and the entry
//! that leads to a table goes with the table's last one. The lock is a spin lock under which nothing is allocated: what an
//! operation may need is had before, in a [`Provision`]; one that lacks something changes nothing, says what it lacks, and
//! is tried again.
//!
//! Invariants: SPACE-1 (`walk`).
#![expect(unsafe_code, reason = "takes the root back from the machine")]

use arrayvec::ArrayVec;
use thiserror::Error;

use super::mmu::Mmu;
use super::walk::Shape;
use crate::lock::{Mutex, MutexGuard};
use crate::lock_order::class;
use crate::machine::Machine;
use crate::owner::{OwnError, Owned, Owners, PageTable, TableLevel, TablePlace};
use crate::page::Request;
use crate::units::{Order, Pfn, SpaceId, VirtualAddress};

/// Tables that one operation can ask for: a folio of the largest order stands in three leaves, two tables above them, and
/// two above those.
pub(super) const TABLES: usize = 7;

/// The page tables of one space.
#[derive(Debug)]
pub(crate) struct Tables<'a, M: Machine, U: Mmu> {
    owners: &'a Owners<'a, M>,
    mmu: &'a U,
    id: SpaceId,
    root: Pfn,
    lock: Mutex<class::SpaceTables, ()>,
}

/// The right to change them.
pub(super) struct Locked<'t, 'a, M: Machine, U: Mmu> {
    tables: &'t Tables<'a, M, U>,
    _guard: MutexGuard<'t, ()>,
}

impl<'a, M: Machine, U: Mmu> Tables<'a, M, U> {
    /// A space in which nothing is mapped.
    ///
    /// # Errors
    /// There is no memory for the root.
    pub(super) fn new(owners: &'a Owners<'a, M>, mmu: &'a U, id: SpaceId) -> Result<Self, OwnError> {
        let place = TablePlace { space: id, address: VirtualAddress(0) };
        let root = new_table(owners, PageTable::of_user(U::ROOT, place))?.into_raw();
        let tables = Self { owners, mmu, id, root, lock: Mutex::new(()) };
        mmu.init_root(tables.lock().root().slots());
        Ok(tables)
    }

    pub(super) const fn owners(&self) -> &'a Owners<'a, M> {
        self.owners
    }

    pub(super) const fn mmu(&self) -> &'a U {
        self.mmu
    }

    pub(super) const fn id(&self) -> SpaceId {
        self.id
    }

    /// The topmost table: what a processor is given.
    pub(super) const fn root(&self) -> Pfn {
        self.root
    }

    pub(super) fn lock(&self) -> Locked<'_, 'a, M, U> {
        Locked { tables: self, _guard: self.lock.lock(self.owners.machine()) }
    }

    /// Does what may need tables, and gets those that it lacks with `fill`, until it lacks none.
    ///
    /// # Errors
    /// What it fails with, or `fill` does.
    pub(super) fn provided<T, E: From<OwnError>>(
        &self,
        mut fill: impl FnMut(&mut Provision<'a, M>, &Wanted) -> Result<(), OwnError>,
        mut attempt: impl FnMut(&mut Locked<'_, 'a, M, U>, &mut Provision<'a, M>) -> Result<T, Attempt<E>>,
    ) -> Result<T, E> {
        let mut provision = Provision::none();
        loop {
            // The lock is let go before anything is allocated.
            let outcome = attempt(&mut self.lock(), &mut provision);
            match outcome {
                Ok(done) => return Ok(done),
                Err(Attempt::Failed(error)) => return Err(error),
                Err(Attempt::Lacking(wanted)) => fill(&mut provision, &wanted)?,
            }
        }
    }
}

impl<M: Machine, U: Mmu> Drop for Tables<'_, M, U> {
    fn drop(&mut self) {
        // Another space may have this root next.
        self.mmu.flush(self.root, self.mmu.users());
        // SAFETY: the root was given up in `new`, and nobody else takes it back.
        drop(unsafe { self.owners.from_raw::<PageTable>(self.root) });
    }
}

impl<'t, 'a, M: Machine, U: Mmu> Locked<'t, 'a, M, U> {
    pub(super) const fn tables(&self) -> &'t Tables<'a, M, U> {
        self.tables
    }
}

/// A zeroed table.
fn new_table<'a, M: Machine>(owners: &'a Owners<'a, M>, owner: PageTable) -> Result<Owned<'a, M, PageTable>, OwnError> {
    let mut table = owners.alloc(Request::new(Order::ZERO), owner).map_err(|(_, error)| error)?;
    let head = table.head();
    table.with_page(head, |bytes| bytes.fill(0));
    Ok(table)
}

/// Why an attempt came to nothing.
pub(super) enum Attempt<E> {
    /// Tables are lacking.
    Lacking(Wanted),
    /// It would fail again.
    Failed(E),
}

/// Tables that an operation lacks: level, and the lowest address of each.
#[derive(Default)]
pub(super) struct Wanted(ArrayVec<(TableLevel, VirtualAddress), TABLES>);

/// An operation wants more tables than can be had for one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error("the range takes more than {TABLES} page tables at once")]
pub struct TooManyTables;

impl Wanted {
    /// Wants the table of a level around an address.
    pub(super) fn want<U: Mmu>(&mut self, level: TableLevel, address: VirtualAddress) -> Result<(), TooManyTables> {
        let table = (level, Shape::<U>::table_base(address, level));
        if self.0.contains(&table) { Ok(()) } else { self.0.try_push(table).map_err(|_| TooManyTables) }
    }
}

/// Tables had before the lock is taken.
pub(super) struct Provision<'a, M: Machine>(ArrayVec<Owned<'a, M, PageTable>, TABLES>);

impl<'a, M: Machine> Provision<'a, M> {
    pub(super) const fn none() -> Self {
        Self(ArrayVec::new_const())
    }

    /// Gets those that are wanted in place of what is left here.
    ///
    /// # Errors
    /// There is no memory.
    pub(super) fn fill<U: Mmu>(&mut self, tables: &Tables<'a, M, U>, Wanted(wanted): &Wanted) -> Result<(), OwnError> {
        self.0.clear();
        for &(level, address) in wanted {
            let place = TablePlace { space: tables.id, address };
            self.0.push(new_table(tables.owners, PageTable::of_user(level, place))?);
        }
        Ok(())
    }

    fn position<U: Mmu>(&self, level: TableLevel, address: VirtualAddress) -> Option<usize> {
        let base = Shape::<U>::table_base(address, level);
        let serves =
            |table: &PageTable| table.level() == level && table.place().is_some_and(|place| place.address == base);
        self.0.iter().position(|table| serves(table))
    }

    /// What of the wanted there is not.
    pub(super) fn lacks<U: Mmu>(&self, Wanted(wanted): &Wanted) -> bool {
        wanted.iter().any(|&(level, address)| self.position::<U>(level, address).is_none())
    }

    /// The table for an address, which was wanted, and was not lacking.
    pub(super) fn take<U: Mmu>(
        &mut self,
        level: TableLevel,
        address: VirtualAddress,
    ) -> Option<Owned<'a, M, PageTable>> {
        self.position::<U>(level, address).map(|table| self.0.swap_remove(table))
    }
}
