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
//! Cost: seven memory accesses an object, all in one cache line but for the object's slot.
#![expect(unsafe_code, reason = "state that belongs to whoever is busy")]

use core::cell::UnsafeCell;
use core::ptr::NonNull;

use arrayvec::ArrayVec;

use super::sheaf::{SHEAF_OBJECTS, Sheaf};
use crate::sync::{AtomicU32, Ordering, light_barrier};

/// The CPU's side of a cache.
#[derive(Debug)]
#[repr(C, align(64))]
pub(super) struct CpuSheaf {
    busy: AtomicU32,
    /// There are objects to take while more than this are left.
    lower: AtomicU32,
    /// There is room while fewer than this are there.
    upper: AtomicU32,
    held: UnsafeCell<Held>,
}

/// What SHEAF-1 guards.
#[derive(Debug)]
pub(super) struct Held {
    /// Objects in the sheaf at hand. Its own count is out of date while it is at hand.
    len: u32,
    /// Its slots.
    slots: NonNull<NonNull<u8>>,
    /// The sheaf at hand; there is one whenever the CPU is open.
    main: Option<NonNull<Sheaf>>,
    /// Another for when that is full or empty.
    pub(super) spare: Option<NonNull<Sheaf>>,
}

// SAFETY: SHEAF-1, what is held belongs to one at a time.
unsafe impl Sync for CpuSheaf {}
// SAFETY: as above.
unsafe impl Send for CpuSheaf {}

impl CpuSheaf {
    /// A CPU without a sheaf; closed until it is [opened](Self::open).
    pub(super) fn closed() -> Self {
        let held = Held { len: 0, slots: NonNull::dangling(), main: None, spare: None };
        Self {
            busy: AtomicU32::new(0),
            lower: AtomicU32::new(u32::MAX),
            upper: AtomicU32::new(0),
            held: UnsafeCell::new(held),
        }
    }

    /// Takes an object; `None` if none is at hand. Only the CPU itself may ask.
    #[inline(always)]
    pub(super) fn take(&self) -> Option<NonNull<u8>> {
        let held = self.begin()?;
        // Acquire pairs with the release in `open`: who finds it open finds what was done while it was closed.
        let object = if held.len > self.lower.load(Ordering::Acquire) {
            held.len -= 1;
            // SAFETY: SHEAF-1, there are more than `len` objects in the sheaf.
            let slot = unsafe { held.slots.add(held.len as usize) };
            // SAFETY: an object stands in every slot below the old `len`.
            Some(unsafe { slot.read() })
        } else {
            None
        };
        self.end();
        object
    }

    /// Puts an object.
    ///
    /// # Errors
    /// Gives it back if there is no room. Only the CPU itself may ask.
    #[inline(always)]
    pub(super) fn put(&self, object: NonNull<u8>) -> Result<(), NonNull<u8>> {
        let Some(held) = self.begin() else { return Err(object) };
        // Acquire pairs with the release in `open`, as above.
        let room = held.len < self.upper.load(Ordering::Acquire);
        if room {
            // SAFETY: SHEAF-1, the sheaf has a slot at `len`, which is below its capacity.
            let slot = unsafe { held.slots.add(held.len as usize) };
            // SAFETY: the slot is the sheaf's own, and holds nothing.
            unsafe { slot.write(object) };
            held.len += 1;
        }
        self.end();
        if room { Ok(()) } else { Err(object) }
    }

    /// Works on what is held; `None` if the CPU is busy or closed. Only the CPU itself may ask.
    pub(super) fn with<R>(&self, work: impl FnOnce(&mut Held) -> R) -> Option<R> {
        let held = self.begin()?;
        let open = self.lower.load(Ordering::Acquire) == 0;
        let result = open.then(|| work(held));
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
        self.held.get_mut().exchange(Some(sheaf));
        self.open(capacity);
    }

    /// Takes the sheaves away from a CPU that nobody uses any more.
    pub(super) fn dismantle(&mut self) -> [Option<NonNull<Sheaf>>; 2] {
        let held = self.held.get_mut();
        [held.exchange(None), held.spare.take()]
    }

