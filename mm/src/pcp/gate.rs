//! Whose a CPU's lists are: its own, or whoever's who wants all that is free.
//!
//! The CPU says that it is *busy*, works, and says that it is not. A handler that has interrupted it meanwhile finds it busy
//! and goes to the zones. Another CPU that wants what is there *closes* the gate, makes sure that the CPU has seen it (the
//! heavy side of an asymmetric barrier), and waits until it is not busy. While the gate is closed the CPU goes to the zones.
//!
//! ```text
//!   this CPU                     another CPU
//!   busy = 1                     closed = 1
//!   light barrier                heavy barrier
//!   closed?                      busy?
//! ```
//!
//! One of them sees the other. Invariant: GATE-1. Cost: five memory accesses to one cache line for going in and out.

use crate::image::{Note, NoteFull, layout};
use crate::machine::Begun;
use crate::sync::{AtomicU32, BeginsLocal, Ordering, light_barrier, spin_loop};

/// A CPU's gate.
#[derive(Debug)]
pub(super) struct Gate {
    busy: AtomicU32,
    /// How many reasons there are to stay out: somebody drains, or the CPU is gone.
    closed: AtomicU32,
}

impl Gate {
    pub(super) fn open() -> Self {
        Self { busy: AtomicU32::new(0), closed: AtomicU32::new(0) }
    }

    /// For who reads an image of memory.
    pub(super) fn write_note(note: &mut Note) -> Result<(), NoteFull> {
        layout!(note, Self as "Gate": busy, closed)
    }

    /// Makes the CPU busy until the result drops; `None` if it is already, and this is a handler, or if the gate is closed.
    /// Only the CPU itself may ask.
    #[inline(always)]
    pub(super) fn enter(&self, machine: &impl BeginsLocal) -> Option<Busy<'_>> {
        if machine.begin_local(&self.busy) == Begun::Before {
            return None;
        }
        // Pairs with the heavy barrier between `close` and `wait`.
        light_barrier();
        let busy = Busy(self);
        // Acquire pairs with the release in `reopen`: who finds it open finds what was done while it was closed.
        (self.closed.load(Ordering::Acquire) == 0).then_some(busy)
    }

    /// Whether the CPU is busy. Asked by the CPU itself: whether this is a handler that has interrupted it then.
    #[inline(always)]
    pub(super) fn is_busy(&self) -> bool {
        self.busy.load(Ordering::Relaxed) != 0
    }

    /// Shuts the CPU out. Callers take turns; a heavy barrier comes next, then [`wait`](Self::wait).
    pub(super) fn close(&self) {
        self.closed.store(self.closed.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    /// Waits until a CPU that is shut out is not busy. It is not this one.
    pub(super) fn wait(&self) {
        // Acquire pairs with the release in `Busy::drop`: who finds the CPU idle finds all that it did.
        while self.busy.load(Ordering::Acquire) != 0 {
            spin_loop();
        }
    }

    /// Takes one reason to stay out back.
    pub(super) fn reopen(&self) {
        // Release pairs with the acquire in `enter`.
        self.closed.store(self.closed.load(Ordering::Relaxed) - 1, Ordering::Release);
    }
}

/// The CPU is busy until this drops.
#[derive(Debug)]
pub(super) struct Busy<'g>(&'g Gate);

impl Drop for Busy<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        // Release pairs with the acquire in `wait`.
        self.0.busy.store(0, Ordering::Release);
    }
}
