//! What must happen when users' addresses fault.

use core::arch::naked_asm;

use super::handmade::{Handmade, PageNumber, entry};
use super::prevented::call_users;
use crate::kernel_stack::MappedStack;
use crate::ktest::space::{Live, live};
use crate::ktest::{NotPassed, check, ktest};
use crate::platform::Platform;
use crate::stacks::StackUse;
use crate::user::access::{Inaccessible, copy_from_user, copy_to_user};
use crate::user::live;
use kernel_core::layout::{DIRECT_MAP, USERS};
use mm::owner::TaskId;
use mm::page::{Block, Request};
use mm::space::{Access, PageEntry, PageProtection, TableEntry};
use mm::units::{Bytes, Order, Pfn, VirtualAddress};
use spin::Mutex;
use x86_64::instructions::interrupts::without_interrupts;
use x86_64::registers::rflags::RFlags;

/// The frame that a fault maps.
static FRAME: Mutex<Pfn> = Mutex::new(Pfn::new(0));

pub(super) const PAGE: PageNumber = PageNumber(9);
const NEXT: PageNumber = PageNumber(10);

/// Maps one page, with no more than the access needs.
pub(super) fn on_demand(_: &Handmade, page: PageNumber, access: Access) -> Option<PageEntry> {
    let protection = match access {
        Access::Read => PageProtection::Read,
        Access::Write => PageProtection::ReadWrite,
        Access::Execute => PageProtection::ReadExecute,
    };
    (page == PAGE).then(|| entry(*FRAME.lock(), protection))
}

/// A space that maps a frame on demand, which is full of near returns.
pub(super) fn demanding(live: Live) -> Result<(Handmade, Block<'static, Platform>), NotPassed> {
    const NEAR_RETURN: u8 = 0xc3;
    let mut page = live.allocator.alloc(Request::movable(Order::ZERO))?;
    let head = page.head();
    page.with_page(head, |bytes| bytes.fill(NEAR_RETURN)).ok_or("a block has no first page")?;
    *FRAME.lock() = head;
    Ok((Handmade::new(live, on_demand)?, page))
}

ktest!(
    "fault",
    fn a_read_a_write_and_a_fetch_fault_once_each_and_go_on_where_they_were() {
        let live = live()?;
        let (space, mut page) = demanding(live)?;
        let address = space.address(PAGE).plus(0x123);
        live::with(&space, || {
            for _ in 0..3 {
                let mut byte = [0];
                let read = copy_from_user(address, &mut byte);
                check!(read.is_ok() && byte == [0xc3], "{read:?}, {byte:x?} was read");
            }
            check!(space.take_faults() == [(address, Access::Read)], "a page that is there faults, or none did");
            for byte in 1..4 {
                let written = copy_to_user(address, &[byte]);
                check!(written.is_ok(), "{written:?}");
            }
            check!(space.take_faults() == [(address, Access::Write)], "a write to a read-only page did not fault once");
            let code = address.plus(1);
            for _ in 0..3 {
                // SAFETY: the page is full of returns.
                unsafe { call_users(code) };
            }
            check!(space.take_faults() == [(code, Access::Execute)], "a fetch did not fault once");
            Ok(())
        })?;
        let head = page.head();
        let byte = page.with_page(head, |bytes| bytes[0x123]);
        check!(byte == Some(3), "{byte:?} is in the frame, and 3 was written");
        Ok(())
    }
);

/// General registers but the stack pointer, in the order of their numbers, then the flags.
const REGISTERS: usize = 16;

/// Fills every register, sets carry, direction and AC, reads a byte through the one that holds the address, and stores
/// all. It is none of the routines that may read there, so it sets AC itself.
#[unsafe(naked)]
extern "sysv64" fn read_with_full_registers(address: u64, found: *mut [u64; REGISTERS]) {
    naked_asm!(
        "push rbx",
        "push rbp",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "push rsi",
        "push rdi",
        "mov rax, 0x100",
        "mov rcx, 0x101",
        "mov rdx, 0x102",
        "mov rbx, 0x103",
        "mov rbp, 0x105",
        "mov rsi, 0x106",
        "mov r8, 0x108",
        "mov r9, 0x109",
        "mov r10, 0x10a",
        "mov r11, 0x10b",
        "mov r12, 0x10c",
        "mov r13, 0x10d",
        "mov r14, 0x10e",
        "mov r15, 0x10f",
        "pushfq",
        "or dword ptr [rsp], {ac}",
        "popfq",
        "stc",
        "std",
        "test byte ptr [rdi], 0",
        "pushfq",
        "push 2",
        "popfq",
        "push rdi",
        "mov rdi, [rsp + 24]",
        "mov [rdi], rax",
        "mov [rdi + 8], rcx",
        "mov [rdi + 16], rdx",
        "mov [rdi + 24], rbx",
        "mov [rdi + 40], rbp",
        "mov [rdi + 48], rsi",
        "pop rax",
        "mov [rdi + 56], rax",
        "mov [rdi + 64], r8",
        "mov [rdi + 72], r9",
        "mov [rdi + 80], r10",
        "mov [rdi + 88], r11",
        "mov [rdi + 96], r12",
        "mov [rdi + 104], r13",
        "mov [rdi + 112], r14",
        "mov [rdi + 120], r15",
        "pop rax",
        "mov [rdi + 32], rax",
        "pop rdi",
        "pop rsi",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbp",
        "pop rbx",
        "ret",
        ac = const RFlags::ALIGNMENT_CHECK.bits(),
    )
}

