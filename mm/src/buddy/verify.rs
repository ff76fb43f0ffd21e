//! The checker: every invariant of a zone, by name.
//!
//! Lists and descriptors are read against each other. Each entry of a list names a page that says it stands there, and
//! there are as many entries as free blocks; so the two are the same (FREE-1). Likewise nodes (FREE-4). The walk over
//! the descriptors finds every page in exactly one state (ACCT-1), whole blocks inside the zone (ZONE-1), and no two
//! free buddies (FREE-2).
//!
//! Cost: every descriptor of the zone's span and every entry of its lists, once.

use super::{Buddy, relocate};
use crate::desc::allocator_word::{AllocatorWord, End, PageState};
use crate::desc::map::Section;
use crate::desc::owner_word::OwnerWord;
use crate::freelist::Freelists;
use crate::invariant::{Invariant, Violation};
use crate::machine::{Geometry, Machine};
use crate::migratetype::Migratetype;
use crate::units::{Order, Pfn, PfnRange};
use crate::zone::Zone;

/// What the walk over the descriptors found.
#[derive(Default)]
struct Census {
    allocated: u32,
    cached: u32,
    in_free_blocks: u32,
    free_blocks: u32,
    nodes: u32,
    /// Aligned blocks of the largest order that lie in the zone from end to end.
    largest_possible: u32,
}

impl<M: Machine> Buddy<'_, '_, M> {
    /// Checks every invariant of the zone, of which CPUs have so many pages at hand, at a moment when no operation is under
    /// way.
    ///
    /// # Errors
    /// The first violation found.
    pub(crate) fn verify(&self, cached: u32) -> Result<(), Violation> {
        let mut entries = 0;
        let mut nodes = 0;
        for list in Freelists::<M::Geometry>::ids() {
            let lists = &self.zone.lists;
            nodes += lists.verify(&self.context(), list)?;
            if list.end() == End::Near {
                entries += lists.len(list.migratetype(), list.order());
            }
        }
        let census = self.census()?;
        let Zone { managed, free, nodes: counted, .. } = *self.zone;
        ensure(entries == census.free_blocks, Invariant::Free1, None, "there are free blocks that no list holds")?;
        ensure(nodes == census.nodes, Invariant::Free4, None, "there are nodes that no list leads to")?;
        ensure(nodes == counted, Invariant::Free4, None, "the zone has miscounted its nodes")?;
        ensure(
            free == census.in_free_blocks + nodes,
            Invariant::Acct1,
            None,
            "the zone has miscounted its free pages",
        )?;
        ensure(cached == census.cached, Invariant::Pcp1, None, "pages say that a CPU has them, and none does")?;
        let counted = free + cached + census.allocated;
        ensure(managed == counted, Invariant::Acct1, None, "total is not free plus at hand plus allocated")?;
        self.check_set_aside()?;
        if free == managed {
            self.check_coalesced(&census)?;
        }
        Ok(())
    }

    /// FREE-6: with everything free, memory is broken only where nodes stand, and they stand together: as few largest
    /// blocks are broken as can hold them, and one more for each group that is too large to be moved.
    fn check_coalesced(&self, census: &Census) -> Result<(), Violation> {
        let whole = self.zone.lists.count(M::Geometry::MAX_ORDER);
        let broken = census.largest_possible.saturating_sub(whole);
        let needed = census.nodes.div_ceil(M::Geometry::MAX_ORDER.pages());
        let immovable = census.nodes / (relocate::MOVES + 1);
        ensure(broken <= needed + immovable, Invariant::Free6, None, "all is free, but has not coalesced")
    }

    /// RSRV-1: what is set aside is of the type for that, and no free block elsewhere is.
    fn check_set_aside(&self) -> Result<(), Violation> {
        let (largest, pageblock) = (M::Geometry::MAX_ORDER, M::Geometry::PAGEBLOCK_ORDER.pages());
        for &head in &self.zone.highatomic {
            let mut pageblocks = PfnRange::new(head, head.plus(largest.pages())).frames().step_by(pageblock as usize);
            let is_ours = |pfn| self.map.known_section(pfn).migratetype(pfn) == Migratetype::HighAtomic;
            ensure(pageblocks.all(is_ours), Invariant::Rsrv1, Some(head), "what is set aside is of another type")?;
        }
        for order in (0..=largest.index()).map(Order::of) {
            let heads = self.zone.lists.heads(self.context().nodes, Migratetype::HighAtomic, order);
            for head in heads {
                let known = self.zone.highatomic.contains(&head.align_down(largest));
                ensure(known, Invariant::Rsrv1, Some(head), "a block is of the type of what is set aside, and is not")?;
            }
        }
        Ok(())
    }

