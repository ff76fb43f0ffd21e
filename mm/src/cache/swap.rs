//! Places in the swap store: which of them are taken.
//!
//! A folio takes a run of places, one for each page, so that it is read back as one. Next fit: the search goes on where
//! the last one ended.
//!
//! Cost: a look at a word of the map for every sixty-four places passed; a run of 2^k is aligned to its size.
#![expect(unsafe_code, reason = "keeps its map in bare memory")]

use core::fmt;
use core::ptr::NonNull;

use super::store::Store;
use crate::lock::{Mutex, MutexGuard};
use crate::lock_order::class;
use crate::machine::Machine;
use crate::slab::{KmemCaches, NoMemory};
use crate::units::{Bytes, Count, FileOffset, Order, PageIndex, StoreSlot};

/// The swap store and its places.
pub(super) struct Swap<'a, M: Machine> {
    store: &'a dyn Store,
    caches: &'a KmemCaches<'a, M>,
    map: Mutex<class::SwapMap, Map>,
}

/// A bit for each place, set if it is taken.
struct Map {
    words: NonNull<u64>,
    places: u32,
    taken: u32,
    next: u32,
}

// SAFETY: the words are the map's alone.
unsafe impl Send for Map {}

const WORD_BITS: u32 = u64::BITS;

impl<'a, M: Machine> Swap<'a, M> {
    /// All places of a store, free.
    ///
    /// # Errors
    /// There is no memory for the map.
    pub(super) fn new(caches: &'a KmemCaches<'a, M>, store: &'a dyn Store) -> Result<Self, NoMemory> {
        let places = u32::try_from(store.size().page().0).unwrap_or(u32::MAX >> 1);
        let words = places.div_ceil(WORD_BITS) as usize;
        let map = caches.kmalloc(Bytes(words.max(1) * size_of::<u64>()))?.cast();
        for word in 0..words {
            // SAFETY: the object has room for that many.
            let place = unsafe { map.add(word) };
            // SAFETY: as above.
            unsafe { place.write(0_u64) };
        }
        Ok(Self { store, caches, map: Mutex::new(Map { words: map, places, taken: 0, next: 0 }) })
    }

    pub(super) const fn store(&self) -> &'a dyn Store {
        self.store
    }

    /// Where a place lies in the store.
    pub(super) fn offset(StoreSlot(slot): StoreSlot) -> FileOffset {
        PageIndex(u64::from(slot)).start()
    }

    fn lock(&self) -> MutexGuard<'_, Map> {
        self.map.lock(self.caches.pages.machine())
    }

    /// Takes a run of places for a folio; `None` if there is none.
    pub(super) fn take(&self, order: Order) -> Option<StoreSlot> {
        self.lock().take(order).map(StoreSlot)
    }

    /// Gives a run of places back.
    pub(super) fn release(&self, StoreSlot(first): StoreSlot, Count(places): Count) {
        let mut map = self.lock();
        (first..first + places).for_each(|place| map.clear(place));
    }

    /// Places taken.
    pub(super) fn taken(&self) -> Count {
        Count(self.lock().taken)
    }
}

impl Map {
    fn place_of(&self, place: u32) -> NonNull<u64> {
        assert!(place < self.places, "invariant CACHE-4 broken: there is no place {place} in the swap store");
        // SAFETY: the map has a word for each place.
        unsafe { self.words.add((place / WORD_BITS) as usize) }
    }

    fn word(&self, place: u32) -> u64 {
        // SAFETY: the words are the map's alone.
        unsafe { self.place_of(place).read() }
    }

    fn set_word(&mut self, place: u32, word: u64) {
        // SAFETY: as above.
        unsafe { self.place_of(place).write(word) };
    }

    fn take(&mut self, order: Order) -> Option<u32> {
        let run = order.pages();
        let start = self.next.next_multiple_of(run).min(self.places);
        let behind = (start..self.places).step_by(run as usize);
        let before = (0..start).step_by(run as usize);
        let found = behind.chain(before).find(|&first| first + run <= self.places && self.is_free(first, run))?;
        (found..found + run).for_each(|place| self.set_word(place, self.word(place) | 1 << (place % WORD_BITS)));
        self.taken += run;
        self.next = found + run;
        Some(found)
    }

    fn is_free(&self, first: u32, run: u32) -> bool {
        (first..first + run).step_by(WORD_BITS as usize).all(|place| {
            let bits = if run >= WORD_BITS { u64::MAX } else { ((1 << run) - 1) << (place % WORD_BITS) };
            self.word(place) & bits == 0
        })
    }

    fn clear(&mut self, place: u32) {
        let bit = 1 << (place % WORD_BITS);
        let word = self.word(place);
        assert!(word & bit != 0, "invariant CACHE-4 broken: place {place} of the swap store is given back twice");
        self.set_word(place, word & !bit);
        self.taken -= 1;
    }
}

impl<M: Machine> Drop for Swap<'_, M> {
    fn drop(&mut self) {
        // SAFETY: the object came from there, and nothing refers to it any more.
        let freed = unsafe { self.caches.kfree(self.map.get_mut().words.cast()) };
        debug_assert!(freed.is_ok(), "invariant SLAB-1 broken: the map of the swap store cannot be freed");
    }
}

impl<M: Machine> fmt::Debug for Swap<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let map = self.lock();
        write!(f, "Swap({} of {} places taken)", map.taken, map.places)
    }
}
