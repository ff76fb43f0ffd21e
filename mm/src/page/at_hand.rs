//! Blocks out of what this CPU has at hand, and back.
//!
//! Cost: no lock; the list's head, one of its slots, and the block's descriptor. Which list a freed block goes to is
//! guessed, and compared with what the block says: so the next block waits for no descriptor. A list that is empty or
//! full goes to its zone once for a whole batch.
//!
//! An interrupt handler that finds its own CPU amid this goes to the zones.
//!
//! Two CPUs that free one block at the very same moment are not told apart: the word that says it is allocated is read, and
//! written, without a lock. One after the other, they are; and who takes it once another has it is stopped (PCP-1), if they do
//! not take it at the very same moment as well.

use super::allocator::{PageAllocator, ZoneCell};
use super::request::{Origin, Request};
use crate::buddy::Buddy;
use crate::desc::allocator_word::AllocatorWord;
use crate::desc::word::Page;
use crate::machine::{Geometry, Machine};
use crate::pcp::{AtHand, CpuCache, List, Relief, Supply};
use crate::poison;
use crate::specification::Change;
use crate::units::{Count, Order, Pfn};
use crate::zone::Zone;
use crate::zone::watermark::Watermark;

/// A list with more than one in so many of the pages that are free in its zone does not grow, and with less than that the fuller
/// the zone is: what is at hand cannot merge. Single pages go and come in bulk; of larger blocks a few suffice. Measured by
/// `mm-bench`, of which `mix` and `recoverable_mix` pull in opposite directions.
const SMALL: u32 = 32;
const SMALL_OF_BLOCKS: u32 = 256;

/// A zone of which no more than one page in so many is free above that has none to keep at hand.
const SHORT: u32 = 64;

impl<'m, M: Machine> PageAllocator<'m, M> {
    /// Allocates a block that is at hand in the zone that the request would be served from first.
    #[inline(always)]
    pub(super) fn alloc_at_hand(&self, request: Request) -> Option<(&'m Page, Pfn)> {
        if !request.is_plain() {
            return None;
        }
        let at_hand = self.cpu_caches.enter(self.machine.cpu(), self.machine)?;
        let cache = at_hand.first(request.highest);
        let list = cache.list(request.migratetype, request.order);
        let (page, head) = list.take()?;
        page.hand_out(list.word());
        cache.count_served(1);
        self.handed_out(head, request.order);
        Some((page, head))
    }

    /// Allocates as many blocks as there are heads to fill and blocks at hand in the zone that the request would be served
    /// from first.
    pub(super) fn fill_at_hand(&self, request: Request, heads: &mut [Pfn]) -> Count {
        let mut had = 0;
        if request.is_plain()
            && let Some(at_hand) = self.cpu_caches.enter(self.machine.cpu(), self.machine)
        {
            let cache = at_hand.first(request.highest);
            let list = cache.list(request.migratetype, request.order);
            for place in heads {
                let Some((page, head)) = list.take() else { break };
                page.hand_out(list.word());
                self.handed_out(head, request.order);
                *place = head;
                had += 1;
            }
            cache.count_served(had);
        }
        Count(had)
    }

    /// Puts the allocated block that `page`, the descriptor of frame `pfn`, heads at hand, where the last one of its like was
    /// put; `None` if there was none, it has an owner, or cannot [simply](Self::free_at_hand_slowly) be put.
    #[inline(always)]
    pub(super) fn free_at_hand(&self, page: &'m Page, pfn: Pfn) -> Option<()> {
        let at_hand = self.cpu_caches.enter(self.machine.cpu(), self.machine)?;
        let mut list = at_hand.hot();
        let word = page.word();
        if page.owner().is_owned() {
            return None;
        }
        if word != list.word() {
            list = at_hand.same_as_last_of_order(word)?;
        }
        list.put_near(page, pfn)?;
        page.keep_at_hand(word);
        self.kept_at_hand(pfn, word.order());
        Some(())
    }

