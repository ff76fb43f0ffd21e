//! What a CPU has for itself: its segments and the stacks of its exceptions, in owned memory.
//!
//! The boot CPU begins with those of the image and leaves them as soon as there is memory. Its `kmap_local` slots stay
//! with the machine ([`platform`](crate::platform)): the allocator that areas come from needs them.

use core::ptr::NonNull;

use mm::machine::Machine;
use mm::owner::{OwnError, Owners, PerCpuArea};
use mm::page::Request;
use mm::units::{Order, PAGE_SIZE};
use thiserror::Error;
use x86_64::VirtAddr;

use crate::gdt;
use crate::kernel_stack::{BOOT_TASK, MappedStack, StackError};
use crate::paging::space::Space;
use crate::platform::Platform;
use crate::stacks::{self, EXCEPTION_STACK_ORDER, ExceptionStack, StackUse};

/// A CPU's area.
#[derive(Debug)]
struct CpuArea {
    tables: gdt::Tables,
    /// The stacks that the tables name: the CPU runs on them as long as it runs.
    _stacks: [MappedStack; ExceptionStack::ALL.len()],
}

const _: () = assert!(size_of::<CpuArea>() <= PAGE_SIZE && align_of::<CpuArea>() <= PAGE_SIZE);

/// Why a CPU has no area. It goes on with what it has.
#[derive(Clone, Copy, Debug, Error)]
pub(crate) enum AreaError {
    /// There is no stack for an exception.
    #[error("exception stack: {0}")]
    Stack(#[from] StackError),
    /// There is no memory for the area.
    #[error("area: {0}")]
    Memory(#[from] OwnError),
}

/// Gives this CPU an area, which it keeps, and runs with it from then on.
///
/// # Errors
/// See [`AreaError`].
pub(crate) fn init(
    platform: &'static Platform,
    space: &'static Space,
    owners: &'static Owners<'static, Platform>,
) -> Result<(), AreaError> {
    let stack = |which| MappedStack::new(space, owners, EXCEPTION_STACK_ORDER, StackUse::Exception(which), BOOT_TASK);
    let [double_fault, page_fault, non_maskable, machine_check] = ExceptionStack::ALL.map(stack);
    let stacks = [double_fault?, page_fault?, non_maskable?, machine_check?];
    let ends = stacks.each_ref().map(|stack| VirtAddr::new_truncate(stack.range().end));
    let owner = PerCpuArea { cpu: platform.cpu() };
    let area = owners.alloc(Request::new(Order::ZERO), owner).map_err(|(_, error)| error)?;
    let place: NonNull<CpuArea> = platform.direct_map(area.into_raw()).cast();
    // SAFETY: the page is lowmem, has room for an area, and belongs to it from here on.
    unsafe { place.write(CpuArea { tables: gdt::Tables::new(), _stacks: stacks }) };
    // SAFETY: the area was just written, and its page is never freed.
    let area: &'static CpuArea = unsafe { place.as_ref() };
    area.tables.load(ends);
    stacks::retire_early_stacks();
    Ok(())
}
