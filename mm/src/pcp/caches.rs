//! Every CPU's lists of every zone, and the shelf of each zone, on which CPUs hand over to each other what one has too much of
//! and another asks for, as it is: no block is merged by the one only to be split by the other.
//!
//! Cost: 4 KiB for each CPU and zone, and sixteen bytes for each block that a list may ever hold: all CPUs together, one in
//! sixteen of a zone's pages for each migratetype at most, and a shelf a quarter of what one has (`MetadataBytes::cpu_caches`).
#![expect(unsafe_code, reason = "a CPU's row is found by its number alone, and leads to one of its lists")]

use core::marker::PhantomData;
use core::ptr::NonNull;

use super::gate::{Busy, Gate};
use super::list::{List, Slot, capacity, shelf_capacity};
use crate::boot_map::{BootMap, CarveError};
use crate::desc::allocator_word::AllocatorWord;
use crate::early::{MetadataBytes, carve_slice};
use crate::image::{Note, NoteFull, layout};
use crate::machine::{Geometry, Machine};
use crate::migratetype::Migratetype;
use crate::sync::{AtomicPtr, AtomicU64, Ordering};
use crate::units::{CpuId, NodeId, Order, ZoneId};
use crate::zone::ZoneKind;

/// Numbers that lists have, as in a descriptor's word: the order in the lower four bits, the migratetype above.
const LISTS: usize = 64;
const TYPE_SHIFT: usize = 4;

/// Orders that a descriptor's word has bits for.
const ORDERS: usize = 1 << TYPE_SHIFT;

/// What one CPU has at hand of one zone.
#[derive(Debug)]
#[repr(align(64))]
pub(crate) struct CpuCache<'m> {
    /// Allocations out of the lists by whom no other zone would have served sooner. Only the CPU itself writes.
    served: AtomicU64,
    lists: [List<'m>; LISTS],
}

impl<'m> CpuCache<'m> {
    /// Lists of a zone, each as large as `capacity` says of its order, in slots from the front of `slots`.
    fn new<G: Geometry>(zone: ZoneId, capacity: impl Fn(Order) -> u32, slots: &mut &'m mut [Slot]) -> Self {
        let list = |number: usize| {
            let (migratetype, order) = (number >> TYPE_SHIFT, number % (1 << TYPE_SHIFT));
            let kept = migratetype < Migratetype::REQUESTED.len() && order <= G::MAX_ORDER.index();
            let order = Order::of(if kept { order } else { 0 });
            let capacity = if kept { capacity(order) } else { 0 };
            let ours = slots.split_off_mut(..capacity as usize).unwrap_or_default();
            List::new(ours, AllocatorWord::allocated(Migratetype::ALL[migratetype % 4], order, zone))
        };
        Self { served: AtomicU64::new(0), lists: core::array::from_fn(list) }
    }

    /// Lists of no block's like, that are empty and full.
    fn none() -> Self {
        let none = |_| List::new(&[], AllocatorWord::NO_BLOCK);
        Self { served: AtomicU64::new(0), lists: core::array::from_fn(none) }
    }

    /// Allocations that were [served](ZoneAtHand::count_served), since ever.
    pub(crate) fn served(&self) -> u64 {
        self.served.load(Ordering::Relaxed)
    }

    /// Pages in all lists, as of now.
    pub(crate) fn pages(&self) -> u32 {
        self.lists().map(|list| list.len() * list.word().order().pages()).fold(0, u32::saturating_add)
    }

    /// Every list that may hold any.
    pub(crate) fn lists(&self) -> impl Iterator<Item = &List<'m>> {
        self.lists.iter().filter(|list| list.keeps_any())
    }
}

/// The lists of a CPU that is busy with them.
#[derive(Debug)]
pub(crate) struct AtHand<'m> {
    _busy: Busy<'m>,
    row: &'m Row<'m>,
}

