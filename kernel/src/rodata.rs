//! What nobody writes once the kernel is up becomes read-only, at every address that it has: code and constants, where the
//! direct map shows them, too; variables that only init writes; and the areas of the CPUs, in which their descriptor tables are.
//!
//! Source: Linux, `mark_rodata_ro` and `__ro_after_init`.

use mm::units::{Bytes, Count, PAGE_SIZE};

use crate::cpu;
use crate::cpu_area::CpuArea;
use crate::cpu_local::this_cpu;
use crate::image::{self, Protection, Segments};
use crate::paging::protect::ProtectError;
use crate::paging::space::Space;
use crate::serial::println;

/// Makes all of it read-only. What is neither this CPU nor online by now never runs.
///
/// # Panics
/// The kernel's ELF header is odd, or there is no memory for a page table.
pub(crate) fn mark_ro(space: &Space) {
    let refused = |error: ProtectError| panic!("read-only after init: {error}");
    let segments = Segments::of_kernel().unwrap_or_else(|error| panic!("read-only after init: {error}"));
    let constant = segments.iter().filter_map(Result::ok).filter(|segment| segment.protection != Protection::ReadWrite);
    let constant: u32 = constant
        .map(|segment| space.set_memory_ro(segment.start..segment.end).unwrap_or_else(refused))
        .map(|Count(pages)| pages)
        .sum();
    let this = this_cpu();
    let others = cpu::online().filter(|&cpu| cpu != this);
    let areas = [this].into_iter().chain(others).filter_map(CpuArea::of).map(CpuArea::pages);
    let written = [image::read_only_after_init()].into_iter().chain(areas);
    let written: u32 =
        written.map(|pages| space.set_memory_ro(pages).unwrap_or_else(refused)).map(|Count(pages)| pages).sum();
    let size = |pages: u32| Bytes(pages as usize * PAGE_SIZE);
    println!("read-only: {} of code and constants, {} of what init has written", size(constant), size(written));
}
