//! Memory back from those who can do without it.
//!
//! Shrinkers run in the time of whoever allocates, with no lock held and interrupts on, one after the other until enough
//! has come back. A CPU that is in them already asks nobody: what it allocates there comes from the reserves. An
//! interrupt handler asks nobody either.
//!
//! Source: Linux's `try_to_free_pages` and `PF_MEMALLOC`.

use core::ops::ControlFlow;
use core::sync::atomic::{AtomicBool, Ordering};

use super::allocator::PageAllocator;
use super::request::{Policy, Request};
use crate::boot_map::{BootMap, CarveError};
use crate::early::{MetadataBytes, carve_slice};
use crate::lock::may_wait;
use crate::lock_order::{Work, class};
use crate::machine::Machine;
use crate::shrinker::{Shortage, Shrinker, ShrinkerRegistration, Shrinkers, TooManyShrinkers};
use crate::units::{Count, NodeId, Pfn};
use crate::zone::ZoneKind;
use crate::zone::watermark::{Urgency, Watermark};

/// Pages that are asked for at least. Linux's `SWAP_CLUSTER_MAX`.
const CLUSTER: u32 = 32;

/// How often shrinkers are asked for one thing.
pub(super) const ROUNDS: u32 = 8;

/// Who can be asked, and who is asking.
#[derive(Debug)]
pub(super) struct Reclaim<'m> {
    shrinkers: Shrinkers,
    /// By CPU: whether it is in the shrinkers. Only the CPU itself writes, and reads, outside of interrupt handlers.
    asking: &'m [AtomicBool],
}

impl<'m> Reclaim<'m> {
    /// Carves a mark for each CPU.
    ///
    /// # Errors
    /// The direct map has no room for them.
    pub(super) fn carve<M: Machine, const CAPACITY: usize>(
        machine: &'m M,
        boot_map: &mut BootMap<CAPACITY>,
        metadata: &mut MetadataBytes,
    ) -> Result<Self, CarveError> {
        let cpus = usize::from(machine.cpus().get());
        let (asking, bytes) = carve_slice(machine, boot_map, NodeId(0), cpus, |_| AtomicBool::new(false))?;
        metadata.zones += bytes;
        Ok(Self { shrinkers: Shrinkers::new(), asking })
    }
}

/// A CPU is in the shrinkers as long as this lives.
struct Asking<'m>(&'m AtomicBool);

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

