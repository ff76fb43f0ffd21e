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

use mm::units::Order;

use crate::memory::Memory;

/// Where a block is, in whatever its allocator counts in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Place(pub(crate) usize);

/// A page allocator that one thread at a time uses.
pub(crate) trait Pages {
    /// Takes over memory, of which some may be lost to what it needs itself.
    fn new(memory: &Arc<Memory>) -> anyhow::Result<Self>
    where
        Self: Sized;

    /// A block of 2^order pages, aligned to its size.
    fn alloc(&mut self, order: Order) -> Option<Place>;

    /// Gives one back.
    fn free(&mut self, place: Place, order: Order);

    /// Gives what is kept at hand to whoever asks for large blocks next.
    fn settle(&mut self) {}
}

/// A page allocator that threads share.
pub(crate) trait Shared: Sync {
    /// See [`Pages::alloc`].
    fn alloc(&self, order: Order) -> Option<Place>;

    /// See [`Pages::free`].
    fn free(&self, place: Place, order: Order);
}

/// A page allocator behind a spin lock.
pub(crate) struct Locked<P>(spin::Mutex<P>);

impl<P: Pages + Send> Shared for Locked<P> {
    #[inline]
    fn alloc(&self, order: Order) -> Option<Place> {
        self.0.lock().alloc(order)
    }

    #[inline]
    fn free(&self, place: Place, order: Order) {
        self.0.lock().free(place, order);
    }
}

/// The same for one thread, which takes the lock though nobody else wants it.
impl<P: Pages> Pages for Locked<P> {
    fn new(memory: &Arc<Memory>) -> anyhow::Result<Self> {
        Ok(Self(spin::Mutex::new(P::new(memory)?)))
    }

    #[inline]
    fn alloc(&mut self, order: Order) -> Option<Place> {
        self.0.lock().alloc(order)
    }

    #[inline]
    fn free(&mut self, place: Place, order: Order) {
        self.0.lock().free(place, order);
    }

    fn settle(&mut self) {
        self.0.lock().settle();
    }
}
