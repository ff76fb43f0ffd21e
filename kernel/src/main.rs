//! The kernel around `mm`: boots through `bootloader_api`, maps memory its own way, then tests or measures.
//!
//! Modules, each knowing only those before it (the tests, beside what they test, know the harness too):
//! output and the way out; which CPU this is; the image and its stacks; the local APIC, and what CPUs do to each other at once;
//! reports of failures; this machine for `mm`; page tables; users' memory; interrupts and exceptions; firmware files; clocks;
//! memory, in a build of its own who looks at each access to it, and what tells of it in an image; stacks and areas of CPUs in
//! it; work on CPUs, and their start; what is read-only from then on; memory's reports; the heap; tests, benchmarks, the replay of
//! traces, a workload larger than memory, and a foreign client of the heap.
#![no_std]
#![no_main]
#![cfg_attr(asan, feature(sanitize))]

extern crate alloc;

mod exit;
mod serial;

mod cpu_local;

mod image;
mod stacks;

mod apic;
mod nmi;

mod backtrace;
mod panic;

mod fatal;
mod gdt;

mod kmap;
mod platform;

mod paging;

mod user;

mod timer;

mod interrupt;

mod idt;

mod fw_cfg;

mod clock;
mod pit;

mod boot_memory;
mod machine_name;
mod memory;
#[cfg(asan)]
mod sanitizer;

mod image_note;

mod cpu_area;
mod kernel_stack;

mod cpu;
mod start;

mod rodata;

mod dump;

mod heap;

mod bench;
mod ktest;
mod replay;
mod workload;

mod client;

use alloc::boxed::Box;
use alloc::string::String;
use core::ops::Range;
use core::slice;

use bootloader_api::config::Mapping;
use bootloader_api::info::MemoryRegionKind;
use bootloader_api::{BootInfo, BootloaderConfig, entry_point};
use kernel_core::acpi::Topology;
use kernel_core::cmdline::{CommandLine, FaultWords, Run};
use kernel_core::layout::{self, LARGEST_STACK};
use mm::boot_map::BootMap;
use mm::hardening::Hardening;
use mm::machine::Machine;
use mm::units::{Bytes, Count, Pfn, PhysAddr};
use x86_64::VirtAddr;

use crate::exit::{Exit, exit};
use crate::fw_cfg::FileError;
use crate::kernel_stack::{BOOT_TASK, MappedStack};
use crate::memory::{Allocator, MachineOwners};
use crate::paging::build::{self, DirectMapPages, Loader};
use crate::paging::space::Space;
use crate::paging::{adopt, retire};
use crate::platform::Platform;
use crate::serial::println;
use crate::stacks::{ExceptionStack, StackUse};
use crate::start::Trampoline;
use crate::user::prevention;

/// The fw_cfg file that holds the command line.
const CMDLINE_FILE: &str = "opt/mm/cmdline";
const CMDLINE_LIMIT: u32 = 64 * 1024;

static BOOTLOADER_CONFIG: BootloaderConfig = {
    let mut config = BootloaderConfig::new_default();
    config.kernel_stack_size = 128 * 1024;
    config.mappings.physical_memory = Some(Mapping::Dynamic);
    config.mappings.dynamic_range_start = Some(layout::KERNEL);
    config
};

entry_point!(main, config = &BOOTLOADER_CONFIG);

fn main(boot_info: &'static mut BootInfo) -> ! {
    // SAFETY: the CPU that boots enters here, and only what is called below asks who it is.
    unsafe { cpu_local::init() };
    boot_cpu(boot_info)
}

#[inline(never)]
fn boot_cpu(boot_info: &'static mut BootInfo) -> ! {
    image::set_slide(boot_info.kernel_image_offset);
    serial::init();
    let stack = boot_info.kernel_stack_bottom..boot_info.kernel_stack_bottom + boot_info.kernel_stack_len;
    stacks::set_loaders_stack(stack.clone());
    gdt::init();
    idt::init();
    heap::init();

    let booted = Box::new(boot(boot_info, stack));
    let stack = MappedStack::new(booted.space, booted.owners, LARGEST_STACK, StackUse::Kernel, BOOT_TASK);
    stack.unwrap_or_else(|error| panic!("kernel stack: {error}")).leave_for(run, booted)
}

