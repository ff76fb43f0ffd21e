//! Finding tables, and walking what stands in them.

use mm::units::{Bytes, PhysAddr};

use super::{AcpiError, EntryKind, ReadPhysical, Signature};

/// Bytes in front of what a table says: its signature, length, checksum, and who made it.
pub(super) const HEADER: usize = 36;

/// The longest table that is believed. Those of interest have a few bytes for each CPU, range or pair of nodes.
const LONGEST: usize = 1 << 20;

const ROOT: Signature = Signature(*b"RSDT");
const EXTENDED_ROOT: Signature = Signature(*b"XSDT");

/// A table whose length and checksum are right.
#[derive(Clone, Copy, Debug)]
pub(super) struct Table<'m> {
    pub(super) name: Signature,
    bytes: &'m [u8],
}

/// Where all tables are listed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tables<'m> {
    root: Table<'m>,
}

impl<'m> Tables<'m> {
    /// Follows the root pointer.
    ///
    /// # Errors
    /// It is none, or the list that it leads to has a fault.
    pub(super) fn find(rsdp: PhysAddr, read: ReadPhysical<'_, 'm>) -> Result<Self, AcpiError> {
        const FIRST: usize = 20;
        const EXTENDED: usize = 36;
        let bad = AcpiError::BadRoot(rsdp);
        let first = read(rsdp, Bytes(FIRST)).ok_or(bad)?;
        if !first.starts_with(b"RSD PTR ") || sum(first) != 0 {
            return Err(bad);
        }
        let extended = if first[15] < 2 {
            None
        } else {
            let all = read(rsdp, Bytes(EXTENDED)).ok_or(bad)?;
            (sum(all) == 0).then(|| u64_at(all, 24)).flatten().filter(|&address| address != 0)
        };
        let root = match extended {
            Some(address) => Table::read(PhysAddr(address), Some(EXTENDED_ROOT), read)?,
            None => Table::read(PhysAddr(u32_at(first, 16).ok_or(bad)?.into()), Some(ROOT), read)?,
        };
        Ok(Self { root })
    }

    /// The first table of that name.
    ///
    /// # Errors
    /// There is none, or it has a fault.
    pub(super) fn get(&self, name: Signature, read: ReadPhysical<'_, 'm>) -> Result<Table<'m>, AcpiError> {
        let width = if self.root.name == EXTENDED_ROOT { 8 } else { 4 };
        for pointer in self.root.bytes[HEADER..].chunks_exact(width) {
            let address = pointer.iter().rev().fold(0, |address, &byte| address << 8 | u64::from(byte));
            let address = PhysAddr(address);
            if read(address, Bytes(4)) == Some(&name.0) {
                return Table::read(address, Some(name), read);
            }
        }
        Err(AcpiError::Missing(name))
    }
}

impl<'m> Table<'m> {
    fn read(address: PhysAddr, expected: Option<Signature>, read: ReadPhysical<'_, 'm>) -> Result<Self, AcpiError> {
        let unreadable = AcpiError::Unreadable(address);
        let header = read(address, Bytes(HEADER)).ok_or(unreadable)?;
        let name = Signature(*header.first_chunk().ok_or(unreadable)?);
        if let Some(expected) = expected.filter(|&expected| expected != name) {
            return Err(AcpiError::Missing(expected));
        }
        let length = u32_at(header, 4).and_then(|length| usize::try_from(length).ok()).ok_or(unreadable)?;
        if length < HEADER {
            return Err(AcpiError::TooShort(name));
        }
        if length > LONGEST {
            return Err(unreadable);
        }
        let bytes = read(address, Bytes(length)).filter(|bytes| bytes.len() == length).ok_or(unreadable)?;
        if sum(bytes) != 0 {
            return Err(AcpiError::Checksum(name));
        }
        Ok(Self { name, bytes })
    }

    pub(super) const fn bytes(&self) -> &'m [u8] {
        self.bytes
    }

    /// The entries from `start` on.
    ///
    /// # Errors
    /// The table does not reach so far.
    pub(super) fn entries(&self, start: usize) -> Result<Entries<'m>, AcpiError> {
        let rest = self.bytes.get(start..).ok_or(AcpiError::TooShort(self.name))?;
        Ok(Entries { table: self.name, rest })
    }
}

/// An entry: its kind and length, and what that length spans, the two included.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry<'m> {
    table: Signature,
    pub(super) kind: EntryKind,
    bytes: &'m [u8],
}

impl Entry<'_> {
    pub(super) fn u8(&self, offset: usize) -> Result<u8, AcpiError> {
        self.bytes.get(offset).copied().ok_or(self.malformed())
    }

    pub(super) fn u32(&self, offset: usize) -> Result<u32, AcpiError> {
        u32_at(self.bytes, offset).ok_or(self.malformed())
    }

    pub(super) fn u64(&self, offset: usize) -> Result<u64, AcpiError> {
        u64_at(self.bytes, offset).ok_or(self.malformed())
    }

    const fn malformed(&self) -> AcpiError {
        AcpiError::Entry(self.table, self.kind)
    }
}

/// The entries of a table, up to the first that is malformed.
#[derive(Clone, Debug)]
pub(super) struct Entries<'m> {
    table: Signature,
    rest: &'m [u8],
}

impl<'m> Iterator for Entries<'m> {
    type Item = Result<Entry<'m>, AcpiError>;

    fn next(&mut self) -> Option<Self::Item> {
        const SHORTEST: usize = 2;
        let kind = EntryKind(*self.rest.first()?);
        let length = self.rest.get(1).map_or(0, |&length| usize::from(length));
        // An entry without a length would be met for ever.
        let Some((bytes, rest)) = self.rest.split_at_checked(length).filter(|_| length >= SHORTEST) else {
            self.rest = &[];
            return Some(Err(AcpiError::Entry(self.table, kind)));
        };
        self.rest = rest;
        Some(Ok(Entry { table: self.table, kind, bytes }))
    }
}

pub(super) fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(offset..)?.first_chunk()?))
}

pub(super) fn u64_at(bytes: &[u8], offset: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(offset..)?.first_chunk()?))
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, &byte| sum.wrapping_add(byte))
}