impl<'m> AtHand<'m> {
    /// The list that a block was put into last: what comes next is likely of its like. Whoever compares what a block says with
    /// what this one's do has the list before it is known what the block says, as far as the processor guesses right.
    #[inline(always)]
    pub(crate) fn hot(&self) -> &'m List<'m> {
        // SAFETY: rows begin with a list there, and nothing but lists is stored.
        let list = unsafe { NonNull::new_unchecked(self.row.hot.load(Ordering::Relaxed)) }.cast::<List<'m>>();
        // SAFETY: as above, and all lists live as long as `'m`.
        unsafe { list.as_ref() }
    }

    /// The list that an allocated block goes to which nobody is charged for, which is the hot one from now on; `None` if it is
    /// no such block, or the word is broken. Such lists are empty and full of whose like nothing is kept at hand.
    #[inline]
    pub(crate) fn list_for(&self, word: AllocatorWord) -> Option<&'m List<'m>> {
        if !word.is_uncharged() || !word.is_intact() {
            return None;
        }
        let cache: &'m CpuCache<'m> = self.row.caches.get(word.zone().index())?;
        let list = &cache.lists[word.list_at_hand() % LISTS];
        let thin = core::ptr::from_ref(list).cast_mut().cast();
        self.row.hot.store(thin, Ordering::Relaxed);
        self.row.of_order[word.order_bits()].store(thin, Ordering::Relaxed);
        Some(list)
    }

    /// The list that an allocated block goes to, if the last one of its order went there, which is the hot one from now on.
    #[inline(always)]
    pub(crate) fn same_as_last_of_order(&self, word: AllocatorWord) -> Option<&'m List<'m>> {
        let list = self.row.of_order[word.order_bits()].load(Ordering::Relaxed);
        // SAFETY: as for the hot one.
        let found: &'m List<'m> = unsafe { &*list.cast::<List<'m>>() };
        if found.word() != word {
            return None;
        }
        self.row.hot.store(list, Ordering::Relaxed);
        Some(found)
    }

    /// What there is of a zone, if there is such a zone.
    #[inline(always)]
    pub(crate) fn of(&self, zone: ZoneId) -> Option<ZoneAtHand<'_, 'm>> {
        Some(ZoneAtHand { cache: self.row.caches.get(zone.index())?, at_hand: PhantomData })
    }

    /// What there is of the zone that the CPU asks first for memory up to a kind.
    #[inline(always)]
    pub(crate) fn first(&self, highest: ZoneKind) -> ZoneAtHand<'_, 'm> {
        ZoneAtHand { cache: self.row.first[highest as usize], at_hand: PhantomData }
    }
}

/// The lists of one zone, of a CPU that is busy with them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ZoneAtHand<'h, 'm> {
    cache: &'m CpuCache<'m>,
    at_hand: PhantomData<&'h AtHand<'m>>,
}

impl<'m> ZoneAtHand<'_, 'm> {
    /// The list of a migratetype and order; it is empty and full if no such blocks are kept at hand.
    #[inline(always)]
    pub(crate) fn list(&self, migratetype: Migratetype, order: Order) -> &'m List<'m> {
        &self.cache.lists[((migratetype as usize) << TYPE_SHIFT | order.index()) % LISTS]
    }

    /// The list that an allocated block goes to, if such blocks are kept at hand.
    pub(crate) fn kept(&self, word: AllocatorWord) -> Option<&'m List<'m>> {
        let list = &self.cache.lists[word.list_at_hand() % LISTS];
        list.keeps_any().then_some(list)
    }

    /// All lists that may hold any.
    pub(crate) fn lists(&self) -> impl Iterator<Item = &'m List<'m>> + use<'m> {
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
// As large as a power of two: it is found by a shift.
#[derive(Debug)]
#[repr(align(256))]
struct Row<'m> {
    gate: Gate,
    /// A list, at first one that is of no block's like. Without its type, which would pin the lifetime.
    hot: AtomicPtr<()>,
    /// The same for each order.
    of_order: [AtomicPtr<()>; ORDERS],
    /// By the highest kind of zone that would do: that of the zone that the CPU asks first, or none's if there is no such zone.
    first: [&'m CpuCache<'m>; ZoneKind::ALL.len()],
    /// By zone.
    caches: &'m [CpuCache<'m>],
}

