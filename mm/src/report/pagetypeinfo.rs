//! `/proc/pagetypeinfo`: the free blocks of each zone by migratetype and order, and its pageblocks by migratetype.

use core::fmt;

use super::{in_node, nodes};
use crate::migratetype::Migratetype;
use crate::page::PageblockReport;
use crate::units::{NodeId, Order};

/// Two tables, and above them the size of a pageblock. As in Linux, all of it once a node.
///
/// Where Linux stops counting at 100 000 blocks (`>100000`), this goes on: the lists know how long they are.
#[derive(Clone, Debug)]
pub struct PageTypeInfo<Z> {
    max_order: Order,
    pageblock_order: Order,
    zones: Z,
}

impl<Z: Iterator<Item = PageblockReport> + Clone> PageTypeInfo<Z> {
    /// The report on `zones`, node by node, of a geometry with largest blocks and pageblocks of these orders.
    pub const fn new(max_order: Order, pageblock_order: Order, zones: Z) -> Self {
        Self { max_order, pageblock_order, zones }
    }

    fn free_blocks(&self, f: &mut fmt::Formatter<'_>, node: NodeId) -> fmt::Result {
        write!(f, "{:<43} ", "Free pages count per migrate type at order")?;
        for order in 0..=self.max_order.index() {
            write!(f, "{order:>6} ")?;
        }
        writeln!(f)?;
        for PageblockReport { zone, .. } in in_node(&self.zones, node) {
            for migratetype in Migratetype::ALL {
                let (zone_name, type_name) = (zone.kind.name(), migratetype.name());
                write!(f, "Node {:>4}, zone {zone_name:>8}, type {type_name:>12} ", zone.node.0)?;
                for count in &zone.blocks[migratetype.index()][..=self.max_order.index()] {
                    write!(f, "{count:>6} ")?;
                }
                writeln!(f)?;
            }
        }
        Ok(())
    }

    fn pageblocks(&self, f: &mut fmt::Formatter<'_>, node: NodeId) -> fmt::Result {
        write!(f, "{:<23}", "Number of blocks type ")?;
        for migratetype in Migratetype::ALL {
            write!(f, "{:>12} ", migratetype.name())?;
        }
        writeln!(f)?;
        for PageblockReport { zone, pageblocks } in in_node(&self.zones, node) {
            write!(f, "Node {}, zone {:>8} ", zone.node.0, zone.kind.name())?;
            for migratetype in Migratetype::ALL {
                write!(f, "{:>12} ", pageblocks[migratetype.index()])?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

impl<Z: Iterator<Item = PageblockReport> + Clone> fmt::Display for PageTypeInfo<Z> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for node in nodes(self.zones.clone()) {
            writeln!(f, "Page block order: {}", self.pageblock_order.number())?;
            writeln!(f, "Pages per block:  {}", self.pageblock_order.pages())?;
            writeln!(f)?;
            self.free_blocks(f, node)?;
            writeln!(f)?;
            self.pageblocks(f, node)?;
        }
        Ok(())
    }
}
