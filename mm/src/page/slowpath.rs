//! The search for a zone that can serve a request, from what costs nobody anything to what costs everybody.
//!
//! ```text
//!   1  the zones in order that have enough left for all: above `low`
//!   2  shrinkers, so that the nearest zones have; then any zone that has what such a request must leave: above `min`
//!   3  shrinkers again, as long as they give anything back
//!   4  what is set aside for large blocks
//!   5  the error
//! ```
//!
//! Requests that cannot wait skip 3 and ask no shrinker; those that would rather have nothing also skip 4; those by
//! which memory comes back begin with 2, and leave nothing. No lock is held between the steps.
//!
//! Invariants: FREE-3 (for those that leave nothing).
//! Cost: for each zone that is asked, its lock.
//! Source: Linux's `get_page_from_freelist`, `__alloc_pages_slowpath`.

use super::allocator::{AllocError, PageAllocator, ZoneCell};
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
        let asked = request;
        let request = self.as_urgent_as_here(request);
        if request.urgency < Urgency::Reserve
            && let Some(pfn) = self.alloc_leaving(Watermark::Low, request)
        {
            return Ok(pfn);
        }
        self.alloc_below_low(request).ok_or_else(|| AllocError::exhausted(asked))
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
        if request.urgency > Urgency::Nowait && self.give_up_reserves(request) > Count(0) {
            return self.alloc_leaving(Watermark::Min, request);
        }
        None
    }

    /// Allocates from the first zone that has so much left then.
    fn alloc_leaving(&self, leaving: Watermark, request: Request) -> Option<Pfn> {
        let zones = self.zonelist(request);
        let wanted = Wanted { first: zones.clone().next()?.node, own: self.machine.node_of(self.machine.cpu()) };
        zones.into_iter().find_map(|cell| self.alloc_from(cell, leaving, request, wanted))
    }

    /// Allocates from one zone, and counts that.
    fn alloc_from(
        &self,
        cell: &ZoneCell<M::Geometry>,
        leaving: Watermark,
        request: Request,
        wanted: Wanted,
    ) -> Option<Pfn> {
        self.with_buddy(cell, |buddy| {
            let pfn = buddy.alloc_for(request.demand(leaving), request.migratetype)?;
            self.numa.count(self.machine.cpu(), wanted, cell.node, Count(1));
            Some(pfn)
        })
    }

    /// Makes what is set aside for large blocks everybody's, in the zones that may serve the request. Says how many pages
    /// that gave.
    fn give_up_reserves(&self, request: Request) -> Count {
        Count(self.zonelist(request).map(|cell| self.with_buddy(cell, |buddy| buddy.give_up_reserve().0)).sum())
    }
}