/// All CPUs' lists.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CpuCaches<'m> {
    /// INVARIANT: one for each CPU of the machine.
    rows: &'m [Row<'m>],
    /// By zone, as if it were one more CPU's. GATE-1: whoever is busy with lists of their own and has the zone's lock may use
    /// them, or whoever has closed all.
    shelves: &'m [CpuCache<'m>],
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
        // What is at hand goes from hand to hand as it is.
        let keeps_any = !machine.hardening().treats_pages();
        let share = |pages: u32| if keeps_any { pages / u32::from(cpus) } else { 0 };
        let orders = || (0..=M::Geometry::MAX_ORDER.index()).map(Order::of);
        // Who is alone has nobody to hand over to.
        let has_shelf = cpus > 1;
        let of_cpu = |pages, order| capacity::<M::Geometry>(order, share(pages));
        let of_shelf = |pages, order| if has_shelf { shelf_capacity::<M::Geometry>(order, share(pages)) } else { 0 };
        let of_type = |pages| {
            orders().map(|order| of_cpu(pages, order) * u32::from(cpus) + of_shelf(pages, order)).sum::<u32>() as usize
        };
        let of_all = zones.clone().map(of_type).sum::<usize>() * Migratetype::REQUESTED.len();
        let (mut slots, slot_bytes) = carve_slice(machine, boot_map, NodeId(0), of_all, |_| Slot::empty())?;
        let count = zones.len();
        let cache = |index: usize| {
            #[expect(clippy::cast_possible_truncation, reason = "there are at most 256 zones")]
            let zone = ZoneId((index % count) as u8);
            let pages = zones.clone().nth(zone.index()).unwrap_or(0);
            if index < count * usize::from(cpus) {
                CpuCache::new::<M::Geometry>(zone, |order| of_cpu(pages, order), &mut slots)
            } else {
                CpuCache::new::<M::Geometry>(zone, |order| of_shelf(pages, order), &mut slots)
            }
        };
        let (caches, cache_bytes) = carve_slice(machine, boot_map, NodeId(0), count * (usize::from(cpus) + 1), cache)?;
        let caches: &'m [CpuCache<'m>] = caches;
        let (caches, shelves) = caches.split_at(count * usize::from(cpus));
        let (none, none_bytes) = carve_slice(machine, boot_map, NodeId(0), 1, |_| CpuCache::none())?;
        let none: &'m CpuCache<'m> = &none[0];
        let row = |cpu: usize| {
            let caches = &caches[cpu * count..(cpu + 1) * count];
            #[expect(clippy::cast_possible_truncation, reason = "a machine has fewer than 2^16 CPUs")]
            let cpu = CpuId(cpu as u16);
            let first = ZoneKind::ALL.map(|highest| first(cpu, highest).map_or(none, |zone| &caches[zone.index()]));
            let none = || AtomicPtr::new(core::ptr::from_ref(&none.lists[0]).cast_mut().cast());
            Row { gate: Gate::open(), hot: none(), of_order: core::array::from_fn(|_| none()), first, caches }
        };
        let (rows, row_bytes) = carve_slice(machine, boot_map, NodeId(0), usize::from(cpus), row)?;
        bytes.cpu_caches += slot_bytes + cache_bytes + none_bytes + row_bytes;
        Ok(Self { rows, shelves })
    }

    /// For who reads an image of memory.
    pub(crate) fn write_note(self, note: &mut Note) -> Result<(), NoteFull> {
        note.place("cpus", self.rows.as_ptr().addr())?;
        note.place("cpus.count", self.rows.len())?;
        // All CPUs' stand in one row, one CPU behind the other.
        note.place("cpus.caches", self.rows.first().map_or(0, |row| row.caches.as_ptr().addr()))?;
        note.place("shelves", self.shelves.as_ptr().addr())?;
        note.place("lists.count", LISTS)?;
        layout!(note, Row<'m> as "Row": gate)?;
        layout!(note, CpuCache<'m> as "CpuCache": lists)?;
        Gate::write_note(note)?;
        List::write_note(note)
    }

    #[inline(always)]
    fn row(self, CpuId(cpu): CpuId) -> &'m Row<'m> {
        debug_assert!(usize::from(cpu) < self.rows.len(), "invariant MACHINE-CPU broken: there is no CPU {cpu}");
        // SAFETY: MACHINE-CPU, there is a row for each CPU, and this is one.
        unsafe { self.rows.get_unchecked(usize::from(cpu)) }
    }

    /// What each CPU has at hand of a zone.
    pub(crate) fn of_zone(self, zone: ZoneId) -> impl Iterator<Item = &'m CpuCache<'m>> {
        self.rows.iter().filter_map(move |row| row.caches.get(zone.index()))
    }

    /// A zone's shelf.
    pub(crate) fn shelf(self, zone: ZoneId) -> Option<&'m CpuCache<'m>> {
        self.shelves.get(zone.index())
    }

    /// The list on a shelf for blocks whose heads say `word` once they are allocated, if such are handed over.
    pub(crate) fn on_shelf(self, word: AllocatorWord) -> Option<&'m List<'m>> {
        let list = &self.shelf(word.zone())?.lists[word.list_at_hand() % LISTS];
        list.keeps_any().then_some(list)
    }

    /// A CPU's lists, for as long as the result lives; `None` if they are closed, or this is a handler that has interrupted who
    /// uses them. Only the CPU itself may ask.
    #[inline(always)]
    pub(crate) fn enter(self, cpu: CpuId, machine: &impl Machine) -> Option<AtHand<'m>> {
        let row = self.row(cpu);
        Some(AtHand { _busy: row.gate.enter(machine)?, row })
    }

    /// All that it depends on what happens next, for CPUs that are near the same memory: which of them has which lists does not
    /// matter then.
    #[cfg(all(test, not(loom)))]
    pub(crate) fn fingerprint(self) -> std::vec::Vec<u64> {
        let of_cache = |cache: &'m CpuCache<'m>| cache.lists().flat_map(List::fingerprint);
        let of_row = |row: &'m Row<'m>| row.caches.iter().flat_map(of_cache).collect::<std::vec::Vec<_>>();
        let mut rows: std::vec::Vec<_> = self.rows.iter().map(of_row).collect();
        rows.sort_unstable();
        rows.into_iter().flatten().chain(self.shelves.iter().flat_map(of_cache)).collect()
    }

    /// Whether this CPU is busy with lists: so this is a handler.
    pub(crate) fn is_busy(self, cpu: CpuId) -> bool {
        self.row(cpu).gate.is_busy()
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
        self.rows.iter().for_each(|row| row.gate.close());
        heavy_barrier();
        let others = self.rows.iter().enumerate().filter(|&(other, _)| other != usize::from(cpu.0));
        others.for_each(|(_, row)| row.gate.wait());
        let result = work(ClosedCaches { caches: self, cpu });
        drop(closed);
        result
    }

    /// Shuts a CPU out for good. It is idle from the next time on that all are [closed](Self::close). Callers take turns.
    pub(crate) fn retire(self, cpu: CpuId) {
        self.row(cpu).gate.close();
    }

    /// Lets a CPU that was shut out for good in again. Callers take turns.
    pub(crate) fn admit(self, cpu: CpuId) {
        self.row(cpu).gate.reopen();
    }
}

/// Opens what was closed, also if the work panics.
struct Closed<'m>(CpuCaches<'m>);

impl Drop for Closed<'_> {
    fn drop(&mut self) {
        self.0.rows.iter().for_each(|row| row.gate.reopen());
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
        let interrupted = self.caches.is_busy(self.cpu).then_some(usize::from(self.cpu.0));
        let rows = self.caches.rows.iter().enumerate().filter(move |&(cpu, _)| Some(cpu) != interrupted);
        let caches = rows.filter_map(move |(_, row)| row.caches.get(zone.index())).chain(self.caches.shelf(zone));
        caches.flat_map(CpuCache::lists)
    }
}
