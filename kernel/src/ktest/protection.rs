//! What no page may allow, whichever page of a frame's it is.

use alloc::vec::Vec;
use core::arch::asm;

use kernel_core::layout::{DIRECT_MAP, USERS};
use mm::machine::Machine;
use mm::owner::TaskId;
use mm::page::Request;
use mm::units::{Order, PAGE_SIZE, Pfn, PhysAddr};
use x86_64::VirtAddr;
use x86_64::instructions::tables::{sgdt, sidt};

use super::crash::write;
use super::space::live;
use super::{NotPassed, Outcome, check, diagnostic, ktest};
use crate::cpu;
use crate::cpu_area::CpuArea;
use crate::image::{self, Protection, Segments};
use crate::kernel_stack::MappedStack;
use crate::paging::live::{self as tables, Leaf, Permission};
use crate::platform::Platform;
use crate::stacks::StackUse;

fn platform() -> Result<&'static Platform, NotPassed> {
    Platform::get().ok_or_else(|| "the platform is not up".into())
}

/// A page of the kernel's that nobody may write, wherever it is mapped.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Constant {
    frame: PhysAddr,
    /// Where the kernel uses it.
    address: u64,
}

/// All of them, in the order of their frames.
fn constants(platform: &Platform) -> Result<Vec<Constant>, NotPassed> {
    let segments: Vec<_> = Segments::of_kernel()?.iter().collect::<Result<_, _>>()?;
    let segments = segments.into_iter().filter(|segment| segment.protection != Protection::ReadWrite);
    let areas = cpu::online().filter_map(CpuArea::of).map(CpuArea::pages);
    let ranges = segments.map(|segment| segment.start..segment.end).chain([image::read_only_after_init()]).chain(areas);
    let mut constants = Vec::new();
    for address in ranges.flat_map(|range| range.step_by(PAGE_SIZE)) {
        let leaf = tables::find(platform, address).ok_or("a page of the kernel's is not mapped")?;
        constants.push(Constant { frame: PhysAddr(leaf.physical.0 + (address - leaf.address)), address });
    }
    constants.sort_unstable();
    Ok(constants)
}

/// What the tables say that this CPU runs on: their pages, as far as they can be written, or executed.
struct Granted {
    write: Vec<Leaf>,
    execute: Vec<Leaf>,
    pages: usize,
    users: usize,
}

/// Looks at every page that the live tables map, and fails if one allows what none may.
pub(super) fn check_live_tables() -> Outcome {
    let platform = platform()?;
    let constants = constants(platform)?;
    let mut granted = Granted { write: Vec::new(), execute: Vec::new(), pages: 0, users: 0 };
    let mut wrong = None;
    tables::for_each_leaf(platform, 0..u64::MAX, |leaf| {
        granted.pages += 1;
        let user = leaf.user == Permission::Granted;
        granted.users += usize::from(user);
        match (leaf.write, leaf.execute) {
            (Permission::Granted, Permission::Granted) => wrong = Some((leaf, "is writable and executable")),
            (Permission::Granted, Permission::Denied) => granted.write.push(leaf),
            (Permission::Denied, Permission::Granted) => granted.execute.push(leaf),
            (Permission::Denied, Permission::Denied) => {}
        }
        if user != USERS.contains(&leaf.address) {
            wrong = Some((leaf, "allows users what they may not, or not what they may"));
        }
    });
    check!(wrong.is_none(), "a page: {wrong:x?}");
    for leaf in &granted.write {
        let first = constants.partition_point(|constant| constant.frame < leaf.physical);
        let inside = constants.get(first).filter(|constant| constant.frame.0 < leaf.physical.0 + leaf.size);
        check!(inside.is_none(), "a constant page, {inside:x?}, can be written: {leaf:x?}");
    }
    let kernels = || granted.execute.iter().filter(|leaf| leaf.user == Permission::Denied);
    for leaf in kernels() {
        let text = constants.iter().find(|constant| constant.address == leaf.address);
        check!(text.is_some(), "something else than the image is executable: {leaf:x?}");
    }
    check!(kernels().count() > 0, "nothing is executable, so the walk has missed this very code");
    diagnostic!(
        "{} pages: {} writable, {} executable, {} users'; {} frames constant",
        granted.pages,
        granted.write.len(),
        granted.execute.len(),
        granted.users,
        constants.len(),
    );
    Ok(())
}

