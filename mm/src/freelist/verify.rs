//! The freelists' half of the checker: what one list end must be, whatever the rest of the zone says.

use super::node::NodePointer;
use super::{Freelists, ListContext};
use crate::desc::allocator_word::{ListId, PageState};
use crate::desc::word::{NodePlace, Position};
use crate::invariant::{Invariant, Violation};
use crate::machine::{Geometry, Machine};
use crate::units::Pfn;

impl<G: Geometry> Freelists<G> {
    /// Checks one end: FREE-1 for every entry, FREE-3 (that it can be found), FREE-4 and HIGH-1 for every node. Returns how many
    /// nodes there are.
    ///
    /// # Errors
    /// The first violation found.
    pub(crate) fn verify<M: Machine<Geometry = G>>(
        &self,
        context: &ListContext<'_, '_, M>,
        list: ListId,
    ) -> Result<u32, Violation> {
        let stack = &self.stacks[list.index()];
        if !stack.is_well_formed(context.nodes) {
            return Err(Violation::of(
                Invariant::Free4,
                None,
                "a list's tree does not have the shape its length demands",
            ));
        }
        if (self.occupied[list.end() as usize] & list.occupied_bit() != 0) != (stack.len() > 0) {
            return Err(Violation::of(Invariant::Free3, None, "a list's bit does not say if it is empty"));
        }
        let mut nodes = 0;
        let mut fault = None;
        stack.each_node(context.nodes, |place, node| {
            nodes += 1;
            fault = fault.or_else(|| node_fault(context, list, place, node));
        });
        stack.each_entry(context.nodes, |position, pfn| {
            fault = fault.or_else(|| entry_fault(context, list, position, pfn));
        });
        fault.map_or(Ok(nodes), Err)
    }
}

fn node_fault<M: Machine>(
    context: &ListContext<'_, '_, M>,
    list: ListId,
    place: NodePlace,
    node: NodePointer,
) -> Option<Violation> {
    let pfn = node.frame(context.nodes.machine());
    let Some(page) = context.map.get(pfn) else {
        return Some(Violation::of(Invariant::Free4, Some(pfn), "a node has no descriptor"));
    };
    let word = page.word();
    if !word.is(PageState::Node) || word.zone() != context.zone || word.list() != list || page.place() != place {
        return Some(Violation::of(Invariant::Free4, Some(pfn), "a node's words do not say what it is"));
    }
    if !node.is_tagged_rightly(context.nodes.machine()) {
        return Some(Violation::of(Invariant::High1, Some(pfn), "a node pointer's tag is wrong for its frame"));
    }
    None
}

fn entry_fault<M: Machine>(
    context: &ListContext<'_, '_, M>,
    list: ListId,
    position: Position,
    pfn: Pfn,
) -> Option<Violation> {
    let Some(page) = context.map.get(pfn) else {
        return Some(Violation::of(Invariant::Free1, Some(pfn), "a list holds a frame without a descriptor"));
    };
    let word = page.word();
    if !word.is(PageState::Free) || word.zone() != context.zone || word.list() != list {
        return Some(Violation::of(Invariant::Free1, Some(pfn), "a list holds a page that is not a free block of it"));
    }
    if page.position() != position {
        return Some(Violation::of(Invariant::Free1, Some(pfn), "a free block stands elsewhere than it says"));
    }
    None
}
