//! Which memory and which CPUs are near to each other, and how far it is between them.
//!
//! Firmware calls what is near a *proximity domain*, by any number; those that are mentioned become nodes, in the order
//! of their numbers.

use arrayvec::ArrayVec;
use mm::units::{Distance, NodeId, PhysAddr};

use super::table::{HEADER, Table, u64_at};
use super::topology::MAX_NODES;
use super::{AcpiError, ApicId, EntryKind, Signature};
use crate::layout::CPUS;

pub(super) const AFFINITY: Signature = Signature(*b"SRAT");
pub(super) const DISTANCE: Signature = Signature(*b"SLIT");

const CPU: EntryKind = EntryKind(0);
const MEMORY: EntryKind = EntryKind(1);
const X2APIC_CPU: EntryKind = EntryKind(2);

const ENABLED: u32 = 1;

/// Ranges of memory that nodes have.
pub(super) const MAX_RANGES: usize = 64;

/// A proximity domain.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Domain(u32);

/// Memory that is near to somebody; `end` is one past the last byte.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Range {
    pub(super) start: PhysAddr,
    pub(super) end: PhysAddr,
    pub(super) node: NodeId,
}

/// What the affinity table says.
#[derive(Debug)]
pub(super) struct Affinity {
    /// Ascending and disjoint.
    pub(super) memory: ArrayVec<Range, MAX_RANGES>,
    cpus: ArrayVec<(ApicId, Domain), CPUS>,
    /// The domain of each node.
    domains: ArrayVec<Domain, MAX_NODES>,
}

impl Affinity {
    pub(super) fn read(table: &Table<'_>, used: &[ApicId]) -> Result<Self, AcpiError> {
        // The first revision has one byte for a domain, and anything in the other three.
        let wide = table.bytes().get(8).is_some_and(|&revision| revision >= 2);
        let mut memory = ArrayVec::<(PhysAddr, PhysAddr, Domain), MAX_RANGES>::new();
        let mut cpus = ArrayVec::new();
        let mut domains = ArrayVec::new();
        for entry in table.entries(HEADER + 12)? {
            let entry = entry?;
            match entry.kind {
                MEMORY if entry.u32(28)? & ENABLED != 0 => {
                    let domain = if wide { entry.u32(2)? } else { entry.u8(2)?.into() };
                    let (start, length) = (entry.u64(8)?, entry.u64(16)?);
                    let end = start.saturating_add(length);
                    if start < end {
                        let range = (PhysAddr(start), PhysAddr(end), Domain(domain));
                        memory.try_push(range).map_err(|_| AcpiError::TooMany(AFFINITY, MAX_RANGES))?;
                        mention(&mut domains, Domain(domain))?;
                    }
                }
                CPU if entry.u32(4)? & ENABLED != 0 => {
                    let high = if wide { [entry.u8(9)?, entry.u8(10)?, entry.u8(11)?] } else { [0; 3] };
                    let domain = u32::from_le_bytes([entry.u8(2)?, high[0], high[1], high[2]]);
                    place(&mut cpus, &mut domains, used, ApicId(entry.u8(3)?.into()), Domain(domain))?;
                }
                X2APIC_CPU if entry.u32(12)? & ENABLED != 0 => {
                    place(&mut cpus, &mut domains, used, ApicId(entry.u32(8)?), Domain(entry.u32(4)?))?;
                }
                _ => {}
            }
        }
        domains.sort_unstable();
        memory.sort_unstable_by_key(|&(start, end, _)| (start.0, end.0));
        let meet = memory.windows(2).find(|pair| pair[1].0.0 < pair[0].1.0);
        if let Some(pair) = meet {
            return Err(AcpiError::Overlap(AFFINITY, pair[1].0));
        }
        let mut found = Self { memory: ArrayVec::new(), cpus, domains };
        for (start, end, domain) in memory {
            let node = found.node(domain);
            found.memory.push(Range { start, end, node });
        }
        Ok(found)
    }

    /// How many nodes there are; none is as good as one.
    pub(super) fn nodes(&self) -> u8 {
        u8::try_from(self.domains.len()).unwrap_or(u8::MAX)
    }

    /// The node of a CPU; the first one if nobody says.
    pub(super) fn node_of(&self, cpu: ApicId) -> NodeId {
        let domain = self.cpus.iter().find(|&&(id, _)| id == cpu);
        domain.map_or(NodeId(0), |&(_, domain)| self.node(domain))
    }

    fn node(&self, domain: Domain) -> NodeId {
        let place = self.domains.iter().position(|&known| known == domain).unwrap_or(0);
        NodeId(u8::try_from(place).unwrap_or(0))
    }

    /// The distances that the other table has between the nodes. Domains that it does not know of are as far as
    /// anything is where nobody says more.
    pub(super) fn distances(&self, table: &Table<'_>) -> Result<[[Distance; MAX_NODES]; MAX_NODES], AcpiError> {
        const ENTRIES: usize = HEADER + 8;
        let count = u64_at(table.bytes(), HEADER).ok_or(AcpiError::TooShort(DISTANCE))?;
        let entries = table.bytes().get(ENTRIES..).unwrap_or(&[]);
        if count.checked_mul(count).is_none_or(|all| all > entries.len() as u64) {
            return Err(AcpiError::TooShort(DISTANCE));
        }
        let width = usize::try_from(count).map_err(|_| AcpiError::TooShort(DISTANCE))?;
        let mut distances = default_distances();
        for (from, row) in self.domains.iter().zip(&mut distances) {
            for (to, distance) in self.domains.iter().zip(row) {
                let [from, to] = [from, to].map(|domain| usize::try_from(domain.0).unwrap_or(usize::MAX));
                if from >= width || to >= width {
                    continue;
                }
                *distance = Distance(entries[from * width + to]);
                let makes_sense = if from == to { *distance == Distance::LOCAL } else { *distance > Distance::LOCAL };
                if !makes_sense {
                    return Err(AcpiError::Distances(DISTANCE));
                }
            }
        }
        Ok(distances)
    }
}

/// What holds where nobody says more.
pub(super) fn default_distances() -> [[Distance; MAX_NODES]; MAX_NODES] {
    let distance = |from, to| if from == to { Distance::LOCAL } else { Distance::REMOTE };
    core::array::from_fn(|from| core::array::from_fn(|to| distance(from, to)))
}

fn mention(domains: &mut ArrayVec<Domain, MAX_NODES>, domain: Domain) -> Result<(), AcpiError> {
    if domains.contains(&domain) {
        return Ok(());
    }
    domains.try_push(domain).map_err(|_| AcpiError::TooMany(AFFINITY, MAX_NODES))
}

/// Notes where a CPU is, if it is one that is used.
fn place(
    cpus: &mut ArrayVec<(ApicId, Domain), CPUS>,
    domains: &mut ArrayVec<Domain, MAX_NODES>,
    used: &[ApicId],
    cpu: ApicId,
    domain: Domain,
) -> Result<(), AcpiError> {
    if !used.contains(&cpu) || cpus.iter().any(|&(id, _)| id == cpu) {
        return Ok(());
    }
    // INVARIANT: each of those that are used comes once, and there is room for all of them.
    cpus.push((cpu, domain));
    mention(domains, domain)
}
