//! All that CPUs have at hand, for who needs the last page, a whole block or a certain frame.
//!
//! One at a time, with interrupts off: every CPU is shut out of what it has at hand, all of that goes to its zones, and the
//! work is done before any CPU may refill. So what was free at that moment can be had, wherever it was (FREE-3). One thing
//! only is out of reach: what its own CPU has at hand, for a handler that interrupted it amid its lists.
//!
//! Invariants: PCP-1, GATE-1. Cost: a barrier on every CPU, a look at each of their lists, and freeing what is in them.

use super::allocator::{PageAllocator, ZoneCell};
use crate::desc::allocator_word::PageState;
use crate::desc::word::Page;
use crate::invariant::{Invariant, Violation};
use crate::machine::Machine;
use crate::pcp::{ClosedCaches, CpuCache, List};
use crate::units::{Count, CpuId, Pfn, ZoneId};

impl<'m, M: Machine> PageAllocator<'m, M> {
    /// Gives all that CPUs have at hand back to the zones. Says how many pages.
    pub fn drain(&self) -> Count {
        self.with_all_closed(|interrupts, closed| self.drain_closed(interrupts, closed)).unwrap_or(Count(0))
    }

    /// Takes a CPU that goes away out: what it has at hand goes back to the zones, and it keeps nothing at hand from then on,
    /// though it may allocate and free. Each CPU that was taken out is to be [taken in](Self::bring_cpu_up) before this is
    /// called for it again. Not for handlers.
    pub fn take_cpu_down(&self, cpu: CpuId) {
        self.with_all_closed(|interrupts, closed| {
            self.drain_closed(interrupts, closed);
            self.cpu_caches.retire(cpu);
        });
    }

    /// Lets a CPU that was [taken out](Self::take_cpu_down) keep blocks at hand again. Not for handlers.
    pub fn bring_cpu_up(&self, cpu: CpuId) {
        self.with_all_closed(|_, _| self.cpu_caches.admit(cpu));
    }

    /// Does some work while no CPU has anything at hand, nor can have. `None`, and nothing done, if it cannot be now.
    #[cold]
    pub(super) fn with_all_drained<R>(&self, work: impl FnOnce(&M::InterruptGuard<'_>) -> R) -> Option<R> {
        self.with_all_closed(|interrupts, closed| {
            self.drain_closed(interrupts, closed);
            work(interrupts)
        })
    }

    /// Does some work while no CPU can use what it has at hand. `None`, and nothing done, if this is a handler that has
    /// interrupted its CPU amid its lists, and somebody else, who waits for that CPU, does the same.
    pub(super) fn with_all_closed<R>(
        &self,
        work: impl FnOnce(&M::InterruptGuard<'_>, &ClosedCaches<'m>) -> R,
    ) -> Option<R> {
        let interrupts = self.machine.disable_interrupts();
        let cpu = self.machine.cpu();
        let turn = if self.cpu_caches.is_busy(cpu) {
            self.draining.try_lock(self.machine)
        } else {
            Some(self.draining.lock(self.machine))
        };
        let _turn = turn?;
        let barrier = || self.machine.heavy_barrier();
        Some(self.cpu_caches.close(cpu, barrier, |closed| work(&interrupts, &closed)))
    }

    pub(super) fn drain_closed(&self, interrupts: &M::InterruptGuard<'_>, closed: &ClosedCaches<'m>) -> Count {
        let mut pages = 0;
        for cell in self.zones {
            for list in closed.lists(cell.id).filter(|list| list.len() > 0) {
                pages += list.len() * list.word().order().pages();
                self.with_buddy_undisturbed(interrupts, cell, |buddy| self.drain_list(buddy, list, Count(u32::MAX)));
            }
        }
        Count(pages)
    }

    /// PCP-1: who is on a list says so, and is on it once. Says how many pages of the zone are at hand. The second words of
    /// blocks at hand mark who was seen meanwhile.
    pub(super) fn verify_at_hand(
        &self,
        closed: &ClosedCaches<'m>,
        cell: &ZoneCell<M::Geometry>,
    ) -> Result<u32, Violation> {
        let mut pages = 0;
        let mut outcome = Ok(());
        for list in closed.lists(cell.id) {
            for (page, pfn) in list.iter() {
                let broken = |what| Err(Violation::of(Invariant::Pcp1, Some(pfn), what));
                if page.word() != list.word().when_cached() {
                    outcome = broken("a CPU's list has a block that says otherwise");
                } else if !self.is_descriptor_of(page, pfn) {
                    outcome = broken("a block at hand has another's number");
                } else if !page.mark(pfn) {
                    outcome = broken("a block is at hand twice, or says another number");
                }
            }
            pages += list.len() * list.word().order().pages();
        }
        closed
            .lists(cell.id)
            .flat_map(List::iter)
            .filter(|&(page, pfn)| page.word().is(PageState::Cached) && self.is_descriptor_of(page, pfn))
            .for_each(|(page, pfn)| page.unmark(pfn));
        outcome.map(|()| pages)
    }

    fn is_descriptor_of(&self, page: &Page, pfn: Pfn) -> bool {
        self.map.get(pfn).is_some_and(|found| core::ptr::eq(found, page))
    }

    /// Pages of a zone that CPUs have at hand, as of now; exact while nobody allocates or frees.
    pub(super) fn cached_pages(&self, zone: ZoneId) -> u32 {
        self.cpu_caches.of_zone(zone).chain(self.cpu_caches.shelf(zone)).map(CpuCache::pages).sum()
    }
}
