//! The search for a zone that can serve a request, from what costs nobody anything to what costs everybody.
//!
//! ```text
//!   1  the zones in order that have enough left for all: above `low`
//!   2  shrinkers, so that the nearest zones have; then any zone that has what such a request must leave: above `min`
//!   3  shrinkers again, as long as they give anything back
//!   4  all that CPUs have at hand, and what is set aside for large blocks
//!   5  the error
//! ```
//!
//! Requests that cannot wait skip 3 and ask no shrinker; those that would rather have nothing are not given what is set
//! aside; those by which memory comes back begin with 2, and leave nothing. No lock is held between the steps.
//!
//! Invariants: FREE-3 (for those that leave nothing: with k pages free, on lists or at hand of any CPU, k can be had).
//! Cost: for each zone that is asked, its lock, unless it has such blocks at hand of this CPU; the last step stops all CPUs
//! for a moment.
//! Source: Linux's `get_page_from_freelist`, `__alloc_pages_slowpath`.

use super::allocator::{AllocError, PageAllocator};
use super::numa::Wanted;
use super::reclaim::ROUNDS;
use super::request::Request;
use crate::machine::Machine;
use crate::units::{Count, Order, Pfn};
use crate::zone::watermark::{Urgency, Watermark};

/// Above this order shrinkers are asked once: what they give back need not be in one piece. Linux's
/// `PAGE_ALLOC_COSTLY_ORDER`.
const COSTLY_ORDER: Order = Order::of(3);

impl<M: Machine> PageAllocator<'_, M> {
    /// Allocates a block, wherever it has to come from. The caller holds no lock that a shrinker might want, unless the
    /// request does not wait.
    #[inline(never)]
    pub(super) fn alloc_slowly(&self, request: Request) -> Result<Pfn, AllocError> {
        if request.urgency < Urgency::Reserve
            && let Some(pfn) = self.alloc_leaving(Watermark::Low, request)
        {
            return Ok(pfn);
        }
        self.alloc_below_low(self.as_urgent_as_here(request)).ok_or_else(|| AllocError::exhausted(request))
    }

    #[cold]
    fn alloc_below_low(&self, request: Request) -> Option<Pfn> {
        let may_ask = request.urgency == Urgency::Ordinary;
        if may_ask {
            self.fill_up_for(request);
        }
        if let Some(pfn) = self.alloc_leaving(Watermark::Min, request) {
            return Some(pfn);
        }
        if may_ask {
            for _ in 0..if request.order > COSTLY_ORDER { 1 } else { ROUNDS } {
                if self.reclaim_for(request) == Count(0) {
                    break;
                }
                if let Some(pfn) = self.alloc_leaving(Watermark::Min, request) {
                    return Some(pfn);
                }
            }
        }
        self.alloc_drained(request)
    }

    /// Allocates while no CPU has anything at hand, nor can have: so that nobody refills with what was found here.
    fn alloc_drained(&self, request: Request) -> Option<Pfn> {
        self.with_all_drained(|interrupts| {
            let alloc = || self.alloc_undisturbed(interrupts, Watermark::Min, request);
            alloc().or_else(|| {
                let gives_up =
                    request.urgency > Urgency::Nowait && self.give_up_reserves(interrupts, request) > Count(0);
                if gives_up { alloc() } else { None }
            })
        })?
    }

    /// Allocates from the first zone that has so much left then.
    fn alloc_leaving(&self, leaving: Watermark, request: Request) -> Option<Pfn> {
        self.alloc_undisturbed(&self.machine.disable_interrupts(), leaving, request)
    }

    /// The same, where interrupts are off, and counts where it came from.
    fn alloc_undisturbed(
        &self,
        interrupts: &M::InterruptGuard<'_>,
        leaving: Watermark,
        request: Request,
    ) -> Option<Pfn> {
        let cpu = self.machine.cpu();
        let zones = self.zonelist(request);
        let wanted = Wanted { first: zones.clone().next()?.node, own: self.machine.node_of(cpu) };
        zones.into_iter().find_map(|cell| {
            let head = self.alloc_refilling(interrupts, cell, request, leaving)?;
            self.numa.count(cpu, wanted, cell.node, Count(1));
            Some(head)
        })
    }

    /// Makes what is set aside for large blocks everybody's, in the zones that may serve the request. Says how many pages
    /// that gave.
    fn give_up_reserves(&self, interrupts: &M::InterruptGuard<'_>, request: Request) -> Count {
        let give_up = |cell| self.with_buddy_undisturbed(interrupts, cell, |buddy| buddy.give_up_reserve().0);
        Count(self.zonelist(request).map(give_up).sum())
    }
}
