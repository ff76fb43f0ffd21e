//! From a boot map to an allocator: descriptors are carved and filled, zones made, and every usable frame freed.
//!
//! Cost: one descriptor write a frame of populated sections, and one free a block of the largest order.

use core::cmp::Reverse;
use core::sync::atomic::AtomicU32;

use arrayvec::ArrayVec;
use thiserror::Error;

use super::allocator::{PageAllocator, ZoneCell};
use super::numa::NumaCounters;
use super::reclaim::Reclaim;
use super::zonelist::Zonelists;
use crate::boot_map::{BootMap, CarveError};
use crate::charge::ChargeGroups;
use crate::desc::map::PageMap;
use crate::descriptor::WalkGate;
use crate::early::{MetadataBytes, carve_slice};
use crate::hardening::Hardening;
use crate::lock::Mutex;
use crate::machine::{Geometry, Machine};
use crate::pcp::CpuCaches;
use crate::poison;
use crate::random::Random;
use crate::specification::Change;
use crate::units::{NodeId, Order, PfnRange, ZoneId};
use crate::zone::{Zone, ZoneKind};

/// Why an allocator could not be made.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum SetupError {
    /// The direct map has no room for descriptors, tables, zones or charge groups.
    #[error("no room for the allocator's own tables: {0}")]
    Metadata(#[from] CarveError),
    /// There are more zones than a descriptor can name.
    #[error("more zones than a descriptor can name")]
    TooManyZones,
}

impl<'m, M: Machine> PageAllocator<'m, M> {
    /// Takes over the usable memory of a boot map. What it carves out for itself is reserved in the map afterwards.
    ///
    /// # Errors
    /// The direct map has no room for the descriptors, or there are too many zones. The map may have lost memory.
    ///
    /// # Safety
    /// MACHINE-MEMORY: what the map calls usable exists, and nobody else uses it, nor has any other allocator been given it.
    #[expect(unsafe_code, reason = "only whoever has the map knows whose memory that is")]
    pub unsafe fn new<const CAPACITY: usize>(
        machine: &'m M,
        boot_map: &mut BootMap<CAPACITY>,
    ) -> Result<Self, SetupError> {
        let mut metadata = MetadataBytes::default();
        let map = PageMap::carve(machine, boot_map, &mut metadata)?;
        let zones = carve_zones(machine, boot_map, &mut metadata)?;
        let zonelists = Zonelists::carve(machine, boot_map, zones, &mut metadata)?;
        let numa = NumaCounters::carve(machine, boot_map, zones, &mut metadata)?;
        let reclaim = Reclaim::carve(machine, boot_map, &mut metadata)?;
        let groups = ChargeGroups::carve(machine, boot_map, &mut metadata)?;
        let pages = zones.iter().map(|cell| present_of(machine, cell));
        let first = |cpu, highest| zonelists.first(machine.node_of(cpu), highest, zones);
        let cpu_caches = CpuCaches::carve(machine, boot_map, &pages, &first, &mut metadata)?;
        map.fill(boot_map.extents());
        let (draining, gate) = (Mutex::new(()), WalkGate::new());
        let hwpoisoned = AtomicU32::new(0);
        let allocator = Self {
            machine,
            map,
            zones,
            zonelists,
            cpu_caches,
            draining,
            numa,
            reclaim,
            groups,
            metadata,
            gate,
            hwpoisoned,
        };
        for cell in allocator.zones {
            let frames = cell.kind.frames(machine.direct_map_end());
            let ranges = || {
                let of_node = boot_map.usable().rev().filter(|&(_, node)| node == cell.node);
                of_node.map(|(range, _)| range.intersection(frames)).filter(|range| !range.is_empty())
            };
            allocator.with_buddy(cell, |buddy| ranges().for_each(|range| buddy.zone().pivot.cover(range)));
            ranges().for_each(|range| allocator.changed(Change::Given(range)));
            ranges().for_each(|range| poison::on_free(machine, range));
            // The smallest blocks first, so that no whole one is broken for the first nodes.
            for order in (0..=M::Geometry::MAX_ORDER.index()).map(Order::of) {
                allocator.with_buddy(cell, |buddy| ranges().for_each(|range| buddy.adopt(range, order)));
            }
            if machine.hardening().contains(Hardening::SHUFFLE_PAGES) {
                let mut random = Random::of(machine.random_seed(), &[cell.id.0]);
                allocator.with_buddy(cell, |buddy| buddy.shuffle(&mut random));
            }
            allocator.with_buddy(cell, |buddy| {
                buddy.set_aside();
            });
        }
        allocator.set_watermarks();
        Ok(allocator)
    }

