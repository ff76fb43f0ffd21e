//! What memory is used for, as Linux tells it: the files of `/proc` that are about memory, column for column.
//!
//! Each report is a value that shows itself ([`Display`](core::fmt::Display)) with the widths, the names and the order
//! of Linux 6's own, so that what reads Linux's files reads these. Linux's counters of
//! what is not counted here are left out, but for those of [`MemInfo`] that readers insist on, which are zero. What Linux
//! has no name for has one of ours, behind Linux's.
//!
//! Nothing here allocates. Zones are asked one after the other while the text is written, each under its own lock, and
//! no zone's lock is held while anything is printed: a report is as consistent as Linux's, zone by zone.
//!
//! Source: Linux, `mm/vmstat.c`, `fs/proc/meminfo.c`, `mm/slab_common.c`, `tools/mm/page-types.c`.

mod buddyinfo;
mod meminfo;
mod numastat;
mod page_types;
mod pagetypeinfo;
mod slabinfo;
mod vmstat;
mod zoneinfo;

#[cfg(all(test, not(loom)))]
mod tests;

pub use buddyinfo::BuddyInfo;
pub use meminfo::MemInfo;
pub use numastat::NumaStat;
pub use page_types::PageTypes;
pub use pagetypeinfo::PageTypeInfo;
pub use slabinfo::SlabInfo;
pub use vmstat::VmStat;
pub use zoneinfo::ZoneInfo;

use core::ops::{Add, Index};

use crate::page::PageblockReport;
use crate::units::{Bytes, NodeId, PAGE_SIZE};
use crate::zone::{ZoneKind, ZoneReport};
use crate::{MetadataBytes, OwnerKind};

/// A number of base pages.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Pages(pub u64);

impl Pages {
    const fn bytes(self) -> u64 {
        self.0.saturating_mul(PAGE_SIZE as u64)
    }

    const fn kib(self) -> u64 {
        self.bytes() >> 10
    }

    /// What is left without `part`.
    const fn less(self, part: Self) -> Self {
        Self(self.0.saturating_sub(part.0))
    }
}

impl Add for Pages {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

/// One value for each kind of owner that an allocated page can have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ByOwner<T>([T; OwnerKind::ALL.len()]);

impl<T> ByOwner<T> {
    /// The value that `of` gives for each kind.
    pub fn new(mut of: impl FnMut(OwnerKind) -> T) -> Self {
        Self(core::array::from_fn(|code| of(OwnerKind::ALL[code])))
    }
}

impl<T> Index<OwnerKind> for ByOwner<T> {
    type Output = T;

    fn index(&self, kind: OwnerKind) -> &T {
        &self.0[kind as usize]
    }
}

/// What several zones have together.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Totals {
    /// Memory of the zones, reserved or not.
    pub present: Pages,
    /// What of it the allocator was given.
    pub managed: Pages,
    /// What of that is free, nodes included.
    pub free: Pages,
    /// What of that serves freelists as nodes.
    pub nodes: Pages,
    /// What of the free memory CPUs have at hand.
    pub cached: Pages,
}

impl Totals {
    /// Adds zones up.
    pub fn of(zones: impl Iterator<Item = ZoneReport>) -> Self {
        zones.fold(Self::default(), |all, zone| Self {
            present: all.present + Pages(zone.present.into()),
            managed: all.managed + Pages(zone.managed.into()),
            free: all.free + Pages(zone.free.into()),
            nodes: all.nodes + Pages(zone.nodes.into()),
            cached: all.cached + Pages(zone.cached.into()),
        })
    }

    /// What somebody has.
    pub const fn allocated(self) -> Pages {
        self.managed.less(self.free)
    }
}

impl Add for Totals {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            present: self.present + other.present,
            managed: self.managed + other.managed,
            free: self.free + other.free,
            nodes: self.nodes + other.nodes,
            cached: self.cached + other.cached,
        }
    }
}

/// What a machine's memory is used for at one moment: what [`VmStat`], [`MemInfo`] and [`PageTypes`] are made of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Usage {
    /// The zones inside the direct map.
    pub lowmem: Totals,
    /// The zones beyond it.
    pub highmem: Totals,
    /// Allocated pages by the kind of their owner.
    pub allocated: ByOwner<Pages>,
    /// What page descriptors take, and the tables that lead to them.
    pub metadata: MetadataBytes,
    /// What the owners' descriptors take, those included that are kept for the next owner.
    pub descriptors: ByOwner<Bytes>,
}

impl Usage {
    fn memory(&self) -> Totals {
        self.lowmem + self.highmem
    }
}

impl AsRef<Self> for ZoneReport {
    fn as_ref(&self) -> &Self {
        self
    }
}

impl AsRef<ZoneReport> for PageblockReport {
    fn as_ref(&self) -> &ZoneReport {
        &self.zone
    }
}

/// The nodes of zones that stand node by node, as the allocator's table has them.
fn nodes<Z: AsRef<ZoneReport>>(zones: impl Iterator<Item = Z>) -> impl Iterator<Item = NodeId> {
    let mut last = None;
    zones.map(|zone| zone.as_ref().node).filter(move |&node| last.replace(node) != Some(node))
}

/// The zones of a node in Linux's order: what serves all requests comes first.
fn in_node<Z: AsRef<ZoneReport>>(zones: &(impl Iterator<Item = Z> + Clone), node: NodeId) -> impl Iterator<Item = Z> {
    ZoneKind::ALL.into_iter().flat_map(move |kind| {
        zones.clone().filter(move |zone| {
            let zone = zone.as_ref();
            zone.node == node && zone.kind == kind
        })
    })
}
