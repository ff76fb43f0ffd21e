//! What CPUs do to each other at once, whatever they are in the middle of: non-maskable interrupts.
//!
//! Full barriers and flushes of translations are asked for with interrupts off and locks held, by several CPUs at the same
//! time. So nobody may be waited for who may be waiting with interrupts off, and an interrupt that reaches those, too,
//! needs nothing of what it interrupts: no lock, no memory, no output.
//!
//! A CPU has a mailbox. Who wants something of it counts the requests up, and sends the interrupt unless one is on its
//! way; the handler first says that none is on its way any more, then looks how many requests there are, does what is
//! asked, and says so.
//!
//! Invariants: NMI-1 (between two interrupts that a mailbox's `coming` announces, its handler has run: so an interrupt
//! that nothing announced is the machine's own), NMI-2 (what is counted in `requested` was asked for before, and what is in
//! `done` was done). An idle CPU has nothing to be told of pages: it takes its flushes, and a full fence, when it stops idling.
//! But whatever tables it remembers it may look through at any time, so of those it is told at once.
//!
//! Cost: an interrupt for each other CPU that is not idle, or for each if tables are to be free, and waiting for the slowest.

use core::hint::spin_loop;
use core::sync::atomic::{AtomicBool, AtomicU16, AtomicU32, AtomicU64, Ordering, fence};

use kernel_core::layout::CPUS;
use mm::units::CpuId;
use x86_64::instructions::interrupts::without_interrupts;
use x86_64::instructions::{hlt, tlb};

use crate::apic::{LocalApic, Message};
use crate::cpu_local::{PerCpu, per_cpu, this_cpu};

/// What others want of a CPU. All of it is read and written in one order that all CPUs agree on.
#[derive(Debug)]
struct Mailbox {
    coming: AtomicBool,
    requested: AtomicU64,
    done: AtomicU64,
    /// Translations are to be forgotten.
    flush: AtomicBool,
    idle: AtomicBool,
}

static MAILBOXES: PerCpu<Mailbox> = per_cpu!(Mailbox {
    coming: AtomicBool::new(false),
    requested: AtomicU64::new(0),
    done: AtomicU64::new(0),
    flush: AtomicBool::new(false),
    idle: AtomicBool::new(false),
});

/// A bit for each CPU that can take these interrupts; none is ever cleared.
static TAKING: AtomicU32 = AtomicU32::new(0);

const _: () = assert!(CPUS <= u32::BITS as usize);

/// The CPU that is about to end the kernel: nobody else is to go on. That one does its errands to the end.
static ENDING: AtomicU16 = AtomicU16::new(NOBODY);

const NOBODY: u16 = u16::MAX;

/// A bit for each CPU that has stopped.
static STOPPED: AtomicU32 = AtomicU32::new(0);

/// What a CPU is to do for others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Errand {
    /// Order its accesses.
    Barrier,
    /// Forget all translations, and order its accesses.
    Flush,
    /// The same, even if it idles: tables are about to be something else.
    FlushTables,
}

/// Where an interrupt came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Another CPU.
    Cpu,
    /// Nobody that this kernel knows.
    Machine,
}

/// Says that this CPU takes these interrupts from now on. Before, it has shared nothing with others.
pub(crate) fn take() {
    let CpuId(cpu) = this_cpu();
    // Who does not see this bit yet has ordered all that it did before what this CPU does next.
    TAKING.fetch_or(1 << cpu, Ordering::SeqCst);
    fence(Ordering::SeqCst);
    tlb::flush_all();
}

/// The CPUs but this one that take these interrupts.
fn others() -> impl Iterator<Item = CpuId> + Clone {
    let others = TAKING.load(Ordering::SeqCst) & !(1 << this_cpu().0);
    (0..u16::try_from(CPUS).unwrap_or(u16::MAX)).filter(move |cpu| others >> cpu & 1 != 0).map(CpuId)
}

