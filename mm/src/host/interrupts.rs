//! What a hosted CPU knows of interrupts: how often they were turned off, whose work it does, and the locks it holds.
//!
//! Only the thread that plays the CPU touches this, and what interrupts it leaves it as it was.

use core::fmt;
use core::marker::PhantomData;
use core::sync::atomic::{AtomicU32, Ordering};

use crate::lock_order::{Context, HeldLocks, Interrupts, Work};

/// A CPU's side.
#[derive(Debug)]
pub(super) struct State {
    off: AtomicU32,
    handlers: AtomicU32,
    pub(super) held: HeldLocks,
}

/// Keeps interrupts off until dropped.
#[must_use = "interrupts are on again as soon as this drops"]
pub struct InterruptsOff<'a> {
    off: &'a AtomicU32,
    /// It belongs to a CPU, and so to a thread.
    not_send: PhantomData<*const ()>,
}

/// Something that is counted until this drops.
struct Counted<'a>(&'a AtomicU32);

impl<'a> Counted<'a> {
    #[inline]
    fn add(count: &'a AtomicU32) -> Self {
        count.store(count.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.store(self.0.load(Ordering::Relaxed) - 1, Ordering::Relaxed);
    }
}

impl Default for State {
    fn default() -> Self {
        Self { off: AtomicU32::new(0), handlers: AtomicU32::new(0), held: HeldLocks::none() }
    }
}

impl State {
    #[inline]
    pub(super) fn disable(&self) -> InterruptsOff<'_> {
        core::mem::forget(Counted::add(&self.off));
        InterruptsOff { off: &self.off, not_send: PhantomData }
    }

    #[inline]
    pub(super) fn context(&self) -> Context {
        let work = if self.handlers.load(Ordering::Relaxed) > 0 { Work::Handler } else { Work::Task };
        let interrupts = if self.off.load(Ordering::Relaxed) > 0 { Interrupts::Off } else { Interrupts::On };
        Context { work, interrupts }
    }

    /// Runs `handler` as one, unless interrupts are off.
    pub(super) fn interrupt<R>(&self, handler: impl FnOnce() -> R) -> Option<R> {
        if self.off.load(Ordering::Relaxed) > 0 {
            return None;
        }
        let _off = Counted::add(&self.off);
        let _handling = Counted::add(&self.handlers);
        Some(handler())
    }
}

impl Drop for InterruptsOff<'_> {
    #[inline]
    fn drop(&mut self) {
        drop(Counted(self.off));
    }
}

impl fmt::Debug for InterruptsOff<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InterruptsOff").finish_non_exhaustive()
    }
}
