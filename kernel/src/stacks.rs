//! The stacks that this kernel runs on, and the unmapped pages below and above each.
//!
//! Boot runs on one that comes from the loader, and exceptions that must not run on the stack they interrupt, as it may
//! be full, have theirs in the image. All of them go as soon as there is memory for others: these are owned, and mapped in
//! slots of the vmap area ([`kernel_stack`](crate::kernel_stack)). What is live in the slots stands here, in words that a
//! report of a failure can read without a lock.

use core::cell::UnsafeCell;
use core::ops::Range;
use core::sync::atomic::{AtomicU8, Ordering};

use kernel_core::layout::{Edge, Guard, STACK_SLOTS, StackSlot};
use mm::units::{Order, PAGE_SIZE};
use spin::Once;

const EXCEPTION_STACK: usize = 16 * 1024;
/// The order of a stack for exceptions.
pub(crate) const EXCEPTION_STACK_ORDER: Order = Order::of(2);

const _: () = assert!(EXCEPTION_STACK == PAGE_SIZE << EXCEPTION_STACK_ORDER.number());

/// The stack of an exception that does not run on the interrupted one; the number is its place in the task state
/// segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ExceptionStack {
    DoubleFault = 0,
    PageFault = 1,
    NonMaskable = 2,
    MachineCheck = 3,
}

impl ExceptionStack {
    pub(crate) const ALL: [Self; 4] = [Self::DoubleFault, Self::PageFault, Self::NonMaskable, Self::MachineCheck];
}

/// What runs on a stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StackUse {
    Exception(ExceptionStack),
    /// The kernel itself, since boot.
    Kernel,
    Task,
}

impl StackUse {
    const ALL: [Self; 6] = [
        Self::Exception(ExceptionStack::DoubleFault),
        Self::Exception(ExceptionStack::PageFault),
        Self::Exception(ExceptionStack::NonMaskable),
        Self::Exception(ExceptionStack::MachineCheck),
        Self::Kernel,
        Self::Task,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Exception(ExceptionStack::DoubleFault) => "double-fault stack",
            Self::Exception(ExceptionStack::PageFault) => "page-fault stack",
            Self::Exception(ExceptionStack::NonMaskable) => "NMI stack",
            Self::Exception(ExceptionStack::MachineCheck) => "machine-check stack",
            Self::Kernel => "kernel stack",
            Self::Task => "task stack",
        }
    }

    /// The place in [`ALL`](Self::ALL).
    const fn code(self) -> u8 {
        match self {
            Self::Exception(which) => which as u8,
            Self::Kernel => 4,
            Self::Task => 5,
        }
    }
}

/// A stack in the image, and the page below it, which is never mapped once the kernel runs on its own page tables.
#[repr(C, align(4096))]
struct Guarded {
    guard: [u8; PAGE_SIZE],
    stack: UnsafeCell<[u8; EXCEPTION_STACK]>,
}

// SAFETY: only the processor writes to a stack, and only that of the one CPU that has it in its task state segment.
unsafe impl Sync for Guarded {}

/// The stacks in the image. Each one's guard is also the one above the stack before; the last one has one of its own.
#[repr(C)]
struct EarlyStacks {
    stacks: [Guarded; ExceptionStack::ALL.len()],
    above: [u8; PAGE_SIZE],
}

static EARLY_STACKS: EarlyStacks = EarlyStacks {
    stacks: [const { Guarded { guard: [0; PAGE_SIZE], stack: UnsafeCell::new([0; EXCEPTION_STACK]) } };
        ExceptionStack::ALL.len()],
    above: [0; PAGE_SIZE],
};

/// Set once nothing runs on the stacks in the image any more.
static EARLY_STACKS_RETIRED: Once<()> = Once::new();

static LOADERS_STACK: Once<Range<u64>> = Once::new();

/// Set once nothing runs on the loader's stack any more.
static LOADERS_STACK_RETIRED: Once<()> = Once::new();

/// A stack's name and the addresses it has.
#[derive(Clone, Debug)]
pub(crate) struct Stack {
    pub(crate) name: &'static str,
    pub(crate) range: Range<u64>,
}

impl Stack {
    /// The guard page below it, and the one above.
    pub(crate) const fn guards(&self) -> [Guard; 2] {
        let Self { name: stack, range } = self;
        [
            Guard { page: range.start - PAGE_SIZE as u64, stack, edge: Edge::Below },
            Guard { page: range.end, stack, edge: Edge::Above },
        ]
    }
}

/// Says where the loader has put the stack that the kernel begins on.
pub(crate) fn set_loaders_stack(range: Range<u64>) {
    LOADERS_STACK.call_once(|| range);
}

