//! Clearing the way: a node that keeps free memory from merging is moved, to a page that costs less.
//!
//! Where a merge stops because its buddy is not one free block, the buddy may still hold nothing but free blocks and
//! nodes. [`Buddy::clear_the_way`] looks how far the block would grow if those nodes stood elsewhere, and moves
//! them there if smaller free blocks outside have room: memory breaks where it is broken already. Where a whole block
//! of the largest order lacks nothing but that room, the zone remembers the place and tries again with the next
//! operation. So, once all is free again, the nodes of the largest order's lists have gathered in one place (FREE-6).
//!
//! Each move makes a block of some order out of what was smaller, at the price of blocks below that order only; so a
//! chain of moves comes to an end (FREE-5).
//!
//! Cost: a test of the buddy's state on a merge that fails for good; else a look at no more than [`STEPS`] words, twice,
//! and at most eight page copies.

use arrayvec::ArrayVec;

use super::Buddy;
use crate::block::FreeBlock;
use crate::desc::allocator_word::{AllocatorWord, PageState};
use crate::desc::map::Section;
use crate::machine::{Geometry, Machine};
use crate::migratetype::Migratetype;
use crate::units::{Order, Pfn, PfnRange};

/// The most nodes that are moved for one block.
pub(super) const MOVES: u32 = 8;

/// The most blocks and nodes that are looked at for one block.
const STEPS: usize = 64;

type NodesInTheWay = ArrayVec<Pfn, { MOVES as usize }>;

/// What stands in a block's way, and how large the block gets without it.
#[derive(Debug)]
struct Way {
    nodes: NodesInTheWay,
    order: Order,
}

impl<M: Machine> Buddy<'_, '_, M> {
    /// Grows a block that could not merge any further, by moving the nodes in its way, if that can be had.
    #[cold]
    pub(super) fn clear_the_way(&mut self, section: &Section<'_, M::Geometry>, block: FreeBlock) -> FreeBlock {
        match self.survey(section, &block, NodesInTheWay::new()) {
            Some(way) => self.evacuate(section, &way, block),
            None => block,
        }
    }

    /// Whether what stopped a merge is the beginning of something that nodes keep from being one free block.
    #[inline(always)]
    pub(super) fn might_be_cleared(&self, in_the_way: AllocatorWord) -> bool {
        in_the_way.is_free_or_node() && self.zone.nodes > 0 && in_the_way.zone() == self.zone.id
    }

    /// Whether the buddy holds nothing but free blocks and nodes: it usually does not, and that shows at once.
    pub(super) fn holds_no_allocated_page(&self, section: &Section<'_, M::Geometry>, block: &FreeBlock) -> bool {
        let area = block.head().buddy(block.order());
        let end = area.plus(block.order().pages());
        let mut at = area;
        for _ in 0..STEPS {
            if at >= end {
                return true;
            }
            let word = section.page(at).word();
            if !self.might_be_cleared(word) {
                return false;
            }
            at = at.plus(if word.is(PageState::Free) { word.order().pages() } else { 1 });
        }
        false
    }

