//! What a cache keeps for one CPU: a sheaf to take from and put into, without a lock and without an atomic
//! read-modify-write.
//!
//! The CPU says that it is *busy*, works, and says that it is not. An interrupt handler that comes in between finds it busy
//! and goes the long way. A task, on this CPU or another, that wants what is here *closes* it: it moves the two bounds so
//! that the CPU finds its sheaf both empty and full, makes sure that the CPU has seen that (the heavy side of an asymmetric
//! barrier), and waits until it is not busy. The bounds are compared anyhow, so being closable costs the CPU nothing. A
//! cache whose objects are checked one by one stays closed for ever.
//!
//! ```text
//!   this CPU                     another CPU
//!   busy = 1                     lower = MAX, upper = 0
//!   light barrier                heavy barrier
//!   lower, upper?                busy?
//!   top                          top
//! ```
//!
//! One of them sees the other. Invariants: SHEAF-1 (the sheaves, what is in them and the top belong to whoever is busy and
//! has found the bounds open since, or has closed the CPU and has seen it idle since), SHEAF-2 (handlers close no CPU).
//! The top is read once the bound was, and is any number as long as that is a closed CPU's: so it is an atomic.
//!
//! **Why nobody waits for ever.** A CPU is busy for a few instructions, or, with interrupts off, for the long way, which
//! waits for nothing but the cache's lock; nobody who closes waits with that. Handlers that interrupt the few instructions
//! do not wait either: neither for a CPU nor for whoever closes (SHEAF-2). Were they to, two CPUs, each interrupted while it
//! was busy with one cache, could wait for each other over another.
//!
//! Cost: seven memory accesses an object, all in one cache line but for the object's slot. Closing all CPUs of a cache: one
//! heavy barrier.
#![expect(unsafe_code, reason = "state that belongs to whoever is busy")]

use core::ptr::{self, NonNull};

use arrayvec::ArrayVec;

use super::sheaf::{SHEAF_OBJECTS, Sheaf};
use crate::image::{Note, NoteFull, layout};
use crate::machine::Begun;
use crate::sync::{AtomicPtr, AtomicU32, AtomicUsize, BeginsLocal, Ordering, UnsafeCell, light_barrier, spin_loop};

/// An object's place, named by its mark.
pub(super) type Slot = NonNull<u8>;

/// The CPU's side of a cache.
#[derive(Debug)]
#[repr(C)]
#[cfg_attr(not(loom), repr(align(64)))]
pub(super) struct CpuSheaf {
    busy: AtomicU32,
    /// What [`SlabLayout::address_mask`](super::layout::SlabLayout::address_mask) says, at hand.
    pub(super) address_mask: usize,
    /// There are slots to take while the top is above this address.
    lower: AtomicUsize,
    /// There is room while the top is below this address.
    upper: AtomicUsize,
    /// Behind the youngest entry of the sheaf at hand, whose own count is out of date meanwhile.
    top: AtomicPtr<Slot>,
    /// What SHEAF-1 guards.
    sheaves: UnsafeCell<Sheaves>,
    /// Stands for the entries of the sheaf at hand: says to a model who touches them.
    entries: UnsafeCell<()>,
}

/// The sheaves of a CPU.
#[derive(Debug)]
pub(super) struct Sheaves {
    /// The one at hand; there is one whenever the CPU is open.
    main: Option<NonNull<Sheaf>>,
    /// Another for when that is full or empty.
    pub(super) spare: Option<NonNull<Sheaf>>,
}

/// What a CPU holds, in the hands of whoever it belongs to.
#[derive(Debug)]
pub(super) struct Held<'h> {
    top: &'h AtomicPtr<Slot>,
    pub(super) sheaves: &'h mut Sheaves,
}

/// All CPUs of a cache, closed and idle until this drops.
#[derive(Debug)]
#[must_use = "the CPUs are open again as soon as this drops"]
pub(super) struct ClosedCpus<'c> {
    cpus: &'c [CpuSheaf],
    capacity: u32,
}

/// The bounds of a CPU that is closed.
const CLOSED: (usize, usize) = (usize::MAX, 0);

// SAFETY: SHEAF-1, what is held belongs to one at a time.
unsafe impl Sync for CpuSheaf {}
// SAFETY: as above.
unsafe impl Send for CpuSheaf {}

/// The CPU is busy until this drops.
struct Busy<'s>(&'s CpuSheaf);

impl Drop for Busy<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        self.0.end();
    }
}

impl CpuSheaf {
    /// A CPU without a sheaf.
    pub(super) fn closed(address_mask: usize) -> Self {
        Self {
            busy: AtomicU32::new(0),
            address_mask,
            lower: AtomicUsize::new(CLOSED.0),
            upper: AtomicUsize::new(CLOSED.1),
            top: AtomicPtr::new(ptr::null_mut()),
            sheaves: UnsafeCell::new(Sheaves { main: None, spare: None }),
            entries: UnsafeCell::new(()),
        }
    }

