//! The CPUs, and where their local APICs' registers are.

use arrayvec::ArrayVec;
use mm::units::PhysAddr;

use super::table::{HEADER, Table, u32_at};
use super::{AcpiError, ApicId, EntryKind, Signature};
use crate::layout::CPUS;

pub(super) const NAME: Signature = Signature(*b"APIC");

const LOCAL_APIC: EntryKind = EntryKind(0);
const ADDRESS_OVERRIDE: EntryKind = EntryKind(5);
const LOCAL_X2APIC: EntryKind = EntryKind(9);

const ENABLED: u32 = 1;
/// What an APIC whose number does not fit into eight bits has in their place.
const NONE: u8 = 0xff;

/// What the table says.
#[derive(Debug)]
pub(super) struct Cpus {
    /// Those that are enabled, the one that boots first.
    pub(super) cpus: ArrayVec<ApicId, CPUS>,
    pub(super) local_apic: PhysAddr,
    /// Those that there is no room for.
    pub(super) left_out: u32,
}

pub(super) fn read(table: &Table<'_>, boot: ApicId) -> Result<Cpus, AcpiError> {
    let address = u32_at(table.bytes(), HEADER).ok_or(AcpiError::TooShort(NAME))?;
    let mut found = Cpus { cpus: ArrayVec::new(), local_apic: PhysAddr(address.into()), left_out: 0 };
    found.cpus.push(boot);
    let mut boot_is_listed = false;
    for entry in table.entries(HEADER + 8)? {
        let entry = entry?;
        let (id, flags) = match entry.kind {
            LOCAL_APIC if entry.u8(3)? == NONE => continue,
            LOCAL_APIC => (ApicId(entry.u8(3)?.into()), entry.u32(4)?),
            LOCAL_X2APIC => (ApicId(entry.u32(4)?), entry.u32(8)?),
            ADDRESS_OVERRIDE => {
                found.local_apic = PhysAddr(entry.u64(4)?);
                continue;
            }
            _ => continue,
        };
        if flags & ENABLED == 0 {
            continue;
        }
        boot_is_listed |= id == boot;
        // A CPU may be listed in both forms.
        if !found.cpus.contains(&id) && found.cpus.try_push(id).is_err() {
            found.left_out += 1;
        }
    }
    if boot_is_listed { Ok(found) } else { Err(AcpiError::NoBootCpu(NAME)) }
}
