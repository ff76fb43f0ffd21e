//! How memory stands: free blocks by order, and how much of it is whole.

use alloc::vec::Vec;
use core::fmt;

use mm::machine::{Geometry, Machine};
use mm::report::BuddyInfo;
use mm::units::Order;
use mm::zone::ZoneReport;

use crate::memory::Allocator;
use crate::platform::Platform;

const MAX_ORDER: Order = <<Platform as Machine>::Geometry as Geometry>::MAX_ORDER;
/// The order of a huge page: 2 MiB.
const HUGE: Order = Order::of(9);

/// Every zone at one moment.
#[derive(Clone, Debug)]
pub(super) struct Zones(Vec<ZoneReport>);

impl Zones {
    /// How they stand now.
    pub(super) fn of(allocator: &Allocator) -> Self {
        Self(allocator.zones().collect())
    }

    /// How they stand later, in the same memory: there may be none left then.
    pub(super) fn again(mut self, allocator: &Allocator) -> Self {
        self.0.clear();
        self.0.extend(allocator.zones());
        self
    }

    /// Free memory, and how much of it is in blocks of a huge page or more.
    pub(super) fn wholeness(&self) -> Wholeness {
        let pages_of = |zone: &ZoneReport, order: Order| u64::from(zone.blocks_of(order)) << order.number();
        let huge = |zone| (HUGE.index()..=MAX_ORDER.index()).map(|order| pages_of(zone, Order::of(order))).sum::<u64>();
        Wholeness {
            free_pages: self.0.iter().map(|zone| u64::from(zone.free)).sum(),
            huge_pages: self.0.iter().map(huge).sum(),
        }
    }

    /// The table of free blocks.
    pub(super) fn buddyinfo(&self) -> impl fmt::Display {
        BuddyInfo::new(MAX_ORDER, self.0.iter().copied())
    }

    /// The most pages that ever served as nodes, zone by zone.
    pub(super) fn peak_nodes(&self) -> u32 {
        self.0.iter().map(|zone| zone.peak_nodes).sum()
    }
}

/// External fragmentation: what share of free memory is still whole.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wholeness {
    free_pages: u64,
    huge_pages: u64,
}

impl fmt::Display for Wholeness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { free_pages, huge_pages } = *self;
        let thousandths = huge_pages * 1000 / free_pages.max(1);
        let (percent, tenths) = (thousandths / 10, thousandths % 10);
        write!(f, "{percent}.{tenths} % of {free_pages} free pages are in blocks of order 9 or larger")
    }
}
