//! Kernel stacks: owned blocks, mapped in a slot of the vmap area with unmapped pages below and above.
//!
//! Cost: an owned block, and a mapping for each of its pages.

use alloc::boxed::Box;
use core::arch::naked_asm;
use core::ops::Range;

use kernel_core::layout::LARGEST_STACK;
use mm::owner::{KernelStack, OwnError, Owned, Owners, TaskId};
use mm::page::Request;
use mm::units::{Order, PAGE_SIZE};
use thiserror::Error;

use crate::image::Protection;
use crate::paging::space::{MapError, Space, page_at};
use crate::platform::Platform;
use crate::stacks::{ClaimedSlot, StackUse};

/// The task that boots, and then does whatever the command line asks for. Tasks are numbered like the CPUs they stay on;
/// the stacks of a CPU's exceptions are its task's, too.
pub(crate) const BOOT_TASK: TaskId = TaskId(0);

/// Why there is no stack; everything is as before.
#[derive(Clone, Copy, Debug, Error)]
pub(crate) enum StackError {
    /// No slot is so large.
    #[error("a stack has at most {} pages", LARGEST_STACK.pages())]
    TooLarge,
    /// All slots are taken.
    #[error("there is no room for another stack")]
    NoSlot,
    /// There is no memory for it.
    #[error(transparent)]
    NoMemory(#[from] OwnError),
    /// It cannot be mapped.
    #[error(transparent)]
    NotMapped(#[from] MapError),
}

/// A stack that is mapped. Dropping it unmaps and frees it.
#[derive(Debug)]
pub(crate) struct MappedStack {
    space: &'static Space,
    slot: ClaimedSlot,
    /// Pages that are mapped: the lowest ones.
    mapped: u32,
    block: Owned<'static, Platform, KernelStack>,
}

impl MappedStack {
    /// A stack of `1 << order` pages.
    ///
    /// # Errors
    /// See [`StackError`].
    pub(crate) fn new(
        space: &'static Space,
        owners: &'static Owners<'static, Platform>,
        order: Order,
        used_for: StackUse,
        task: TaskId,
    ) -> Result<Self, StackError> {
        if order > LARGEST_STACK {
            return Err(StackError::TooLarge);
        }
        let slot = ClaimedSlot::any().ok_or(StackError::NoSlot)?;
        let block = owners.alloc(Request::new(order), KernelStack { task }).map_err(|(_, error)| error)?;
        let mut stack = Self { space, slot, mapped: 0, block };
        for (address, frame) in stack.range().step_by(PAGE_SIZE).zip(stack.block.range().frames()) {
            stack.space.map(page_at(address), frame, Protection::ReadWrite)?;
            stack.mapped += 1;
        }
        // SAFETY: every page was just mapped, and dropping the stack withdraws it first.
        unsafe { stack.slot.publish(used_for, order) };
        Ok(stack)
    }

    /// The addresses.
    pub(crate) fn range(&self) -> Range<u64> {
        self.slot.stack(self.block.order())
    }

    /// Runs `work` on this stack, and comes back.
    pub(crate) fn run<R>(&mut self, work: impl FnOnce() -> R) -> R {
        let mut call = Call { work: Some(work), result: None };
        let enter = enter_of(&call);
        // SAFETY: the stack is mapped and nobody else's while it is borrowed, its top is aligned, and `enter` takes
        // what it is given.
        unsafe { switch(self.range().end, enter, (&raw mut call).cast()) };
        call.result.expect("the work was done")
    }

    /// Leaves the stack that this runs on for good: the rest of the kernel's life is `work`, on this one.
    pub(crate) fn leave_for<T>(self, work: fn(Box<T>) -> !, data: Box<T>) -> ! {
        let top = self.range().end;
        core::mem::forget(self);
        let rest = Box::into_raw(Box::new((work, data)));
        // SAFETY: the stack is mapped for ever now and nobody else's, its top is aligned, and `begin` takes such a pair.
        unsafe { switch(top, begin::<T>, rest.cast()) };
        unreachable!("the kernel's work does not come back")
    }
}

/// Does the rest of what is left for another stack.
extern "sysv64" fn begin<T>(rest: *mut ()) {
    let (work, data) = {
        // SAFETY: `leave_for` hands on the box that it made, once.
        let rest = unsafe { Box::from_raw(rest.cast::<(fn(Box<T>) -> !, Box<T>)>()) };
        *rest
    };
    work(data)
}

impl Drop for MappedStack {
    fn drop(&mut self) {
        self.slot.withdraw();
        for address in self.range().step_by(PAGE_SIZE).take(self.mapped as usize) {
            // SAFETY: nobody runs on the stack, as that borrows it.
            if let Err(error) = unsafe { self.space.unmap(page_at(address)) } {
                panic!("kernel stack: {error}");
            }
        }
    }
}

struct Call<F, R> {
    work: Option<F>,
    result: Option<R>,
}

type Enter = extern "sysv64" fn(*mut ());

/// What does the work of such a call.
fn enter_of<F: FnOnce() -> R, R>(_: &Call<F, R>) -> Enter {
    extern "sysv64" fn enter<F: FnOnce() -> R, R>(call: *mut ()) {
        // SAFETY: `switch` hands on the call, which its caller waits for and does not touch.
        let call = unsafe { &mut *call.cast::<Call<F, R>>() };
        call.result = call.work.take().map(|work| work());
    }
    enter::<F, R>
}

/// Calls `enter` with `call` on the stack that ends at `top`. A backtrace ends where the stacks meet.
///
/// # Safety
/// The stack is mapped, nobody runs on it, its top is aligned to 16 bytes, and `enter` may be called with `call`.
#[unsafe(naked)]
unsafe extern "sysv64" fn switch(top: u64, enter: Enter, call: *mut ()) {
    naked_asm!("push rbp", "mov rbp, rsp", "mov rsp, rdi", "mov rdi, rdx", "call rsi", "mov rsp, rbp", "pop rbp", "ret",)
}
