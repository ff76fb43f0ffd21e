//! The machine as its tables describe it, in this kernel's own words.

use alloc::vec::Vec;
use core::fmt;
use core::num::{NonZeroU8, NonZeroU16};

use arrayvec::ArrayVec;
use mm::boot_map::Region;
use mm::units::{CpuId, Distance, NodeId, PhysAddr};

use super::numa::{self, Affinity, MAX_RANGES, Range, default_distances};
use super::table::Tables;
use super::{AcpiError, ApicId, ReadPhysical, madt};
use crate::layout::CPUS;

/// Nodes that are told apart.
pub const MAX_NODES: usize = 32;

/// Where PCs have their local APICs' registers.
const LOCAL_APIC: PhysAddr = PhysAddr(0xfee0_0000);

/// CPUs, nodes, and what is where. CPU 0 is the one that boots.
#[derive(Debug)]
pub struct Topology {
    cpus: ArrayVec<(ApicId, NodeId), CPUS>,
    local_apic: PhysAddr,
    memory: ArrayVec<Range, MAX_RANGES>,
    nodes: NonZeroU8,
    distances: [[Distance; MAX_NODES]; MAX_NODES],
}

impl Topology {
    /// One CPU, one node.
    fn single(boot: ApicId) -> Self {
        Self {
            cpus: [(boot, NodeId(0))].into_iter().collect(),
            local_apic: LOCAL_APIC,
            memory: ArrayVec::new(),
            nodes: NonZeroU8::MIN,
            distances: default_distances(),
        }
    }

    /// What the tables say that the root pointer leads to. `boot` is the CPU that asks. Each fault is told to `report`,
    /// and what the table would have said is left out.
    pub fn read(
        rsdp: Option<PhysAddr>,
        boot: ApicId,
        read: ReadPhysical<'_, '_>,
        report: &mut dyn FnMut(&dyn fmt::Display),
    ) -> Self {
        let mut found = Self::single(boot);
        let tables = rsdp.ok_or(AcpiError::NoRoot).and_then(|rsdp| Tables::find(rsdp, read));
        let tables = match tables {
            Ok(tables) => tables,
            Err(error) => {
                report(&error);
                return found;
            }
        };
        match tables.get(madt::NAME, read).and_then(|table| madt::read(&table, boot)) {
            Ok(listed) => {
                found.cpus = listed.cpus.into_iter().map(|id| (id, NodeId(0))).collect();
                found.local_apic = listed.local_apic;
                if listed.left_out > 0 {
                    report(&format_args!("{} CPUs more than {CPUS} are left out", listed.left_out));
                }
            }
            Err(error) => report(&error),
        }
        if let Err(error) = found.read_nodes(&tables, read, report) {
            // A machine with one node need not say so.
            if error != AcpiError::Missing(numa::AFFINITY) {
                report(&error);
            }
        }
        found
    }

    fn read_nodes<'m>(
        &mut self,
        tables: &Tables<'m>,
        read: ReadPhysical<'_, 'm>,
        report: &mut dyn FnMut(&dyn fmt::Display),
    ) -> Result<(), AcpiError> {
        let used: ArrayVec<ApicId, CPUS> = self.cpus.iter().map(|&(id, _)| id).collect();
        let affinity = Affinity::read(&tables.get(numa::AFFINITY, read)?, &used)?;
        for (id, node) in &mut self.cpus {
            *node = affinity.node_of(*id);
        }
        self.nodes = NonZeroU8::new(affinity.nodes()).unwrap_or(NonZeroU8::MIN);
        match tables.get(numa::DISTANCE, read).and_then(|table| affinity.distances(&table)) {
            Ok(distances) => self.distances = distances,
            // Without it, every other node is equally far.
            Err(AcpiError::Missing(_)) => {}
            Err(error) => report(&error),
        }
        self.memory = affinity.memory;
        Ok(())
    }

    /// The same CPUs on `nodes` nodes of which nobody knows anything: they take turns, and all are equally far.
    #[must_use]
    pub fn split(mut self, nodes: NonZeroU8) -> Self {
        for ((_, node), number) in self.cpus.iter_mut().zip((0..nodes.get()).cycle()) {
            *node = NodeId(number);
        }
        self.memory.clear();
        self.nodes = nodes;
        self.distances = default_distances();
        self
    }

    /// The same without the CPUs behind the first `count`.
    #[must_use]
    pub fn limited_to(mut self, count: NonZeroU16) -> Self {
        self.cpus.truncate(count.get().into());
        self
    }

    /// How many CPUs there are.
    pub fn cpus(&self) -> NonZeroU16 {
        // INVARIANT: the one that boots is always there.
        u16::try_from(self.cpus.len()).ok().and_then(NonZeroU16::new).unwrap_or(NonZeroU16::MIN)
    }

    /// How many nodes there are.
    pub const fn nodes(&self) -> NonZeroU8 {
        self.nodes
    }

    /// The local APIC of a CPU; `None` if there is no such CPU.
    pub fn apic(&self, cpu: CpuId) -> Option<ApicId> {
        self.cpus.get(usize::from(cpu.0)).map(|&(id, _)| id)
    }

    /// Where every CPU finds the registers of its own local APIC.
    pub const fn local_apic(&self) -> PhysAddr {
        self.local_apic
    }

    /// The node that a CPU is on; the first one for a CPU that there is not.
    pub fn node_of(&self, cpu: CpuId) -> NodeId {
        self.cpus.get(usize::from(cpu.0)).map_or(NodeId(0), |&(_, node)| node)
    }

    /// How far the memory of `to` is from the CPUs of `from`.
    pub fn distance(&self, from: NodeId, to: NodeId) -> Distance {
        let known = self.distances.get(usize::from(from.0)).and_then(|row| row.get(usize::from(to.0)));
        known.copied().unwrap_or(if from == to { Distance::LOCAL } else { Distance::REMOTE })
    }

    /// The regions, cut where nodes meet, each with its node. What no table mentions is the first node's.
    pub fn assign(&self, regions: &[Region]) -> Vec<Region> {
        regions.iter().flat_map(|region| self.pieces(*region)).collect()
    }

    fn pieces(&self, region: Region) -> impl Iterator<Item = Region> + use<'_> {
        let (mut at, end) = (region.start.0, region.start.0.saturating_add(region.len));
        let mut ended = false;
        core::iter::from_fn(move || {
            if ended {
                return None;
            }
            let next = self.memory.iter().find(|range| range.end.0 > at);
            let (node, until) = match next {
                Some(range) if range.start.0 <= at => (range.node, range.end.0.min(end)),
                Some(range) => (NodeId(0), range.start.0.min(end)),
                None => (NodeId(0), end),
            };
            let piece = Region { start: PhysAddr(at), len: until - at, node, ..region };
            at = until;
            ended = at >= end;
            // An empty region, or one that wraps around, is for the memory map to judge.
            Some(if piece.start == region.start && ended { Region { len: region.len, ..piece } } else { piece })
        })
    }
}

#[cfg(test)]
mod tests;
