//! What a cache keeps for one CPU: a sheaf to take from and put into, without a lock and without an atomic
//! read-modify-write.
//!
//! The CPU says that it is *busy*, works, and says that it is not. An interrupt that comes in between finds it busy and
//! goes the long way. Another CPU that wants what is here *closes* it: it moves the two bounds so that the CPU finds
//! its sheaf both empty and full, makes sure that the CPU has seen that (the heavy side of an asymmetric barrier), and
//! waits until it is not busy. The bounds are compared anyhow, so being closable costs the CPU nothing. A cache whose
//! objects are checked one by one stays closed for ever.
//!
//! ```text
//!   this CPU                     another CPU
//!   busy = 1                     lower = MAX, upper = 0
//!   light barrier                heavy barrier
//!   lower, upper?                busy?
//! ```
//!
//! One of them sees the other. Invariants: SHEAF-1 (`len`, `slots` and the two sheaves belong to whoever is busy, or
//! has closed the CPU and has seen it idle).
//! Until it is compared with a bound, the top may be another's who has closed the CPU: it is read then, and not used.
//!
//! Cost: seven memory accesses an object, all in one cache line but for the object's slot.
#![expect(unsafe_code, reason = "state that belongs to whoever is busy")]

use core::cell::UnsafeCell;
use core::ptr::NonNull;

use arrayvec::ArrayVec;

use super::sheaf::{SHEAF_OBJECTS, Sheaf};
use crate::sync::{AtomicU32, AtomicUsize, Ordering, light_barrier};

/// An object's place, named by its mark.
pub(super) type Slot = NonNull<u8>;

/// The CPU's side of a cache.
#[derive(Debug)]
#[repr(C, align(64))]
pub(super) struct CpuSheaf {
    busy: AtomicU32,
    /// What [`SlabLayout::address_mask`](super::layout::SlabLayout::address_mask) says, at hand.
    pub(super) address_mask: usize,
    /// There are slots to take while the top is above this address.
    lower: AtomicUsize,
    /// There is room while the top is below this address.
    upper: AtomicUsize,
    /// Not 0 if somebody closed the CPU and could not wait until it was idle: whoever makes it 0 again opens it.
    abandoned: AtomicU32,
    held: UnsafeCell<Held>,
}

/// What SHEAF-1 guards.
#[derive(Debug)]
pub(super) struct Held {
    /// Behind the youngest entry of the sheaf at hand, whose own count is out of date meanwhile.
    top: NonNull<Slot>,
    /// The sheaf at hand; there is one whenever the CPU is open.
    main: Option<NonNull<Sheaf>>,
    /// Another for when that is full or empty.
    pub(super) spare: Option<NonNull<Sheaf>>,
}

/// The bounds of a CPU that is closed.
const CLOSED: (usize, usize) = (usize::MAX, 0);

// SAFETY: SHEAF-1, what is held belongs to one at a time.
unsafe impl Sync for CpuSheaf {}
// SAFETY: as above.
unsafe impl Send for CpuSheaf {}

impl CpuSheaf {
    /// A CPU without a sheaf.
    pub(super) fn closed(address_mask: usize) -> Self {
        let held = Held { top: NonNull::dangling(), main: None, spare: None };
        Self {
            busy: AtomicU32::new(0),
            address_mask,
            lower: AtomicUsize::new(CLOSED.0),
            upper: AtomicUsize::new(CLOSED.1),
            abandoned: AtomicU32::new(0),
            held: UnsafeCell::new(held),
        }
    }

    /// Takes a slot; `None` if none is at hand. Only the CPU itself may ask.
    #[inline(always)]
    pub(super) fn take(&self) -> Option<Slot> {
        let held = self.begin()?;
        // Acquire pairs with the releases in `open`: who finds it open finds what was done while it was closed. So the
        // bound comes first, and the top after it.
        let lower = self.lower.load(Ordering::Acquire);
        let slot = if held.top.addr().get() > lower {
            // SAFETY: SHEAF-1, there is an entry below the top.
            held.top = unsafe { held.top.sub(1) };
            // SAFETY: entries below the top are initialised.
            Some(unsafe { held.top.read() })
        } else {
            None
        };
        self.end();
        slot
    }

