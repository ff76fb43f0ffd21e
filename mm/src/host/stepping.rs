//! Interrupts in front of any instruction: the processor's trap flag stops the thread after each one, and the signal that
//! comes of it is where the hosted interrupt comes, if interrupts are on.
//!
//! So what a test interrupts does not depend on time, and no point between two instructions is left out:
//!
//! ```text
//!   sweep:   for n = 1, 2, 3 …: set up anew, run the work with one interrupt at its n-th instruction, until none came
//!   storm:   run the work once, with an interrupt in front of every n-th instruction
//! ```
//!
//! The handler runs in a signal handler of the thread that it interrupts, wherever that is. So neither the work nor the
//! handler may use the process's heap, or anything else that cannot be interrupted and does not turn the machine's
//! interrupts off: allocate from the machine, and keep what must be kept in arrays.
//!
//! Cost: a signal for each instruction, some microseconds to some tens of them.

use core::cell::Cell;
use core::num::NonZeroU64;
use core::ptr::{self, NonNull};
use std::boxed::Box;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;
use std::{any::Any, arch::asm};

use super::HostMachine;
use crate::machine::Geometry;

/// Where interrupts come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum When {
    /// One, in front of the instruction of this number, or the first behind that with interrupts on.
    Once(NonZeroU64),
    /// One whenever this many instructions have passed since the last, as soon as interrupts are on.
    Every(NonZeroU64),
}

/// What came of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Came {
    /// Interrupts that came.
    pub interrupts: u64,
    /// Instructions that were counted: up to the last interrupt, if that was to be the only one.
    pub instructions: u64,
}

/// The trap flag.
const TRAP: i64 = 1 << 8;

/// A thread that is being stopped after each instruction.
struct Stepping<'a> {
    /// Runs the handler, if interrupts are on; says whether they were.
    interrupt: &'a mut dyn FnMut() -> Option<()>,
    when: When,
    /// Instructions until the next interrupt.
    left: u64,
    came: Came,
    /// What the handler panicked with.
    panic: Option<Box<dyn Any + Send>>,
}

std::thread_local! {
    static STEPPING: Cell<*mut Stepping<'static>> = const { Cell::new(ptr::null_mut()) };
}

/// Runs `work` on this CPU of the machine, interrupted by `handler`.
///
/// # Panics
/// If the work or the handler does; or if this thread is being interrupted already.
pub fn interrupted<G: Geometry, R>(
    machine: &HostMachine<G>,
    when: When,
    mut handler: impl FnMut(),
    work: impl FnOnce() -> R,
) -> (R, Came) {
    struct Stop;
    impl Drop for Stop {
        fn drop(&mut self) {
            clear_trap_flag();
            STEPPING.set(ptr::null_mut());
        }
    }
    install();
    assert!(STEPPING.get().is_null(), "a thread is interrupted by one test at a time");
    let (When::Once(first) | When::Every(first)) = when;
    let came = Came { interrupts: 0, instructions: 0 };
    let mut interrupt = || machine.interrupt(&mut handler);
    let mut stepping = Stepping { interrupt: &mut interrupt, when, left: first.get(), came, panic: None };
    let result = {
        STEPPING.set(ptr::from_mut(&mut stepping).cast());
        let _stop = Stop;
        set_trap_flag();
        work()
    };
    if let Some(payload) = stepping.panic.take() {
        panic::resume_unwind(payload);
    }
    (result, stepping.came)
}

impl Stepping<'_> {
    /// An instruction has passed. Says whether another is to be counted.
    fn step(&mut self) -> Next {
        self.came.instructions += 1;
        self.left = self.left.saturating_sub(1);
        if self.left > 0 {
            return Next::Count;
        }
        match panic::catch_unwind(AssertUnwindSafe(|| (self.interrupt)())) {
            Ok(None) => return Next::Count,
            Ok(Some(())) => self.came.interrupts += 1,
            Err(payload) => {
                self.panic = Some(payload);
                return Next::Run;
            }
        }
        match self.when {
            When::Once(_) => Next::Run,
            When::Every(instructions) => {
                self.left = instructions.get();
                Next::Count
            }
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Next {
    Count,
    Run,
}

/// Lets the signal of the trap flag come here, for the whole process.
fn install() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        // SAFETY: all zeroes is an action: nothing blocked, no flags.
        let mut action: libc::sigaction = unsafe { core::mem::zeroed() };
        action.sa_sigaction = trapped as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO;
        // SAFETY: the action is whole, and its function is one for these flags.
        let installed = unsafe { libc::sigaction(libc::SIGTRAP, &raw const action, ptr::null_mut()) };
        assert_eq!(installed, 0, "no handler for SIGTRAP");
    });
}

/// The kernel has cleared the trap flag for as long as this runs, and sets it again from what it saved.
extern "C" fn trapped(_: libc::c_int, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let next = match NonNull::new(STEPPING.get()) {
        // SAFETY: it lives until the trap flag is cleared for good, and only this function, once at a time, borrows it.
        Some(mut stepping) => unsafe { stepping.as_mut() }.step(),
        None => Next::Run,
    };
    if next == Next::Run {
        let context = context.cast::<libc::ucontext_t>();
        // SAFETY: that is what a handler with these flags is given.
        let context = unsafe { &mut *context };
        context.uc_mcontext.gregs[libc::REG_EFL as usize] &= !TRAP;
    }
}

#[inline(always)]
fn set_trap_flag() {
    // SAFETY: the flag stops the thread after each instruction, and the signal's handler is installed.
    unsafe { asm!("pushfq", "or qword ptr [rsp], 0x100", "popfq") };
}

#[inline(always)]
fn clear_trap_flag() {
    // SAFETY: changes no other flag.
    unsafe { asm!("pushfq", "and qword ptr [rsp], -257", "popfq") };
}
