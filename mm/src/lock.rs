//! Locks that know their class: in builds with debug assertions, taking one where the order (`lock_order`) does not allow
//! it stops the machine.
//!
//! Cost: `spin`'s; with debug assertions, what `lock_order` costs.

use core::fmt;
use core::marker::PhantomData;
use core::ops::{Deref, DerefMut};

use crate::image;
use crate::lock_order::Class;
#[cfg(debug_assertions)]
use crate::lock_order::{HeldLocks, LockClass};
use crate::machine::Machine;
use crate::sync::{Waiting, others_may_come};

/// A spin lock of a class.
pub struct Mutex<C, T> {
    class: PhantomData<fn() -> C>,
    lock: spin::mutex::Mutex<T, Waiting>,
}

/// A spin lock of a class, which any number may share to read.
pub struct RwLock<C, T> {
    class: PhantomData<fn() -> C>,
    lock: spin::rwlock::RwLock<T, Waiting>,
}

/// A [`Mutex`] held.
pub struct MutexGuard<'l, T> {
    // Given up in this order: so that what is counted is never less than what is held.
    guard: spin::mutex::MutexGuard<'l, T, Waiting>,
    _held: Held<'l>,
}

/// An [`RwLock`] held to read.
pub struct ReadGuard<'l, T> {
    guard: spin::rwlock::RwLockReadGuard<'l, T, Waiting>,
    _held: Held<'l>,
}

/// An [`RwLock`] held to write.
pub struct WriteGuard<'l, T> {
    guard: spin::rwlock::RwLockWriteGuard<'l, T, Waiting>,
    _held: Held<'l>,
}

/// A lock among those that a CPU holds.
#[cfg(debug_assertions)]
struct Held<'l> {
    locks: &'l HeldLocks,
    class: LockClass,
}

#[cfg(not(debug_assertions))]
struct Held<'l>(PhantomData<&'l ()>);

#[cfg(debug_assertions)]
impl<'l> Held<'l> {
    #[track_caller]
    fn waited_for<C: Class>(machine: &'l impl Machine) -> Self {
        machine.held_locks().check_order(C::CLASS, machine.context());
        Self::add::<C>(machine)
    }

    #[track_caller]
    fn tried<C: Class>(machine: &'l impl Machine) -> Self {
        machine.held_locks().check_context(C::CLASS, machine.context());
        Self::add::<C>(machine)
    }

    fn add<C: Class>(machine: &'l impl Machine) -> Self {
        let locks = machine.held_locks();
        locks.add(C::CLASS);
        Self { locks, class: C::CLASS }
    }
}

#[cfg(debug_assertions)]
impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.locks.remove(self.class);
    }
}

#[cfg(not(debug_assertions))]
impl<'l> Held<'l> {
    #[inline(always)]
    fn waited_for<C: Class>(_: &'l impl Machine) -> Self {
        Self(PhantomData)
    }

    #[inline(always)]
    fn tried<C: Class>(_: &'l impl Machine) -> Self {
        Self(PhantomData)
    }
}

/// Says that a lock of the class may be waited for here, where it is none of these: a bit in what it guards.
#[inline(always)]
#[track_caller]
pub(crate) fn may_wait<C: Class>(machine: &impl Machine) {
    drop(Held::waited_for::<C>(machine));
}

impl<C: Class, T> Mutex<C, T> {
    /// Guards a value.
    pub const fn new(value: T) -> Self {
        Self { class: PhantomData, lock: spin::mutex::Mutex::new(value) }
    }

    /// Takes the lock. Spins.
    #[inline(always)]
    #[track_caller]
    pub fn lock<'l>(&'l self, machine: &'l impl Machine) -> MutexGuard<'l, T> {
        let held = Held::waited_for::<C>(machine);
        others_may_come();
        MutexGuard { guard: self.lock.lock(), _held: held }
    }

    /// Takes the lock if nobody has it.
    #[inline(always)]
    #[track_caller]
    pub fn try_lock<'l>(&'l self, machine: &'l impl Machine) -> Option<MutexGuard<'l, T>> {
        let held = Held::tried::<C>(machine);
        others_may_come();
        self.lock.try_lock().map(|guard| MutexGuard { guard, _held: held })
    }

    /// The value, which nobody else can reach.
    pub fn get_mut(&mut self) -> &mut T {
        self.lock.get_mut()
    }

    /// Where in such a lock the value stands, and the byte that is 1 while it is held: what is beside the value.
    pub(crate) fn places(mut self) -> LockPlaces {
        let value = core::ptr::from_mut(self.lock.get_mut());
        let value = image::distance(&self, value);
        LockPlaces { value, held: if value == 0 { size_of::<T>() } else { 0 } }
    }
}

/// How a lock is laid out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct LockPlaces {
    /// Where the value begins.
    pub(crate) value: usize,
    /// The byte that says whether the lock is held.
    pub(crate) held: usize,
}

impl<C: Class, T> RwLock<C, T> {
    /// Guards a value.
    pub const fn new(value: T) -> Self {
        Self { class: PhantomData, lock: spin::rwlock::RwLock::new(value) }
    }

    /// Takes the lock to read. Spins.
    #[inline(always)]
    #[track_caller]
    pub fn read<'l>(&'l self, machine: &'l impl Machine) -> ReadGuard<'l, T> {
        let held = Held::waited_for::<C>(machine);
        others_may_come();
        ReadGuard { guard: self.lock.read(), _held: held }
    }

    /// Takes the lock to write. Spins.
    #[inline(always)]
    #[track_caller]
    pub fn write<'l>(&'l self, machine: &'l impl Machine) -> WriteGuard<'l, T> {
        let held = Held::waited_for::<C>(machine);
        others_may_come();
        WriteGuard { guard: self.lock.write(), _held: held }
    }

    /// The value, which nobody else can reach.
    pub fn get_mut(&mut self) -> &mut T {
        self.lock.get_mut()
    }
}

macro_rules! guard {
    ($($guard:ident $(, $mutable:ident)?;)+) => {
        $(
            impl<T> Deref for $guard<'_, T> {
                type Target = T;

                #[inline(always)]
                fn deref(&self) -> &T {
                    &self.guard
                }
            }

            impl<T: fmt::Debug> fmt::Debug for $guard<'_, T> {
                fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    (**self).fmt(f)
                }
            }

            $(
                impl<T> $mutable for $guard<'_, T> {
                    #[inline(always)]
                    fn deref_mut(&mut self) -> &mut T {
                        &mut self.guard
                    }
                }
            )?
        )+
    };
}

guard! {
    MutexGuard, DerefMut;
    WriteGuard, DerefMut;
    ReadGuard;
}

impl<C: Class, T> fmt::Debug for Mutex<C, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mutex({:?})", C::CLASS)
    }
}

impl<C: Class, T> fmt::Debug for RwLock<C, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RwLock({:?})", C::CLASS)
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
