//! Atomics for what CPUs do without a lock: the core library's, or a model checker's under `cfg(loom)`.

#[cfg(not(loom))]
pub(crate) use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};
#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};

/// The cheap side of an asymmetric barrier: it keeps the compiler from reordering; the other side's
/// [`Machine::heavy_barrier`](crate::machine::Machine::heavy_barrier) makes it a full fence on every CPU.
#[inline(always)]
pub(crate) fn light_barrier() {
    #[cfg(not(loom))]
    core::sync::atomic::compiler_fence(Ordering::SeqCst);
    #[cfg(loom)]
    fence(Ordering::SeqCst);
}
