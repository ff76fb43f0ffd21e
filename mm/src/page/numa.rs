//! From which node memory came, and from which it was to come: Linux's `numastat`.
//!
//! A CPU counts on its own, in counters that nobody else writes: a load, an addition and a store. So whoever counts has
//! interrupts off, and a reader adds the CPUs up. What a CPU has at hand in the zone that was wanted is counted there.
//!
//! Cost: 64 bytes for each CPU and node. Source: Linux's `zone_statistics`.

use core::iter::Sum;

use super::allocator::{PageAllocator, ZoneCell};
use super::zonelist;
use crate::boot_map::{BootMap, CarveError};
use crate::early::{MetadataBytes, carve_slice};
use crate::machine::Machine;
use crate::units::{Count, CpuId, NodeId};
use core::sync::atomic::{AtomicU64, Ordering};

/// Allocations as one node sees them, since ever.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct NumaEvents {
    /// Served here, as they were to be.
    pub hit: u64,
    /// Served here, though another node was to serve them.
    pub miss: u64,
    /// Served by another node, though this one was to serve them.
    pub foreign: u64,
    /// Served here, on one of the node's own CPUs.
    pub local: u64,
    /// Served here, on a CPU of another node.
    pub other: u64,
}

impl Sum for NumaEvents {
    fn sum<I: Iterator<Item = Self>>(events: I) -> Self {
        events.fold(Self::default(), |all, one| Self {
            hit: all.hit + one.hit,
            miss: all.miss + one.miss,
            foreign: all.foreign + one.foreign,
            local: all.local + one.local,
            other: all.other + one.other,
        })
    }
}

/// What a CPU counts for a node. An allocation is exactly one of the first four, of the node that served it.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Tally {
    local_hits: Counter,
    other_hits: Counter,
    local_misses: Counter,
    other_misses: Counter,
    foreign: Counter,
}

/// A counter that one CPU writes.
#[derive(Debug, Default)]
struct Counter(AtomicU64);

impl Counter {
    #[inline(always)]
    fn add(&self, Count(count): Count) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(count.into()), Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Whose memory was wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Wanted {
    /// The node of the first zone that might have served.
    pub(crate) first: NodeId,
    /// The CPU's own.
    pub(crate) own: NodeId,
}

/// The counters of all CPUs.
#[derive(Debug)]
pub(super) struct NumaCounters<'m> {
    /// INVARIANT: `nodes` tallies a CPU.
    tallies: &'m [Tally],
    nodes: usize,
}

impl<'m> NumaCounters<'m> {
    /// Carves the counters for the nodes of `zones`, and of all CPUs.
    ///
    /// # Errors
    /// The direct map has no room for them.
    pub(super) fn carve<M: Machine, const CAPACITY: usize>(
        machine: &'m M,
        boot_map: &mut BootMap<CAPACITY>,
        zones: &[ZoneCell<M::Geometry>],
        metadata: &mut MetadataBytes,
    ) -> Result<Self, CarveError> {
        let nodes = zonelist::nodes(machine, zones);
        let tallies = usize::from(machine.cpus().get()) * nodes;
        let first_node = zones.first().map_or(NodeId(0), |cell| cell.node);
        let (tallies, bytes) = carve_slice(machine, boot_map, first_node, tallies, |_| Tally::default())?;
        metadata.zones += bytes;
        Ok(Self { tallies, nodes })
    }

    #[inline(always)]
    fn tally(&self, CpuId(cpu): CpuId, NodeId(node): NodeId) -> Option<&'m Tally> {
        self.tallies.get(usize::from(cpu) * self.nodes + usize::from(node))
    }

    /// Counts allocations on this CPU that `node` served. Interrupts are off.
    #[inline(always)]
    pub(super) fn count(&self, cpu: CpuId, wanted: Wanted, node: NodeId, count: Count) {
        let Some(tally) = self.tally(cpu, node) else { return };
        let counter = match (wanted.first == node, wanted.own == node) {
            (true, true) => &tally.local_hits,
            (true, false) => &tally.other_hits,
            (false, true) => &tally.local_misses,
            (false, false) => &tally.other_misses,
        };
        counter.add(count);
        if wanted.first != node
            && let Some(tally) = self.tally(cpu, wanted.first)
        {
            tally.foreign.add(count);
        }
    }

    fn events(&self, node: NodeId) -> NumaEvents {
        let cpus = self.tallies.chunks(self.nodes.max(1));
        cpus.filter_map(|cpu| cpu.get(usize::from(node.0)))
            .map(|tally| NumaEvents {
                hit: tally.local_hits.get() + tally.other_hits.get(),
                miss: tally.local_misses.get() + tally.other_misses.get(),
                foreign: tally.foreign.get(),
                local: tally.local_hits.get() + tally.local_misses.get(),
                other: tally.other_hits.get() + tally.other_misses.get(),
            })
            .sum()
    }
}

impl<M: Machine> PageAllocator<'_, M> {
    /// What CPUs had at hand of a node's zones, and were given in the first place.
    fn served_at_hand(&self, node: NodeId) -> NumaEvents {
        let cpus = || (0..self.machine.cpus().get()).map(CpuId);
        let zones = self.zones.iter().filter(|cell| cell.node == node);
        let served = zones.flat_map(|cell| cpus().zip(self.cpu_caches.of_zone(cell.id)));
        served
            .map(|(cpu, cache)| match cache.served() {
                hit if self.machine.node_of(cpu) == node => NumaEvents { hit, local: hit, ..NumaEvents::default() },
                hit => NumaEvents { hit, other: hit, ..NumaEvents::default() },
            })
            .sum()
    }

    /// Every node that has a CPU or memory, or lies between two that have, with what happened there.
    pub fn numa_events(&self) -> impl Iterator<Item = (NodeId, NumaEvents)> + Clone {
        (0..=u8::MAX)
            .map(NodeId)
            .take(self.numa.nodes)
            .map(|node| (node, [self.numa.events(node), self.served_at_hand(node)].into_iter().sum()))
    }
}