impl<'m, M: Machine> PageAllocator<'m, M> {
    /// Enters a shrinker that lives for ever. It is asked for pages, after those that were entered before,
    /// until the registration is dropped.
    ///
    /// # Errors
    /// There are too many.
    #[expect(unsafe_code, reason = "the shrinker outlives all")]
    pub fn register_shrinker(
        &self,
        shrinker: &'static dyn Shrinker,
    ) -> Result<ShrinkerRegistration<'_>, TooManyShrinkers> {
        // SAFETY: SHRINK-1, it lives for ever, even if the registration is forgotten.
        unsafe { self.reclaim.shrinkers.enter(shrinker) }
    }

    /// Does `work` while a shrinker is entered: it is asked for pages, after those that were entered before.
    ///
    /// # Errors
    /// There are too many; nothing was done.
    #[expect(unsafe_code, reason = "the registration does not get out of here")]
    pub fn with_shrinker<R>(&self, shrinker: &dyn Shrinker, work: impl FnOnce() -> R) -> Result<R, TooManyShrinkers> {
        // SAFETY: SHRINK-1, the registration is dropped before the shrinker's borrow ends, also while unwinding.
        let _entered = unsafe { self.reclaim.shrinkers.enter(shrinker) }?;
        Ok(work())
    }

    /// Has shrinkers give pages back, until it is about as many as are lacking or nobody has more. Says how many; none if
    /// this CPU is in a shrinker already, or in an interrupt handler. The caller holds no lock.
    pub fn reclaim(&self, shortage: Shortage) -> Count {
        let mut got = Count(0);
        let Some(_asking) = self.begin_asking() else { return got };
        may_wait::<class::Shrinkers>(self.machine);
        self.reclaim.shrinkers.visit(|shrinker| {
            let wanted = Count(shortage.wanted.0.saturating_sub(got.0));
            if wanted == Count(0) {
                return ControlFlow::Break(());
            }
            if shrinker.reclaimable() > Count(0) {
                got.0 = got.0.saturating_add(shrinker.shrink(&Shortage { wanted, ..shortage }).0);
            }
            ControlFlow::Continue(())
        });
        got
    }

    fn begin_asking(&self) -> Option<Asking<'m>> {
        if self.machine.context().work == Work::Handler || self.is_asking() {
            return None;
        }
        let mark = self.reclaim.asking.get(usize::from(self.machine.cpu().0))?;
        mark.store(true, Ordering::Relaxed);
        Some(Asking(mark))
    }

    fn is_asking(&self) -> bool {
        let mark = self.reclaim.asking.get(usize::from(self.machine.cpu().0));
        mark.is_some_and(|mark| mark.load(Ordering::Relaxed))
    }

    /// The request as urgent as it is where it is made: handlers cannot wait, and what is allocated in order to get memory
    /// back may take the reserves.
    pub(super) fn as_urgent_as_here(&self, request: Request) -> Request {
        let least = match self.machine.context().work {
            Work::Handler => Urgency::Atomic,
            Work::Task if self.is_asking() => Urgency::Reserve,
            Work::Task => Urgency::Nowait,
        };
        Request { urgency: request.urgency.max(least), ..request }
    }

    /// Gets back what the request lacks, and a little more.
    pub(super) fn reclaim_for(&self, request: Request) -> Count {
        let node = match request.policy {
            Policy::Bound(node) => Some(node),
            Policy::Local | Policy::Preferred(_) => None,
        };
        self.reclaim(Shortage { wanted: Count(request.order.pages().max(CLUSTER)), highest: request.highest, node })
    }

    /// Does what may lack memory until it does not, or nothing is to be had any more. What is lacking may be memory of any
    /// kind. The caller holds no lock.
    ///
    /// # Errors
    /// Whatever the last attempt gives.
    pub fn with_reclaim<T, E>(&self, mut attempt: impl FnMut() -> Result<T, E>) -> Result<T, E> {
        let mut outcome = attempt();
        for _ in 0..ROUNDS {
            if outcome.is_ok() || self.reclaim_anywhere() == Count(0) {
                break;
            }
            outcome = attempt();
        }
        outcome
    }

    /// Gets pages back wherever that is, and some of the direct map if there are few: highmem helps no one who needs a
    /// table or a descriptor.
    fn reclaim_anywhere(&self) -> Count {
        let wanted = Count(CLUSTER);
        let got = self.reclaim(Shortage::of(wanted));
        let lowmem = self.zones().filter(|zone| zone.kind < ZoneKind::Highmem);
        if lowmem.map(|zone| zone.free.saturating_sub(zone.watermarks.min)).sum::<u32>() >= CLUSTER {
            return got;
        }
        let low = self.reclaim(Shortage { wanted, highest: ZoneKind::Normal, node: None });
        Count(got.0.saturating_add(low.0))
    }

    /// The kind of the zone of the block that `head` heads.
    #[inline]
    pub(crate) fn kind_at(&self, head: Pfn) -> ZoneKind {
        let cell = self.zones.get(self.map.page(head).word().zone().index());
        cell.map_or(ZoneKind::Highmem, |cell| cell.kind)
    }

    /// Whether the page at `pfn` is one of those that are lacking.
    pub(crate) fn helps(&self, shortage: &Shortage, pfn: Pfn) -> bool {
        let zone = self.zone_around(pfn).and_then(|zone| self.zones.get(zone.index()));
        zone.is_some_and(|cell| shortage.is_helped_by(cell.kind, cell.node))
    }

    /// Fills the zones of the node that the request wants up to `high`, if they are below `low`, as far as others can spare
    /// something. Where nobody could, they are asked again only when the zone has fallen further.
    pub(super) fn fill_up_for(&self, request: Request) {
        let demand = request.demand(Watermark::Low);
        let first = self.zonelist(request).next().map(|cell| cell.node);
        let near = self.zonelist(request).take_while(|cell| Some(cell.node) == first);
        let lacking = |cell| self.with_buddy(cell, |buddy| buddy.zone().lacking(demand));
        let wanted: u32 = near.clone().map(lacking).sum();
        if wanted == 0 {
            return;
        }
        let shortage = Shortage { wanted: Count(wanted), highest: request.highest, node: first };
        if self.reclaim(shortage) == Count(0) {
            for cell in near {
                self.with_buddy(cell, |buddy| buddy.zone().ask_again_below(Count(CLUSTER)));
            }
        }
    }
}