    /// Puts a slot.
    ///
    /// # Errors
    /// Gives it back if there is no room. Only the CPU itself may ask.
    #[inline(always)]
    pub(super) fn put(&self, slot: Slot) -> Result<(), Slot> {
        let Some(held) = self.begin() else { return Err(slot) };
        // Acquire pairs with the releases in `open`, as above.
        let upper = self.upper.load(Ordering::Acquire);
        let room = held.top.addr().get() < upper;
        if room {
            // SAFETY: SHEAF-1, the sheaf has an entry at the top.
            unsafe { held.top.write(slot) };
            // SAFETY: as above, so what is behind it is in the sheaf or its end.
            held.top = unsafe { held.top.add(1) };
        }
        self.end();
        if room { Ok(()) } else { Err(slot) }
    }

    /// Works on what is held, and sets the bounds of the sheaf that is at hand afterwards, for `capacity` objects; `None`
    /// if the CPU is busy or closed. Only the CPU itself may ask.
    pub(super) fn with<R>(&self, capacity: u32, work: impl FnOnce(&mut Held) -> R) -> Option<R> {
        let held = self.begin()?;
        if self.take_over() {
            self.open(held.bounds(capacity));
        }
        let bounds = (self.lower.load(Ordering::Acquire), self.upper.load(Ordering::Acquire));
        // Who closes moves both bounds, one after the other; one is enough to tell.
        let open = bounds.0 != CLOSED.0 && bounds.1 != CLOSED.1;
        let result = open.then(|| work(held));
        if open {
            // Somebody may have closed it since, and wait for this CPU: then the bounds are theirs to set.
            let new = held.bounds(capacity);
            let _ = self.lower.compare_exchange(bounds.0, new.0, Ordering::Relaxed, Ordering::Relaxed);
            let _ = self.upper.compare_exchange(bounds.1, new.1, Ordering::Relaxed, Ordering::Relaxed);
        }
        self.end();
        result
    }

    #[inline(always)]
    #[expect(clippy::mut_from_ref, reason = "SHEAF-1, whoever is busy has it to itself")]
    fn begin(&self) -> Option<&mut Held> {
        if self.busy.load(Ordering::Relaxed) != 0 {
            return None;
        }
        self.busy.store(1, Ordering::Relaxed);
        // Pairs with the heavy barrier between closing and looking whether the CPU is busy.
        light_barrier();
        // SAFETY: SHEAF-1, this CPU is busy. Whoever has closed it meanwhile waits; whoever had before is shut out by the
        // bounds, which every caller looks at first.
        Some(unsafe { &mut *self.held.get() })
    }

    /// Release pairs with the acquire in `close`: who finds the CPU idle finds all that it did.
    #[inline(always)]
    fn end(&self) {
        self.busy.store(0, Ordering::Release);
    }

    /// Opens a CPU that nobody has used yet, with its first sheaf.
    pub(super) fn start(&mut self, sheaf: NonNull<Sheaf>, capacity: u32) {
        let held = self.held.get_mut();
        held.exchange(Some(sheaf));
        let bounds = held.bounds(capacity);
        self.open(bounds);
    }

    /// Takes the sheaves away from a CPU that nobody uses any more.
    pub(super) fn dismantle(&mut self) -> [Option<NonNull<Sheaf>>; 2] {
        let held = self.held.get_mut();
        [held.exchange(None), held.spare.take()]
    }

    /// Lets the CPU use its sheaf.
    fn open(&self, (lower, upper): (usize, usize)) {
        // Release pairs with the acquires of the CPU.
        self.upper.store(upper, Ordering::Release);
        self.lower.store(lower, Ordering::Release);
    }

    /// Whether the CPU was left closed, and is now the caller's to open.
    fn take_over(&self) -> bool {
        self.abandoned.load(Ordering::Relaxed) != 0 && self.abandoned.swap(0, Ordering::Acquire) != 0
    }