    /// Puts the allocated block that `page`, the descriptor of frame `pfn`, heads at hand, in the list that is likely its own,
    /// whose blocks' heads say the word that goes with it, or else in its own, which takes its place.
    #[inline(always)]
    fn put_at_hand(
        at_hand: &AtHand<'m>,
        hot: &mut (&'m List<'m>, AllocatorWord),
        page: &'m Page,
        pfn: Pfn,
    ) -> Option<()> {
        let word = page.word();
        if page.owner().is_owned() {
            return None;
        }
        if word != hot.1 {
            let list = at_hand.list_for(word)?;
            *hot = (list, list.word());
        }
        hot.0.put(page, pfn)?;
        page.keep_at_hand(hot.1);
        Some(())
    }

    /// Puts blocks at hand, up to the first that cannot [simply](Self::free_at_hand_slowly) be put. Says how many.
    // On its own, so that the loop has the registers.
    #[inline(never)]
    pub(super) fn put_all_at_hand(&self, heads: &[Pfn]) -> Count {
        let mut freed = 0;
        if let Some(at_hand) = self.cpu_caches.enter(self.machine.cpu(), self.machine) {
            let mut pages = self.map.neighbours();
            let hot = at_hand.hot();
            let mut hot = (hot, hot.word());
            for &pfn in heads {
                let Some(page) = pages.get(pfn) else { break };
                if Self::put_at_hand(&at_hand, &mut hot, page, pfn).is_none() {
                    break;
                }
                self.kept_at_hand(pfn, hot.1.order());
                freed += 1;
            }
        }
        Count(freed)
    }

