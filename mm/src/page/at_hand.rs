//! Blocks out of what this CPU has at hand, and back.
//!
//! Cost: no lock; the list's head, one of its slots, and the first word of the block's descriptor. A list that is empty or
//! full goes to its zone once for a whole batch.
//!
//! Two CPUs that free one block at the very same moment are not told apart: the word that says it is allocated is read, and
//! written, without a lock. One after the other, they are.

use super::allocator::{PageAllocator, ZoneCell};
use super::request::Request;
use crate::machine::Machine;
use crate::pcp::{List, Relief, Supply};
use crate::units::{Count, Pfn, ZoneId};

/// A zone of which less than one page in so many is free has none to keep at hand.
const SHORT: u32 = 32;

impl<M: Machine> PageAllocator<'_, M> {
    /// Allocates a block that is at hand in the zone that the request would be served from first.
    #[inline(always)]
    pub(super) fn alloc_at_hand(&self, request: Request) -> Option<Pfn> {
        let mut heads = [Pfn::LIMIT];
        let Count(had) = self.fill_at_hand(request, &mut heads);
        (had == 1).then_some(heads[0])
    }

    /// Allocates as many blocks as there are heads to fill and blocks at hand in the zone that the request would be served
    /// from first.
    #[inline(always)]
    pub(super) fn fill_at_hand(&self, request: Request, heads: &mut [Pfn]) -> Count {
        let mut had = 0;
        if let Some(zone) = self.first_zone(request.highest).filter(|_| request.is_plain()) {
            let interrupts = self.machine.disable_interrupts();
            if let Some(at_hand) = self.cpu_caches.of(self.machine.cpu(), zone).enter(&interrupts) {
                let list = at_hand.list::<M::Geometry>(request.migratetype, request.order);
                for place in heads {
                    let Some(head) = list.take() else { break };
                    self.map.page(head).set_allocated_from_cache(request.order, zone);
                    *place = head;
                    had += 1;
                }
            }
        }
        Count(had)
    }

    /// Puts an allocated block that nobody owns or is charged for at hand; `None` if it is not that, there is no room, or its
    /// like are not kept at hand.
    #[inline(always)]
    pub(super) fn free_at_hand(&self, pfn: Pfn) -> Option<()> {
        let Count(freed) = self.put_at_hand(&[pfn]);
        (freed == 1).then_some(())
    }

    /// Puts blocks at hand, as [`free_at_hand`](Self::free_at_hand), up to the first that it cannot. Says how many.
    #[inline(always)]
    pub(super) fn put_at_hand(&self, heads: &[Pfn]) -> Count {
        let mut freed = 0;
        let interrupts = self.machine.disable_interrupts();
        let cpu = self.machine.cpu();
        for &pfn in heads {
            let Some(section) = self.map.section(pfn) else { break };
            let page = section.page(pfn);
            let word = page.word();
            if !word.is_uncharged() || page.owner().is_owned() {
                break;
            }
            let Some(at_hand) = self.cpu_caches.of(cpu, word.zone()).enter(&interrupts) else { break };
            let list = at_hand.list::<M::Geometry>(section.migratetype(pfn), word.order());
            if list.put(pfn).is_err()
                && (self.make_room(&interrupts, word.zone(), list).is_none() || list.put(pfn).is_err())
            {
                break;
            }
            page.set_cached_when_freed(word);
            freed += 1;
        }
        Count(freed)
    }

    /// Allocates from a zone: what is at hand, or what the zone gives, and a batch more to have at hand.
    pub(super) fn alloc_refilling(&self, cell: &ZoneCell<M::Geometry>, request: Request) -> Option<Pfn> {
        let interrupts = self.machine.disable_interrupts();
        let at_hand = self.cpu_caches.of(self.machine.cpu(), cell.id).enter(&interrupts);
        let list = at_hand.as_ref().map(|at_hand| at_hand.list::<M::Geometry>(request.migratetype, request.order));
        let Some(list) = list.filter(|list| list.capacity() > 0) else {
            return self.alloc_from(&interrupts, cell, request);
        };
        let head = list.take().or_else(|| {
            self.with_buddy_undisturbed(&interrupts, cell, |buddy| {
                let want = list.wants(supply(buddy.free_on_lists(), buddy.managed()));
                // INVARIANT: PCP-1, the list is empty and wants no more than it may hold.
                buddy.alloc_bulk(request.order, request.migratetype, want, |pfn| list.put_room(pfn));
            });
            list.take()
        })?;
        self.map.page(head).set_allocated_from_cache(request.order, cell.id);
        Some(head)
    }

    /// Makes room on a list that is full; `None` if it holds nothing at all.
    #[cold]
    #[inline(never)]
    fn make_room(&self, interrupts: &M::InterruptGuard<'_>, zone: ZoneId, list: &List<'_>) -> Option<()> {
        let cell = self.zones.get(zone.index()).filter(|_| list.capacity() > 0)?;
        self.with_buddy_undisturbed(interrupts, cell, |buddy| {
            let relief = list.relieve(supply(buddy.free_on_lists(), buddy.managed()));
            if let Relief::Drain(Count(mut left)) = relief {
                buddy.free_bulk(list.order(), || {
                    left = left.checked_sub(1)?;
                    list.take_oldest()
                });
            }
        });
        Some(())
    }

    /// To be called now and then on every CPU, by its timer: what it has not used for long goes back to the zones. Cost: a
    /// look at each of its lists, and an eighth of those that were made larger.
    pub fn tick(&self) {
        let interrupts = self.machine.disable_interrupts();
        for cell in self.zones {
            let Some(at_hand) = self.cpu_caches.of(self.machine.cpu(), cell.id).enter(&interrupts) else { continue };
            for list in at_hand.lists() {
                let mut left = list.age();
                if left > 0 {
                    self.with_buddy_undisturbed(&interrupts, cell, |buddy| {
                        buddy.free_bulk(list.order(), || {
                            left = left.checked_sub(1)?;
                            list.take_oldest()
                        });
                    });
                }
            }
        }
    }
}

/// How full a zone is.
const fn supply(free: u32, managed: u32) -> Supply {
    if free > managed / SHORT { Supply::Ample } else { Supply::Short }
}
