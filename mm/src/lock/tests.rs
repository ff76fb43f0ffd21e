use core::num::NonZeroU16;

use super::{Mutex, RwLock, may_wait};
use crate::host::HostMachine;
use crate::lock_order::{Context, Interrupts, LockClass, Work, class};
use crate::machine::Machine;
use crate::units::Pfn;

fn machine() -> HostMachine {
    HostMachine::new(Pfn::new(16), Pfn::new(16), NonZeroU16::MIN).expect("the host has memory")
}

struct Locks {
    regions: RwLock<class::Regions, u32>,
    tree: Mutex<class::Tree, u32>,
    closing: Mutex<class::Closing, u32>,
    slabs: Mutex<class::Slabs, u32>,
    zone: Mutex<class::Zone, u32>,
}

const fn locks() -> Locks {
    Locks {
        regions: RwLock::new(0),
        tree: Mutex::new(0),
        closing: Mutex::new(0),
        slabs: Mutex::new(0),
        zone: Mutex::new(0),
    }
}

#[test]
fn locks_taken_in_their_order_are_counted_and_given_up_in_any() {
    let (machine, locks) = (machine(), locks());
    let regions = locks.regions.read(&machine);
    let mut tree = locks.tree.lock(&machine);
    *tree += 1;
    let interrupts = machine.disable_interrupts();
    let slabs = locks.slabs.lock(&machine);
    drop(tree);
    let zone = locks.zone.lock(&machine);
    let held =
        || [LockClass::Regions, LockClass::Tree, LockClass::Slabs].map(|class| machine.held_locks().count(class));
    assert_eq!(held(), [1, 0, 1]);
    drop((slabs, zone, interrupts));
    // What is in front of it is held no more.
    drop(locks.tree.lock(&machine));
    drop(regions);
    assert_eq!(held(), [0; 3]);
}

#[test]
fn two_of_a_class_nest_where_the_class_says_so() {
    let (machine, parent, child) = (machine(), locks(), locks());
    let of_parent = parent.regions.write(&machine);
    let of_child = child.regions.write(&machine);
    assert_eq!(machine.held_locks().count(LockClass::Regions), 2);
    drop((of_parent, of_child));
}

#[test]
fn a_handler_shares_the_list_of_what_it_interrupts() {
    let (machine, locks) = (machine(), locks());
    let _tree = locks.tree.lock(&machine);
    let came = machine.interrupt(|| {
        assert_eq!(machine.context(), Context { work: Work::Handler, interrupts: Interrupts::Off });
        drop(locks.slabs.lock(&machine));
        machine.held_locks().count(LockClass::Tree)
    });
    assert_eq!(came, Some(1));
    assert_eq!(machine.context(), Context { work: Work::Task, interrupts: Interrupts::On });
    let _interrupts = machine.disable_interrupts();
    assert_eq!(machine.interrupt(|| ()), None, "interrupts are off");
}

#[test]
#[should_panic(expected = "LOCK-1 broken: Slabs is taken by whoever holds Zone")]
fn two_in_the_wrong_order_are_caught() {
    let (machine, locks) = (machine(), locks());
    let _interrupts = machine.disable_interrupts();
    let _zone = locks.zone.lock(&machine);
    drop(locks.slabs.lock(&machine));
}

#[test]
#[should_panic(expected = "LOCK-1 broken: Zone is taken by whoever holds Zone")]
fn two_of_a_class_that_does_not_nest_are_caught() {
    let (machine, locks, others) = (machine(), locks(), locks());
    let _interrupts = machine.disable_interrupts();
    let _zone = locks.zone.lock(&machine);
    drop(others.zone.lock(&machine));
}

#[test]
#[should_panic(expected = "LOCK-2 broken: Slabs is taken with interrupts on")]
fn a_handlers_lock_with_interrupts_on_is_caught() {
    let (machine, locks) = (machine(), locks());
    drop(locks.slabs.lock(&machine));
}

#[test]
#[should_panic(expected = "LOCK-2 broken: Tree is taken in an interrupt handler")]
fn a_tasks_lock_in_a_handler_is_caught() {
    let (machine, locks) = (machine(), locks());
    machine.interrupt(|| drop(locks.tree.lock(&machine)));
}

#[test]
#[should_panic(expected = "LOCK-1 broken: Folio is taken by whoever holds Tree")]
fn waiting_for_a_bit_behind_a_lock_is_caught() {
    let (machine, locks) = (machine(), locks());
    let _tree = locks.tree.lock(&machine);
    may_wait::<class::Folio>(&machine);
}

#[test]
fn one_that_is_only_tried_may_be_in_front() {
    let (machine, locks) = (machine(), locks());
    let _closing = locks.closing.lock(&machine);
    let tree = locks.tree.try_lock(&machine).expect("nobody has it");
    assert_eq!(machine.held_locks().count(LockClass::Tree), 1);
    drop(tree);
    assert_eq!(machine.held_locks().count(LockClass::Tree), 0);
}

#[test]
#[expect(unsafe_code, reason = "looks at the byte that only an image's reader looks at")]
fn who_reads_an_image_finds_the_value_and_whether_the_lock_is_held() {
    fn check<T: Copy + PartialEq + core::fmt::Debug>(machine: &HostMachine, value: T) {
        let lock = Mutex::<class::Tree, T>::new(value);
        let places = Mutex::<class::Tree, T>::new(value).places();
        let bytes = core::ptr::from_ref(&lock).cast::<u8>();
        let (at, byte) = (bytes.wrapping_add(places.value).cast::<T>(), bytes.wrapping_add(places.held));
        // SAFETY: both lie in the lock, which is borrowed, and are only read while nobody takes it or gives it up.
        let held = || unsafe { byte.read() };
        // SAFETY: as above.
        assert_eq!((unsafe { at.read() }, held()), (value, 0));
        let guard = lock.lock(machine);
        assert_eq!(held(), 1, "{places:?}");
        drop(guard);
        assert_eq!(held(), 0);
    }
    let machine = machine();
    check(&machine, 7_u8);
    check(&machine, 7_u16);
    check(&machine, [7_u64; 100]);
    check(&machine, ());
    check(&machine, (7_u64, 7_u8));
}
