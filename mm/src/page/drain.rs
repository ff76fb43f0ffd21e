//! All that CPUs have at hand, for who needs the last page, a whole block or a certain frame.
//!
//! One at a time, with interrupts off: every CPU is shut out of what it has at hand, all of that goes to its zones, and the
//! work is done before any CPU may refill. So what was free at that moment can be had, wherever it was (FREE-3). One thing
//! only is out of reach: what its own CPU has at hand, for a handler that interrupted it amid its lists.
//!
//! Invariants: PCP-1, GATE-1. Cost: a barrier on every CPU, a look at each of their lists, and freeing what is in them.

use core::fmt;

use super::allocator::{PageAllocator, ZoneCell};
use crate::desc::allocator_word::PageState;
use crate::desc::word::Page;
use crate::invariant::{Invariant, Violation};
use crate::lock_order::Work;
use crate::machine::Machine;
use crate::pcp::{ClosedCaches, CpuCache, List};
use crate::units::{Count, CpuId, Pfn, ZoneId};

/// A CPU that keeps nothing at hand until this drops, which is not for handlers.
#[must_use = "the CPU keeps blocks at hand again as soon as this drops"]
pub struct CpuDown<'a, M: Machine> {
    allocator: &'a PageAllocator<'a, M>,
    cpu: CpuId,
}

impl<M: Machine> Drop for CpuDown<'_, M> {
    fn drop(&mut self) {
        let caches = self.allocator.cpu_caches;
        // A handler that has interrupted its own CPU amid its lists leaves it as it is, which harms nobody.
        let _ = self.allocator.with_all_closed(|_, _| caches.admit(self.cpu));
    }
}

impl<M: Machine> fmt::Debug for CpuDown<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CpuDown").field(&self.cpu).finish()
    }
}

impl<'m, M: Machine> PageAllocator<'m, M> {
    /// Gives all that CPUs have at hand back to the zones. Says how many pages.
    pub fn drain(&self) -> Count {
        self.with_all_closed(|interrupts, closed| self.drain_closed(interrupts, closed)).unwrap_or(Count(0))
    }

    /// Takes a CPU that goes away out: what it has at hand goes back to the zones, and it keeps nothing at hand until the
    /// result drops, though it may allocate and free. Not for handlers. `None`, and nothing done, if there is no such CPU, or in
    /// a handler.
    pub fn take_cpu_down(&self, cpu: CpuId) -> Option<CpuDown<'_, M>> {
        if cpu.0 >= self.machine.cpus().get() || self.machine.context().work == Work::Handler {
            return None;
        }
        self.with_all_closed(|interrupts, closed| {
            self.drain_closed(interrupts, closed);
            self.cpu_caches.retire(cpu);
            CpuDown { allocator: self, cpu }
        })
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
        self.cpu_caches
            .of_zone(zone)
            .chain(self.cpu_caches.shelf(zone))
            .map(CpuCache::pages)
            .fold(0, u32::saturating_add)
    }
}
