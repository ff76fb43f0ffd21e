//! What all buffers of one size share: the memory of their bytes and descriptors, their trees' nodes, their generations.
//!
//! Invariants: BUF-4 (no mapping outlives the cache, as its lists lead to buffers, these to mappings, and these to the cache: it is
//! pinned before there is one, so that it stays where it is until it is dropped, and then there must be none).

use core::fmt;
use core::marker::PhantomPinned;
use core::sync::atomic::{AtomicU64, Ordering};

use super::lru::Lru;
use crate::cache::Generation;
use crate::machine::Machine;
use crate::slab::{CacheSpec, CreateError, KmemCache, KmemCaches, descriptors};
use crate::tree::TreeNodes;
use crate::units::Count;

/// How large a buffer is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BufferSize {
    /// 512 bytes.
    Bytes512,
    /// 1 KiB.
    Kib1,
    /// 2 KiB.
    Kib2,
}

impl BufferSize {
    /// Every size.
    pub const ALL: [Self; 3] = [Self::Bytes512, Self::Kib1, Self::Kib2];

    /// log2 of the bytes.
    pub(super) const fn shift(self) -> u32 {
        match self {
            Self::Bytes512 => 9,
            Self::Kib1 => 10,
            Self::Kib2 => 11,
        }
    }

    pub(super) const fn bytes(self) -> usize {
        1 << self.shift()
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Bytes512 => "buffer_512",
            Self::Kib1 => "buffer_1k",
            Self::Kib2 => "buffer_2k",
        }
    }
}

/// The buffers of one size. If somebody forgot a mapping, the machine stops when this is dropped.
pub struct BufferCache<'a, M: Machine> {
    pub(super) caches: &'a KmemCaches<'a, M>,
    pub(super) size: BufferSize,
    pub(super) data: KmemCache<'a, M>,
    pub(super) descriptors: KmemCache<'a, M>,
    pub(super) nodes: TreeNodes<'a, M>,
    pub(super) lru: Lru,
    /// Mappings that there are.
    pub(super) mappings: AtomicU64,
    /// Mappings lead to it.
    _looked_at: PhantomPinned,
}

/// The buffers of one size at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BufferReport {
    /// Buffers of the generation that goes first.
    pub inactive: Count,
    /// Of the other one.
    pub active: Count,
    /// Pages of their bytes, of free ones too.
    pub pages: Count,
}

impl<'a, M: Machine> BufferCache<'a, M> {
    pub(super) const fn machine(&self) -> &'a M {
        self.caches.pages.machine()
    }

    /// A cache without buffers.
    ///
    /// # Errors
    /// There is no memory for it.
    pub fn new(caches: &'a KmemCaches<'a, M>, size: BufferSize) -> Result<Self, CreateError> {
        let bytes = 1 << size.shift();
        Ok(Self {
            caches,
            size,
            data: caches.create(CacheSpec::new(size.name(), bytes).aligned(bytes))?,
            descriptors: caches.create(descriptors::<super::Buffer>("buffer"))?,
            nodes: TreeNodes::new(caches)?,
            lru: Lru::new(),
            mappings: AtomicU64::new(0),
            _looked_at: PhantomPinned,
        })
    }

    /// What there is.
    pub fn report(&self) -> BufferReport {
        BufferReport {
            inactive: self.lru.count(self.machine(), Generation::Inactive),
            active: self.lru.count(self.machine(), Generation::Active),
            pages: self.data.report().pages(),
        }
    }

    /// Does what may lack memory until it does not, or nothing is to be had any more.
    pub(super) fn with_reclaim<T, E>(&self, attempt: impl FnMut() -> Result<T, E>) -> Result<T, E> {
        self.caches.pages.with_reclaim(attempt)
    }
}

impl<M: Machine> Drop for BufferCache<'_, M> {
    fn drop(&mut self) {
        // Acquire pairs with the release of the last mapping that went.
        let left = self.mappings.load(Ordering::Acquire);
        if left > 0 {
            forgotten(left);
        }
    }
}

/// Stops for good, whoever would catch the panic: buffers would lead to what is gone.
extern "C" fn forgotten(mappings: u64) -> ! {
    panic!("invariant BUF-4 broken: a cache of buffers goes, but {mappings} mappings do not");
}

impl<M: Machine> fmt::Debug for BufferCache<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BufferCache").field("size", &self.size).field("lru", &self.lru).finish_non_exhaustive()
    }
}
