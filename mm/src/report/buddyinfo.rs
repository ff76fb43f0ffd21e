//! `/proc/buddyinfo`: the free blocks of each zone by order.

use core::fmt;

use super::{in_node, nodes};
use crate::units::Order;
use crate::zone::ZoneReport;

/// A line a zone: `Node 0, zone   Normal`, then how many blocks of each order are free.
///
/// Pages that serve as nodes are free, but stand in no block, so they are in no column.
#[derive(Clone, Debug)]
pub struct BuddyInfo<Z> {
    max_order: Order,
    zones: Z,
}

impl<Z> BuddyInfo<Z> {
    /// The report on `zones`, node by node, of a geometry whose largest blocks are of `max_order`.
    pub const fn new(max_order: Order, zones: Z) -> Self {
        Self { max_order, zones }
    }
}

impl<Z: Iterator<Item = ZoneReport> + Clone> fmt::Display for BuddyInfo<Z> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for zone in nodes(self.zones.clone()).flat_map(|node| in_node(&self.zones, node)) {
            write!(f, "Node {}, zone {:>8} ", zone.node.0, zone.kind.name())?;
            for order in (0..=self.max_order.index()).map(Order::of) {
                write!(f, "{:>6} ", zone.blocks_of(order))?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}