    /// Finds the largest block that this one could become without `nodes` and those that it meets: climbs as long as
    /// the buddy holds only free blocks and nodes, and remembers the highest point for which there is room elsewhere.
    /// If that would be a whole block of the largest order, and all it lacks is room, the zone remembers that these
    /// nodes are stuck.
    fn survey(
        &mut self,
        section: &Section<'_, M::Geometry>,
        block: &FreeBlock,
        mut nodes: NodesInTheWay,
    ) -> Option<Way> {
        let mut best = None;
        let mut steps = 0;
        let mut order = block.order();
        let mut head = block.head();
        // Pages in free blocks below `order`: those that the block would take in, and all of them.
        let mut inside = 0;
        let mut free = (0..order.index()).map(|below| self.pages_in_blocks_of(Order::of(below))).sum::<u32>();
        'climb: while order < M::Geometry::MAX_ORDER {
            let area = head.buddy(order);
            let mut at = area;
            while at < area.plus(order.pages()) {
                let word = section.page(at).word();
                steps += 1;
                if steps > STEPS || word.zone() != self.zone.id {
                    break 'climb;
                }
                if word.is(PageState::Free) {
                    inside += word.order().pages();
                    at = at.plus(word.order().pages());
                } else if word.is(PageState::Node) && nodes.try_push(at).is_ok() {
                    at = at.plus(1);
                } else {
                    break 'climb;
                }
            }
            head = head.min(area);
            free += self.pages_in_blocks_of(order);
            order = order.above();
            if !nodes.is_empty() && (free - inside) as usize >= nodes.len() {
                best = Some(Way { nodes: nodes.clone(), order });
            }
        }
        if best.is_none() && order == M::Geometry::MAX_ORDER {
            self.zone.pending.set_stuck(nodes.first().copied());
        }
        best
    }

    /// Tries again to clear what was stuck for lack of room. Says whether it could: then the block that comes of it is
    /// in flight.
    pub(super) fn clear_what_is_stuck(&mut self, node: Pfn) -> bool {
        let section = self.map.known_section(node);
        let word = section.page(node).word();
        if !word.is(PageState::Node) || word.zone() != self.zone.id {
            return false;
        }
        // As if the node's page were free already: it is the first to be.
        let block = FreeBlock::claim(node, Order::ZERO);
        let Some(way) = self.survey(section, &block, [node].into_iter().collect()) else { return false };
        let block = self.evacuate(section, &way, block);
        self.defer(block);
        true
    }

    fn pages_in_blocks_of(&self, order: Order) -> u32 {
        self.zone.lists.count(order) << order.index()
    }

    /// Moves the nodes out of the way and makes one block of what is then free.
    fn evacuate(&mut self, section: &Section<'_, M::Geometry>, way: &Way, block: FreeBlock) -> FreeBlock {
        let head = block.head().align_down(way.order);
        let range = PfnRange::new(head, head.plus(way.order.pages()));
        for &node in &way.nodes {
            let moved = self.move_node_out(node, range, Order::of(way.order.index() - 1));
            assert!(moved, "invariant FREE-6 broken: there was room to move {node:?}, and now there is none");
        }
        let own = block.range();
        let mut at = range.start;
        while at < range.end {
            let page = section.page(at);
            let pages = if own.contains(at) {
                own.pages()
            } else if page.word().is(PageState::Free) {
                self.unlist(page, at).order().pages()
            } else {
                1
            };
            page.set_tail();
            at = at.plus(pages);
        }
        let _ = block.into_head();
        FreeBlock::claim(head, way.order)
    }

    /// Empties a node's page inside `range`: its contents go to a page outside, from a free block of at most
    /// `largest`. The page is the caller's then, unless there is no such block.
    pub(super) fn move_node_out(&mut self, node: Pfn, range: PfnRange, largest: Order) -> bool {
        let page = self.map.page(node);
        if page.word().is(PageState::Node)
            && let Some(outside) = self.take_page_outside(range, largest)
        {
            // Taking the page may have emptied this very node: then it is in flight, and the page not needed.
            if page.word().is(PageState::Node) {
                self.move_node(node, outside);
                return true;
            }
            self.defer(FreeBlock::claim(outside, Order::ZERO));
        }
        let in_flight = self.zone.pending.take(self.map, self.zone.id, Order::ZERO, |page| page == node);
        in_flight.map(FreeBlock::into_head).is_some()
    }

    fn move_node(&mut self, node: Pfn, to: Pfn) {
        let context = self.context();
        self.zone.lists.relocate(&context, node, to);
    }

    /// Takes the first page of the smallest free block, up to `largest`, that does not start in `range`.
    fn take_page_outside(&mut self, range: PfnRange, largest: Order) -> Option<Pfn> {
        let orders = (0..=largest.index()).map(Order::of);
        let outside = |head: Pfn| !range.contains(head);
        let in_flight = orders.clone().find_map(|order| self.zone.pending.take(self.map, self.zone.id, order, outside));
        let block = match in_flight {
            Some(block) => block,
            None => {
                let nodes = self.context().nodes;
                let head = orders.into_iter().find_map(|order| {
                    let kinds = Migratetype::ALL.into_iter();
                    let mut heads = kinds.flat_map(|kind| self.zone.lists.heads(nodes, kind, order));
                    heads.find(|&head| outside(head))
                })?;
                self.unlist(self.map.page(head), head)
            }
        };
        Some(self.keep_first_page(block))
    }
}
