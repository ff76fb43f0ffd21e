//! What is done to memory that nobody uses, against those who use it all the same.
//!
//! The words are those of Linux's command line. All of them are off unless a machine [says so](crate::machine::Machine::hardening),
//! and then cost nothing.

use bitflags::bitflags;

bitflags! {
    /// What is done to free memory.
    #[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
    pub struct Hardening: u8 {
        /// `page_poison`: a free page is filled with [`PAGE_POISON`](crate::poison::PAGE_POISON), and whoever wrote to it is told
        /// of when it is allocated.
        const PAGE_POISON = 1;
        /// `init_on_alloc`: pages and objects are zero when they are allocated.
        const INIT_ON_ALLOC = 1 << 1;
        /// `init_on_free`: nothing is left in pages and objects that are freed, and they are zero when they are allocated.
        const INIT_ON_FREE = 1 << 2;
        /// `page_alloc.shuffle`: at boot, free blocks come into a random order.
        const SHUFFLE_PAGES = 1 << 3;
        /// `slab_freelist_random`: objects leave their slabs in a random order. Linux's `CONFIG_SLAB_FREELIST_RANDOM`.
        const SHUFFLE_OBJECTS = 1 << 4;
        /// `debug_pagealloc`: free pages cannot be reached in the direct map, so that whoever uses one faults.
        const DEBUG_PAGEALLOC = 1 << 5;
    }
}

impl Hardening {
    /// Whether objects are zeroed, so that none may go from hand to hand as it is.
    pub(crate) const fn initializes(self) -> bool {
        self.intersects(Self::INIT_ON_ALLOC.union(Self::INIT_ON_FREE))
    }

    /// Whether something is done to pages, so that none may go from hand to hand as it is.
    pub(crate) const fn treats_pages(self) -> bool {
        let contents = Self::PAGE_POISON.union(Self::INIT_ON_ALLOC).union(Self::INIT_ON_FREE);
        self.intersects(contents.union(Self::DEBUG_PAGEALLOC))
    }
}