    /// For who reads an image of memory.
    pub(super) fn write_note(note: &mut Note) -> Result<(), NoteFull> {
        layout!(note, Sheaves as "Sheaves": main, spare)?;
        layout!(note, Self as "CpuSheaf": busy, lower, upper, top, sheaves)
    }

    /// Takes a slot; `None` if none is at hand. Only the CPU itself may ask.
    #[inline(always)]
    pub(super) fn take(&self, machine: &impl BeginsLocal) -> Option<Slot> {
        if self.begin(machine) == Begun::Before {
            return None;
        }
        // Acquire pairs with the releases in `open`: who finds it open finds what was done while it was closed. So the
        // bound comes first, and the top after it.
        let lower = self.lower.load(Ordering::Acquire);
        let top = self.top.load(Ordering::Relaxed);
        let slot = if top.addr() > lower {
            // SAFETY: SHEAF-1, there is an entry below the top.
            let entry = unsafe { top.sub(1) };
            self.top.store(entry, Ordering::Relaxed);
            // SAFETY: SHEAF-1, entries below the top are initialised, and this CPU's.
            Some(self.entries.with_mut(|_| unsafe { entry.read() }))
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
    pub(super) fn put(&self, machine: &impl BeginsLocal, slot: Slot) -> Result<(), Slot> {
        if self.begin(machine) == Begun::Before {
            return Err(slot);
        }
        // Acquire pairs with the releases in `open`, as above.
        let upper = self.upper.load(Ordering::Acquire);
        let top = self.top.load(Ordering::Relaxed);
        let room = top.addr() < upper;
        if room {
            // SAFETY: SHEAF-1, the sheaf has an entry at the top.
            self.entries.with_mut(|_| unsafe { top.write(slot) });
            // SAFETY: as above, so what is behind it is in the sheaf or its end.
            self.top.store(unsafe { top.add(1) }, Ordering::Relaxed);
        }
        self.end();
        if room { Ok(()) } else { Err(slot) }
    }

    /// Works on what is held, and sets the bounds of the sheaf that is at hand afterwards, for `capacity` objects; `None`
    /// if the CPU is busy or closed. Only the CPU itself may ask, with interrupts off.
    pub(super) fn with<R>(
        &self,
        machine: &impl BeginsLocal,
        capacity: u32,
        work: impl FnOnce(&mut Held<'_>) -> R,
    ) -> Option<R> {
        if self.begin(machine) == Begun::Before {
            return None;
        }
        // Also if the work finds that an invariant is broken: who closes the CPU waits for this.
        let _busy = Busy(self);
        // Acquire as above. `open` sets the lower one last: who has seen that needs no more of the upper one.
        let bounds = (self.lower.load(Ordering::Acquire), self.upper.load(Ordering::Relaxed));
        // Who closes moves both bounds, one after the other; one is enough to tell.
        let open = bounds.0 != CLOSED.0 && bounds.1 != CLOSED.1;
        open.then(|| {
            self.hold(|held| {
                let result = work(held);
                // Somebody may have closed it since, and wait for this CPU: then the bounds are theirs to set.
                let new = held.bounds(capacity);
                let _ = self.lower.compare_exchange(bounds.0, new.0, Ordering::Relaxed, Ordering::Relaxed);
                let _ = self.upper.compare_exchange(bounds.1, new.1, Ordering::Relaxed, Ordering::Relaxed);
                result
            })
        })
    }

    /// Says that this CPU is busy, if it is not.
    #[inline(always)]
    fn begin(&self, machine: &impl BeginsLocal) -> Begun {
        let begun = machine.begin_local(&self.busy);
        // Pairs with the heavy barrier between closing and looking whether the CPU is busy.
        light_barrier();
        begun
    }

    /// Release pairs with the acquire in `close`: who finds the CPU idle finds all that it did.
    #[inline(always)]
    fn end(&self) {
        self.busy.store(0, Ordering::Release);
    }

    /// Works on what is held, which is the caller's (SHEAF-1).
    fn hold<R>(&self, work: impl FnOnce(&mut Held<'_>) -> R) -> R {
        self.entries.with_mut(|_| {
            self.sheaves.with_mut(|sheaves| {
                // SAFETY: SHEAF-1, it is the caller's.
                let sheaves = unsafe { &mut *sheaves };
                work(&mut Held { top: &self.top, sheaves })
            })
        })
    }

    /// Opens a CPU that nobody has used yet, with its first sheaf.
    pub(super) fn start(&mut self, sheaf: NonNull<Sheaf>, capacity: u32) {
        let bounds = self.hold(|held| {
            held.exchange(Some(sheaf));
            held.bounds(capacity)
        });
        self.open(bounds);
    }

    /// Takes the sheaves away from a CPU that nobody uses any more.
    pub(super) fn dismantle(&mut self) -> [Option<NonNull<Sheaf>>; 2] {
        self.hold(|held| [held.exchange(None), held.sheaves.spare.take()])
    }

    /// Shows what it consists of to `see`: what it is for, where it is and how long.
    #[cfg(all(test, not(loom), not(miri)))]
    pub(super) fn each_part(&self, mut see: impl FnMut(&'static str, NonNull<u8>, usize)) {
        see("side: bounds", NonNull::from(&self.lower).cast(), 8);
        see("side: bounds", NonNull::from(&self.upper).cast(), 8);
        see("side: top", NonNull::from(&self.top).cast(), 8);
        see("side: address mask", NonNull::from(&self.address_mask).cast(), 8);
        let sheaves = self.sheaves.with_mut(NonNull::new).expect("it is in a side");
        see("side: sheaves", sheaves.cast(), 16);
    }

    /// Lets the CPU use its sheaf.
    fn open(&self, (lower, upper): (usize, usize)) {
        // Release pairs with the acquires of the CPU.
        self.upper.store(upper, Ordering::Release);
        self.lower.store(lower, Ordering::Release);
    }

    /// Keeps the CPU from beginning anything with its sheaf, once a heavy barrier has passed.
    fn shut(&self) {
        // Exchanged and not stored: so each comes behind whatever bound the CPU may be setting, also to the model.
        self.lower.swap(CLOSED.0, Ordering::Relaxed);
        self.upper.swap(CLOSED.1, Ordering::Relaxed);
    }

    /// Waits until the CPU is done with what it had begun.
    fn wait_until_idle(&self) {
        while self.busy.load(Ordering::Acquire) != 0 {
            spin_loop();
        }
    }
}

impl<'c> ClosedCpus<'c> {
    /// Closes all CPUs of a cache whose sheaves have room for `capacity` objects, and waits until they are idle. `None` if
    /// they have no sheaves. Callers take turns: one at a time for one cache; and no interrupt handler ever (SHEAF-2).
    pub(super) fn close(cpus: &'c [CpuSheaf], capacity: u32, heavy_barrier: impl FnOnce()) -> Option<Self> {
        if capacity == 0 {
            return None;
        }
        cpus.iter().for_each(CpuSheaf::shut);
        heavy_barrier();
        cpus.iter().for_each(CpuSheaf::wait_until_idle);
        Some(Self { cpus, capacity })
    }

    /// Shows what each of them holds.
    pub(super) fn each(&mut self, mut work: impl FnMut(&mut Held<'_>)) {
        self.cpus.iter().for_each(|cpu| cpu.hold(&mut work));
    }
}

impl Drop for ClosedCpus<'_> {
    fn drop(&mut self) {
        for cpu in self.cpus {
            let bounds = cpu.hold(|held| held.bounds(self.capacity));
            cpu.open(bounds);
        }
    }
}

impl Held<'_> {
    /// Puts `sheaf` at hand, or none, and gives the one that was, with all that is in it.
    pub(super) fn exchange(&mut self, sheaf: Option<NonNull<Sheaf>>) -> Option<NonNull<Sheaf>> {
        let len = self.at_hand().len();
        let mut old = core::mem::replace(&mut self.sheaves.main, sheaf);
        if let Some(old) = &mut old {
            // SAFETY: SHEAF-1, the sheaf at hand is whoever's is busy.
            let old = unsafe { old.as_mut() };
            // SAFETY: the CPU keeps entries up to the top.
            unsafe { old.objects.set_len(len) };
        }
        let mut top = ptr::null_mut();
        if let Some(mut new) = sheaf {
            // SAFETY: the caller has given the sheaf away.
            let new = unsafe { new.as_mut() };
            let len = new.objects.len();
            let start: *mut Slot = new.objects.as_mut_ptr();
            // SAFETY: the array is at least as long as it is full.
            top = unsafe { start.add(len) };
        }
        self.top.store(top, Ordering::Relaxed);
        old
    }

    /// Makes the spare the sheaf at hand and the other way round, if there is a spare.
    pub(super) fn swap(&mut self) {
        if let Some(spare) = self.sheaves.spare.take() {
            self.sheaves.spare = self.exchange(Some(spare));
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
        self.sheaves.spare.as_ref().map_or(&[], |spare| &unsafe { spare.as_ref() }.objects)
    }

    /// What is in the sheaf at hand.
    pub(super) fn at_hand(&self) -> &[Slot] {
        let Some(main) = &self.sheaves.main else { return &[] };
        // SAFETY: SHEAF-1, the sheaf at hand is whoever's is busy.
        let start = unsafe { main.as_ref() }.objects.as_ptr();
        let len = (self.top.load(Ordering::Relaxed).addr() - start.addr()) / size_of::<Slot>();
        // SAFETY: entries stand from the start to the top.
        unsafe { core::slice::from_raw_parts(start, len) }
    }

    /// Between which addresses the top may move.
    fn bounds(&self, capacity: u32) -> (usize, usize) {
        let Some(main) = &self.sheaves.main else { return CLOSED };
        // SAFETY: as above.
        let start = unsafe { main.as_ref() }.objects.as_ptr().addr();
        (start, start + capacity as usize * size_of::<Slot>())
    }
}

#[cfg(all(test, loom))]
mod loom;
#[cfg(all(test, not(loom)))]
mod tests;
