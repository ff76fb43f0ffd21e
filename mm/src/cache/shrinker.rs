//! Who gives memory back when there is too little.
//!
//! Source: Linux's `struct shrinker`.

use core::fmt;

use crate::machine::Machine;
use crate::slab::KmemCaches;
use crate::units::Count;

/// Something that holds memory which it can do without.
pub trait Shrinker: Sync + fmt::Debug {
    /// About how many pages could be given back.
    fn reclaimable(&self) -> Count;

    /// Gives pages back, about as many as are wanted. Says how many. It must not allocate but what it can do without, and
    /// takes no lock that a caller of the page allocator may hold, but by trying.
    fn shrink(&self, wanted: Count) -> Count;
}

impl<M: Machine> Shrinker for KmemCaches<'_, M> {
    fn reclaimable(&self) -> Count {
        self.pages_held()
    }

    fn shrink(&self, _wanted: Count) -> Count {
        KmemCaches::shrink(self)
    }
}
