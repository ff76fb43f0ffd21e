//! Each CPU's own timer: what runs in its interrupts, while some work is done.
//!
//! The handler runs with interrupts off, on the stack of whatever it interrupts. A period that is shorter than its handler
//! leaves the work no time.

use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use x86_64::instructions::interrupts::without_interrupts;

pub(crate) use crate::apic::Ticks;
use crate::apic::{LocalApic, TimerMode};
use crate::cpu_local::{PerCpu, per_cpu};
use crate::fatal::Registers;

/// What a tick does; it says when the next one is to come, if the timer does not do so by itself.
struct Armed<'h> {
    handler: &'h (dyn Fn(&mut Registers) -> Option<Ticks> + Sync),
}

/// On the stack of whoever waits for the timer to be stopped; null if it stands still.
static ARMED: PerCpu<AtomicPtr<Armed<'static>>> = per_cpu!(AtomicPtr::new(ptr::null_mut()));

static SEEN: PerCpu<AtomicU64> = per_cpu!(AtomicU64::new(0));

/// Interrupts of this CPU's timer since boot.
pub(crate) fn seen() -> u64 {
    SEEN.this().load(Ordering::Relaxed)
}

/// Does some work while `handler` runs on this CPU every so many ticks. Nothing ticks while interrupts are off, nor on a
/// machine without local APICs.
///
/// # Panics
/// This CPU's timer is in use.
pub(crate) fn every<R>(period: Ticks, handler: &(dyn Fn(&mut Registers) + Sync), work: impl FnOnce() -> R) -> R {
    let handler = |registers: &mut Registers| {
        handler(registers);
        None
    };
    run(period, TimerMode::Periodic, &handler, work)
}

/// Does some work while `handler` runs on this CPU: the first time after `first`, then as long after its end as it says, or
/// no more.
///
/// # Panics
/// This CPU's timer is in use.
pub(crate) fn at_intervals<R>(
    first: Ticks,
    handler: &(dyn Fn(&mut Registers) -> Option<Ticks> + Sync),
    work: impl FnOnce() -> R,
) -> R {
    run(first, TimerMode::Once, handler, work)
}

fn run<R>(
    first: Ticks,
    mode: TimerMode,
    handler: &(dyn Fn(&mut Registers) -> Option<Ticks> + Sync),
    work: impl FnOnce() -> R,
) -> R {
    let Some(apic) = LocalApic::get() else { return work() };
    let armed = Armed { handler };
    without_interrupts(|| {
        let before = ARMED.this().swap((&raw const armed).cast_mut().cast(), Ordering::Relaxed);
        assert!(before.is_null(), "this CPU's timer is in use");
        apic.start_timer(first, mode);
    });
    let result = work();
    without_interrupts(|| {
        apic.stop_timer();
        // A tick that is announced already finds nothing to do.
        ARMED.this().store(ptr::null_mut(), Ordering::Relaxed);
    });
    result
}

/// In the timer's interrupt.
pub(crate) fn tick(apic: LocalApic, registers: &mut Registers) {
    SEEN.this().fetch_add(1, Ordering::Relaxed);
    let armed = ARMED.this().load(Ordering::Relaxed);
    // SAFETY: whoever stored it is interrupted here, and takes it away before it is gone.
    let Some(armed) = (unsafe { armed.as_ref() }) else { return };
    if let Some(next) = (armed.handler)(registers) {
        apic.start_timer(next, TimerMode::Once);
    }
}