/// Says that nothing runs on the loader's stack any more, and where it is.
pub(crate) fn retire_loaders_stack() -> Option<Range<u64>> {
    LOADERS_STACK_RETIRED.call_once(|| ());
    LOADERS_STACK.get().cloned()
}

/// The loader's stack, if it is in use.
fn loaders_stack() -> Option<Stack> {
    let range = LOADERS_STACK.get().filter(|_| LOADERS_STACK_RETIRED.get().is_none())?;
    Some(Stack { name: "boot stack", range: range.clone() })
}

/// The stack in the image that an exception runs on at first.
pub(crate) fn early_stack(which: ExceptionStack) -> Stack {
    let start = (&raw const EARLY_STACKS.stacks[which as usize].stack).addr() as u64;
    Stack { name: StackUse::Exception(which).name(), range: start..start + EXCEPTION_STACK as u64 }
}

/// The pages below and above the stacks in the image, which are never mapped.
pub(crate) fn early_guards() -> impl Iterator<Item = u64> {
    ExceptionStack::ALL.into_iter().map(early_stack).flat_map(|stack| stack.guards()).map(|guard| guard.page)
}

/// Says that no exception runs on the stacks in the image any more.
pub(crate) fn retire_early_stacks() {
    EARLY_STACKS_RETIRED.call_once(|| ());
}

/// Those stacks in the image that are in use.
fn early_stacks() -> impl Iterator<Item = Stack> {
    let used = EARLY_STACKS_RETIRED.get().is_none();
    ExceptionStack::ALL.into_iter().filter(move |_| used).map(early_stack)
}

/// What is in each slot: one of these, or a live stack's [`LIVE`] with use and order.
static SLOTS: [AtomicU8; STACK_SLOTS] = [const { AtomicU8::new(VACANT) }; STACK_SLOTS];

const VACANT: u8 = 0;
/// The slot is somebody's, and nothing is known to be mapped in it.
const CLAIMED: u8 = 1;
const LIVE: u8 = 0x80;
const USE_SHIFT: u32 = 4;
const ORDER: u8 = (1 << USE_SHIFT) - 1;

/// A slot that is the holder's alone until this drops.
#[derive(Debug)]
pub(crate) struct ClaimedSlot(StackSlot);

impl ClaimedSlot {
    /// Any vacant slot; `None` if there is none.
    pub(crate) fn any() -> Option<Self> {
        let claim = |slot: &StackSlot| {
            let word = &SLOTS[slot.number()];
            word.compare_exchange(VACANT, CLAIMED, Ordering::Acquire, Ordering::Relaxed).is_ok()
        };
        StackSlot::all().find(claim).map(Self)
    }

    /// The addresses of a stack of this order.
    pub(crate) const fn stack(&self, order: Order) -> Range<u64> {
        self.0.stack(order)
    }

    /// Says that a stack of `1 << order` pages is mapped here: reports name it, and backtraces read it.
    ///
    /// # Safety
    /// It is, until [`withdraw`](Self::withdraw).
    pub(crate) unsafe fn publish(&self, used_for: StackUse, order: Order) {
        SLOTS[self.0.number()].store(LIVE | used_for.code() << USE_SHIFT | order.number(), Ordering::Release);
    }

    /// Says that nothing is to be read here any more.
    pub(crate) fn withdraw(&self) {
        SLOTS[self.0.number()].store(CLAIMED, Ordering::Release);
    }
}

impl Drop for ClaimedSlot {
    fn drop(&mut self) {
        SLOTS[self.0.number()].store(VACANT, Ordering::Release);
    }
}

fn live_stacks() -> impl Iterator<Item = Stack> {
    StackSlot::all().filter_map(|slot| {
        let word = SLOTS[slot.number()].load(Ordering::Acquire);
        let (used_for, order) = (usize::from((word & !LIVE) >> USE_SHIFT), Order::new(word & ORDER)?);
        let used_for = StackUse::ALL.get(used_for).filter(|_| word & LIVE != 0)?;
        Some(Stack { name: used_for.name(), range: slot.stack(order) })
    })
}

/// All stacks.
pub(crate) fn all() -> impl Iterator<Item = Stack> {
    loaders_stack().into_iter().chain(early_stacks()).chain(live_stacks())
}

/// The guard pages of all stacks. One between two stacks is first that of the upper one, which runs into it more likely.
pub(crate) fn guards() -> impl Iterator<Item = Guard> {
    let at = |edge: Edge| all().flat_map(|stack| stack.guards()).filter(move |guard| guard.edge == edge);
    at(Edge::Below).chain(at(Edge::Above))
}
