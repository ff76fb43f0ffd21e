//! Which CPUs of a hosted machine are on which node, and how far those are from each other.

use std::boxed::Box;

use crate::units::{CpuId, Distance, NodeId};

/// Nodes, as firmware's tables (SRAT, SLIT) describe them. By default all CPUs are on node 0.
#[derive(Clone, Default, Debug)]
pub struct Topology {
    nodes: Box<[NodeId]>,
    distances: Box<[Box<[Distance]>]>,
}

impl Topology {
    /// CPU after CPU the node that it is on, those that are not named on node 0; and node after node how far the others
    /// are, those that are not named as far as is usual.
    pub fn new<const NODES: usize>(cpus: &[NodeId], distances: &[[Distance; NODES]]) -> Self {
        Self { nodes: cpus.into(), distances: distances.iter().map(|row| row.as_slice().into()).collect() }
    }

    pub(super) fn node_of(&self, CpuId(cpu): CpuId) -> NodeId {
        self.nodes.get(usize::from(cpu)).copied().unwrap_or(NodeId(0))
    }

    pub(super) fn distance(&self, from: NodeId, to: NodeId) -> Distance {
        let row = self.distances.get(usize::from(from.0));
        let distance = row.and_then(|row| row.get(usize::from(to.0))).copied();
        distance.unwrap_or(if from == to { Distance::LOCAL } else { Distance::REMOTE })
    }
}
