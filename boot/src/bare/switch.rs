//! The jump: from the loader's page tables and stack to the kernel's.
//!
//! The page that does it is mapped at the same address in both, so that the instruction after the switch is there; it
//! also keeps the GDT, which the CPU reads whenever the kernel loads a segment.

use core::arch::asm;
use core::slice;

use boot::frames::Block;
use x86_64::VirtAddr;
use x86_64::instructions::tables::lgdt;
use x86_64::structures::DescriptorTablePointer;
use x86_64::structures::paging::PhysFrame;

use super::physical::PhysicalMemory;

/// Where the page keeps the GDT.
const GDT: u16 = 2048;
const GDT_SIZE: u16 = 3 * 8;

// SAFETY: the assembly of this module defines them, with these sizes.
unsafe extern "C" {
    static switch_start: u8;
    static switch_end: u8;
    static boot_gdt: [u8; GDT_SIZE as usize];
}

/// What the kernel starts with.
#[derive(Clone, Copy)]
pub(super) struct Start {
    pub(super) boot_info: VirtAddr,
    pub(super) level_4_table: PhysFrame,
    pub(super) stack_top: VirtAddr,
    pub(super) entry: VirtAddr,
}

/// Starts the kernel; `page` is mapped at its physical address in the kernel's tables.
pub(super) fn run(physical: &PhysicalMemory, page: Block, kernel: Start) -> ! {
    let address = VirtAddr::new(page.start().as_u64());
    let length = (&raw const switch_end).addr() - (&raw const switch_start).addr();
    // SAFETY: the linker lays the code out between the two symbols.
    let code = unsafe { slice::from_raw_parts(&raw const switch_start, length) };
    // SAFETY: a constant of the entry code's.
    let gdt = unsafe { &boot_gdt };
    let memory = physical.open(page);
    memory.fill(0);
    memory[..code.len()].copy_from_slice(code);
    memory[usize::from(GDT)..][..gdt.len()].copy_from_slice(gdt);

    let pointer = DescriptorTablePointer { limit: GDT_SIZE - 1, base: address + u64::from(GDT) };
    // SAFETY: the same descriptors as before, mapped at this address before and after the switch.
    unsafe { lgdt(&pointer) };
    // SAFETY: the page holds the switching code, which sets up what `bootloader_api` promises the kernel's entry point;
    // the loader's stack and tables are not used again.
    unsafe {
        asm!(
            "jmp {page}",
            page = in(reg) address.as_u64(),
            in("rdi") kernel.boot_info.as_u64(),
            in("rsi") kernel.level_4_table.start_address().as_u64(),
            in("rdx") kernel.stack_top.as_u64(),
            in("rcx") kernel.entry.as_u64(),
            options(noreturn),
        )
    }
}
