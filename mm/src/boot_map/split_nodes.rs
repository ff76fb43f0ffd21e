//! Splitting one machine's memory into several nodes, as Linux's `numa=fake=N` does.

use core::num::NonZeroU8;

use arrayvec::ArrayVec;
use thiserror::Error;

use crate::units::{NodeId, Order, Pfn, PfnRange};

use super::{BootMap, Full};

/// Why memory cannot be split into that many nodes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum SplitError {
    /// There are fewer aligned blocks with usable memory than nodes.
    #[error("{nodes} nodes do not fit into {blocks} blocks of {alignment:?}")]
    TooManyNodes {
        /// Nodes asked for.
        nodes: NonZeroU8,
        /// Aligned blocks that have a usable frame.
        blocks: u32,
        /// The size of a block.
        alignment: Order,
    },
    /// The map has no room for the extents that the cuts add.
    #[error("the map has room for {capacity} extents")]
    TooManyExtents {
        /// How many fit.
        capacity: usize,
    },
}

impl<const CAPACITY: usize> BootMap<CAPACITY> {
    /// The same memory in `nodes` nodes from 0 on, ascending, whose borders are multiples of `alignment`.
    ///
    /// The nodes a region list named are forgotten. Every node gets usable frames, as near to an equal share as the
    /// alignment lets it. O(nodes · extents) steps.
    ///
    /// # Errors
    /// There are fewer aligned blocks with usable memory than nodes, or the cuts make more extents than fit.
    pub fn split_nodes(&self, nodes: NonZeroU8, alignment: Order) -> Result<Self, SplitError> {
        let blocks = OccupiedBlocks { map: self, order: alignment };
        if blocks.count() < u32::from(nodes.get()) {
            return Err(SplitError::TooManyNodes { nodes, blocks: blocks.count(), alignment });
        }
        let mut borders = borders(blocks, nodes);
        let mut border = borders.next();
        let mut node = NodeId(0);
        let mut split = Self { extents: ArrayVec::new() };
        for &extent in self.extents() {
            let mut rest = extent.range;
            while !rest.is_empty() {
                while border.is_some_and(|border| border <= rest.start) {
                    node.0 += 1;
                    border = borders.next();
                }
                let range = PfnRange::new(rest.start, border.map_or(rest.end, |border| border.min(rest.end)));
                split
                    .append(super::Extent { range, node, ..extent })
                    .map_err(|Full| SplitError::TooManyExtents { capacity: CAPACITY })?;
                rest.start = range.end;
            }
        }
        Ok(split)
    }
}

/// Where the nodes after the first begin. There must be at least as many blocks as nodes.
fn borders<const CAPACITY: usize>(blocks: OccupiedBlocks<'_, CAPACITY>, nodes: NonZeroU8) -> impl Iterator<Item = Pfn> {
    let nodes = u32::from(nodes.get());
    let count = blocks.count();
    let mut previous = 0;
    (1..nodes).map(move |node| {
        // At least one block for this node and for each one still to come.
        let rank = blocks.below_share(node, nodes).clamp(previous + 1, count - (nodes - node));
        previous = rank;
        blocks.start(rank)
    })
}

/// The naturally aligned blocks with at least one usable frame, ranked in ascending order.
#[derive(Clone, Copy)]
struct OccupiedBlocks<'m, const CAPACITY: usize> {
    map: &'m BootMap<CAPACITY>,
    order: Order,
}

impl<'m, const CAPACITY: usize> OccupiedBlocks<'m, CAPACITY> {
    /// Runs of block numbers, ascending and disjoint.
    fn runs(self) -> impl Iterator<Item = core::ops::Range<u32>> + use<'m, CAPACITY> {
        let mut end = 0;
        self.map.usable().map(move |(range, _)| {
            // The block that two usable runs share counts once.
            let start = end.max(range.start.number() >> self.order.number());
            end = ((range.end.number() - 1) >> self.order.number()) + 1;
            start..end
        })
    }

    fn count(self) -> u32 {
        self.runs().map(|run| run.end - run.start).sum()
    }

    /// How many blocks lie below the aligned border nearest to where `part` of `parts` of the usable frames end.
    fn below_share(self, part: u32, parts: u32) -> u32 {
        let mut frames = u64::from(self.map.usable_pages()) * u64::from(part) / u64::from(parts);
        let mut frame = 0;
        for (range, _) in self.map.usable() {
            let pages = u64::from(range.pages());
            frame = u64::from(range.start.number()) + frames.min(pages);
            if frames <= pages {
                break;
            }
            frames -= pages;
        }
        let border = (frame + u64::from(self.order.pages() / 2)) >> self.order.number();
        let below = |number: u32| u32::try_from(border).map_or(number, |border| border.min(number));
        self.runs().map(|run| below(run.end).saturating_sub(run.start)).sum()
    }

    /// The first frame of the block with this rank, which must exist.
    fn start(self, rank: u32) -> Pfn {
        let mut left = rank;
        for run in self.runs() {
            let blocks = run.end - run.start;
            if left < blocks {
                return Pfn::new((run.start + left) << self.order.number());
            }
            left -= blocks;
        }
        Pfn::LIMIT
    }
}
