//! What a CPU has for itself: its segments and the stacks of its exceptions, in owned memory.
//!
//! The boot CPU begins with those of the image and leaves them as soon as there is memory; other CPUs get theirs before
//! they start. What the allocator needs of a CPU, as areas come from it, stands in the image
//! ([`cpu_local`](crate::cpu_local)).

use core::ops::Range;
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicPtr, Ordering};

use mm::machine::Machine;
use mm::owner::{OwnError, Owners, PerCpuArea, TaskId};
use mm::page::Request;
use mm::units::{CpuId, Order, PAGE_SIZE};
use thiserror::Error;
use x86_64::VirtAddr;

use crate::cpu_local::{PerCpu, per_cpu};
use crate::gdt;
use crate::image::ro_after_init;
use crate::kernel_stack::{MappedStack, StackError};
use crate::paging::space::Space;
use crate::platform::Platform;
use crate::stacks::{self, EXCEPTION_STACK_ORDER, ExceptionStack, StackUse};

/// A CPU's area.
#[derive(Debug)]
pub(crate) struct CpuArea {
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

ro_after_init! {
    /// The area of each CPU.
    static AREAS: PerCpu<AtomicPtr<CpuArea>> = per_cpu!(AtomicPtr::new(ptr::null_mut()));
}

impl CpuArea {
    /// Makes a CPU's area, which is never freed.
    ///
    /// # Errors
    /// See [`AreaError`].
    pub(crate) fn new(
        platform: &'static Platform,
        space: &'static Space,
        owners: &'static Owners<'static, Platform>,
        cpu: CpuId,
    ) -> Result<&'static Self, AreaError> {
        let task = TaskId(cpu.0.into());
        let stack = |which| MappedStack::new(space, owners, EXCEPTION_STACK_ORDER, StackUse::Exception(which), task);
        let [double_fault, page_fault, non_maskable, machine_check] = ExceptionStack::ALL.map(stack);
        let stacks = [double_fault?, page_fault?, non_maskable?, machine_check?];
        let ends = stacks.each_ref().map(|stack| VirtAddr::new_truncate(stack.range().end));
        let owner = PerCpuArea { cpu };
        let area = owners.alloc(Request::new(Order::ZERO), owner).map_err(|(_, error)| error)?;
        let place: NonNull<CpuArea> = platform.direct_map(area.into_raw()).cast();
        // SAFETY: the page is lowmem, has room for an area, and belongs to it from here on.
        unsafe { place.write(CpuArea { tables: gdt::Tables::new(ends), _stacks: stacks }) };
        AREAS.of(cpu).store(place.as_ptr(), Ordering::Release);
        // SAFETY: the area was just written, and its page is never freed.
        Ok(unsafe { place.as_ref() })
    }

    /// A CPU's; `None` if it was not made.
    pub(crate) fn of(cpu: CpuId) -> Option<&'static Self> {
        // SAFETY: what is stored was written before, and is never freed.
        unsafe { AREAS.of(cpu).load(Ordering::Acquire).as_ref() }
    }

    /// The page that it has for itself. Nothing in it changes once its CPU runs with it.
    pub(crate) fn pages(&'static self) -> Range<u64> {
        let start = ptr::from_ref(self).addr() as u64;
        start..start + PAGE_SIZE as u64
    }

    /// Runs this CPU, whose area it is, with it from now on.
    pub(crate) fn enter(&'static self) {
        self.tables.load();
    }
}

/// Gives the boot CPU an area, with which it runs from then on.
///
/// # Errors
/// See [`AreaError`].
pub(crate) fn init(
    platform: &'static Platform,
    space: &'static Space,
    owners: &'static Owners<'static, Platform>,
) -> Result<(), AreaError> {
    CpuArea::new(platform, space, owners, platform.cpu())?.enter();
    stacks::retire_early_stacks();
    Ok(())
}
