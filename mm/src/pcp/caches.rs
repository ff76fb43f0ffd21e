//! Every CPU's lists of every zone.
//!
//! Cost: a line for each list's head, and four bytes for each block that it may ever hold: at most one in sixteen of a
//! zone's pages for each migratetype, all CPUs together (`MetadataBytes::cpu_caches`).

use core::marker::PhantomData;

use super::gate::{Busy, Gate};
use super::list::{List, capacity};
use crate::boot_map::{BootMap, CarveError};
use crate::early::{MetadataBytes, carve_slice};
use crate::machine::{Geometry, Machine};
use crate::migratetype::Migratetype;
use crate::sync::AtomicU32;
use crate::units::{CpuId, NodeId, Order, ZoneId};

/// Orders of which blocks are kept at hand, and one place for all others.
const CLASSES: usize = 6;
const LISTS: usize = Migratetype::ALL.len() * CLASSES;

/// The orders that are kept at hand: single pages, what slabs and small folios are made of, and pageblocks.
const fn class_of<G: Geometry>(order: Order) -> usize {
    match order.index() {
        small @ 0..=3 => small,
        _ if order.index() == G::PAGEBLOCK_ORDER.index() => 4,
        _ => CLASSES - 1,
    }
}

/// The same as a table.
struct Classes<G>(PhantomData<G>);

impl<G: Geometry> Classes<G> {
    const OF: [u8; 16] = {
        let mut table = [0; 16];
        let mut order = 0;
        while order < table.len() {
            let class = if order <= Order::LIMIT.index() { class_of::<G>(Order::of(order)) } else { CLASSES - 1 };
            #[expect(clippy::cast_possible_truncation, reason = "there are few classes")]
            let class = class as u8;
            table[order] = class;
            order += 1;
        }
        table
    };
}

/// The place of a list.
#[inline(always)]
fn number<G: Geometry>(migratetype: Migratetype, order: Order) -> usize {
    migratetype as usize * CLASSES + usize::from(Classes::<G>::OF[order.index() % 16])
}

/// What one CPU has at hand of one zone.
#[derive(Debug)]
#[repr(C, align(64))]
pub(crate) struct CpuCache<'m> {
    gate: Gate,
    lists: [List<'m>; LISTS],
}

impl<'m> CpuCache<'m> {
    /// The lists, for as long as the result lives; `None` if they are closed. Only the CPU itself may ask, with interrupts
    /// off, as the guard shows.
    #[inline(always)]
    pub(crate) fn enter<I>(&self, _interrupts_off: &I) -> Option<AtHand<'_, 'm>> {
        Some(AtHand { _busy: self.gate.enter()?, lists: &self.lists })
    }

    /// Pages in all lists, as of now.
    pub(crate) fn pages(&self) -> u32 {
        self.lists.iter().map(|list| list.len() * list.order().pages()).sum()
    }

    /// Every list.
    pub(crate) fn lists(&self) -> impl Iterator<Item = &List<'m>> {
        self.lists.iter().filter(|list| list.capacity() > 0)
    }
}

/// The lists of a CPU that is busy with them.
#[derive(Debug)]
pub(crate) struct AtHand<'c, 'm> {
    _busy: Busy<'c>,
    lists: &'c [List<'m>; LISTS],
}

impl<'c, 'm> AtHand<'c, 'm> {
    /// The list of a migratetype and order; one without capacity if no such blocks are kept at hand.
    #[inline(always)]
    pub(crate) fn list<G: Geometry>(&self, migratetype: Migratetype, order: Order) -> &'c List<'m> {
        &self.lists[number::<G>(migratetype, order)]
    }

    /// All of them.
    pub(crate) fn lists(&self) -> impl Iterator<Item = &'c List<'m>> {
        self.lists.iter().filter(|list| list.capacity() > 0)
    }
}

/// All CPUs' lists.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CpuCaches<'m> {
    /// By CPU, and for each CPU by zone.
    caches: &'m [CpuCache<'m>],
    zones: usize,
}

