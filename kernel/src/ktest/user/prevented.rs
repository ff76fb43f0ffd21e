//! What keeps the kernel from users' memory, outside of the routines that may use it.

use core::arch::asm;
use core::hint::black_box;
use core::sync::atomic::{AtomicU32, Ordering};

use kernel_core::layout::USERS;
use mm::owner::TaskId;
use mm::space::{Access, PageEntry, PageProtection, TableEntry};
use mm::units::{Order, VirtualAddress};
use spin::Mutex;
use x86_64::VirtAddr;
use x86_64::instructions::interrupts::without_interrupts;
use x86_64::registers::control::{Cr4, Cr4Flags};
use x86_64::registers::rflags::{self, RFlags};

use super::faults::{PAGE, demanding, on_demand};
use super::handmade::{Handmade, PageNumber, entry, refuse};
use crate::cpu;
use crate::fatal::Registers;
use crate::kernel_stack::MappedStack;
use crate::ktest::protection::check_live_tables;
use crate::ktest::space::live;
use crate::ktest::{Outcome, check, diagnostic, ktest, skip};
use crate::stacks::StackUse;
use crate::timer::{self, Ticks};
use crate::user::access::{copy_from_user, copy_to_user};
use crate::user::{live, prevention};

const AC: RFlags = RFlags::ALIGNMENT_CHECK;
const SMEP: Cr4Flags = Cr4Flags::SUPERVISOR_MODE_EXECUTION_PROTECTION;
const SMAP: Cr4Flags = Cr4Flags::SUPERVISOR_MODE_ACCESS_PREVENTION;
const UMIP: Cr4Flags = Cr4Flags::USER_MODE_INSTRUCTION_PREVENTION;

const SURVIVED: &str = "the kernel goes on";

fn pointer(address: VirtualAddress) -> *mut u8 {
    VirtAddr::new_truncate(address.0).as_mut_ptr()
}

/// Calls users' code as users would: for once without SMEP, as there is no ring 3.
///
/// # Safety
/// The code does nothing but return.
pub(super) unsafe fn call_users(code: VirtualAddress) {
    without_interrupts(|| {
        let before = Cr4::read();
        // SAFETY: this CPU executes nothing of users' but the call until it is on again.
        unsafe { Cr4::write(before - SMEP) };
        // SAFETY: the caller's promise.
        unsafe { asm!("call {}", in(reg) code.0, clobber_abi("C")) };
        // SAFETY: it was so before.
        unsafe { Cr4::write(before) };
    });
}

/// Reads a byte as the routines do, with AC set, at an instruction that is none of theirs.
fn read_with_access(address: VirtualAddress) -> Outcome {
    // SAFETY: the fault ends the kernel.
    unsafe {
        asm!("pushfq", "or dword ptr [rsp], {ac}", "popfq", "mov al, [{at}]", ac = const AC.bits(), at = in(reg) address.0, out("al") _);
    }
    Err(SURVIVED.into())
}

/// Reads a byte as any code of the kernel's would.
fn read(address: VirtualAddress) -> Outcome {
    // SAFETY: the fault ends the kernel.
    black_box(unsafe { pointer(address).read_volatile() });
    Err(SURVIVED.into())
}

ktest!(
    "prevention",
    fn every_cpu_has_switched_on_what_it_can() {
        let wrong = Mutex::new(None);
        cpu::on_all(&|cpu| {
            let (on, wanted) = (Cr4::read() & (SMEP | SMAP | UMIP), prevention::available());
            if on != wanted {
                *wrong.lock() = Some((cpu, on, wanted));
            }
        });
        let wrong = wrong.into_inner();
        check!(wrong.is_none(), "a CPU has other flags on than it can: {wrong:?}");
        diagnostic!("{:?} on {} CPUs", prevention::available(), cpu::online().count());
        Ok(())
    }
);

ktest!(
    "prevention",
    fn users_memory_is_in_reach_of_the_copying_alone() {
        static RESOLVING: Mutex<Option<RFlags>> = Mutex::new(None);
        fn noting(space: &Handmade, page: PageNumber, access: Access) -> Option<PageEntry> {
            *RESOLVING.lock() = Some(rflags::read());
            on_demand(space, page, access)
        }
        let live = live()?;
        let (_, _page) = demanding(live)?;
        let space = Handmade::new(live, noting)?;
        let after = live::with(&space, || {
            let copied = copy_from_user(space.address(PAGE), &mut [0; 2]);
            let after = rflags::read();
            let refused = copy_to_user(space.address(PageNumber(PAGE.0 + 1)), &[0; 2]);
            (copied.is_ok(), after, refused.is_err(), rflags::read())
        });
        let (copied, after_copy, refused, after_refusal) = after;
        check!(copied && refused, "{after:?}");
        check!(!after_copy.contains(AC), "AC is set behind a copy: {after_copy:?}");
        check!(!after_refusal.contains(AC), "AC is set behind a copy that failed: {after_refusal:?}");
        let resolving = *RESOLVING.lock();
        check!(
            resolving.is_some_and(|flags| !flags.contains(AC)),
            "AC is set while a fault is resolved: {resolving:?}"
        );
        Ok(())
    }
);

