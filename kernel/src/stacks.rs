//! The stacks that this CPU runs on, and the unmapped page below each.
//!
//! One comes from the loader. The others belong to exceptions that must not run on the stack they interrupt: it may
//! be full.

use core::cell::UnsafeCell;
use core::ops::Range;

use kernel_core::layout::Guard;
use mm::units::PAGE_SIZE;
use spin::Once;

const EXCEPTION_STACK: usize = 16 * 1024;

/// The stack of an exception that does not run on the interrupted one; the number is its place in the task state
/// segment.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ExceptionStack {
    DoubleFault = 0,
    PageFault = 1,
    NonMaskable = 2,
    MachineCheck = 3,
}

impl ExceptionStack {
    pub(crate) const ALL: [Self; 4] = [Self::DoubleFault, Self::PageFault, Self::NonMaskable, Self::MachineCheck];

    const fn name(self) -> &'static str {
        match self {
            Self::DoubleFault => "double-fault stack",
            Self::PageFault => "page-fault stack",
            Self::NonMaskable => "NMI stack",
            Self::MachineCheck => "machine-check stack",
        }
    }
}

/// A stack in the image. The first page is never mapped once the kernel runs on its own page tables.
#[repr(C, align(4096))]
struct Guarded {
    guard: [u8; PAGE_SIZE],
    stack: UnsafeCell<[u8; EXCEPTION_STACK]>,
}

// SAFETY: only the processor writes to a stack, and only that of the one CPU that has it in its task state segment.
unsafe impl Sync for Guarded {}

static EXCEPTION_STACKS: [Guarded; ExceptionStack::ALL.len()] =
    [const { Guarded { guard: [0; PAGE_SIZE], stack: UnsafeCell::new([0; EXCEPTION_STACK]) } };
        ExceptionStack::ALL.len()];

static KERNEL_STACK: Once<Range<u64>> = Once::new();

/// A stack's name and the addresses it has.
#[derive(Clone, Debug)]
pub(crate) struct Stack {
    pub(crate) name: &'static str,
    pub(crate) range: Range<u64>,
}

/// Says where the loader has put the stack that the kernel runs on.
pub(crate) fn set_kernel_stack(range: Range<u64>) {
    KERNEL_STACK.call_once(|| range);
}

/// The stack that an exception runs on.
pub(crate) fn exception_stack(which: ExceptionStack) -> Stack {
    let start = (&raw const EXCEPTION_STACKS[which as usize].stack).addr() as u64;
    Stack { name: which.name(), range: start..start + EXCEPTION_STACK as u64 }
}

/// All stacks.
pub(crate) fn all() -> impl Iterator<Item = Stack> {
    let kernel = KERNEL_STACK.get().map(|range| Stack { name: "kernel stack", range: range.clone() });
    kernel.into_iter().chain(ExceptionStack::ALL.map(exception_stack))
}

/// The guard pages of all stacks.
pub(crate) fn guards() -> impl Iterator<Item = Guard> {
    all().map(|stack| Guard { page: stack.range.start - PAGE_SIZE as u64, stack: stack.name })
}