ktest!(
    "protection",
    fn nothing_is_writable_and_executable_and_what_is_constant_is_writable_at_no_address() {
        check_live_tables()
    }
);

ktest!(
    "protection",
    fn the_tables_that_every_cpu_has_loaded_cannot_be_written() {
        let platform = platform()?;
        let found = spin::Mutex::new(Vec::with_capacity(2 * kernel_core::layout::CPUS));
        cpu::on_all(&|_| found.lock().extend([sgdt(), sidt()].map(|table| table.base.as_u64())));
        let found = found.into_inner();
        check!(found.len() == 2 * cpu::online().count(), "{found:x?}");
        for address in found {
            let leaf = tables::find(platform, address).ok_or("a descriptor table is not mapped")?;
            check!(leaf.write == Permission::Denied, "a descriptor table at {address:#x} can be written: {leaf:x?}");
        }
        Ok(())
    }
);

/// Where the direct map shows what is at an address.
fn in_direct_map(address: u64) -> Result<u64, NotPassed> {
    let platform = platform()?;
    let leaf = tables::find(platform, address).ok_or("nothing is mapped there")?;
    let frame = Pfn::containing(leaf.physical).filter(|&frame| frame < platform.direct_map_end());
    let frame = frame.ok_or("the frame is highmem")?;
    Ok(DIRECT_MAP + frame.address().0 + address % PAGE_SIZE as u64)
}

/// Calls a near return that was written to some memory.
fn execute(address: u64) -> Outcome {
    const NEAR_RETURN: u8 = 0xc3;
    // SAFETY: the memory is the test's, and mapped.
    unsafe { VirtAddr::new_truncate(address).as_mut_ptr::<u8>().write_volatile(NEAR_RETURN) };
    // SAFETY: the fault ends the kernel.
    unsafe { asm!("call {}", in(reg) address, clobber_abi("C")) };
    Err("the kernel goes on".into())
}

static CONSTANT: [u64; 4] = [1, 2, 3, 4];

ktest!(
    WhenNamed,
    "crash",
    fn constant_write() {
        write((&raw const CONSTANT).addr() as u64)
    }
);

ktest!(
    WhenNamed,
    "crash",
    fn constant_write_through_the_direct_map() {
        write(in_direct_map((&raw const CONSTANT).addr() as u64)?)
    }
);

ktest!(
    WhenNamed,
    "crash",
    fn text_write_through_the_direct_map() {
        write(in_direct_map(check_live_tables as fn() -> Outcome as usize as u64)?)
    }
);

ktest!(
    WhenNamed,
    "crash",
    fn idt_write() {
        write(sidt().base.as_u64())
    }
);

ktest!(
    WhenNamed,
    "crash",
    fn idt_write_through_the_direct_map() {
        write(in_direct_map(sidt().base.as_u64())?)
    }
);

ktest!(
    WhenNamed,
    "crash",
    fn gdt_write() {
        write(sgdt().base.as_u64())
    }
);

ktest!(
    WhenNamed,
    "crash",
    fn stack_execute() {
        let live = live()?;
        let stack = MappedStack::new(live.space, live.owners, Order::of(2), StackUse::Task, TaskId(1))?;
        execute(stack.range().start)
    }
);

ktest!(
    WhenNamed,
    "crash",
    fn heap_execute() {
        let bytes = alloc::vec![0_u8; 64];
        execute(bytes.as_ptr().addr() as u64)
    }
);

ktest!(
    WhenNamed,
    "crash",
    fn direct_map_execute() {
        let block = live()?.allocator.alloc(Request::new(Order::ZERO))?;
        execute(DIRECT_MAP + block.head().address().0)
    }
);
