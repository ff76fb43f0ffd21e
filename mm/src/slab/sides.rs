//! The sides of a cache, one for each CPU, in a row that is an object of a cache of its own.
//!
//! Whoever allocates or frees needs this row, and nothing else of the cache as long as there is something at hand. So
//! slabs and the classes of `kmalloc` know it as well.
#![expect(unsafe_code, reason = "finds a CPU's side by its number")]

use core::cell::Cell;
use core::num::NonZeroU16;
use core::ptr::NonNull;
use core::slice;

use super::cache::Cache;
use super::caches::{KmemCaches, NoMemory};
use super::cpu::CpuSheaf;
use super::refill::Patience;
use crate::machine::Machine;
use crate::undo::Undo;
use crate::units::CpuId;

/// Where the sides of a cache are: as good as `'static` while the cache lives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(transparent)]
pub(super) struct Sides(NonNull<CpuSheaf>);

impl Sides {
    /// Those of a cache that is only planned.
    pub(super) const NONE: Self = Self(NonNull::dangling());

    /// # Safety
    /// From there on is a side for each CPU of the machine, and stays while anybody asks for one.
    pub(super) const unsafe fn new(first: NonNull<CpuSheaf>) -> Self {
        Self(first)
    }

    /// This CPU's.
    #[inline(always)]
    pub(super) fn of(&self, CpuId(cpu): CpuId) -> &CpuSheaf {
        // SAFETY: there is one for each CPU, and MACHINE-CPU says that this is one.
        let place = unsafe { self.0.add(usize::from(cpu)) };
        // SAFETY: it was written when the cache was made, and is shared.
        unsafe { place.as_ref() }
    }

    /// Every CPU's.
    pub(super) const fn all(&self, cpus: NonZeroU16) -> &[CpuSheaf] {
        // SAFETY: there is one for each CPU, written when the cache was made.
        unsafe { slice::from_raw_parts(self.0.as_ptr(), cpus.get() as usize) }
    }
}

impl<M: Machine> KmemCaches<'_, M> {
    /// Makes the sides of a cache, with a sheaf each if sheaves have room for any object.
    pub(super) fn new_sides(&self, cache: &Cache) -> Result<Sides, NoMemory> {
        let sheaf_objects = cache.sheaf_objects;
        let sides = self.alloc_for(self.first.cpus, Patience::Waits)?.cast::<CpuSheaf>();
        let made = Cell::new(0);
        let unused = Undo::new(|| self.free_first_sides(sides, made.get()));
        for cpu in 0..usize::from(self.cpus.get()) {
            // Addresses in a debugged cache are all looked at closely.
            let mask = if cache.watch.is_some() { usize::MAX } else { cache.layout.address_mask() };
            let mut side = CpuSheaf::closed(mask);
            if sheaf_objects > 0 {
                side.start(self.new_sheaf(Patience::Waits)?, sheaf_objects);
            }
            // SAFETY: the object has room for a side of each CPU.
            let place = unsafe { sides.add(cpu) };
            // SAFETY: the place is the new cache's alone.
            unsafe { place.write(side) };
            made.set(cpu + 1);
        }
        unused.forget();
        // SAFETY: just written, for each CPU.
        Ok(unsafe { Sides::new(sides) })
    }

    /// Takes back sides that are closed or were never used.
    pub(super) fn free_sides(&self, sides: Sides) {
        self.free_first_sides(sides.0, usize::from(self.cpus.get()));
    }

    /// The same, of which only the first `made` were.
    fn free_first_sides(&self, sides: NonNull<CpuSheaf>, made: usize) {
        for cpu in 0..made {
            // SAFETY: the object has room for a side of each CPU.
            let place = unsafe { sides.add(cpu) };
            // SAFETY: this one was written, and nobody uses it any more.
            let mut side = unsafe { place.read() };
            for sheaf in side.dismantle().into_iter().flatten() {
                self.free_for(self.first.sheaves, sheaf.cast());
            }
        }
        self.free_for(self.first.cpus, sides.cast());
    }
}
