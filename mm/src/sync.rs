//! Atomics for what CPUs do without a lock: the core library's; a model checker's under `cfg(loom)`; and under `cfg(shuttle)`
//! the core library's again, in front of each of which another CPU may come.

#[cfg(any(loom, shuttle))]
mod checked;
#[cfg(all(test, loom))]
mod orderings;
#[cfg(loom)]
mod weaken;

use crate::machine::{Begun, Machine};

#[cfg(any(loom, shuttle))]
pub(crate) use checked::{AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};
#[cfg(not(any(loom, shuttle)))]
pub(crate) use core::hint::spin_loop;
#[cfg(not(any(loom, shuttle)))]
pub(crate) use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};

#[cfg(loom)]
pub(crate) use loom::cell::UnsafeCell;
#[cfg(loom)]
pub(crate) use loom::hint::spin_loop;
#[cfg(shuttle)]
pub(crate) use shuttle::hint::spin_loop;

/// How a lock waits.
#[cfg(not(shuttle))]
pub(crate) use spin::relax::Spin as Waiting;

/// How a lock waits: others go on.
#[cfg(shuttle)]
#[derive(Debug)]
pub(crate) struct Waiting;

#[cfg(shuttle)]
impl spin::RelaxStrategy for Waiting {
    fn relax() {
        spin_loop();
    }
}

/// Before whatever other CPUs can see: where one of them comes in between, if somebody says which runs when.
#[inline(always)]
pub(crate) fn others_may_come() {
    #[cfg(shuttle)]
    shuttle_engine::runtime::thread::continuation::switch_if_not_stopping();
}

/// A cell that says when it is looked at and when written, as the model checker's does.
#[cfg(not(loom))]
#[derive(Debug)]
#[repr(transparent)]
pub(crate) struct UnsafeCell<T>(core::cell::UnsafeCell<T>);

#[cfg(not(loom))]
impl<T> UnsafeCell<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self(core::cell::UnsafeCell::new(value))
    }

    /// Shows where the value stands, to be read.
    #[inline(always)]
    pub(crate) fn with<R>(&self, look: impl FnOnce(*const T) -> R) -> R {
        look(self.0.get())
    }

    /// Shows where the value stands, to be written.
    #[inline(always)]
    pub(crate) fn with_mut<R>(&self, change: impl FnOnce(*mut T) -> R) -> R {
        change(self.0.get())
    }
}

/// The cheap side of an asymmetric barrier: it keeps the compiler from reordering; the other side's
/// [`Machine::heavy_barrier`](crate::machine::Machine::heavy_barrier) makes it a full fence on every CPU.
#[inline(always)]
#[cfg_attr(loom, track_caller)]
pub(crate) fn light_barrier() {
    #[cfg(not(any(loom, miri)))]
    core::sync::atomic::compiler_fence(Ordering::SeqCst);
    // A model checker and an interpreter know nothing of barriers that one CPU makes others do.
    #[cfg(any(loom, miri))]
    fence(Ordering::SeqCst);
}

/// Says of this CPU that it is busy: [`Machine::begin_local`], of atomics that may be a model checker's.
pub(crate) trait BeginsLocal {
    fn begin_local(&self, busy: &AtomicU32) -> Begun;
}

impl<M: Machine> BeginsLocal for M {
    #[cfg(not(any(loom, shuttle)))]
    #[inline(always)]
    fn begin_local(&self, busy: &AtomicU32) -> Begun {
        Machine::begin_local(self, busy)
    }

    #[cfg(any(loom, shuttle))]
    fn begin_local(&self, busy: &AtomicU32) -> Begun {
        Modelled.begin_local(busy)
    }
}

/// The machine of a model.
#[cfg(any(loom, shuttle))]
#[derive(Debug)]
pub(crate) struct Modelled;

#[cfg(all(test, loom))]
impl Modelled {
    /// The other side of [`light_barrier`].
    pub(crate) fn heavy_barrier(&self) {
        fence(Ordering::SeqCst);
    }
}

#[cfg(any(loom, shuttle))]
impl BeginsLocal for Modelled {
    fn begin_local(&self, busy: &AtomicU32) -> Begun {
        if busy.load(Ordering::Relaxed) != 0 {
            return Begun::Before;
        }
        busy.store(1, Ordering::Relaxed);
        Begun::Here
    }
}