ktest!(
    "fault",
    fn every_register_and_flag_is_as_it_was() {
        const KEPT: RFlags = RFlags::DIRECTION_FLAG.union(RFlags::ALIGNMENT_CHECK);
        /// Where the flags stand: the stack pointer's place.
        const FLAGS: usize = 4;
        const RDI: usize = 7;

        let (space, _page) = demanding(live()?)?;
        let address = space.address(PAGE).plus(0x77);
        let mut found = [0; REGISTERS];
        without_interrupts(|| live::with(&space, || read_with_full_registers(address.0, &raw mut found)));
        check!(space.take_faults() == [(address, Access::Read)], "it did not fault once");
        for (register, value) in found.into_iter().enumerate() {
            match register {
                FLAGS => {
                    check!(RFlags::from_bits_truncate(value).contains(KEPT), "direction or AC is lost: {value:#x}");
                }
                RDI => check!(value == address.0, "rdi is {value:#x}"),
                _ => check!(value == 0x100 + register as u64, "register {register} is {value:#x}"),
            }
        }
        Ok(())
    }
);

ktest!(
    "fault",
    fn a_copy_ends_where_nothing_is_to_be_and_says_how_much_is_left() {
        let (space, page) = demanding(live()?)?;
        let near_end = space.address(NEXT).0 - 5;
        let mut bytes = [0; 12];
        let left = |bytes| Err(Inaccessible { left: Bytes(bytes) });
        live::with(&space, || {
            let read = copy_from_user(VirtualAddress(near_end), &mut bytes);
            check!(read == left(7) && bytes[..6] == [0xc3, 0xc3, 0xc3, 0xc3, 0xc3, 0], "{read:?} of {bytes:x?}");
            let faults = [(VirtualAddress(near_end), Access::Read), (space.address(NEXT), Access::Read)];
            check!(space.take_faults() == faults, "the copy did not fault at both pages");
            let written = copy_to_user(VirtualAddress(near_end), &[1; 6]);
            check!(written == left(1), "{written:?}");
            space.set(NEXT, TableEntry::Page(entry(page.head(), PageProtection::Read)));
            let read = copy_from_user(VirtualAddress(near_end), &mut bytes);
            check!(read.is_ok() && bytes == [1, 1, 1, 1, 1, 0xc3, 0xc3, 0xc3, 0xc3, 0xc3, 0xc3, 0xc3], "{bytes:x?}");
            let written = copy_to_user(VirtualAddress(near_end), &[2; 6]);
            check!(written == left(1), "{written:?} to a page that may not be written");
            check!(copy_from_user(VirtualAddress(near_end), &mut []).is_ok(), "nothing cannot be copied");
            Ok(())
        })
    }
);

ktest!(
    "fault",
    fn what_is_no_users_address_is_refused_before_it_is_touched() {
        let (space, _page) = demanding(live()?)?;
        let byte = 7_u8;
        let kernels = (&raw const byte).addr() as u64;
        live::with(&space, || {
            for address in [0, 8, USERS.start - 1, USERS.end - 1, USERS.end, DIRECT_MAP, kernels, u64::MAX] {
                let read = copy_from_user(VirtualAddress(address), &mut [0; 2]);
                check!(read == Err(Inaccessible { left: Bytes(2) }), "{read:?} at {address:#x}");
                let written = copy_to_user(VirtualAddress(address), &[0; 2]);
                check!(written == Err(Inaccessible { left: Bytes(2) }), "{written:?} at {address:#x}");
            }
            check!(space.take_faults().is_empty(), "some of it was touched");
            Ok(())
        })?;
        let read = copy_from_user(space.address(PAGE), &mut [0; 2]);
        check!(read == Err(Inaccessible { left: Bytes(2) }), "{read:?} where no space is live");
        check!(space.take_faults().is_empty(), "a space that is not live was asked");
        Ok(())
    }
);

ktest!(
    "fault",
    fn a_fault_while_a_fault_is_resolved_is_refused() {
        /// Reads what is not there before it maps it.
        fn nested(space: &Handmade, page: PageNumber, access: Access) -> Option<PageEntry> {
            let read = copy_from_user(space.address(page), &mut [0]);
            read.is_err().then(|| on_demand(space, page, access)).flatten()
        }
        let live = live()?;
        let (_, page) = demanding(live)?;
        let space = Handmade::new(live, nested)?;
        let mut byte = [0];
        let read = live::with(&space, || copy_from_user(space.address(PAGE), &mut byte));
        check!(read.is_ok() && byte == [0xc3], "{read:?}, {byte:x?}");
        check!(space.take_faults().len() == 1, "the space was asked again");
        drop(page);
        Ok(())
    }
);

ktest!(
    "fault",
    fn a_fault_is_resolved_on_the_stack_that_it_interrupts() {
        static SEEN: Mutex<u64> = Mutex::new(0);
        fn noting(space: &Handmade, page: PageNumber, access: Access) -> Option<PageEntry> {
            let local = 0_u8;
            *SEEN.lock() = (&raw const local).addr() as u64;
            on_demand(space, page, access)
        }
        let live = live()?;
        let (_, page) = demanding(live)?;
        let space = Handmade::new(live, noting)?;
        let mut stack = MappedStack::new(live.space, live.owners, Order::of(2), StackUse::Task, TaskId(3))?;
        let range = stack.range();
        let read = stack.run(|| live::with(&space, || copy_from_user(space.address(PAGE), &mut [0; 2])));
        let seen = *SEEN.lock();
        check!(read.is_ok() && range.contains(&seen), "{read:?}, at {seen:#x}, and the stack is at {range:x?}");
        drop(page);
        Ok(())
    }
);
