//! CPUs, and work on them.
//!
//! A CPU has one task, which idles until there is work: then it does that, with interrupts on, and says so to whoever waits
//! for it. Whoever waits does what others ask of its own CPU, so CPUs may ask each other at the same time.
//!
//! The boot CPU's task is whatever the kernel does; it takes work only while it waits.
//!
//! A CPU that is offline takes none, and its task idles with its timer off: nothing of it runs, and what the allocators have
//! at hand for it is others' to drain. It comes back as it went.

use core::hint::spin_loop;
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU8, Ordering};

use arrayvec::ArrayVec;
use kernel_core::layout::CPUS;
use mm::page::CpuDown;
use mm::units::CpuId;
use spin::Mutex;
use thiserror::Error;
use x86_64::instructions::interrupts;

use crate::apic::{InterruptVector, LocalApic, Message};
use crate::cpu_local::{PerCpu, per_cpu, this_cpu};
use crate::platform::Platform;
use crate::{memory, nmi};

/// What a CPU is to do.
struct Job<'j> {
    work: &'j (dyn Fn() + Sync),
    done: AtomicBool,
}

impl Job<'_> {
    fn new(work: &(dyn Fn() + Sync)) -> Job<'_> {
        Job { work, done: AtomicBool::new(false) }
    }
}

/// The next job of each CPU, on the stack of whoever waits until it is done; null if there is none.
static NEXT: PerCpu<AtomicPtr<Job<'static>>> = per_cpu!(AtomicPtr::new(ptr::null_mut()));

/// Whether a CPU is there: one of these.
static STATES: PerCpu<AtomicU8> = per_cpu!(AtomicU8::new(ABSENT));

/// What says that a CPU keeps no memory at hand, while it is offline.
static DOWN: PerCpu<Mutex<Option<CpuDown<'static, Platform>>>> = per_cpu!(Mutex::new(None));

const ABSENT: u8 = 0;
/// It was started, and did not come in time.
const GIVEN_UP: u8 = 1;
/// It has come, and will take work.
const ARRIVED: u8 = 2;
const ONLINE: u8 = 3;
/// It does what it was given before, and is given no more.
const LEAVING: u8 = 4;
/// It does nothing, and who takes it away or brings it back is not done yet.
const CHANGING: u8 = 5;
const OFFLINE: u8 = 6;

/// The CPU takes no work: it never came up, or was taken away.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error("CPU {} is not online", .0.0)]
pub(crate) struct NotOnline(pub(crate) CpuId);

/// Why a CPU was not taken away, or not brought back.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub(crate) enum HotplugError {
    /// It is not there, or is so already.
    #[error("CPU {} is absent, or is so already", .0.0)]
    NoChange(CpuId),
    /// The CPU that boots stays, and no CPU takes itself away.
    #[error("CPU {} has to stay", .0.0)]
    Needed(CpuId),
}

/// Says that this CPU has started. Not so if it was [given up](give_up): then nobody waits for it, and it must do nothing.
#[must_use]
pub(crate) fn arrive() -> bool {
    change(this_cpu(), ABSENT, ARRIVED).is_ok()
}

/// Gives up a CPU that was started, unless it has arrived.
pub(crate) fn give_up(cpu: CpuId) -> bool {
    change(cpu, ABSENT, GIVEN_UP).is_ok()
}

/// Says that this CPU, which takes interrupts, takes work.
pub(crate) fn come_online() {
    STATES.this().store(ONLINE, Ordering::SeqCst);
}

/// Whether a CPU takes work.
pub(crate) fn is_online(cpu: CpuId) -> bool {
    usize::from(cpu.0) < CPUS && STATES.of(cpu).load(Ordering::SeqCst) == ONLINE
}

/// The CPUs that take work, in ascending order.
pub(crate) fn online() -> impl Iterator<Item = CpuId> {
    (0..u16::try_from(CPUS).unwrap_or(u16::MAX)).map(CpuId).filter(|&cpu| is_online(cpu))
}

/// Does some work on a CPU, with interrupts on unless it is this one, and waits until it is done.
///
/// # Errors
/// The CPU takes no work.
pub(crate) fn run_on(cpu: CpuId, work: &(dyn Fn() + Sync)) -> Result<(), NotOnline> {
    if cpu == this_cpu() {
        work();
        return Ok(());
    }
    let job = Job::new(work);
    let posted = Posted::new(cpu, &job)?;
    posted.wait();
    Ok(())
}

/// Does some work on every CPU that is online, this one included, at the same time, and waits until all are done.
pub(crate) fn on_all(work: &(dyn Fn(CpuId) + Sync)) {
    let on_this = || work(this_cpu());
    let jobs: [Job<'_>; CPUS] = core::array::from_fn(|_| Job::new(&on_this));
    let this = this_cpu();
    let others = online().filter(|&cpu| cpu != this);
    // Whoever goes offline in between is left out.
    let posted: ArrayVec<Posted<'_>, CPUS> =
        others.filter_map(|cpu| Posted::new(cpu, &jobs[usize::from(cpu.0)]).ok()).collect();
    on_this();
    for posted in posted {
        posted.wait();
    }
}

/// A job that a CPU has been given, or has done.
#[must_use = "the job must stay until it is done"]
struct Posted<'j> {
    cpu: CpuId,
    job: &'j Job<'j>,
}

