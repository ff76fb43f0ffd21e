//! Highmem is out of reach but for a slot, and memory keeps what is written to it.

use core::num::NonZeroU16;
use core::ptr::NonNull;
use core::sync::atomic::AtomicU32;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use super::{HostMachine, on_cpu};
use crate::boot_map::{BootMap, Region, RegionKind};
use crate::hardening::Hardening;
use crate::machine::{Begun, Machine, Standard};
use crate::page::Request;
use crate::units::{CpuId, NodeId, Order, PAGE_SIZE, Pfn, PfnRange, PhysAddr};

const SEGMENTATION_FAULT: i32 = 11;

/// Sixteen frames, the upper eight highmem.
fn machine() -> HostMachine {
    HostMachine::new(Pfn::new(16), Pfn::new(8), NonZeroU16::MIN).expect("a machine")
}

fn write(page: NonNull<u8>, byte: u8) {
    // SAFETY: the tests pass pages that the machine has mapped; but for those that want the fault.
    unsafe { page.write_volatile(byte) };
}

fn read(page: NonNull<u8>) -> u8 {
    // SAFETY: as in `write`.
    unsafe { page.read_volatile() }
}

fn kunmap(machine: &HostMachine, page: NonNull<u8>) {
    // SAFETY: the tests keep nothing but the address; where it is not the youngest slot, they want the panic.
    unsafe { machine.kunmap_local(page) };
}

fn after(page: NonNull<u8>, bytes: isize) -> NonNull<u8> {
    NonNull::new(page.as_ptr().wrapping_offset(bytes)).expect("an address beside a mapping")
}

/// Runs `touch` in a process of its own, as the test `name`, and wants a fault, not a panic.
fn assert_faults(name: &str, touch: impl FnOnce()) {
    const CHILD: &str = "MM_HOST_TEST_TOUCHES";
    if std::env::var_os(CHILD).is_some() {
        touch();
        return;
    }
    let test = std::env::current_exe().expect("a test binary");
    let name = std::format!("host::tests::{name}");
    let child = Command::new(test).args(["--exact", &name]).env(CHILD, "1").output().expect("a child");
    assert_eq!(child.status.signal(), Some(SEGMENTATION_FAULT), "{child:?}");
}

#[test]
#[cfg_attr(miri, ignore = "an interpreter has no processes and no faults")]
fn highmem_at_home_faults() {
    assert_faults("highmem_at_home_faults", || {
        let machine = machine();
        let last_lowmem_byte = after(machine.direct_map(Pfn::new(7)), PAGE_SIZE as isize - 1);
        write(last_lowmem_byte, 1);
        write(after(last_lowmem_byte, 1), 1);
    });
}

#[test]
#[cfg_attr(miri, ignore = "an interpreter has no processes and no faults")]
#[cfg_attr(asan, ignore = "a sanitizer stops it before")]
fn a_page_that_was_freed_faults_where_free_pages_are_unmapped() {
    assert_faults("a_page_that_was_freed_faults_where_free_pages_are_unmapped", || {
        let machine = HostMachine::<Standard>::new(Pfn::new(0x1000), Pfn::new(0x1000), NonZeroU16::MIN);
        let machine = machine.expect("the host lends memory").hardened(Hardening::DEBUG_PAGEALLOC);
        let memory = Region { start: PhysAddr(0), len: 16 << 20, kind: RegionKind::Usable, node: NodeId(0) };
        let mut map: BootMap = BootMap::new(&[memory]).expect("the map is sound");
        let pages = machine.allocator(&mut map).expect("the tables fit");
        let block = pages.alloc(Request::new(Order::ZERO)).expect("there is memory");
        let page = machine.direct_map(block.head());
        write(page, 1);
        assert_eq!(read(page), 1);
        drop(block);
        write(page, 2);
    });
}

#[test]
#[cfg_attr(miri, ignore = "an interpreter has no processes and no faults")]
fn a_slot_faults_once_it_is_given_up() {
    assert_faults("a_slot_faults_once_it_is_given_up", || {
        let machine = machine();
        let page = machine.kmap_local(Pfn::new(8));
        write(page, 1);
        kunmap(&machine, page);
        read(page);
    });
}

