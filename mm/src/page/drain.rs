//! All that CPUs have at hand, for who needs the last page, a whole block or a certain frame.
//!
//! One at a time, with interrupts off: every CPU is shut out of what it has at hand, all of that goes to its zones, and the
//! work is done before any CPU may refill. So what was free at that moment can be had, wherever it was (FREE-3).
//!
//! Invariants: PCP-1, GATE-1. Cost: a barrier on every CPU, a look at each of their lists, and freeing what is in them.

use super::allocator::{PageAllocator, ZoneCell};
use crate::desc::allocator_word::AllocatorWord;
use crate::invariant::{Invariant, Violation};
use crate::machine::Machine;
use crate::pcp::ClosedCaches;
use crate::units::{Count, CpuId, ZoneId};

impl<M: Machine> PageAllocator<'_, M> {
    /// Gives all that CPUs have at hand back to the zones. Says how many pages.
    pub fn drain(&self) -> Count {
        self.with_all_closed(|interrupts, closed| self.drain_closed(interrupts, closed))
    }

    /// Takes a CPU that goes away out: what it has at hand goes back to the zones, and it keeps nothing at hand from then on,
    /// though it may allocate and free. Each CPU that was taken out is to be [taken in](Self::bring_cpu_up) before this is
    /// called for it again.
    pub fn take_cpu_down(&self, cpu: CpuId) {
        self.with_all_closed(|interrupts, closed| {
            self.drain_closed(interrupts, closed);
            self.cpu_caches.retire(cpu);
        });
    }

    /// Lets a CPU that was [taken out](Self::take_cpu_down) keep blocks at hand again.
    pub fn bring_cpu_up(&self, cpu: CpuId) {
        self.with_all_closed(|_, _| self.cpu_caches.admit(cpu));
    }

    /// Does some work while no CPU has anything at hand, nor can have.
    #[cold]
    pub(super) fn with_all_drained<R>(&self, work: impl FnOnce(&M::InterruptGuard<'_>) -> R) -> R {
        self.with_all_closed(|interrupts, closed| {
            self.drain_closed(interrupts, closed);
            work(interrupts)
        })
    }

    /// Does some work while no CPU can use what it has at hand.
    pub(super) fn with_all_closed<R>(&self, work: impl FnOnce(&M::InterruptGuard<'_>, &ClosedCaches<'_>) -> R) -> R {
        let interrupts = self.machine.disable_interrupts();
        let _turn = self.draining.lock();
        self.cpu_caches.close(|| self.machine.heavy_barrier(), |closed| work(&interrupts, &closed))
    }

    fn drain_closed(&self, interrupts: &M::InterruptGuard<'_>, closed: &ClosedCaches<'_>) -> Count {
        let mut pages = 0;
        for cell in self.zones {
            for list in closed.lists(cell.id).filter(|list| list.len() > 0) {
                pages += list.len() * list.order().pages();
                self.with_buddy_undisturbed(interrupts, cell, |buddy| {
                    buddy.free_bulk(list.order(), || list.take_oldest());
                });
            }
        }
        Count(pages)
    }

    /// PCP-1: who is on a list says so, and is on it once. Says how many pages of the zone are at hand. The second words of
    /// blocks at hand are nobody's: they mark who was seen.
    pub(super) fn verify_at_hand(
        &self,
        closed: &ClosedCaches<'_>,
        cell: &ZoneCell<M::Geometry>,
    ) -> Result<u32, Violation> {
        let mut pages = 0;
        let mut outcome = Ok(());
        for list in closed.lists(cell.id) {
            let word = AllocatorWord::cached(list.order(), cell.id);
            for pfn in list.iter() {
                let page = self.map.page(pfn);
                if !page.is_cached_as(word) {
                    outcome =
                        Err(Violation::of(Invariant::Pcp1, Some(pfn), "a CPU's list has a block that says otherwise"));
                } else if !page.mark() {
                    outcome = Err(Violation::of(Invariant::Pcp1, Some(pfn), "a block is at hand twice"));
                }
            }
            pages += list.len() * list.order().pages();
        }
        for list in closed.lists(cell.id) {
            list.iter().for_each(|pfn| self.map.page(pfn).unmark());
        }
        outcome.map(|()| pages)
    }

    /// Pages of a zone that CPUs have at hand, as of now; exact while nobody allocates or frees.
    pub(super) fn cached_pages(&self, zone: ZoneId) -> u32 {
        self.cpu_caches.of_zone(zone).map(|cache| cache.pages()).sum()
    }
}
