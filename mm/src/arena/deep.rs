//! Sizes for small memory, of which trees are deep.

use crate::machine::Geometry;
use crate::units::Order;

/// Two entries a node, so many inline; of what a CPU may keep at hand it keeps all.
#[derive(Debug)]
pub(crate) struct Deep<
    const MAX_ORDER: usize,
    const PAGEBLOCK_ORDER: usize,
    const INLINE: u32,
    const CPU_CACHE: u32 = 0,
>;

impl<const MAX_ORDER: usize, const PAGEBLOCK_ORDER: usize, const INLINE: u32, const CPU_CACHE: u32> Geometry
    for Deep<MAX_ORDER, PAGEBLOCK_ORDER, INLINE, CPU_CACHE>
{
    const MAX_ORDER: Order = Order::of(MAX_ORDER);
    const PAGEBLOCK_ORDER: Order = Order::of(PAGEBLOCK_ORDER);
    const LEAF_SHIFT: u32 = 1;
    const NODE_SHIFT: u32 = 1;
    const INLINE: u32 = INLINE;
    const CPU_CACHE: u32 = CPU_CACHE;
    const CPU_CACHE_SHARE: u32 = 1;
    const RESERVE_SHARE: u32 = 0;
}
