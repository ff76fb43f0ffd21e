//! What firmware says of the machine in ACPI's static tables: its CPUs (MADT), which memory and which CPUs are near to
//! each other (SRAT), and how far it is between them (SLIT).
//!
//! Firmware is not trusted: lengths are checked before anything is read, every walk consumes at least a byte of a bounded
//! table, and a table with a fault is left out as a whole. Then there is one CPU, or one node.
//!
//! Cost: every byte of the tables is read twice, once for its checksum.
//!
//! Source: ACPI 6.5, sections 5.2.5 to 5.2.8, 5.2.12, 5.2.16 and 5.2.17.

mod madt;
mod numa;
mod table;
mod topology;

use core::fmt;

use mm::units::{Bytes, PhysAddr};
use thiserror::Error;

pub use topology::{MAX_NODES, Topology};

/// A local APIC, and so the CPU that has it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct ApicId(pub u32);

/// Reads physical memory: so many bytes at an address, or nothing if they cannot all be read.
pub type ReadPhysical<'r, 'm> = &'r dyn Fn(PhysAddr, Bytes) -> Option<&'m [u8]>;

/// A table's name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Signature(pub [u8; 4]);

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.escape_ascii().fmt(f)
    }
}

/// Why a table, or all of them, is not used.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum AcpiError {
    /// The loader found no root pointer.
    #[error("the loader knows of no root pointer")]
    NoRoot,
    /// The root pointer is none.
    #[error("there is no root pointer at {address:#x}", address = .0.0)]
    BadRoot(PhysAddr),
    /// A table lies where nothing can be read, or is longer than any.
    #[error("a table at {address:#x} cannot be read", address = .0.0)]
    Unreadable(PhysAddr),
    /// No such table.
    #[error("there is no {0}")]
    Missing(Signature),
    /// The bytes do not add up to zero.
    #[error("{0} has a wrong checksum")]
    Checksum(Signature),
    /// The table ends before what it must hold.
    #[error("{0} is too short")]
    TooShort(Signature),
    /// An entry is shorter than its kind, or reaches beyond its table.
    #[error("{0} has an entry of {1} that is malformed")]
    Entry(Signature, EntryKind),
    /// The CPU that reads this is not listed.
    #[error("{0} does not list the CPU that boots")]
    NoBootCpu(Signature),
    /// More than there is room for.
    #[error("{0} lists more than {1} nodes or ranges")]
    TooMany(Signature, usize),
    /// Two nodes have the same memory.
    #[error("{0} gives the memory at {address:#x} to two nodes", address = .1.0)]
    Overlap(Signature, PhysAddr),
    /// A node is not nearest to itself.
    #[error("{0} has distances that make no sense")]
    Distances(Signature),
}

/// The kind of an entry, as its table numbers it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EntryKind(pub u8);

impl fmt::Display for EntryKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "kind {}", self.0)
    }
}
