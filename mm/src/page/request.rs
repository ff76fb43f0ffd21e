//! What to allocate: order, migratetype, how far up the zones, from which node, how urgently, who pays.

use crate::charge::GroupId;
use crate::migratetype::Migratetype;
use crate::units::{NodeId, Order};
use crate::zone::ZoneKind;
use crate::zone::watermark::{Demand, Urgency, Watermark};

/// Whose memory is wanted. Source: Linux's `set_mempolicy(2)`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Policy {
    /// That of the CPU's own node; other nodes' if there is none, the nearest first.
    Local,
    /// That of this node; other nodes' if there is none, those nearest to it first.
    Preferred(NodeId),
    /// That of this node, or none.
    Bound(NodeId),
}

/// Where a block may come from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Origin {
    /// A CPU may have it at hand.
    Any,
    /// A zone's lists.
    Zone,
}

/// A request for one block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Request {
    pub(crate) order: Order,
    pub(crate) migratetype: Migratetype,
    pub(crate) highest: ZoneKind,
    pub(crate) policy: Policy,
    pub(crate) urgency: Urgency,
    pub(crate) group: GroupId,
    pub(crate) origin: Origin,
}

// Passed in a register.
const _: () = assert!(size_of::<Request>() <= size_of::<u64>());

impl Request {
    /// A block of `order` for the kernel's own use: unmovable, in the direct map, of the nearest node. Linux's `GFP_KERNEL`.
    pub const fn new(order: Order) -> Self {
        Self {
            order,
            migratetype: Migratetype::Unmovable,
            highest: ZoneKind::Normal,
            policy: Policy::Local,
            urgency: Urgency::Ordinary,
            group: GroupId::ROOT,
            origin: Origin::Any,
        }
    }

    /// A block of `order` that can be moved and may be highmem. Linux's `GFP_HIGHUSER_MOVABLE`.
    pub const fn movable(order: Order) -> Self {
        Self {
            order,
            migratetype: Migratetype::Movable,
            highest: ZoneKind::Highmem,
            policy: Policy::Local,
            urgency: Urgency::Ordinary,
            group: GroupId::ROOT,
            origin: Origin::Any,
        }
    }

    /// The same, for a block of another order.
    #[must_use]
    pub const fn with_order(self, order: Order) -> Self {
        Self { order, ..self }
    }

    /// The same, for pages of this kind. [`Migratetype::HighAtomic`] says nothing about a page: it counts as unmovable.
    #[must_use]
    pub const fn with_migratetype(self, migratetype: Migratetype) -> Self {
        match migratetype {
            Migratetype::HighAtomic => Self { migratetype: Migratetype::Unmovable, ..self },
            Migratetype::Unmovable | Migratetype::Movable | Migratetype::Reclaimable => Self { migratetype, ..self },
        }
    }

    /// The same, from zones of this kind or, if those have none, below.
    #[must_use]
    pub const fn up_to(self, highest: ZoneKind) -> Self {
        Self { highest, ..self }
    }

    /// The same, from this node, or if it has none, from the one nearest to it that has. Linux's `MPOL_PREFERRED`.
    #[must_use]
    pub const fn near(self, node: NodeId) -> Self {
        Self { policy: Policy::Preferred(node), ..self }
    }

    /// The same, from this node and no other, whatever those have. Linux's `MPOL_BIND`.
    #[must_use]
    pub const fn bound_to(self, node: NodeId) -> Self {
        Self { policy: Policy::Bound(node), ..self }
    }

    /// The same, but it rather fails than has others give something up for it. Linux's `GFP_NOWAIT`.
    #[must_use]
    pub const fn nowait(self) -> Self {
        Self { urgency: Urgency::Nowait, ..self }
    }

    /// The same, of somebody who cannot wait, and gets half of what others have to leave. Linux's `GFP_ATOMIC`.
    #[must_use]
    pub const fn atomic(self) -> Self {
        Self { urgency: Urgency::Atomic, ..self }
    }

    /// The same, of somebody who gets memory back with it, and may have the last page. Linux's `__GFP_MEMALLOC`.
    #[must_use]
    pub const fn from_reserve(self) -> Self {
        Self { urgency: Urgency::Reserve, ..self }
    }

    /// The same, from a zone's lists, whatever CPUs have at hand: whoever had its pages before, they have been the zone's since.
    /// For what would do harm if somebody still wrote into it as what it was, page tables above all.
    #[must_use]
    pub const fn through_zone(self) -> Self {
        Self { origin: Origin::Zone, ..self }
    }

    /// What it asks of a zone.
    pub(crate) const fn demand(self, leaving: Watermark) -> Demand {
        Demand { order: self.order, highest: self.highest, urgency: self.urgency, leaving }
    }

    /// The same, to be paid by this group.
    #[must_use]
    pub const fn charged_to(self, group: GroupId) -> Self {
        Self { group, ..self }
    }

    /// Whether nobody is to pay, and what the nearest node or the CPU has will do.
    #[inline(always)]
    pub(crate) const fn is_plain(self) -> bool {
        matches!(self.policy, Policy::Local) && matches!(self.origin, Origin::Any) && self.group.is_root()
    }
}