    /// Works out how low each zone may fall, from what there is by now.
    pub(super) fn set_watermarks(&self) {
        for cell in self.zones {
            let mut sums = self.managed_around(cell);
            loop {
                let (lowmem, of_node) = sums;
                self.with_buddy(cell, |buddy| buddy.zone().set_watermarks(lowmem, of_node));
                // Who changes a zone at the same time comes by here, too: whoever is last has seen all that there is.
                let now = self.managed_around(cell);
                if now == sums {
                    break;
                }
                sums = now;
            }
        }
    }

    /// Managed pages of all lowmem, and of each kind of zone on this one's node.
    fn managed_around(&self, cell: &ZoneCell<M::Geometry>) -> (u32, [u32; ZoneKind::ALL.len()]) {
        let managed = |cell: &ZoneCell<M::Geometry>| self.with_buddy(cell, |buddy| buddy.zone().managed);
        let lowmem = self.zones.iter().filter(|cell| cell.kind < ZoneKind::Highmem).map(managed).sum();
        let of_node = ZoneKind::ALL.map(|kind| {
            let zones = self.zones.iter().filter(|other| other.node == cell.node && other.kind == kind);
            zones.map(managed).sum()
        });
        (lowmem, of_node)
    }
}

/// Pages of a zone's span that are memory of its node.
fn present_of<M: Machine>(machine: &M, cell: &ZoneCell<M::Geometry>) -> u32 {
    let _interrupts = machine.disable_interrupts();
    cell.zone.lock(machine).present
}

/// A zone that is to be made: from its first usable frame to behind the last.
type Plan = (NodeId, ZoneKind, PfnRange);

/// Frames of a zone's span that the map knows as memory of its node.
fn present<const CAPACITY: usize>(boot_map: &BootMap<CAPACITY>, (node, _, span): Plan) -> u32 {
    let ours = boot_map.extents().iter().filter(|extent| extent.node == node);
    ours.map(|extent| extent.range.intersection(span).pages()).sum()
}

/// Makes a zone of every node's usable memory of each kind.
fn carve_zones<'m, M: Machine, const CAPACITY: usize>(
    machine: &'m M,
    boot_map: &mut BootMap<CAPACITY>,
    metadata: &mut MetadataBytes,
) -> Result<&'m [ZoneCell<M::Geometry>], SetupError> {
    let mut plans: ArrayVec<Plan, { u8::MAX as usize + 1 }> = ArrayVec::new();
    for (range, node) in boot_map.usable() {
        for kind in ZoneKind::ALL {
            let frames = range.intersection(kind.frames(machine.direct_map_end()));
            match plans.iter_mut().find(|plan| plan.0 == node && plan.1 == kind) {
                _ if frames.is_empty() => {}
                Some(plan) => plan.2.end = frames.end,
                None => plans.try_push((node, kind, frames)).map_err(|_| SetupError::TooManyZones)?,
            }
        }
    }
    plans.sort_unstable_by_key(|&(node, kind, _)| (node, Reverse(kind)));
    let first_node = plans.first().map_or(NodeId(0), |plan| plan.0);
    let plans: ArrayVec<_, { u8::MAX as usize + 1 }> =
        plans.into_iter().map(|plan| (plan, present(boot_map, plan))).collect();
    let zone = |index: usize| {
        let ((node, kind, span), present) = plans[index];
        #[expect(clippy::cast_possible_truncation, reason = "there are at most 256 plans")]
        let id = ZoneId(index as u8);
        ZoneCell { id, node, kind, zone: Mutex::new(Zone::new(id, node, kind, span, present)) }
    };
    let (zones, bytes) = carve_slice(machine, boot_map, first_node, plans.len(), zone)?;
    metadata.zones += bytes;
    Ok(zones)
}
