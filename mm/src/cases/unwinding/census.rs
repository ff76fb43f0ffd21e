//! Where all pages are, when nothing of a script is left.

use super::super::Failure;
use super::super::footprint::Footprint;
use super::super::holdings::orders;
use crate::machine::Machine;
use crate::page::PageAllocator;
use crate::units::Order;

/// What there is of each zone, in blocks of which orders, and what groups pay for. Not of which migratetype free blocks
/// are: that is whose requests their pageblocks served last.
#[derive(Clone, Debug)]
pub(super) struct Census {
    footprint: Footprint,
    blocks: [u32; Order::LIMIT.index() + 1],
    nodes: u32,
    managed: u32,
    groups: u32,
    charged: u32,
}

impl Census {
    /// As of now, once nothing is at hand of any CPU.
    pub(super) fn of<M: Machine>(allocator: &PageAllocator<'_, M>) -> Self {
        let footprint = Footprint::of(allocator);
        let mut blocks = [0; Order::LIMIT.index() + 1];
        let (mut nodes, mut managed) = (0, 0);
        for zone in allocator.zones() {
            nodes += zone.nodes;
            managed += zone.managed;
            for order in orders::<M>() {
                blocks[order.index()] += zone.blocks_of(order);
            }
        }
        let (groups, charged) =
            allocator.groups().reports().fold((0, 0), |(groups, charged), group| (groups + 1, charged + group.usage));
        Self { footprint, blocks, nodes, managed, groups, charged }
    }

    pub(super) const fn managed(&self) -> u32 {
        self.managed
    }

    /// Fails unless everything is as it was.
    pub(super) fn check<M: Machine>(&self, allocator: &PageAllocator<'_, M>) -> Result<(), Failure> {
        let now = Self::of(allocator);
        self.footprint.check_restored(allocator)?;
        Failure::unless_equal(self.groups, now.groups, "groups as before")?;
        Failure::unless_equal(self.charged, now.charged, "charged pages as before")?;
        Failure::unless_equal(self.managed, now.managed, "managed pages as before")?;
        // A node takes a page of some free block, and not always of the same one.
        if self.nodes == 0 && now.nodes == 0 {
            for (before, after) in self.blocks.into_iter().zip(now.blocks) {
                Failure::unless_equal(before, after, "free blocks of an order as before")?;
            }
        }
        Ok(())
    }
}
