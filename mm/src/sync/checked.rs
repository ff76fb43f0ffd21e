//! Atomics of a model, which know where they are used from.
//!
//! Under loom they are its own, and each asks in which order it is to be had ([`weaken`](super::weaken)): so one build of the
//! models can be run with any of the orderings weakened. Under shuttle they are the core library's, as large as those, so
//! that all of the allocator is what it always is; in front of each, another CPU may come.

use core::panic::Location;

#[cfg(shuttle)]
use core::sync::atomic as inner;
#[cfg(loom)]
use loom::sync::atomic as inner;

#[cfg(loom)]
use super::weaken::{weakened, weakened_fence};

pub(crate) use inner::Ordering;

#[cfg(shuttle)]
fn weakened(order: Ordering, _: &Location<'_>) -> Ordering {
    super::others_may_come();
    order
}

#[cfg(shuttle)]
fn weakened_fence(order: Ordering, _: &Location<'_>) -> Option<Ordering> {
    Some(order)
}

/// A fence, unless it is the one that is left out.
#[track_caller]
pub(crate) fn fence(order: Ordering) {
    if let Some(order) = weakened_fence(order, Location::caller()) {
        inner::fence(order);
    }
}

macro_rules! atomics {
    ($($atomic:ident $(<$parameter:ident>)?: $value:ty;)+) => {
        $(
            #[repr(transparent)]
            pub(crate) struct $atomic $(<$parameter>)? (inner::$atomic $(<$parameter>)?);

            #[allow(dead_code, reason = "not every type is used in every way")]
            impl $(<$parameter>)? $atomic $(<$parameter>)? {
                #[track_caller]
                pub(crate) fn new(value: $value) -> Self {
                    Self(inner::$atomic::new(value))
                }

                #[track_caller]
                pub(crate) fn into_inner(self) -> $value {
                    self.0.into_inner()
                }

                #[track_caller]
                pub(crate) fn load(&self, order: Ordering) -> $value {
                    self.0.load(weakened(order, Location::caller()))
                }

                #[track_caller]
                pub(crate) fn store(&self, value: $value, order: Ordering) {
                    self.0.store(value, weakened(order, Location::caller()));
                }

                #[track_caller]
                pub(crate) fn swap(&self, value: $value, order: Ordering) -> $value {
                    self.0.swap(value, weakened(order, Location::caller()))
                }

                #[track_caller]
                pub(crate) fn compare_exchange(
                    &self,
                    current: $value,
                    new: $value,
                    success: Ordering,
                    failure: Ordering,
                ) -> Result<$value, $value> {
                    self.0.compare_exchange(current, new, weakened(success, Location::caller()), failure)
                }

                #[track_caller]
                pub(crate) fn compare_exchange_weak(
                    &self,
                    current: $value,
                    new: $value,
                    success: Ordering,
                    failure: Ordering,
                ) -> Result<$value, $value> {
                    self.0.compare_exchange_weak(current, new, weakened(success, Location::caller()), failure)
                }

                #[track_caller]
                pub(crate) fn fetch_update(
                    &self,
                    set: Ordering,
                    fetch: Ordering,
                    update: impl FnMut($value) -> Option<$value>,
                ) -> Result<$value, $value> {
                    self.0.fetch_update(weakened(set, Location::caller()), fetch, update)
                }
            }

            impl $(<$parameter>)? core::fmt::Debug for $atomic $(<$parameter>)? {
                fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                    self.0.fmt(f)
                }
            }
        )+
    };
}

macro_rules! read_modify_write {
    ($($atomic:ident: $value:ty;)+) => {
        $(
            #[allow(dead_code, reason = "not every type is used in every way")]
            impl $atomic {
                read_modify_write!(= $value: fetch_add fetch_sub fetch_or fetch_and fetch_xor);
            }
        )+
    };
    (= $value:ty: $($operation:ident)+) => {
        $(
            #[track_caller]
            pub(crate) fn $operation(&self, value: $value, order: Ordering) -> $value {
                self.0.$operation(value, weakened(order, Location::caller()))
            }
        )+
    };
}

atomics! {
    AtomicU32: u32;
    AtomicU64: u64;
    AtomicUsize: usize;
    AtomicPtr<T>: *mut T;
}

read_modify_write! {
    AtomicU32: u32;
    AtomicU64: u64;
    AtomicUsize: usize;
}