/// Has every other CPU that `concerns` do an errand, and waits until all have. What this CPU did before is seen by what
/// they do behind it, and the other way round.
pub(crate) fn send_others(errand: Errand, concerns: impl Fn(CpuId) -> bool) {
    fence(Ordering::SeqCst);
    let Some(apic) = LocalApic::get() else { return };
    let mut tickets = [0; CPUS];
    for cpu in others().filter(|&cpu| concerns(cpu)) {
        let mailbox = MAILBOXES.of(cpu);
        if errand != Errand::Barrier {
            mailbox.flush.store(true, Ordering::SeqCst);
        }
        // Pairs with `resume`: either it finds the flush, or this finds it awake.
        if errand != Errand::FlushTables && mailbox.idle.load(Ordering::SeqCst) {
            continue;
        }
        tickets[usize::from(cpu.0)] = mailbox.requested.fetch_add(1, Ordering::SeqCst) + 1;
        // A handler that wanted something of the same CPU would wait for what was announced and not sent.
        without_interrupts(|| {
            if !mailbox.coming.swap(true, Ordering::SeqCst) {
                apic.send(cpu, Message::NonMaskable);
            }
        });
    }
    for (cpu, &ticket) in (0..).map(CpuId).zip(&tickets).filter(|&(_, &ticket)| ticket > 0) {
        while MAILBOXES.of(cpu).done.load(Ordering::SeqCst) < ticket {
            spin_loop();
        }
    }
}

/// Does what others have asked for, in the handler of such an interrupt.
pub(crate) fn handle() -> Origin {
    let ending = ENDING.load(Ordering::SeqCst);
    if ending != NOBODY && ending != this_cpu().0 {
        stop();
    }
    let mailbox = MAILBOXES.this();
    // INVARIANT: NMI-1, from here on a request sends another interrupt.
    if !mailbox.coming.swap(false, Ordering::SeqCst) {
        return Origin::Machine;
    }
    let requested = mailbox.requested.load(Ordering::SeqCst);
    flush_if_asked(mailbox);
    fence(Ordering::SeqCst);
    // INVARIANT: NMI-2, the flush was asked for before it was counted.
    mailbox.done.store(requested, Ordering::SeqCst);
    Origin::Cpu
}

fn flush_if_asked(mailbox: &Mailbox) {
    if mailbox.flush.swap(false, Ordering::SeqCst) {
        // No page is global, so this is all of them.
        tlb::flush_all();
    }
}

/// Says that this CPU does nothing until [`resume`]: others need not wait for it. Interrupts are off.
pub(crate) fn rest() {
    MAILBOXES.this().idle.store(true, Ordering::SeqCst);
}

/// How a CPU rests, at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Resting {
    /// It does not.
    No,
    /// It does, and knows nothing that it is to forget.
    Clean,
    /// It does, and forgets something when it stops.
    Stale,
}

/// How a CPU rests.
pub(crate) fn resting(cpu: CpuId) -> Resting {
    let mailbox = MAILBOXES.of(cpu);
    match (mailbox.idle.load(Ordering::SeqCst), mailbox.flush.load(Ordering::SeqCst)) {
        (false, _) => Resting::No,
        (true, false) => Resting::Clean,
        (true, true) => Resting::Stale,
    }
}

/// Ends [`rest`], if there was one. Interrupts are off.
#[inline]
pub(crate) fn resume() {
    let mailbox = MAILBOXES.this();
    // Only this CPU writes it.
    if mailbox.idle.load(Ordering::Relaxed) {
        mailbox.idle.swap(false, Ordering::SeqCst);
        flush_if_asked(mailbox);
    }
}

/// Stops every other CPU for good, as far as they can be stopped.
pub(crate) fn stop_others() {
    const PATIENCE: u32 = 1_000_000;
    ENDING.store(this_cpu().0, Ordering::SeqCst);
    let Some(apic) = LocalApic::get() else { return };
    for cpu in others() {
        apic.send(cpu, Message::NonMaskable);
    }
    let goes_on = |cpu: CpuId| STOPPED.load(Ordering::SeqCst) >> cpu.0 & 1 == 0;
    let _ = (0..PATIENCE).take_while(|_| others().any(goes_on)).map(|_| spin_loop()).count();
}

/// The end of this CPU: another one is reporting why.
pub(crate) fn stop() -> ! {
    STOPPED.fetch_or(1 << this_cpu().0, Ordering::SeqCst);
    loop {
        hlt();
    }
}