#[test]
#[cfg_attr(miri, ignore = "an interpreter has no processes and no faults")]
fn the_byte_behind_a_slot_faults_even_if_the_next_slot_is_live() {
    assert_faults("the_byte_behind_a_slot_faults_even_if_the_next_slot_is_live", || {
        let machine = machine();
        let first = machine.kmap_local(Pfn::new(8));
        let _second = machine.kmap_local(Pfn::new(9));
        write(after(first, PAGE_SIZE as isize - 1), 1);
        read(after(first, PAGE_SIZE as isize));
    });
}

#[test]
#[cfg_attr(miri, ignore = "an interpreter has no processes and no faults")]
fn the_byte_before_the_first_slot_faults() {
    assert_faults("the_byte_before_the_first_slot_faults", || {
        let machine = machine();
        let first = machine.kmap_local(Pfn::new(8));
        write(first, 1);
        read(after(first, -1));
    });
}

#[test]
#[cfg_attr(miri, ignore = "in an interpreter a slot has no address of its own")]
fn nested_slots_show_their_own_frames_and_a_reused_slot_shows_the_other_one() {
    let machine = machine();
    let outer = machine.kmap_local(Pfn::new(8));
    let inner = machine.kmap_local(Pfn::new(15));
    write(outer, 8);
    write(inner, 15);
    assert_eq!((read(outer), read(inner)), (8, 15));
    kunmap(&machine, inner);

    let reused = machine.kmap_local(Pfn::new(9));
    assert_eq!((reused, read(reused), read(outer)), (inner, 0, 8));
    kunmap(&machine, reused);
    kunmap(&machine, outer);

    let again = machine.kmap_local(Pfn::new(15));
    assert_eq!(read(again), 15);
    kunmap(&machine, again);
    assert_eq!(machine.live_slots(), 0);
}

#[test]
#[cfg_attr(miri, ignore = "in an interpreter a slot has no address of its own")]
fn one_frame_in_two_slots_is_the_same_memory() {
    let machine = machine();
    let (one, other) = (machine.kmap_local(Pfn::new(8)), machine.kmap_local(Pfn::new(8)));
    assert_ne!(one, other);
    write(one, 7);
    assert_eq!(read(other), 7);
    kunmap(&machine, other);
    kunmap(&machine, one);
}

#[test]
#[cfg_attr(miri, ignore = "an interpreter has all of lowmem in memory")]
fn a_terabyte_can_be_touched_at_both_ends_with_and_without_highmem() {
    let end = Pfn::new(1 << 28);
    let last = Pfn::new((1 << 28) - 1);
    let mapped: HostMachine = HostMachine::new(end, Pfn::LIMIT, NonZeroU16::MIN).expect("a terabyte");
    assert_eq!(mapped.direct_map_end(), end);
    write(mapped.direct_map(last), 1);
    write(mapped.direct_map(Pfn::new(0)), 2);
    assert_eq!((read(mapped.direct_map(last)), read(mapped.direct_map(Pfn::new(0)))), (1, 2));

    let highmem: HostMachine = HostMachine::new(end, Pfn::new(0), NonZeroU16::MIN).expect("a terabyte");
    let page = highmem.kmap_local(last);
    assert_eq!(read(page), 0);
    write(page, 3);
    kunmap(&highmem, page);
    assert_eq!(highmem.save(PfnRange::new(last, end)).bytes()[0], 3);
}

#[test]
fn machines_do_not_share_memory() {
    let machines: std::vec::Vec<_> = (0..64).map(|_| machine()).collect();
    for (number, machine) in (0..).zip(&machines) {
        write(machine.direct_map(Pfn::new(3)), number);
    }
    for (number, machine) in (0..).zip(&machines) {
        assert_eq!(read(machine.direct_map(Pfn::new(3))), number);
    }
}

#[test]
fn a_snapshot_brings_lowmem_and_highmem_back() {
    let machine = machine();
    let all = PfnRange::new(Pfn::new(0), machine.memory_end());
    let write_both = |byte| {
        write(machine.direct_map(Pfn::new(7)), byte);
        let page = machine.kmap_local(Pfn::new(8));
        write(page, byte);
        kunmap(&machine, page);
    };
    write_both(1);
    let snapshot = machine.save(all);
    write_both(2);
    assert_ne!(machine.save(all), snapshot);
    // SAFETY: the test keeps no reference into the machine.
    unsafe { machine.restore(&snapshot) };
    assert_eq!(machine.save(all), snapshot);
    assert_eq!(read(machine.direct_map(Pfn::new(7))), 1);
}

