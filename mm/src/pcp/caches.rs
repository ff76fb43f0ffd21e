//! Every CPU's lists of every zone.
//!
//! Cost: 3 KiB for each CPU and zone, and eight bytes for each block that a list may ever hold: all CPUs together, one in
//! sixteen of a zone's pages for each migratetype at most (`MetadataBytes::cpu_caches`).
#![expect(unsafe_code, reason = "a CPU's row is found by its number alone")]

use super::gate::{Busy, Gate};
use super::list::{Habit, List, capacity};
use crate::boot_map::{BootMap, CarveError};
use crate::desc::allocator_word::AllocatorWord;
use crate::desc::word::Page;
use crate::early::{MetadataBytes, carve_slice};
use crate::machine::{Geometry, Machine};
use crate::migratetype::Migratetype;
use crate::sync::{AtomicPtr, AtomicU64, Ordering};
use crate::units::{CpuId, NodeId, Order, ZoneId};
use crate::zone::ZoneKind;

/// Numbers that lists have, as in a descriptor's word: the order in the lower four bits, the migratetype above.
const LISTS: usize = 64;
const TYPE_SHIFT: usize = 4;

/// What one CPU has at hand of one zone.
#[derive(Debug)]
#[repr(align(64))]
pub(crate) struct CpuCache<'m> {
    gate: Gate,
    /// Allocations out of the lists by whom no other zone would have served sooner. Only the CPU itself writes.
    served: AtomicU64,
    lists: [List<'m>; LISTS],
    habits: [Habit; LISTS],
}

impl<'m> CpuCache<'m> {
    /// Lists of a zone of which the CPU has so many pages to itself, in slots from the front of `slots`.
    fn new<G: Geometry>(zone: ZoneId, pages: u32, slots: &mut &'m [AtomicPtr<Page>]) -> Self {
        let mut list = |number: usize| {
            let (migratetype, order) = (number >> TYPE_SHIFT, number % (1 << TYPE_SHIFT));
            let kept = migratetype < Migratetype::REQUESTED.len() && order <= G::MAX_ORDER.index();
            let order = Order::of(if kept { order } else { 0 });
            let capacity = if kept { capacity::<G>(order, pages) } else { 0 };
            let (ours, rest) = slots.split_at(capacity as usize);
            *slots = rest;
            List::new(ours, AllocatorWord::allocated(Migratetype::ALL[migratetype % 4], order, zone))
        };
        let both: [(List<'m>, Habit); LISTS] = core::array::from_fn(&mut list);
        let mut habits: [Habit; LISTS] = core::array::from_fn(|_| Habit::none());
        let mut each = habits.iter_mut();
        let lists = both.map(|(list, habit)| {
            if let Some(place) = each.next() {
                *place = habit;
            }
            list
        });
        Self { gate: Gate::open(), served: AtomicU64::new(0), lists, habits }
    }

    /// The lists, for as long as the result lives; `None` if they are closed, or this is a handler that has interrupted who
    /// uses them. Only the CPU itself may ask.
    #[inline(always)]
    pub(crate) fn enter(&self, machine: &impl Machine) -> Option<AtHand<'_, 'm>> {
        Some(AtHand { _busy: self.gate.enter(machine)?, cache: self })
    }

    /// Allocations that were [served](AtHand::count_served), since ever.
    pub(crate) fn served(&self) -> u64 {
        self.served.load(Ordering::Relaxed)
    }

    /// Pages in all lists, as of now.
    pub(crate) fn pages(&self) -> u32 {
        self.lists().map(|(list, _)| list.len() * list.word().order().pages()).sum()
    }

    /// Every list that may hold any.
    fn lists(&self) -> impl Iterator<Item = (&List<'m>, &Habit)> {
        self.lists.iter().zip(&self.habits).filter(|(_, habit)| habit.keeps_any())
    }
}

/// The lists of a CPU that is busy with them.
#[derive(Debug)]
pub(crate) struct AtHand<'c, 'm> {
    _busy: Busy<'c>,
    cache: &'c CpuCache<'m>,
}

impl<'c, 'm> AtHand<'c, 'm> {
    /// The list of a migratetype and order; it is empty and full if no such blocks are kept at hand.
    #[inline(always)]
    pub(crate) fn list(&self, migratetype: Migratetype, order: Order) -> &'c List<'m> {
        &self.cache.lists[((migratetype as usize) << TYPE_SHIFT | order.index()) % LISTS]
    }

    /// The list that an allocated block goes to.
    #[inline(always)]
    pub(crate) fn list_for(&self, word: AllocatorWord) -> &'c List<'m> {
        &self.cache.lists[word.list_at_hand() % LISTS]
    }

    /// The same with its habit, if such blocks are kept at hand.
    pub(crate) fn kept(&self, word: AllocatorWord) -> Option<(&'c List<'m>, &'c Habit)> {
        let number = word.list_at_hand() % LISTS;
        let habit = &self.cache.habits[number];
        habit.keeps_any().then_some((&self.cache.lists[number], habit))
    }

    /// All lists that may hold any.
    pub(crate) fn lists(&self) -> impl Iterator<Item = (&'c List<'m>, &'c Habit)> {
        self.cache.lists()
    }

    /// Counts allocations by whom no other zone would have served sooner.
    #[inline(always)]
    pub(crate) fn count_served(&self, count: u32) {
        let served = self.cache.served.load(Ordering::Relaxed);
        self.cache.served.store(served.wrapping_add(u64::from(count)), Ordering::Relaxed);
    }
}

/// A CPU's caches.
#[derive(Debug)]
#[repr(align(64))]
struct Row<'m> {
    /// By the highest kind of zone that would do: that of the zone that the CPU asks first.
    first: [Option<&'m CpuCache<'m>>; ZoneKind::ALL.len()],
    /// By zone.
    caches: &'m [CpuCache<'m>],
}

