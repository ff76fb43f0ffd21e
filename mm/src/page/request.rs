//! What to allocate: order, migratetype, how far up the zones, which node, who pays.

use crate::charge::GroupId;
use crate::migratetype::Migratetype;
use crate::units::{NodeId, Order};
use crate::zone::ZoneKind;

/// A request for one block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Request {
    pub(crate) order: Order,
    pub(crate) migratetype: Migratetype,
    pub(crate) highest: ZoneKind,
    pub(crate) node: Option<NodeId>,
    pub(crate) group: GroupId,
}

// Passed in a register.
const _: () = assert!(size_of::<Request>() <= size_of::<u64>());

impl Request {
    /// A block of `order` for the kernel's own use: unmovable, in the direct map, on any node. Linux's `GFP_KERNEL`.
    pub const fn new(order: Order) -> Self {
        Self { order, migratetype: Migratetype::Unmovable, highest: ZoneKind::Normal, node: None, group: GroupId::ROOT }
    }

    /// A block of `order` that can be moved and may be highmem. Linux's `GFP_HIGHUSER_MOVABLE`.
    pub const fn movable(order: Order) -> Self {
        Self { order, migratetype: Migratetype::Movable, highest: ZoneKind::Highmem, node: None, group: GroupId::ROOT }
    }

    /// The same, for a block of another order.
    #[must_use]
    pub const fn with_order(self, order: Order) -> Self {
        Self { order, ..self }
    }

    /// The same, for pages of this kind.
    #[must_use]
    pub const fn with_migratetype(self, migratetype: Migratetype) -> Self {
        Self { migratetype, ..self }
    }

    /// The same, from zones of this kind or, if those have none, below.
    #[must_use]
    pub const fn up_to(self, highest: ZoneKind) -> Self {
        Self { highest, ..self }
    }

    /// The same, from this node if it has any.
    #[must_use]
    pub const fn near(self, node: NodeId) -> Self {
        Self { node: Some(node), ..self }
    }

    /// The same, to be paid by this group.
    #[must_use]
    pub const fn charged_to(self, group: GroupId) -> Self {
        Self { group, ..self }
    }

    /// Whether nobody is to pay, and any node will do.
    #[inline(always)]
    pub(crate) const fn is_plain(self) -> bool {
        self.node.is_none() && self.group.is_root()
    }
}
