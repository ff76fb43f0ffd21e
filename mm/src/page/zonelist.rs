//! In which order zones are asked: those of a node, then those of the others, the nearest first.
//!
//! A row for each node that has a CPU or memory, carved at set-up: within a node the kinds that serve the fewest requests
//! come first, and of nodes equally far away the next ones behind the node itself, so that not all fall back to the same.
//! A node without memory has a row like any other, which begins with its nearest neighbour.
//!
//! Cost: a byte for each node and zone. Source: Linux's `build_zonelists`.

use core::cmp::Reverse;

use super::allocator::{PageAllocator, ZoneCell};
use super::request::{Policy, Request};
use crate::boot_map::{BootMap, CarveError};
use crate::early::{MetadataBytes, carve_slice};
use crate::machine::Machine;
use crate::units::{CpuId, NodeId, ZoneId};
use crate::zone::ZoneKind;

/// The rows of all nodes.
#[derive(Debug)]
pub(super) struct Zonelists<'m> {
    /// INVARIANT: `zones` places a node.
    places: &'m [ZoneId],
    zones: usize,
}

impl<'m> Zonelists<'m> {
    /// Carves the rows for the nodes of `zones`, given by node and kind, and of all CPUs.
    ///
    /// # Errors
    /// The direct map has no room for them.
    pub(super) fn carve<M: Machine, const CAPACITY: usize>(
        machine: &'m M,
        boot_map: &mut BootMap<CAPACITY>,
        zones: &[ZoneCell<M::Geometry>],
        metadata: &mut MetadataBytes,
    ) -> Result<Self, CarveError> {
        let nodes = nodes(machine, zones);
        let first_node = zones.first().map_or(NodeId(0), |cell| cell.node);
        let (places, bytes) = carve_slice(machine, boot_map, first_node, nodes * zones.len(), |_| ZoneId(0))?;
        metadata.zones += bytes;
        if !zones.is_empty() {
            for (from, row) in (0..=u8::MAX).map(NodeId).zip(places.chunks_exact_mut(zones.len())) {
                for (id, place) in (0..=u8::MAX).map(ZoneId).zip(&mut *row) {
                    *place = id;
                }
                row.sort_unstable_by_key(|id| {
                    let ZoneCell { node, kind, .. } = zones[id.index()];
                    (node != from, machine.distance(from, node), node.0.wrapping_sub(from.0), Reverse(kind))
                });
            }
        }
        Ok(Self { places, zones: zones.len() })
    }

    /// The zone of `zones` that a CPU of a node asks first for memory up to this kind.
    pub(super) fn first<G>(&self, node: NodeId, highest: ZoneKind, zones: &[ZoneCell<G>]) -> Option<ZoneId> {
        self.row(node).iter().copied().find(|id| zones[id.index()].kind <= highest)
    }

    /// The row of a node; that of the first one if nobody knows the node.
    fn row(&self, node: NodeId) -> &'m [ZoneId] {
        let start = usize::from(node.0) * self.zones;
        self.places.get(start..start + self.zones).or_else(|| self.places.get(..self.zones)).unwrap_or_default()
    }
}

/// One more than the highest node that has a CPU or memory.
pub(super) fn nodes<M: Machine>(machine: &M, zones: &[ZoneCell<M::Geometry>]) -> usize {
    let of_cpus = (0..machine.cpus().get()).map(|cpu| machine.node_of(CpuId(cpu)));
    let highest = zones.iter().map(|cell| cell.node).chain(of_cpus).max();
    highest.map_or(0, |NodeId(node)| usize::from(node) + 1)
}

impl<'m, M: Machine> PageAllocator<'m, M> {
    /// The node whose memory a request wants, on this CPU.
    pub(super) fn wanted_node(&self, request: Request) -> NodeId {
        match request.policy {
            Policy::Local => self.machine.node_of(self.machine.cpu()),
            Policy::Preferred(node) | Policy::Bound(node) => node,
        }
    }

    /// The zones that may serve a request, on this CPU, the best first.
    pub(super) fn zonelist(
        &self,
        request: Request,
    ) -> impl Iterator<Item = &'m ZoneCell<M::Geometry>> + Clone + use<'m, M> {
        let zones = self.zones;
        let serves = move |cell: &&ZoneCell<M::Geometry>| {
            cell.kind <= request.highest && !matches!(request.policy, Policy::Bound(node) if node != cell.node)
        };
        self.zonelists.row(self.wanted_node(request)).iter().map(|id| &zones[id.index()]).filter(serves)
    }
}