/// All CPUs' lists.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CpuCaches<'m> {
    /// INVARIANT: one for each CPU of the machine.
    rows: &'m [Row<'m>],
}

impl<'m> CpuCaches<'m> {
    /// Carves empty lists for zones of so many pages, of which each CPU asks `first` those that it says.
    ///
    /// # Errors
    /// The direct map has no room for them.
    pub(crate) fn carve<M: Machine, const CAPACITY: usize>(
        machine: &'m M,
        boot_map: &mut BootMap<CAPACITY>,
        zones: &(impl ExactSizeIterator<Item = u32> + Clone),
        first: &impl Fn(CpuId, ZoneKind) -> Option<ZoneId>,
        bytes: &mut MetadataBytes,
    ) -> Result<Self, CarveError> {
        let cpus = machine.cpus().get();
        let share = |pages: u32| pages / u32::from(cpus);
        let orders = || (0..=M::Geometry::MAX_ORDER.index()).map(Order::of);
        let of_type = |pages| orders().map(|order| capacity::<M::Geometry>(order, share(pages))).sum::<u32>() as usize;
        let of_cpu = zones.clone().map(of_type).sum::<usize>() * Migratetype::REQUESTED.len();
        let empty = |_| AtomicPtr::new(core::ptr::null_mut());
        let (slots, slot_bytes) = carve_slice(machine, boot_map, NodeId(0), of_cpu * usize::from(cpus), empty)?;
        let mut slots: &'m [AtomicPtr<Page>] = slots;
        let count = zones.len();
        let cache = |index: usize| {
            #[expect(clippy::cast_possible_truncation, reason = "there are at most 256 zones")]
            let zone = ZoneId((index % count) as u8);
            let pages = zones.clone().nth(zone.index()).unwrap_or(0);
            CpuCache::new::<M::Geometry>(zone, share(pages), &mut slots)
        };
        let (caches, cache_bytes) = carve_slice(machine, boot_map, NodeId(0), count * usize::from(cpus), cache)?;
        let caches: &'m [CpuCache<'m>] = caches;
        let row = |cpu: usize| {
            let caches = &caches[cpu * count..(cpu + 1) * count];
            #[expect(clippy::cast_possible_truncation, reason = "a machine has fewer than 2^16 CPUs")]
            let cpu = CpuId(cpu as u16);
            Row { first: ZoneKind::ALL.map(|highest| Some(&caches[first(cpu, highest)?.index()])), caches }
        };
        let (rows, row_bytes) = carve_slice(machine, boot_map, NodeId(0), usize::from(cpus), row)?;
        bytes.cpu_caches += slot_bytes + cache_bytes + row_bytes;
        Ok(Self { rows })
    }

    #[inline(always)]
    fn row(self, CpuId(cpu): CpuId) -> &'m Row<'m> {
        debug_assert!(usize::from(cpu) < self.rows.len(), "invariant MACHINE-CPU broken: there is no CPU {cpu}");
        // SAFETY: MACHINE-CPU, there is a row for each CPU, and this is one.
        unsafe { self.rows.get_unchecked(usize::from(cpu)) }
    }

    /// What a CPU has at hand of a zone, if there is one.
    #[inline(always)]
    pub(crate) fn of(self, cpu: CpuId, zone: ZoneId) -> Option<&'m CpuCache<'m>> {
        self.row(cpu).caches.get(zone.index())
    }

    /// What a CPU has at hand of the zone that it asks first for memory up to a kind.
    #[inline(always)]
    pub(crate) fn first(self, cpu: CpuId, highest: ZoneKind) -> Option<&'m CpuCache<'m>> {
        self.row(cpu).first[highest as usize]
    }

    /// What each CPU has at hand of a zone.
    pub(crate) fn of_zone(self, zone: ZoneId) -> impl Iterator<Item = &'m CpuCache<'m>> {
        self.rows.iter().filter_map(move |row| row.caches.get(zone.index()))
    }

    /// Whether this CPU is busy with lists: so this is a handler.
    pub(crate) fn is_busy(self, cpu: CpuId) -> bool {
        self.row(cpu).caches.iter().any(|cache| cache.gate.is_busy())
    }

    /// Shuts every CPU out, does some work on `cpu`, which is this one, and lets those in again that were. What this one is
    /// busy with stays as it is. Callers take turns, with interrupts off.
    pub(crate) fn close<R>(
        self,
        cpu: CpuId,
        heavy_barrier: impl FnOnce(),
        work: impl FnOnce(ClosedCaches<'m>) -> R,
    ) -> R {
        let closed = Closed(self);
        self.each().for_each(|cache| cache.gate.close());
        heavy_barrier();
        let others = self.rows.iter().enumerate().filter(|&(other, _)| other != usize::from(cpu.0));
        others.flat_map(|(_, row)| row.caches).for_each(|cache| cache.gate.wait());
        let result = work(ClosedCaches { caches: self, cpu });
        drop(closed);
        result
    }

    /// Shuts a CPU out for good. It is idle from the next time on that all are [closed](Self::close). Callers take turns.
    pub(crate) fn retire(self, cpu: CpuId) {
        self.row(cpu).caches.iter().for_each(|cache| cache.gate.close());
    }

    /// Lets a CPU that was shut out for good in again. Callers take turns.
    pub(crate) fn admit(self, cpu: CpuId) {
        self.row(cpu).caches.iter().for_each(|cache| cache.gate.reopen());
    }

    fn each(self) -> impl Iterator<Item = &'m CpuCache<'m>> {
        self.rows.iter().flat_map(|row| row.caches)
    }
}

/// Opens what was closed, also if the work panics.
struct Closed<'m>(CpuCaches<'m>);

impl Drop for Closed<'_> {
    fn drop(&mut self) {
        self.0.each().for_each(|cache| cache.gate.reopen());
    }
}

/// Every CPU's lists, closed and idle: whoever has this may do with them what their CPUs may.
#[derive(Debug)]
pub(crate) struct ClosedCaches<'m> {
    caches: CpuCaches<'m>,
    cpu: CpuId,
}

impl<'m> ClosedCaches<'m> {
    /// Every list of a zone, but for those that this handler has found its CPU busy with.
    pub(crate) fn lists(&self, zone: ZoneId) -> impl Iterator<Item = &'m List<'m>> {
        let own = self.caches.of(self.cpu, zone);
        let interrupted =
            move |cache: &CpuCache<'m>| cache.gate.is_busy() && own.is_some_and(|own| core::ptr::eq(own, cache));
        let caches = self.caches.of_zone(zone).filter(move |&cache| !interrupted(cache));
        caches.flat_map(|cache| cache.lists().map(|(list, _)| list))
    }
}