    /// Closes the CPU and hands what it holds to `work`, then opens it again. `None`, and nothing done, if it stays busy
    /// or was closed for good. Callers take turns: one at a time for one cache.
    pub(super) fn close<R>(
        &self,
        capacity: u32,
        heavy_barrier: impl FnOnce(),
        work: impl FnOnce(&mut Held) -> R,
    ) -> Option<R> {
        if self.lower.load(Ordering::Relaxed) == CLOSED.0 && !self.take_over() {
            return None;
        }
        self.lower.store(CLOSED.0, Ordering::Relaxed);
        self.upper.store(CLOSED.1, Ordering::Relaxed);
        heavy_barrier();
        let idle = (0..PATIENCE).any(|_| {
            core::hint::spin_loop();
            self.busy.load(Ordering::Acquire) == 0
        });
        if !idle {
            // The CPU may have another sheaf by now, so only it, or whoever finds it idle, knows the bounds.
            self.abandoned.store(1, Ordering::Release);
            return None;
        }
        // SAFETY: SHEAF-1, the CPU is idle, and will find the bounds closed.
        let held = unsafe { &mut *self.held.get() };
        let result = work(held);
        self.open(held.bounds(capacity));
        Some(result)
    }
}

/// How often a closed CPU is asked whether it is idle: it may be this very one, interrupted.
#[cfg(not(loom))]
const PATIENCE: u32 = 10_000;
#[cfg(loom)]
const PATIENCE: u32 = 2;

impl Held {
    /// Puts `sheaf` at hand, or none, and gives the one that was, with all that is in it.
    pub(super) fn exchange(&mut self, sheaf: Option<NonNull<Sheaf>>) -> Option<NonNull<Sheaf>> {
        let len = self.at_hand().len();
        let mut old = core::mem::replace(&mut self.main, sheaf);
        if let Some(old) = &mut old {
            // SAFETY: SHEAF-1, the sheaf at hand is whoever's is busy.
            let old = unsafe { old.as_mut() };
            // SAFETY: the CPU keeps entries up to the top.
            unsafe { old.objects.set_len(len) };
        }
        self.top = NonNull::dangling();
        if let Some(mut new) = sheaf {
            // SAFETY: the caller has given the sheaf away.
            let new = unsafe { new.as_mut() };
            let len = new.objects.len();
            let start = NonNull::from(new.objects.as_mut_slice()).cast();
            // SAFETY: the array is at least as long as it is full.
            self.top = unsafe { start.add(len) };
        }
        old
    }

    /// Makes the spare the sheaf at hand and the other way round, if there is a spare.
    pub(super) fn swap(&mut self) {
        if let Some(spare) = self.spare.take() {
            self.spare = self.exchange(Some(spare));
        }
    }

    /// Works on what is in the sheaf at hand; `None` if there is no such sheaf.
    pub(super) fn with_objects<R>(&mut self, work: impl FnOnce(&mut ArrayVec<Slot, SHEAF_OBJECTS>) -> R) -> Option<R> {
        let mut sheaf = self.exchange(None)?;
        // SAFETY: SHEAF-1, the sheaf was just taken away from the CPU.
        let result = work(&mut unsafe { sheaf.as_mut() }.objects);
        self.exchange(Some(sheaf));
        Some(result)
    }

    /// What is in the spare.
    pub(super) fn spare_objects(&self) -> &[Slot] {
        // SAFETY: SHEAF-1, the spare is whoever's is busy.
        self.spare.as_ref().map_or(&[], |spare| &unsafe { spare.as_ref() }.objects)
    }

    /// What is in the sheaf at hand.
    pub(super) fn at_hand(&self) -> &[Slot] {
        let Some(main) = &self.main else { return &[] };
        // SAFETY: SHEAF-1, the sheaf at hand is whoever's is busy.
        let start = unsafe { main.as_ref() }.objects.as_ptr();
        let len = (self.top.addr().get() - start.addr()) / size_of::<Slot>();
        // SAFETY: entries stand from the start to the top.
        unsafe { core::slice::from_raw_parts(start, len) }
    }

    /// Between which addresses the top may move.
    fn bounds(&self, capacity: u32) -> (usize, usize) {
        let Some(main) = &self.main else { return CLOSED };
        // SAFETY: as above.
        let start = unsafe { main.as_ref() }.objects.as_ptr().addr();
        (start, start + capacity as usize * size_of::<Slot>())
    }
}

#[cfg(all(test, loom))]
mod loom;