    /// Walks the descriptors of the span.
    fn census(&self) -> Result<Census, Violation> {
        ensure(self.map.has_sound_holes(), Invariant::Word1, None, "a hole is more than a hole")?;
        let mut census = Census::default();
        let mut at = self.zone.span.start;
        let mut ours_since = at;
        while at < self.zone.span.end {
            let Some(section) = self.map.populated_section(at) else {
                at = at.plus(1).align_up(M::Geometry::MAX_ORDER);
                ours_since = at;
                continue;
            };
            let page = section.page(at);
            let word = page.word();
            let ours = word.zone() == self.zone.id;
            let block = match word.state() {
                Some(PageState::Free | PageState::Allocated | PageState::Cached | PageState::Offline) => word.order(),
                _ => Order::ZERO,
            };
            let fault = |invariant, what| Err(Violation::of(invariant, Some(at), what));
            if !word.is_intact() {
                return fault(Invariant::Word1, "a bit of a page's first word has flipped");
            }
            match word.state() {
                Some(PageState::Hole | PageState::Reserved) => ours_since = at.plus(1),
                Some(PageState::Offline) => ours_since = at.plus(block.pages()),
                Some(PageState::Tail) => return fault(Invariant::Acct1, "a page belongs to no block"),
                Some(PageState::Isolated) => return fault(Invariant::Acct1, "a block is still in flight"),
                None => return fault(Invariant::Acct1, "a page's state is none there is"),
                Some(_) if !ours => ours_since = at.plus(block.pages()),
                Some(PageState::Node) => census.nodes += 1,
                Some(PageState::Allocated) if !page.owner().is_owned() && page.owner() != OwnerWord::PLAIN => {
                    return fault(Invariant::Desc1, "a block that nobody owns has a second word");
                }
                Some(PageState::Allocated) => census.allocated += block.pages(),
                Some(PageState::Cached) => census.cached += block.pages(),
                Some(PageState::Free) => {
                    census.free_blocks += 1;
                    census.in_free_blocks += block.pages();
                    if block < M::Geometry::MAX_ORDER
                        && section.page(at.buddy(block)).word().is_free(block, word.zone())
                    {
                        return fault(Invariant::Free2, "two free buddies have not merged");
                    }
                    if word.list().migratetype() != section.migratetype(at) {
                        return fault(Invariant::Free1, "a free block's list is not of its pageblock's type");
                    }
                }
            }
            if !at.is_aligned(block) || block > M::Geometry::MAX_ORDER {
                return fault(Invariant::Zone1, "a block is not aligned to its size");
            }
            if let Some(bad) = marked_wrongly(section, at, word, block) {
                return Err(Violation::of(
                    Invariant::Hwpoison1,
                    Some(bad),
                    "memory that lies is free, or its head is silent",
                ));
            }
            if let Some(stray) =
                (1..block.pages()).map(|page| at.plus(page)).find(|&page| !section.page(page).word().is_mere_tail())
            {
                return Err(Violation::of(Invariant::Zone1, Some(stray), "a page inside a block is more than a tail"));
            }
            at = at.plus(block.pages());
            if ours
                && at.is_aligned(M::Geometry::MAX_ORDER)
                && at.number() - ours_since.number() >= M::Geometry::MAX_ORDER.pages()
            {
                census.largest_possible += 1;
            }
        }
        Ok(census)
    }
}

/// HWPOISON-1: a page of a block whose memory lies though nothing of the block may.
fn marked_wrongly<G: Geometry>(section: &Section<'_, G>, head: Pfn, word: AllocatorWord, order: Order) -> Option<Pfn> {
    let may = word.has_hwpoisoned()
        || matches!(word.state(), Some(PageState::Hole | PageState::Reserved | PageState::Offline));
    let mut pages = PfnRange::new(head, head.plus(order.pages())).frames();
    if may { None } else { pages.find(|&pfn| section.page(pfn).word().is_hwpoison()) }
}

fn ensure(holds: bool, invariant: Invariant, pfn: Option<Pfn>, what: &'static str) -> Result<(), Violation> {
    if holds { Ok(()) } else { Err(Violation::of(invariant, pfn, what)) }
}