impl<'m> CpuCaches<'m> {
    /// Carves empty lists for zones of so many pages.
    ///
    /// # Errors
    /// The direct map has no room for them.
    pub(crate) fn carve<M: Machine, const CAPACITY: usize>(
        machine: &'m M,
        boot_map: &mut BootMap<CAPACITY>,
        zones: impl ExactSizeIterator<Item = u32> + Clone,
        bytes: &mut MetadataBytes,
    ) -> Result<Self, CarveError> {
        let cpus = usize::from(machine.cpus().get());
        let share = |pages: u32| pages / u32::from(machine.cpus().get());
        let orders = || (0..=M::Geometry::MAX_ORDER.index()).map(Order::of);
        let per_type = |pages| orders().map(|order| capacity::<M::Geometry>(order, share(pages))).sum::<u32>() as usize;
        let per_cpu = zones.clone().map(per_type).sum::<usize>() * Migratetype::ALL.len();
        let (slots, slot_bytes) = carve_slice(machine, boot_map, NodeId(0), per_cpu * cpus, |_| AtomicU32::new(0))?;
        let mut rest: &'m [AtomicU32] = slots;
        let count = zones.len();
        let cache = |index: usize| {
            let pages = share(zones.clone().nth(index % count).unwrap_or(0));
            let lists = core::array::from_fn(|number| {
                let of_class = |order: &Order| class_of::<M::Geometry>(*order) == number % CLASSES;
                let order = orders().find(of_class).unwrap_or(Order::ZERO);
                let capacity = if number % CLASSES == CLASSES - 1 { 0 } else { capacity::<M::Geometry>(order, pages) };
                let (slots, left) = rest.split_at(capacity as usize);
                rest = left;
                List::new(slots, order)
            });
            CpuCache { gate: Gate::open(), lists }
        };
        let (caches, cache_bytes) = carve_slice(machine, boot_map, NodeId(0), count * cpus, cache)?;
        bytes.cpu_caches += slot_bytes + cache_bytes;
        Ok(Self { caches, zones: count })
    }

    /// What a CPU has at hand of a zone, of which there is one.
    #[inline(always)]
    pub(crate) fn of(self, CpuId(cpu): CpuId, zone: ZoneId) -> &'m CpuCache<'m> {
        &self.caches[usize::from(cpu) * self.zones + zone.index()]
    }

    /// What each CPU has at hand of a zone.
    pub(crate) fn of_zone(self, zone: ZoneId) -> impl Iterator<Item = &'m CpuCache<'m>> {
        self.caches.iter().skip(zone.index()).step_by(self.zones.max(1))
    }

    /// Shuts every CPU out, does some work, and lets those in again that were. Callers take turns, with interrupts off.
    pub(crate) fn close<R>(self, heavy_barrier: impl FnOnce(), work: impl FnOnce(ClosedCaches<'m>) -> R) -> R {
        let closed = Closed(self.caches);
        for cache in self.caches {
            cache.gate.close();
        }
        heavy_barrier();
        for cache in self.caches {
            cache.gate.wait();
        }
        let result = work(ClosedCaches(self));
        drop(closed);
        result
    }

    /// Shuts a CPU out for good. It is idle from the next time on that all are [closed](Self::close). Callers take turns.
    pub(crate) fn retire(self, cpu: CpuId) {
        self.of_cpu(cpu).for_each(|cache| cache.gate.close());
    }

    /// Lets a CPU that was shut out for good in again. Callers take turns.
    pub(crate) fn admit(self, cpu: CpuId) {
        self.of_cpu(cpu).for_each(|cache| cache.gate.reopen());
    }

    fn of_cpu(self, CpuId(cpu): CpuId) -> impl Iterator<Item = &'m CpuCache<'m>> {
        self.caches.iter().skip(usize::from(cpu) * self.zones).take(self.zones)
    }
}

/// Opens what was closed, also if the work panics.
struct Closed<'m>(&'m [CpuCache<'m>]);

impl Drop for Closed<'_> {
    fn drop(&mut self) {
        self.0.iter().for_each(|cache| cache.gate.reopen());
    }
}

/// Every CPU's lists, closed and idle: whoever has this may do with them what their CPUs may.
#[derive(Debug)]
pub(crate) struct ClosedCaches<'m>(CpuCaches<'m>);

impl<'m> ClosedCaches<'m> {
    /// Every list of a zone.
    pub(crate) fn lists(&self, zone: ZoneId) -> impl Iterator<Item = &'m List<'m>> {
        self.0.of_zone(zone).flat_map(CpuCache::lists)
    }
}