#[test]
fn each_cpu_has_its_own_slots() {
    let machine: HostMachine =
        HostMachine::new(Pfn::new(16), Pfn::new(8), NonZeroU16::new(2).expect("two")).expect("a machine");
    let here = machine.kmap_local(Pfn::new(8));
    write(here, 8);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            on_cpu(CpuId(1), || {
                assert_eq!(machine.cpu(), CpuId(1));
                let there = machine.kmap_local(Pfn::new(9));
                assert_eq!(read(there), 0);
                kunmap(&machine, there);
            });
        });
    });
    assert_eq!(machine.cpu(), CpuId(0));
    assert_eq!(read(here), 8);
    kunmap(&machine, here);
}

#[test]
#[should_panic(expected = "given up out of order")]
fn slots_given_up_out_of_order_are_reported() {
    let machine = machine();
    let outer = machine.kmap_local(Pfn::new(8));
    let _inner = machine.kmap_local(Pfn::new(9));
    kunmap(&machine, outer);
}

#[test]
#[should_panic(expected = "has no live slot")]
fn a_slot_given_up_twice_is_reported() {
    let machine = machine();
    let page = machine.kmap_local(Pfn::new(8));
    kunmap(&machine, page);
    kunmap(&machine, page);
}

#[test]
#[should_panic(expected = "already has 3 live slots")]
fn a_fourth_slot_is_reported() {
    let machine = machine();
    (8..12).for_each(|frame| {
        machine.kmap_local(Pfn::new(frame));
    });
}

#[test]
fn a_handler_has_as_many_slots_as_what_it_interrupts() {
    let machine = machine();
    let slots = || [8, 9, 10].map(|frame| machine.kmap_local(Pfn::new(frame)));
    let give_up = |slots: [_; 3]| slots.into_iter().rev().for_each(|slot| kunmap(&machine, slot));
    let outer = slots();
    machine.interrupt(|| give_up(slots())).expect("interrupts are on");
    give_up(outer);
}

#[test]
#[should_panic(expected = "already has 6 live slots")]
fn a_seventh_slot_is_reported_in_a_handler() {
    let machine = machine();
    machine.interrupt(|| {
        (0..7).for_each(|_| {
            machine.kmap_local(Pfn::new(8));
        });
    });
}

#[test]
#[should_panic(expected = "which the direct map reaches")]
fn a_slot_for_lowmem_is_reported() {
    machine().kmap_local(Pfn::new(7));
}

#[test]
#[should_panic(expected = "but memory ends at")]
fn a_slot_for_a_frame_that_does_not_exist_is_reported() {
    machine().kmap_local(Pfn::new(16));
}

#[test]
#[should_panic(expected = "outside the direct map")]
fn highmem_asked_of_the_direct_map_is_reported() {
    machine().direct_map(Pfn::new(8));
}

#[test]
#[should_panic(expected = "a machine goes while CPU 0 has slots")]
fn a_slot_that_outlives_its_machine_is_reported() {
    machine().kmap_local(Pfn::new(8));
}

#[test]
#[should_panic(expected = "CPU 1 on a machine of 1 CPUs")]
fn a_cpu_that_does_not_exist_is_reported() {
    on_cpu(CpuId(1), || machine().cpu());
}

#[test]
fn two_threads_on_one_cpu_are_reported_but_may_take_turns() {
    let machine = machine();
    let page = machine.kmap_local(Pfn::new(8));
    let intruder = std::thread::scope(|scope| scope.spawn(|| machine.kmap_local(Pfn::new(9)).addr()).join());
    let message = intruder.expect_err("the intruder panics");
    assert!(message.downcast_ref::<std::string::String>().expect("a message").contains("two threads use CPU 0"));
    kunmap(&machine, page);
    std::thread::scope(|scope| scope.spawn(|| kunmap(&machine, machine.kmap_local(Pfn::new(9)))).join())
        .expect("the CPU is free for another thread");
}

#[test]
fn only_a_handler_finds_its_cpu_busy_and_another_thread_that_does_is_reported() {
    let (machine, busy) = (machine(), AtomicU32::new(0));
    assert_eq!(machine.begin_local(&busy), Begun::Here);
    assert_eq!(machine.interrupt(|| machine.begin_local(&busy)), Some(Begun::Before));
    let intruder = std::thread::scope(|scope| scope.spawn(|| machine.begin_local(&busy)).join());
    let message = intruder.expect_err("the intruder panics");
    assert!(message.downcast_ref::<std::string::String>().expect("a message").contains("two threads use CPU 0"));
}