ktest!(
    "prevention",
    fn in_a_users_space_nothing_is_writable_and_executable_either_and_users_reach_nothing_of_the_kernels() {
        let (space, page) = demanding(live()?)?;
        let protections = [PageProtection::Read, PageProtection::ReadWrite, PageProtection::ReadExecute];
        for (number, protection) in protections.into_iter().enumerate() {
            space.set(PageNumber(number), TableEntry::Page(entry(page.head(), protection)));
        }
        live::with(&space, check_live_tables)
    }
);

/// Copies from a page until a tick has come in the middle of that; gives what it then did.
fn interrupt_a_copy(inside: &(dyn Fn(VirtualAddress) + Sync)) -> Result<u32, crate::ktest::NotPassed> {
    const PERIOD: Ticks = Ticks(10_000);
    const PATIENCE: u32 = 1_000_000;
    let live = live()?;
    let (space, page) = demanding(live)?;
    space.set(PAGE, TableEntry::Page(entry(page.head(), PageProtection::Read)));
    let address = space.address(PAGE);
    let caught = AtomicU32::new(0);
    let on_tick = |registers: &mut Registers| {
        if registers.flags().contains(AC) {
            inside(address);
            caught.fetch_add(1, Ordering::Relaxed);
        }
    };
    let mut bytes = [0; 4096];
    let copied = timer::every(PERIOD, &on_tick, || {
        live::with(&space, || {
            let enough = |_: &u32| caught.load(Ordering::Relaxed) < 3;
            (0..PATIENCE).take_while(enough).all(|_| copy_from_user(address, &mut bytes).is_ok())
        })
    });
    check!(copied, "a copy that was interrupted failed");
    Ok(caught.into_inner())
}

ktest!(
    "prevention",
    fn a_handler_that_interrupts_a_copy_has_no_access_and_the_copy_has_it_again() {
        if !Cr4::read().contains(SMAP) || crate::apic::LocalApic::get().is_none() {
            return skip("nothing to see", "there is no SMAP, or no timer");
        }
        let with_access = AtomicU32::new(0);
        let caught = interrupt_a_copy(&|_| {
            with_access.fetch_add(u32::from(rflags::read().contains(AC)), Ordering::Relaxed);
        })?;
        check!(caught >= 3, "{caught} ticks came during copies");
        check!(with_access.load(Ordering::Relaxed) == 0, "{with_access:?} of {caught} handlers began with AC");
        Ok(())
    }
);

ktest!(
    WhenNamed,
    "crash",
    fn smap_read() {
        let (space, page) = demanding(live()?)?;
        space.set(PAGE, TableEntry::Page(entry(page.head(), PageProtection::ReadWrite)));
        live::with(&space, || read(space.address(PAGE)))
    }
);

ktest!(
    WhenNamed,
    "crash",
    fn smap_write_of_what_could_be_mapped() {
        let (space, _page) = demanding(live()?)?;
        live::with(&space, || {
            // SAFETY: the fault ends the kernel.
            unsafe { pointer(space.address(PAGE)).write_volatile(1) };
            Err(SURVIVED.into())
        })
    }
);

ktest!(
    WhenNamed,
    "crash",
    fn smap_in_a_handler_that_interrupts_a_copy() {
        let caught = interrupt_a_copy(&|address| _ = read(address))?;
        Err(alloc::format!("{SURVIVED}, after {caught} ticks").into())
    }
);

ktest!(
    WhenNamed,
    "crash",
    fn smep() {
        let (space, page) = demanding(live()?)?;
        space.set(PAGE, TableEntry::Page(entry(page.head(), PageProtection::ReadExecute)));
        live::with(&space, || {
            // SAFETY: the fault ends the kernel.
            unsafe { asm!("call {}", in(reg) space.address(PAGE).0, clobber_abi("C")) };
            Err(SURVIVED.into())
        })
    }
);

ktest!(
    WhenNamed,
    "crash",
    fn user_refused() {
        let space = Handmade::new(live()?, refuse)?;
        live::with(&space, || read_with_access(space.address(PAGE)))
    }
);

ktest!(
    WhenNamed,
    "crash",
    fn user_without_a_space() {
        read_with_access(VirtualAddress(USERS.start))
    }
);

ktest!(
    WhenNamed,
    "crash",
    fn user_fault_on_a_full_stack() {
        let live = live()?;
        let (space, _page) = demanding(live)?;
        let mut stack = MappedStack::new(live.space, live.owners, Order::of(2), StackUse::Task, TaskId(3))?;
        let (low, address) = (stack.range().start + 32, space.address(PAGE));
        stack.run(|| live::with(&space, || fault_at_the_end_of(low, address)))
    }
);

/// A function of its own that could return, so that the report finds a caller with a line: neither the entry of a fault
/// nor `switch` has one.
#[inline(never)]
fn fault_at_the_end_of(low: u64, address: VirtualAddress) -> Outcome {
    // SAFETY: there is no room for the fault, which ends the kernel; AC is set, so it is none of SMAP's.
    unsafe {
        asm!(
            "pushfq",
            "or dword ptr [rsp], {ac}",
            "popfq",
            "mov rsp, {low}",
            "mov al, [{address}]",
            "ud2",
            ac = const AC.bits(),
            low = in(reg) low,
            address = in(reg) address.0,
        );
    }
    Err("the kernel goes on".into())
}
