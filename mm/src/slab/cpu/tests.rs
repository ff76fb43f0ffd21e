//! One CPU's side by itself: what it gives and takes while it is open, and while it is closed. What only matters between
//! threads, each in every order, is `loom`'s.

use core::num::{NonZeroU16, NonZeroUsize};
use core::slice;
use std::boxed::Box;
use std::thread;
use std::time::Duration;
use std::vec::Vec;

use super::*;
use crate::host::HostMachine;
use crate::machine::Machine;
use crate::units::Pfn;

/// Objects that a sheaf of these tests has room for: fewer than would fit.
const CAPACITY: u32 = 5;

fn machine() -> HostMachine {
    HostMachine::new(Pfn::new(1), Pfn::new(1), NonZeroU16::MIN).expect("the host lends memory")
}

/// A side that gives its sheaves back.
struct Side(CpuSheaf);

impl Side {
    /// An open one, whose sheaf is empty.
    fn open() -> Self {
        let mut side = CpuSheaf::closed(usize::MAX);
        side.start(NonNull::from(Box::leak(Box::new(Sheaf::new()))), CAPACITY);
        Self(side)
    }

    /// An open one with these objects.
    fn with(machine: &HostMachine, numbers: core::ops::Range<usize>) -> Self {
        let side = Self::open();
        for slot in numbers.map(object) {
            assert_eq!(side.0.put(machine, slot), Ok(()));
        }
        side
    }

    fn close(&self, machine: &HostMachine) -> Option<ClosedCpus<'_>> {
        ClosedCpus::close(slice::from_ref(&self.0), CAPACITY, || machine.heavy_barrier())
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        for sheaf in self.0.dismantle().into_iter().flatten() {
            // SAFETY: every sheaf of a side comes out of a box, and is taken back once.
            drop(unsafe { Box::from_raw(sheaf.as_ptr()) });
        }
    }
}

fn object(number: usize) -> Slot {
    NonNull::without_provenance(NonZeroUsize::new(number).expect("objects count from 1"))
}

fn is_closed(cpu: &CpuSheaf, machine: &HostMachine) -> bool {
    let gives = cpu.take(machine).is_some();
    let takes = cpu.put(machine, object(9)).is_ok();
    let works = cpu.with(machine, CAPACITY, |_| ()).is_some();
    assert!(gives == takes && takes == works, "it is neither open nor closed");
    !works
}

#[test]
fn an_open_cpu_takes_what_its_sheaf_has_room_for_and_gives_the_youngest_first() {
    let machine = machine();
    let side = Side::with(&machine, 1..6);
    assert_eq!(side.0.put(&machine, object(6)), Err(object(6)));
    let taken: Vec<_> = core::iter::from_fn(|| side.0.take(&machine)).collect();
    assert_eq!(taken, [5, 4, 3, 2, 1].map(object));
    assert_eq!(side.0.put(&machine, object(7)), Ok(()));
}

#[test]
fn a_cpu_that_was_given_another_sheaf_has_its_bounds() {
    let machine = machine();
    let side = Side::with(&machine, 1..3);
    let mut other = Box::new(Sheaf::new());
    other.objects.extend((11..15).map(object));
    let other = NonNull::from(Box::leak(other));
    let changed = side.0.with(&machine, CAPACITY, |held| {
        held.swap();
        assert_eq!(held.at_hand().len(), 2, "there is no spare");
        held.sheaves.spare = held.exchange(Some(other));
        held.spare_objects().len()
    });
    assert_eq!(changed, Some(2));
    assert_eq!([15, 16].map(|number| side.0.put(&machine, object(number))), [Ok(()), Err(object(16))]);
    let take_all = || core::iter::from_fn(|| side.0.take(&machine)).collect::<Vec<_>>();
    assert_eq!(take_all(), [15, 14, 13, 12, 11].map(object));
    let left = side.0.with(&machine, CAPACITY, |held| {
        held.swap();
        held.spare_objects().len()
    });
    assert_eq!((left, take_all()), (Some(0), Vec::from([2, 1].map(object))));
}

#[test]
fn a_cpu_without_a_sheaf_gives_and_takes_nothing() {
    let machine = machine();
    let cpu = CpuSheaf::closed(usize::MAX);
    assert!(is_closed(&cpu, &machine));
    // Nor does it once somebody has closed it and gone.
    drop(ClosedCpus::close(slice::from_ref(&cpu), CAPACITY, || machine.heavy_barrier()));
    assert!(is_closed(&cpu, &machine));
}

#[test]
fn a_closed_cpu_gives_and_takes_nothing_and_goes_on_where_it_was_once_it_is_open() {
    let machine = machine();
    let side = Side::with(&machine, 1..4);
    let mut closed = side.close(&machine).expect("it has a sheaf");
    assert!(is_closed(&side.0, &machine));
    closed.each(|held| assert_eq!(held.with_objects(ArrayVec::pop).flatten(), Some(object(3))));
    assert!(is_closed(&side.0, &machine));
    drop(closed);
    assert_eq!((4..8).map(|number| side.0.put(&machine, object(number)).is_ok()).filter(|&is| is).count(), 3);
    let taken: Vec<_> = core::iter::from_fn(|| side.0.take(&machine)).collect();
    assert_eq!(taken, [6, 5, 4, 2, 1].map(object));
}

/// Who closes moves one bound after the other, and the CPU may look in between.
#[test]
fn a_cpu_that_is_about_to_be_closed_does_no_work_any_more() {
    let machine = machine();
    let side = Side::with(&machine, 1..3);
    let bounds = (side.0.lower.load(Ordering::Relaxed), side.0.upper.load(Ordering::Relaxed));
    let works = || side.0.with(&machine, CAPACITY, |_| ()).is_some();
    for (lower, upper, open) in [
        (CLOSED.0, bounds.1, false),
        (bounds.0, CLOSED.1, false),
        (CLOSED.0, CLOSED.1, false),
        (bounds.0, bounds.1, true),
    ] {
        side.0.open((lower, upper));
        assert_eq!(works(), open, "{lower:#x} {upper:#x}");
    }
}

#[test]
fn who_closes_a_cpu_waits_until_it_is_done_with_what_it_had_begun() {
    let machine = machine();
    let side = Side::with(&machine, 1..3);
    let (shut, closed) = (AtomicU32::new(0), AtomicU32::new(0));
    thread::scope(|scope| {
        let begun = side.0.with(&machine, CAPACITY, |held| {
            scope.spawn(|| {
                let barrier = || {
                    machine.heavy_barrier();
                    shut.store(1, Ordering::Release);
                };
                drop(ClosedCpus::close(slice::from_ref(&side.0), CAPACITY, barrier));
                closed.store(1, Ordering::Release);
            });
            while shut.load(Ordering::Acquire) == 0 {
                thread::yield_now();
            }
            // Time enough for whoever does not wait.
            thread::sleep(Duration::from_millis(50));
            assert_eq!((closed.load(Ordering::Acquire), held.at_hand().len()), (0, 2));
        });
        assert_eq!(begun, Some(()));
    });
    assert!(!is_closed(&side.0, &machine));
}