impl<'j> Posted<'j> {
    /// Gives the job to a CPU.
    fn new(cpu: CpuId, job: &'j Job<'j>) -> Result<Self, NotOnline> {
        if !is_online(cpu) {
            return Err(NotOnline(cpu));
        }
        let place = ptr::from_ref(job).cast_mut().cast();
        while NEXT.of(cpu).compare_exchange(ptr::null_mut(), place, Ordering::SeqCst, Ordering::Relaxed).is_err() {
            serve();
            spin_loop();
        }
        let posted = Self { cpu, job };
        // Pairs with `offline`, which first says that the CPU is, then has it do what it has been given.
        if !is_online(cpu)
            && NEXT.of(cpu).compare_exchange(place, ptr::null_mut(), Ordering::SeqCst, Ordering::Relaxed).is_ok()
        {
            core::mem::forget(posted);
            return Err(NotOnline(cpu));
        }
        call(cpu);
        Ok(posted)
    }

    fn wait(self) {
        drop(self);
    }
}

impl Drop for Posted<'_> {
    fn drop(&mut self) {
        const BEFORE_ANOTHER_CALL: u64 = 1 << 12;
        let place = ptr::from_ref(self.job).cast_mut().cast();
        for turn in 1_u64.. {
            // Pairs with the store behind the work.
            if self.job.done.load(Ordering::Acquire) {
                return;
            }
            // Where an NMI comes between what enables interrupts and what halts, a call does, too, and wakes nobody.
            if turn % BEFORE_ANOTHER_CALL == 0 && NEXT.of(self.cpu).load(Ordering::Relaxed) == place {
                call(self.cpu);
            }
            serve();
            spin_loop();
        }
    }
}

/// Wakes a CPU, wherever it idles.
fn call(cpu: CpuId) {
    if let Some(apic) = LocalApic::get() {
        apic.send(cpu, Message::Interrupt(InterruptVector::CALL));
    }
}

/// Does what this CPU has been given to do, if anything.
fn serve() {
    let next = NEXT.this();
    if next.load(Ordering::Relaxed).is_null() {
        return;
    }
    let job = next.swap(ptr::null_mut(), Ordering::Acquire);
    // SAFETY: whoever gave it waits until it is done.
    let Some(job) = (unsafe { job.as_ref() }) else { return };
    (job.work)();
    job.done.store(true, Ordering::Release);
}

/// The task of every CPU but the one that boots.
pub(crate) fn idle() -> ! {
    loop {
        interrupts::disable();
        nmi::rest();
        let serves = matches!(STATES.this().load(Ordering::SeqCst), ONLINE | LEAVING);
        if !serves || NEXT.this().load(Ordering::SeqCst).is_null() {
            // Whatever comes from here on ends the halt, and the rest with it; but see `Posted`.
            interrupts::enable_and_hlt();
        } else {
            nmi::resume();
            interrupts::enable();
            serve();
        }
    }
}

/// Takes a CPU away: when this returns, it does nothing and will not, until it is brought back.
///
/// # Errors
/// See [`HotplugError`].
pub(crate) fn offline(cpu: CpuId) -> Result<(), HotplugError> {
    if cpu == CpuId(0) || cpu == this_cpu() {
        return Err(HotplugError::Needed(cpu));
    }
    change(cpu, ONLINE, LEAVING)?;
    // What it was given before comes first.
    let last = || STATES.this().store(CHANGING, Ordering::SeqCst);
    let last = Job::new(&last);
    let place = (&raw const last).cast_mut().cast();
    while NEXT.of(cpu).compare_exchange(ptr::null_mut(), place, Ordering::SeqCst, Ordering::Relaxed).is_err() {
        serve();
        spin_loop();
    }
    call(cpu);
    drop(Posted { cpu, job: &last });
    *DOWN.of(cpu).lock() = memory::allocator().and_then(|allocator| allocator.take_cpu_down(cpu));
    STATES.of(cpu).store(OFFLINE, Ordering::SeqCst);
    Ok(())
}

/// Brings a CPU back.
///
/// # Errors
/// See [`HotplugError`].
pub(crate) fn bring_back(cpu: CpuId) -> Result<(), HotplugError> {
    change(cpu, OFFLINE, CHANGING)?;
    drop(DOWN.of(cpu).lock().take());
    STATES.of(cpu).store(ONLINE, Ordering::SeqCst);
    Ok(())
}

fn change(cpu: CpuId, from: u8, to: u8) -> Result<(), HotplugError> {
    let no_change = HotplugError::NoChange(cpu);
    if usize::from(cpu.0) >= CPUS {
        return Err(no_change);
    }
    let changed = STATES.of(cpu).compare_exchange(from, to, Ordering::SeqCst, Ordering::Relaxed);
    changed.map(|_| ()).map_err(|_| no_change)
}