    /// Lets the CPU use its sheaf, which has room for `capacity` objects.
    fn open(&self, capacity: u32) {
        // Release pairs with the acquires of the CPU.
        self.upper.store(capacity, Ordering::Release);
        self.lower.store(0, Ordering::Release);
    }

    /// Closes the CPU and hands what it holds to `work`, then opens it again, if it has a sheaf left. `None`, and nothing
    /// done, if it stays busy or was closed for good. Callers take turns: one at a time for one cache.
    pub(super) fn close<R>(
        &self,
        capacity: u32,
        heavy_barrier: impl FnOnce(),
        work: impl FnOnce(&mut Held) -> R,
    ) -> Option<R> {
        if self.lower.load(Ordering::Relaxed) != 0 {
            return None;
        }
        self.lower.store(u32::MAX, Ordering::Relaxed);
        self.upper.store(0, Ordering::Relaxed);
        heavy_barrier();
        let idle = (0..PATIENCE).any(|_| {
            core::hint::spin_loop();
            self.busy.load(Ordering::Acquire) == 0
        });
        if !idle {
            self.open(capacity);
            return None;
        }
        // SAFETY: SHEAF-1, the CPU is idle, and will find the bounds closed.
        let held = unsafe { &mut *self.held.get() };
        let result = work(held);
        if held.main.is_some() {
            self.open(capacity);
        }
        Some(result)
    }
}

/// How often a closed CPU is asked whether it is idle: it may be this very one, interrupted.
#[cfg(not(loom))]
const PATIENCE: u32 = 10_000;
#[cfg(loom)]
const PATIENCE: u32 = 2;

impl Held {
    /// Puts `sheaf` at hand, or none, and gives the one that was, with all its objects.
    pub(super) fn exchange(&mut self, sheaf: Option<NonNull<Sheaf>>) -> Option<NonNull<Sheaf>> {
        let mut old = core::mem::replace(&mut self.main, sheaf);
        if let Some(old) = &mut old {
            // SAFETY: SHEAF-1, the sheaf at hand is whoever's is busy.
            let old = unsafe { old.as_mut() };
            // SAFETY: the CPU keeps objects in the first `len` slots, and there are that many.
            unsafe { old.objects.set_len(self.len as usize) };
        }
        (self.len, self.slots) = (0, NonNull::dangling());
        if let Some(mut new) = sheaf {
            // SAFETY: the caller has given the sheaf away.
            let new = unsafe { new.as_mut() };
            let slots = NonNull::new(new.objects.as_mut_ptr()).unwrap_or(NonNull::dangling());
            (self.len, self.slots) = (u32::try_from(new.objects.len()).unwrap_or(0), slots);
        }
        old
    }

    /// Makes the spare the sheaf at hand and the other way round, if there is a spare.
    pub(super) fn swap(&mut self) {
        if let Some(spare) = self.spare.take() {
            self.spare = self.exchange(Some(spare));
        }
    }

    /// Works on the objects of the sheaf at hand; `None` if there is no such sheaf.
    pub(super) fn with_objects<R>(
        &mut self,
        work: impl FnOnce(&mut ArrayVec<NonNull<u8>, SHEAF_OBJECTS>) -> R,
    ) -> Option<R> {
        let mut sheaf = self.exchange(None)?;
        // SAFETY: SHEAF-1, the sheaf was just taken away from the CPU.
        let result = work(&mut unsafe { sheaf.as_mut() }.objects);
        self.exchange(Some(sheaf));
        Some(result)
    }

    /// The objects in the spare.
    pub(super) fn spare_objects(&self) -> &[NonNull<u8>] {
        // SAFETY: SHEAF-1, the spare is whoever's is busy.
        self.spare.as_ref().map_or(&[], |spare| &unsafe { spare.as_ref() }.objects)
    }

    /// The objects in the sheaf at hand.
    pub(super) const fn at_hand(&self) -> &[NonNull<u8>] {
        // SAFETY: objects stand in the first `len` slots.
        unsafe { core::slice::from_raw_parts(self.slots.as_ptr(), self.len as usize) }
    }
}
