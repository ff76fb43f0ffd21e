//! What is measured: page allocators behind one small trait, each with as much memory.

mod bitmap;
mod buddy_slab;
mod buddy_system;
mod depot;
mod heaps;
mod ours;
mod stack;

pub(crate) use bitmap::Bitmap;
pub(crate) use buddy_slab::BuddySlab;
pub(crate) use buddy_system::BuddySystem;
pub(crate) use depot::Depot;
pub(crate) use heaps::{LinkedList, Talc};
pub(crate) use ours::Ours;
pub(crate) use stack::Stack;

use std::sync::Arc;

use mm::migratetype::Migratetype;
use mm::units::Order;

use crate::memory::Memory;

/// Where a block is, in whatever its allocator counts in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Place(pub(crate) usize);

/// A page allocator that can be made here.
pub(crate) trait Contender: Sized {
    /// Takes over memory, of which some may be lost to what it needs itself.
    fn new(memory: &Arc<Memory>) -> anyhow::Result<Self>;

    /// Bytes of its memory that it spends on itself, if it knows.
    fn metadata(&self) -> Option<u64> {
        None
    }
}

/// A page allocator that one thread at a time uses.
pub(crate) trait Pages {
    /// A block of 2^order pages, aligned to its size. Only ours asks what its pages can do.
    fn alloc(&mut self, order: Order, migratetype: Migratetype) -> Option<Place>;

    /// Gives one back.
    fn free(&mut self, place: Place, order: Order);

    /// Gives what is kept at hand to whoever asks for large blocks next.
    fn settle(&mut self) {}
}

/// A page allocator that threads share.
pub(crate) trait Shared: Sync {
    /// See [`Pages::alloc`].
    fn alloc(&self, order: Order, migratetype: Migratetype) -> Option<Place>;

    /// See [`Pages::free`].
    fn free(&self, place: Place, order: Order);

    /// See [`Pages::settle`].
    fn settle(&self) {}
}

/// What threads share, one can use.
impl<S: Shared> Pages for S {
    #[inline]
    fn alloc(&mut self, order: Order, migratetype: Migratetype) -> Option<Place> {
        Shared::alloc(self, order, migratetype)
    }

    #[inline]
    fn free(&mut self, place: Place, order: Order) {
        Shared::free(self, place, order);
    }

    fn settle(&mut self) {
        Shared::settle(self);
    }
}

/// A thread's share of it.
impl<S: Shared> Shared for &S {
    #[inline]
    fn alloc(&self, order: Order, migratetype: Migratetype) -> Option<Place> {
        S::alloc(self, order, migratetype)
    }

    #[inline]
    fn free(&self, place: Place, order: Order) {
        S::free(self, place, order);
    }

    fn settle(&self) {
        S::settle(self);
    }
}

/// A page allocator behind a spin lock, which one thread takes though nobody else wants it.
pub(crate) struct Locked<P>(spin::Mutex<P>);

impl<C: Contender> Contender for Locked<C> {
    fn new(memory: &Arc<Memory>) -> anyhow::Result<Self> {
        Ok(Self(spin::Mutex::new(C::new(memory)?)))
    }
}

impl<P: Pages + Send> Shared for Locked<P> {
    #[inline]
    fn alloc(&self, order: Order, migratetype: Migratetype) -> Option<Place> {
        self.0.lock().alloc(order, migratetype)
    }

    #[inline]
    fn free(&self, place: Place, order: Order) {
        self.0.lock().free(place, order);
    }

    fn settle(&self) {
        self.0.lock().settle();
    }
}