/// What the kernel is here for, on a stack of its own: nothing of the loader's or of boot's is needed any more.
fn run(booted: Box<Booted>) -> ! {
    let Booted { platform, allocator, owners, space, words, machine, trampoline } = *booted;
    if let Some(stack) = stacks::retire_loaders_stack() {
        // SAFETY: whoever ran on the loader's stack has left it and does not come back.
        let Count(pages) = unsafe { retire::give_back(space, allocator, stack) };
        println!("boot stack: its {pages} pages are free memory now");
    }
    heap::retire_boot_heap(space, allocator);
    start::start(start::Memory { platform, allocator, owners, space }, trampoline);
    rodata::mark_ro(space);

    let injects = words.run == Run::Test && platform.injected_faults().is_some();
    if words.faults != FaultWords::default() && !injects {
        println!("faults: none, they are for tests in a kernel with checks");
    }
    let status = match words.run {
        Run::List => exit(list(&words)),
        Run::Test => ktest::run(&words.selection, words.seed, words.faults),
        Run::Bench => bench::run(&words.selection, words.seed, &machine),
        Run::Replay => replay::run(allocator, words.check_every, &machine),
        Run::Dump => Exit::Success,
    };
    dump::print(allocator, &words.dump);
    exit(status)
}

/// What is left of booting.
#[derive(Debug)]
struct Booted {
    platform: &'static Platform,
    allocator: &'static Allocator,
    owners: &'static MachineOwners,
    space: &'static Space,
    words: CommandLine,
    machine: String,
    trampoline: Option<Trampoline>,
}

/// Sets memory up. What lives on is copied to where memory then comes from; all else is freed on return, so that nothing
/// is left in the boot heap.
fn boot(boot_info: &'static mut BootInfo, stack: Range<u64>) -> Booted {
    let words = read_command_line();
    let (platform, map, trampoline) = leave_loader(boot_info, stack, &words);
    let machine = machine_name::of(&map, platform.topology(), &words);
    let (allocator, caches) = memory::init(platform, map, &words);
    let owners = memory::owners().expect("memory was set up with owners");
    let space = own_boot_memory(platform, allocator, owners);
    image_note::leave(allocator, caches, owners, space);
    heap::serve_from(caches);
    Booted { platform, allocator, owners, space, words: words.clone(), machine: machine.clone(), trampoline }
}

fn read_command_line() -> CommandLine {
    let line = match fw_cfg::read_small(CMDLINE_FILE, CMDLINE_LIMIT) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(FileError::NotFound | FileError::NoDevice) => String::new(),
        Err(error) => {
            println!("cmdline: none, {error}");
            String::new()
        }
    };
    // A file made of a C string ends with its terminator.
    CommandLine::parse(line.trim_end_matches('\0'), |ignored| println!("cmdline: {ignored}"))
}

/// Reads firmware's tables, which nobody but the loader maps for sure.
fn read_topology(boot_info: &BootInfo, physical_memory: u64, words: &CommandLine) -> Topology {
    /// A loader maps at least so much.
    const LOWEST_END: u64 = 1 << 32;
    // Address space without memory is not mapped.
    const NO_MEMORY: MemoryRegionKind = MemoryRegionKind::UnknownBios(2);
    let memory = boot_info.memory_regions.iter().filter(|region| region.kind != NO_MEMORY);
    let end = memory.map(|region| region.end).fold(LOWEST_END, Ord::max);
    let read = |start: PhysAddr, length: Bytes| -> Option<&'static [u8]> {
        start.0.checked_add(length.0 as u64).filter(|&behind| behind <= end)?;
        let bytes = VirtAddr::new_truncate(physical_memory.wrapping_add(start.0)).as_ptr::<u8>();
        // SAFETY: the loader maps all memory there, and firmware's tables, whatever they are, hold still.
        Some(unsafe { slice::from_raw_parts(bytes, length.0) })
    };
    let rsdp = boot_info.rsdp_addr.into_option().map(PhysAddr);
    let topology = Topology::read(rsdp, apic::own_id(), &read, &mut |fault| println!("acpi: {fault}"));
    match words.cpus {
        Some(count) => topology.limited_to(count),
        None => topology,
    }
}

