//! The allocator beside its specification, where the machine has one.
//!
//! Invariants: SPEC-1 (every change is one that the specification knows), SPEC-2 (what descriptors say abstracts to it).
//! Cost: where the machine has none, nothing; else what following costs, and for the whole comparison a look at each page.

use super::allocator::PageAllocator;
use crate::boot_map::{BootMap, CarveError};
use crate::desc::allocator_word::PageState;
use crate::early::carve_slice;
use crate::invariant::{Invariant, Violation};
use crate::machine::{Geometry, Machine};
use crate::specification::{Change, Entry, Specification, Standing};
use crate::units::{NodeId, Order, Pfn, PfnRange};

impl<'m, M: Machine> PageAllocator<'m, M> {
    /// Carves the table of a specification for all that is in the direct map or called usable, for a machine that has none
    /// before it has an allocator.
    ///
    /// # Errors
    /// The direct map has no room for it.
    pub fn carve_specification<const CAPACITY: usize>(
        machine: &'m M,
        boot_map: &mut BootMap<CAPACITY>,
    ) -> Result<&'m [Entry], CarveError> {
        let end = boot_map.usable_end().max(machine.direct_map_end()).index();
        Ok(carve_slice(machine, boot_map, NodeId(0), end, |_| Entry::default())?.0)
    }

    /// Has the specification follow.
    #[inline(always)]
    pub(super) fn changed(&self, change: Change) {
        if let Some(specification) = self.machine.specification() {
            follow(specification, change);
        }
    }

    /// Has it follow that all of a range was allocated, in whatever blocks.
    #[inline(always)]
    pub(super) fn all_allocated(&self, range: PfnRange) {
        if let Some(specification) = self.machine.specification() {
            let mut at = range.start;
            while at < range.end {
                let order = self.allocated_order(at).unwrap_or(Order::ZERO);
                follow(specification, Change::Allocated(at, order));
                at = at.plus(order.pages());
            }
        }
    }

    /// SPEC-2: compares what every descriptor says with what the machine's specification does, if it has one. Nobody
    /// allocates or frees meanwhile. Cost: a pass over all frames that the specification knows.
    ///
    /// # Errors
    /// The first page of which they say different things.
    pub fn verify_specified(&self) -> Result<(), Violation> {
        let Some(specification) = self.machine.specification() else { return Ok(()) };
        let mut at = Pfn::new(0);
        while at < specification.end() {
            let (standing, order) = self.abstraction(at)?;
            let block = PfnRange::new(at, at.plus(order.pages()));
            if let Some(pfn) = specification.first_unlike(block, standing) {
                return Err(Violation::of(Invariant::Spec2, Some(pfn), "a page is not what it is specified to be"));
            }
            at = block.end;
        }
        Ok(())
    }

    /// What the descriptor at the head of something means, and how large that is.
    fn abstraction(&self, head: Pfn) -> Result<(Standing, Order), Violation> {
        let (state, order) = self.page_state(head);
        let broken = |what| Err(Violation::of(Invariant::Spec2, Some(head), what));
        if order > M::Geometry::MAX_ORDER {
            return broken("a block is larger than any");
        }
        match state {
            PageState::Hole | PageState::Reserved => Ok((Standing::Outside, Order::ZERO)),
            PageState::Offline => Ok((Standing::Outside, order)),
            PageState::Node => Ok((Standing::Free, Order::ZERO)),
            PageState::Free | PageState::Cached => Ok((Standing::Free, order)),
            PageState::Allocated => Ok((Standing::Held(order), order)),
            PageState::Isolated => broken("a block is still in flight"),
            PageState::Tail => broken("a page is the tail of no block"),
        }
    }
}

#[inline(never)]
fn follow(specification: Specification<'_>, change: Change) {
    if let Err(violation) = specification.follow(change) {
        panic!("{violation}: {change:?}");
    }
}
