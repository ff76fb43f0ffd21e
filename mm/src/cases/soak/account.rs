//! Where all pages of a zone are, counted one by one.

use core::fmt;

use crate::PageState;
use crate::machine::Machine;
use crate::page::PageAllocator;
use crate::units::NodeId;
use crate::zone::{ZoneKind, ZoneReport};

use super::super::Failure;

/// The pages of a zone by where they are, found by looking at every block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Account {
    /// The node whose memory it is.
    pub node: NodeId,
    /// The kind of zone.
    pub kind: ZoneKind,
    /// All pages of the zone.
    pub total: u32,
    /// On the zone's lists, their nodes included.
    pub free: u32,
    /// At hand of CPUs.
    pub cached: u32,
    /// Allocated.
    pub allocated: u32,
    /// Never given to the allocator.
    pub reserved: u32,
}

impl Account {
    /// The zone's account, while nobody allocates or frees. Cost: a look at every block of the zone's span.
    ///
    /// # Errors
    /// A block is between two states, or the zone's own counts are not what is there (ACCT-1).
    pub fn of<M: Machine>(allocator: &PageAllocator<'_, M>, zone: &ZoneReport) -> Result<Self, Failure> {
        let ZoneReport { node, kind, present, managed, .. } = *zone;
        // What was reserved and taken in later may stand in the boot map as another node's.
        let reserved = present.saturating_sub(managed);
        let total = managed + reserved;
        let mut account = Self { node, kind, total, free: 0, cached: 0, allocated: 0, reserved };
        let mut at = zone.span.start;
        while at < zone.span.end {
            let (state, order) = allocator.page_state(at);
            let here = allocator.zone_around(at) == Some(zone.id);
            // A node's order is that of its list.
            let single = matches!(state, PageState::Hole | PageState::Reserved | PageState::Node);
            let pages = if single { 1 } else { order.pages() };
            match state {
                PageState::Free | PageState::Node if here => account.free += pages,
                PageState::Cached if here => account.cached += pages,
                PageState::Allocated if here => account.allocated += pages,
                PageState::Isolated | PageState::Tail => {
                    return Err(Failure::ExpectedOf { what: "a block is free, at hand or allocated", pfn: at });
                }
                _ => {}
            }
            at = at.plus(pages);
        }
        Failure::unless_equal(zone.free, account.free + account.cached, "free pages in the zone, counted one by one")?;
        Failure::unless_equal(zone.cached, account.cached, "pages at hand of CPUs, counted one by one")?;
        let sum = account.free + account.cached + account.allocated + account.reserved;
        Failure::unless_equal(account.total, sum, "pages that are free, cached, allocated or reserved (ACCT-1)")?;
        Ok(account)
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { node: NodeId(node), kind, total, free, cached, allocated, reserved } = *self;
        write!(
            f,
            "ACCT-1: node {node}, zone {}: total {total} = free {free} + cached {cached} + allocated {allocated} + \
             reserved {reserved}",
            kind.name()
        )
    }
}