/// Builds the kernel's page tables and switches to them. Gives the machine and its memory map, in which all that is
/// in use or withheld is reserved, and where other CPUs can begin.
///
/// # Panics
/// If the memory map makes no sense or the tables cannot be built: there is nothing to go on with.
fn leave_loader(
    boot_info: &'static mut BootInfo,
    stack: Range<u64>,
    words: &CommandLine,
) -> (&'static Platform, BootMap, Option<Trampoline>) {
    let physical_memory = boot_info.physical_memory_offset.into_option();
    let physical_memory = physical_memory.expect("the loader maps physical memory, as the kernel's configuration asks");
    let topology = read_topology(boot_info, physical_memory, words);
    let listed = topology.assign(&boot_memory::collect(boot_info));
    let loader = Loader { physical_memory, stack, regions: &listed };
    let regions = [&listed[..], &words.reserved[..]].concat();
    let mut map = BootMap::new(&regions).unwrap_or_else(|error| panic!("boot memory map: {error}"));
    let lowmem = words.lowmem.map_or(Pfn::LIMIT, |end| Pfn::containing(end).unwrap_or(Pfn::LIMIT));
    let direct_map_end = lowmem.min(map.usable_end());
    let trampoline = Trampoline::carve(&mut map, topology.cpus(), direct_map_end);

    let takes_out = words.hardening.contains(Hardening::DEBUG_PAGEALLOC);
    let pages = if takes_out { DirectMapPages::Smallest } else { DirectMapPages::Largest };
    // SAFETY: the loader's tables are live and map physical memory as the configuration asks; the loader and the
    // command line vouch for what is usable.
    let built = unsafe { build::build(&loader, direct_map_end, pages, &mut map) };
    let tables = built.unwrap_or_else(|error| panic!("page tables: {error}"));
    // SAFETY: the boot information was copied, its borrow ends here, and nothing else of the loader is in use.
    unsafe { tables.switch() };
    // SAFETY: these tables map nothing of users', and nobody has another way to users' memory than the routines for it.
    unsafe { prevention::switch_on() };
    let (map, topology) = memory::split_nodes(map, topology, words);
    // SAFETY: these tables are live, and were built with this end.
    let platform = unsafe { Platform::init(direct_map_end, topology, words) };
    (platform, map, trampoline)
}

/// What boot has made without an allocator gets owners, or goes: page tables, and the boot CPU's tables and stacks.
///
/// # Panics
/// If there is no memory even for that: there is nothing to go on with.
fn own_boot_memory(
    platform: &'static Platform,
    allocator: &'static Allocator,
    owners: &'static MachineOwners,
) -> &'static Space {
    // SAFETY: `leave_loader` carved the tables out of what the allocator then got, and has done with them.
    let space = unsafe { adopt::adopt(platform, allocator, owners) };
    let space = space.unwrap_or_else(|error| panic!("page tables: {error}")).install();
    cpu_area::init(platform, space, owners).unwrap_or_else(|error| panic!("CPU 0: {error}"));
    let stacks = ExceptionStack::ALL.map(|which| {
        // SAFETY: the CPU's tables name other stacks now.
        unsafe { retire::give_back(space, allocator, stacks::early_stack(which).range) }.0
    });
    println!("exception stacks of boot: {} of their pages are free memory now", stacks.iter().sum::<u32>());
    space
}

fn list(words: &CommandLine) -> Exit {
    for test in ktest::selected(&words.selection) {
        println!("test {}", test.name);
    }
    for benchmark in bench::selected(&words.selection) {
        println!("bench {}", benchmark.name);
    }
    Exit::Success
}
