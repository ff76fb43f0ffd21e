//! A hosted machine's memory goes to one allocator.
#![expect(unsafe_code, reason = "the machine knows that nobody else uses its memory")]

use core::sync::atomic::Ordering;

use super::HostMachine;
use crate::boot_map::BootMap;
use crate::machine::Geometry;
use crate::page::{PageAllocator, SetupError};

impl<G: Geometry> HostMachine<G> {
    /// The allocator of what a boot map calls usable of this machine's memory.
    ///
    /// # Errors
    /// See [`PageAllocator::new`].
    ///
    /// # Panics
    /// The machine's memory went to an allocator before, or ends below the map's.
    pub fn allocator<const CAPACITY: usize>(
        &self,
        map: &mut BootMap<CAPACITY>,
    ) -> Result<PageAllocator<'_, Self>, SetupError> {
        assert!(!self.is_lent.swap(true, Ordering::Relaxed), "a machine's memory goes to one allocator");
        // SAFETY: MACHINE-MEMORY, all of a hosted machine's memory exists, and was nobody's so far.
        unsafe { PageAllocator::new(self, map) }
    }
}
