//! The way back: empty slabs to the page allocator, whole caches to nothing.
//!
//! Slabs of descriptors go only while nobody walks: whoever walks may be looking at one (`descriptor`).
#![expect(unsafe_code, reason = "takes caches apart")]

use core::convert::Infallible;
use core::ptr::NonNull;

use super::cache::{Cache, Stability};
use super::caches::{KmemCaches, live};
use super::debug::{History, Watch};
use super::descriptor::SlabPointer;
use super::free::Address;
use super::lists::{Place, SlabList};
use super::sheaf::SheafStack;
use crate::desc::owner_word::OwnerWord;
use crate::descriptor::Described;
use crate::machine::Machine;
use crate::shrinker::{Shortage, Shrinker};
use crate::units::Count;

impl<M: Machine> KmemCaches<'_, M> {
    /// Gives back all memory of all caches that holds no allocated object. Says how many pages.
    pub fn shrink(&self) -> Count {
        // Descriptors of slabs come free when other caches' slabs go, so their cache comes last; it is one of the oldest.
        let mut pages = 0;
        let Ok(()) = self.try_for_each_cache(|cache| {
            if NonNull::from(cache) != self.first.slabs {
                pages += self.shrink_cache(cache);
            }
            Ok::<_, Infallible>(())
        });
        // SAFETY: the first caches live as long as `self`.
        Count(pages + self.shrink_cache(unsafe { live(self.first.slabs) }))
    }

    /// Gives back a cache's empty slabs, once everything in sheaves is in slabs again. Says how many pages.
    pub(super) fn shrink_cache(&self, cache: &Cache) -> u32 {
        let gathered = self.gather(cache);
        let mut spare_sheaves =
            self.with_slabs(cache, |slabs| core::mem::replace(&mut slabs.empty_sheaves, SheafStack::new()));
        while let Some(sheaf) = spare_sheaves.pop() {
            self.free_for(self.first.sheaves, sheaf.cast());
        }
        let mut empty = SlabList::new();
        self.with_slabs(cache, |slabs| slabs.take_empty(0, &mut empty));
        // INVARIANT: DESC-1, no page names a descriptor in these slabs from here on: each was cleared before its descriptor was
        // freed, and a slab that describes itself is now.
        let mut empty = self.unname(empty);
        // Who walks may have found one before.
        if cache.stability == Stability::TypeStable && !self.pages.gate().is_quiet() {
            while let Some(slab) = empty.pop() {
                self.name(slab);
                self.with_slabs(cache, |slabs| slabs.add(slab, &cache.layout));
            }
            return gathered;
        }
        gathered + self.give_up(empty)
    }

    /// Gives up a cache whose handle goes.
    ///
    /// # Errors
    /// Objects of it are allocated.
    pub(super) fn destroy_cache(&self, place: NonNull<Cache>) -> Result<(), Leak> {
        // SAFETY: the caller has the cache's handle.
        let cache = unsafe { live(place) };
        // Who looks through all caches may have some of this one's objects, or slabs, in hand, but not while this is held.
        let mut all = self.all.lock(self.pages.machine());
        self.shrink_cache(cache);
        if let Some(leak) = self.leak(cache) {
            return Err(leak);
        }
        self.release_isolated(cache);
        // Slabs of descriptors stay as long as anybody walks, and so must their cache. Bringing their objects back gives up none.
        while self.shrink_cache(cache) == 0 && self.with_slabs(cache, |slabs| slabs.count()) > 0 {
            drop(all);
            crate::sync::spin_loop();
            all = self.all.lock(self.pages.machine());
        }
        all.remove(place);
        drop(all);
        self.free_sides(cache.sides);
        self.free_for(self.first.caches, place.cast());
        Ok(())
    }

    /// Objects that are allocated once nothing is in sheaves.
    fn leak(&self, cache: &Cache) -> Option<Leak> {
        self.with_slabs(cache, |slabs| {
            let objects = slabs.taken - cache.watch.as_ref().map_or(0, Watch::isolated);
            let (first, history) = self.first_allocated(cache, slabs)?;
            Some(Leak { objects, first, history })
        })
    }
}

impl<M: Machine> Shrinker for KmemCaches<'_, M> {
    fn reclaimable(&self) -> Count {
        if self.is_being_looked_through() { Count(0) } else { self.pages_held() }
    }

    fn shrink(&self, _shortage: &Shortage) -> Count {
        if self.is_being_looked_through() { Count(0) } else { KmemCaches::shrink(self) }
    }
}

impl<M: Machine> KmemCaches<'_, M> {
    /// Whether somebody looks through all caches, who may be the very one that lacks memory.
    fn is_being_looked_through(&self) -> bool {
        self.all.try_lock(self.pages.machine()).is_none()
    }
}

/// Objects that somebody has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Leak {
    /// How many.
    pub(super) objects: u32,
    /// Where one is.
    pub(super) first: Address,
    /// Who has that, if it was recorded.
    pub(super) history: History,
}

/// What a slab says of itself, whose descriptor's own page has not been freed yet.
fn described(slab: SlabPointer) -> Option<Described> {
    // SAFETY: the slab was on a list of its cache.
    unsafe { slab.as_ref() }.life().look()
}

impl<M: Machine> Drop for KmemCaches<'_, M> {
    /// Every page of every slab goes back, once nobody walks; but for the slabs of descriptors that an owner still has,
    /// who was forgotten: pages lead there. Large blocks of `kmalloc` are on no list, and stay allocated. The slabs of slabs'
    /// descriptors come last: what the others say of themselves stands there.
    fn drop(&mut self) {
        let mut others = SlabList::new();
        let mut of_slabs = SlabList::new();
        for place in self.all.lock(self.pages.machine()).iter() {
            // SAFETY: caches on the list are alive until their pages go.
            let cache = unsafe { live(place) };
            let list = if place == self.first.slabs { &mut of_slabs } else { &mut others };
            let _interrupts = self.pages.machine().disable_interrupts();
            let mut slabs = cache.slabs.lock(self.pages.machine());
            let forgotten = cache.stability == Stability::TypeStable && place != self.first.slabs;
            for place in Place::ALL {
                while let Some(slab) = slabs.list(place).pop() {
                    if let Some(described) = described(slab) {
                        self.check_names(slab, described);
                        self.pages.set_owner(described.range(), OwnerWord::PLAIN);
                    }
                    if place == Place::Empty || !forgotten {
                        list.push(slab);
                    }
                }
            }
        }
        while !self.pages.gate().is_quiet() {
            crate::sync::spin_loop();
        }
        for mut list in [others, of_slabs] {
            while let Some(slab) = list.pop() {
                let Some(described) = described(slab) else { continue };
                // SAFETY: nothing can refer to these caches' objects any more.
                let freed = unsafe { self.pages.free_raw(described.head) };
                debug_assert_eq!(freed, Ok(()), "invariant DESC-1 broken: a slab's block cannot be freed");
            }
        }
    }
}