    /// Allocates from a zone that has enough left then: what is at hand, or what the zone gives, and a batch more to have at
    /// hand. Of the zone alone, and one block, where the request is for that.
    pub(super) fn alloc_refilling(
        &self,
        interrupts: &M::InterruptGuard<'_>,
        cell: &ZoneCell<M::Geometry>,
        request: Request,
        leaving: Watermark,
    ) -> Option<Pfn> {
        let (demand, migratetype) = (request.demand(leaving), request.migratetype);
        let word = AllocatorWord::allocated(migratetype, demand.order, cell.id);
        let at_hand = match request.origin {
            Origin::Any => self.cpu_caches.enter(self.machine.cpu(), self.machine),
            Origin::Zone => None,
        };
        let kept = at_hand.as_ref().and_then(|at_hand| at_hand.of(cell.id)?.kept(word));
        let take = |list: &List<'m>| {
            let (page, head) = list.take()?;
            page.hand_out(word);
            Some(head)
        };
        kept.and_then(take).or_else(|| {
            self.with_buddy_undisturbed(interrupts, cell, |buddy| {
                let refilled = kept.and_then(|list| {
                    list.set_pivot(buddy.pivot_for(word));
                    take(list).or_else(|| {
                        self.drain_list(buddy, list, list.above_pivot());
                        // INVARIANT: PCP-1, the list is empty and wants no more than it may hold.
                        let want = list.wants(supply(buddy.zone(), 0, demand.order));
                        if let Some(shelf) = self.cpu_caches.on_shelf(word) {
                            list.help_itself(shelf, want);
                        }
                        take(list).or_else(|| {
                            buddy.alloc_bulk_for(demand, word, want, |page, head| list.put_wanted(page, head));
                            take(list)
                        })
                    })
                });
                refilled.or_else(|| buddy.alloc_for(demand, migratetype))
            })
        })
    }

    /// Puts the allocated block that frame `pfn` heads at hand, and makes room for it first if need be; `None` if somebody owns
    /// it or is charged for it, its like are not kept there, or it is no such block.
    #[inline]
    pub(super) fn free_at_hand_slowly(&self, pfn: Pfn) -> Option<()> {
        let page = self.map.get(pfn)?;
        let at_hand = self.cpu_caches.enter(self.machine.cpu(), self.machine)?;
        let word = page.word();
        let hot = at_hand.hot();
        let list = if word == hot.word() { hot } else { at_hand.list_for(word)? };
        if page.owner().is_owned() || !list.keeps_any() {
            return None;
        }
        if list.put(page, pfn).is_none() {
            self.relieve(list);
            list.put(page, pfn)?;
        }
        page.keep_at_hand(list.word());
        self.kept_at_hand(pfn, word.order());
        Some(())
    }

    /// Tells of a block at hand that somebody has now.
    #[inline(always)]
    fn handed_out(&self, head: Pfn, order: Order) {
        poison::on_handing_out(self.machine, head, order);
        self.changed(Change::Allocated(head, order));
    }

    /// Tells of a block that is free now and at hand: nobody else can have it before this CPU leaves its lists.
    #[inline(always)]
    fn kept_at_hand(&self, head: Pfn, order: Order) {
        self.changed(Change::Freed(head, order));
        poison::on_keeping(self.machine, head, order);
    }

    /// Makes room in a list that is full.
    #[cold]
    #[inline(never)]
    fn relieve(&self, list: &List<'m>) {
        let word = list.word();
        let Some(cell) = self.zones.get(word.zone().index()) else { return };
        self.with_buddy(cell, |buddy| {
            let supply = supply(buddy.zone(), list.high(), word.order());
            list.set_pivot(buddy.pivot_for(word));
            if let Relief::Drain(Count(most)) = list.relieve(supply) {
                let Count(above) = list.above_pivot();
                self.drain_list(buddy, list, Count(above.min(most)));
                let left = most.saturating_sub(above);
                let Count(handed) = match self.cpu_caches.on_shelf(word) {
                    Some(shelf) if supply != Supply::Short => list.hand_over(shelf, Count(left)),
                    _ => Count(0),
                };
                self.drain_list(buddy, list, Count(left - handed));
            }
        });
    }

    /// Gives up to so many of a list's oldest blocks back to their zone.
    pub(super) fn drain_list(&self, buddy: &mut Buddy<'_, 'm, M>, list: &List<'m>, most: Count) {
        let heads = list.take_oldest(most).map(|(_, head)| head);
        buddy.free_bulk(list.word().order(), heads);
    }

    /// To be called now and then on every CPU, by its timer: what it has not used for long goes back to the zones. Cost: a
    /// look at each of its lists, and an eighth of those that were made larger.
    pub fn tick(&self) {
        let Some(at_hand) = self.cpu_caches.enter(self.machine.cpu(), self.machine) else { return };
        for cell in self.zones {
            for list in at_hand.of(cell.id).into_iter().flat_map(|cache| cache.lists()) {
                let many = list.age();
                if many > 0 {
                    self.with_buddy(cell, |buddy| self.drain_list(buddy, list, Count(many)));
                }
            }
            for list in
                self.cpu_caches.shelf(cell.id).into_iter().flat_map(CpuCache::lists).filter(|list| list.len() > 0)
            {
                self.with_buddy(cell, |buddy| self.drain_list(buddy, list, Count(list.len().div_ceil(8))));
            }
        }
    }
}

/// How full a zone is: well above where others have to give something up for it, there is enough to keep some at hand; more than
/// so many blocks of an order, if they are a small part of what is free.
fn supply<G: Geometry>(zone: &Zone<G>, blocks: u32, order: Order) -> Supply {
    if zone.free <= 2 * zone.watermarks.high + zone.managed / SHORT {
        return Supply::Short;
    }
    let share = if order == Order::ZERO { SMALL } else { SMALL_OF_BLOCKS };
    let small = u64::from(zone.free / share) * u64::from(zone.free) / u64::from(zone.managed.max(1));
    if u64::from(blocks * order.pages()) > small { Supply::Enough } else { Supply::Ample }
}
