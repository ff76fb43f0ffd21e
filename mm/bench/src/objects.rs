//! What is measured besides page allocators: allocators of objects smaller than a page.

mod caches;
mod heaps;
mod process;

pub(crate) use caches::Kmalloc;
pub(crate) use heaps::{LinkedList, Slabs, Talc};
pub(crate) use process::{Glibc, Mimalloc};

/// Bytes of an object.
pub(crate) const SIZE: usize = 64;

/// An allocator of objects of [`SIZE`].
pub(crate) trait Objects {
    /// What its user holds of an object.
    type Object;

    /// An object.
    fn alloc(&mut self) -> Option<Self::Object>;

    /// Gives one back.
    fn free(&mut self, object: Self::Object);
}
