//! Tests that end the kernel, each in a way that its report must name. They run only when named in full.

use core::arch::asm;
use core::hint::black_box;

use kernel_core::layout::{BEHIND_STACKS, DIRECT_MAP, KMAP_SLOTS, kmap_address, kmap_entry};
use mm::machine::Machine;
use mm::owner::TaskId;
use mm::page::Request;
use mm::units::{CpuId, Order, Pfn};
use x86_64::VirtAddr;

use super::space::Live;
use super::{NotPassed, Outcome, ktest};
use crate::apic::{LocalApic, Message};
use crate::cpu;
use crate::image::Protection;
use crate::kernel_stack::MappedStack;
use crate::paging::space::page_at;
use crate::platform::Platform;
use crate::stacks::StackUse;

const NON_CANONICAL: u64 = 1 << 63;
const SURVIVED: &str = "the kernel goes on";

fn platform() -> Result<&'static Platform, NotPassed> {
    Platform::get().ok_or_else(|| "the platform is not up".into())
}

/// Reads a byte that cannot be read.
pub(super) fn read(address: u64) -> Outcome {
    let pointer = VirtAddr::new_truncate(address).as_ptr::<u8>();
    // SAFETY: the access faults, and the fault ends the kernel.
    black_box(unsafe { pointer.read_volatile() });
    Err(SURVIVED.into())
}

/// Writes a byte that cannot be written.
pub(super) fn write(address: u64) -> Outcome {
    let pointer = VirtAddr::new_truncate(address).as_mut_ptr::<u8>();
    // SAFETY: the access faults, and the fault ends the kernel.
    unsafe { pointer.write_volatile(0) };
    Err(SURVIVED.into())
}

/// Calls itself until the stack is full.
fn deeper(level: u64) -> u64 {
    let frame = black_box([level; 64]);
    if level == u64::MAX { level } else { deeper(level + 1) + black_box(frame)[7] }
}

ktest!(
    WhenNamed,
    "crash",
    fn panic() {
        panic!("as asked")
    }
);

ktest!(
    WhenNamed,
    "crash",
    fn panic_on_all_cpus_at_once() {
        cpu::on_all(&|cpu| panic!("as asked of CPU {}", cpu.0));
        Err(SURVIVED.into())
    }
);

ktest!(
    WhenNamed,
    "crash",
    fn fault_on_the_last_cpu() {
        let last = cpu::online().last().ok_or("no CPU is online")?;
        cpu::run_on(last, &|| _ = read(8))?;
        Err(SURVIVED.into())
    }
);

ktest!(
    WhenNamed,
    "crash",
    fn machines_own_alarm() {
        let apic = LocalApic::get().ok_or("there is no local APIC")?;
        // Nobody of this kernel has asked for anything.
        apic.send(platform()?.cpu(), Message::NonMaskable);
        for _ in 0..1000 {
            core::hint::spin_loop();
        }
        Err(SURVIVED.into())
    }
);

ktest!(
    WhenNamed,
    "crash",
    fn pagefault() {
        write(8)
    }
);

ktest!(
    WhenNamed,
    "crash",
    fn highmem() {
        read(DIRECT_MAP + platform()?.direct_map_end().address().0 + 0x123)
    }
);

ktest!(
    WhenNamed,
    "crash",
    fn text_write() {
        write(read as fn(u64) -> Outcome as usize as u64)
    }
);

ktest!(
    WhenNamed,
    "crash",
    fn data_execute() {
        static RETURN: [u8; 1] = [0xc3];
        let data = (&raw const RETURN).addr();
        // SAFETY: fetching from data faults, and the fault ends the kernel.
        unsafe { asm!("call {}", in(reg) data, clobber_abi("C")) };
        Err(SURVIVED.into())
    }
);

ktest!(
    WhenNamed,
    "crash",
    fn stack() {
        Err(alloc::format!("{SURVIVED} after {} calls", deeper(0)).into())
    }
);

ktest!(
    WhenNamed,
    "crash",
    fn owned_stack() {
        let live = Live::get().ok_or("memory is not up")?;
        let mut stack = MappedStack::new(live.space, live.owners, Order::of(2), StackUse::Task, TaskId(1))?;
        let deep = stack.run(|| deeper(0));
        Err(alloc::format!("{SURVIVED} after {deep} calls").into())
    }
);

ktest!(
    WhenNamed,
    "crash",
    fn vmap_after_unmap() {
        let live = Live::get().ok_or("memory is not up")?;
        let page = live.allocator.alloc(Request::movable(Order::ZERO))?;
        let address = BEHIND_STACKS + 0x5000;
        live.space.map(page_at(address), page.head(), Protection::ReadWrite)?;
        // SAFETY: the page is mapped, and the test's.
        unsafe { VirtAddr::new_truncate(address).as_mut_ptr::<u8>().write_volatile(1) };
        // SAFETY: nobody refers to the page but the fault to come.
        unsafe { live.space.unmap(page_at(address)) }?;
        read(address)
    }
);

ktest!(
    WhenNamed,
    "crash",
    fn doublefault() {
        // SAFETY: the divide error cannot be delivered on such a stack, and the double fault ends the kernel.
        unsafe { asm!("mov rsp, {}", "xor edx, edx", "div edx", in(reg) NON_CANONICAL, options(noreturn)) }
    }
);

ktest!(
    WhenNamed,
    "crash",
    fn invalid_opcode() {
        // SAFETY: the exception ends the kernel.
        unsafe { asm!("ud2", options(noreturn)) }
    }
);

ktest!(
    WhenNamed,
    "crash",
    fn kmap_after_unmap() {
        let platform = platform()?;
        let slot = platform.kmap_local(platform.direct_map_end());
        // SAFETY: the slot is the youngest, and nothing refers to it but the fault to come.
        unsafe { platform.kunmap_local(slot) };
        read(slot.addr().get() as u64)
    }
);

ktest!(
    WhenNamed,
    "crash",
    fn kmap_guard() {
        read(kmap_address(kmap_entry(CpuId(0), 0)) - 1)
    }
);

ktest!(
    WhenNamed,
    "crash",
    fn kmap_out_of_order() {
        let platform = platform()?;
        let older = platform.kmap_local(platform.direct_map_end());
        platform.kmap_local(platform.direct_map_end());
        // SAFETY: it is not the youngest slot, and the assertion that says so ends the kernel.
        unsafe { platform.kunmap_local(older) };
        Err(SURVIVED.into())
    }
);

ktest!(
    WhenNamed,
    "crash",
    fn kmap_too_deep() {
        let platform = platform()?;
        for _ in 0..=KMAP_SLOTS {
            platform.kmap_local(platform.direct_map_end());
        }
        Err(SURVIVED.into())
    }
);

ktest!(
    WhenNamed,
    "crash",
    fn kmap_of_lowmem() {
        platform()?.kmap_local(Pfn::new(0));
        Err(SURVIVED.into())
    }
);
