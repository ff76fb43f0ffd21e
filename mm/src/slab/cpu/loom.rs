//! Every interleaving of a CPU with others that close it: no object is lost, none is had twice, nobody touches what another
//! one holds, and nobody waits for ever. Sheaves and their entries are cells to the model, which reports two at once.
//!
//! Each of these is needed, and was seen to be: without it one of the models fails.
//!
//! | what | weakened | what the model shows |
//! |---|---|---|
//! | the light barrier in `begin` | left out | two have the entries |
//! | the heavy barrier | left out | two have the entries |
//! | release in `open` | relaxed | two have the entries |
//! | acquire of the bound in `take` and `put` | relaxed | two have the entries |
//! | acquire of the bounds in `with` | relaxed | two have the sheaves |
//! | release in `end` | relaxed | two have the entries |
//! | acquire in `wait_until_idle` | relaxed | two have the entries |
//! | compare-and-swap in `with` | a store | the bounds of a closed CPU are opened under its closer's hands |
//! | the top being read behind the bound | in front of it | an object is had twice |
//!
//! Run with `RUSTFLAGS="--cfg loom" cargo test -p mm --release --lib loom`.

use ::loom::sync::{Arc, Mutex};
use ::loom::thread;
use std::boxed::Box;
use std::vec::Vec;

use super::*;
use crate::sync::Modelled;

/// Objects that a sheaf of these models has room for.
const CAPACITY: u32 = 2;

/// CPUs' sides of a cache.
struct Sides {
    cpus: Vec<CpuSheaf>,
    /// Whose turn it is to close them.
    closing: Mutex<()>,
}

impl Sides {
    /// For each CPU a side with its first sheaf, in which there are these objects.
    fn with(objects: &[&[usize]]) -> Arc<Self> {
        let side = |objects: &&[usize]| {
            let mut cpu = CpuSheaf::closed(usize::MAX);
            cpu.start(sheaf(objects), CAPACITY);
            cpu
        };
        Arc::new(Self { cpus: objects.iter().map(side).collect(), closing: Mutex::new(()) })
    }

    /// Takes everything, as another CPU does.
    fn gather(&self) -> Vec<usize> {
        let _one_at_a_time = self.closing.lock().expect("nobody panicked");
        let mut closed =
            ClosedCpus::close(&self.cpus, CAPACITY, || Modelled.heavy_barrier()).expect("there are sheaves");
        let mut gathered = Vec::new();
        closed.each(|held| {
            gathered.extend(held.with_objects(core::mem::take).into_iter().flatten().map(number));
            gathered.extend(held.sheaves.spare.take().into_iter().flat_map(unsheaf));
        });
        gathered
    }

    /// Looks for an object without taking anything.
    fn finds(&self, object: usize) -> bool {
        let _one_at_a_time = self.closing.lock().expect("nobody panicked");
        let mut closed =
            ClosedCpus::close(&self.cpus, CAPACITY, || Modelled.heavy_barrier()).expect("there are sheaves");
        let mut found = false;
        closed.each(|held| found |= held.at_hand().iter().any(|&slot| number(slot) == object));
        found
    }
}

/// What is left when all is done.
fn rest(sides: Arc<Sides>) -> Vec<usize> {
    let sides = Arc::try_unwrap(sides).unwrap_or_else(|_| panic!("a thread still has it"));
    let sheaves = sides.cpus.into_iter().flat_map(|mut cpu| cpu.dismantle()).flatten();
    sheaves.flat_map(unsheaf).collect()
}

fn sheaf(objects: &[usize]) -> NonNull<Sheaf> {
    let mut sheaf = Sheaf::new();
    sheaf.objects.extend(objects.iter().map(|&number| object(number)));
    NonNull::from(Box::leak(Box::new(sheaf)))
}

fn unsheaf(sheaf: NonNull<Sheaf>) -> Vec<usize> {
    // SAFETY: every sheaf of a model comes out of a box, and is taken back once.
    let sheaf = unsafe { Box::from_raw(sheaf.as_ptr()) };
    sheaf.objects.iter().copied().map(number).collect()
}

fn object(number: usize) -> Slot {
    NonNull::without_provenance(core::num::NonZeroUsize::new(number).expect("objects count from 1"))
}

fn number(slot: Slot) -> usize {
    slot.addr().get()
}

fn each_is_in_one_place(mut found: Vec<usize>, expected: &[usize]) {
    found.sort_unstable();
    assert_eq!(found, expected, "an object was lost, or had twice");
}

/// Changes the sheaf at hand for one with the objects 2 and 3, and gives what is not at hand then.
fn exchange(cpu: &CpuSheaf) -> Vec<usize> {
    let fresh = sheaf(&[2, 3]);
    match cpu.with(&Modelled, CAPACITY, |held| held.exchange(Some(fresh))) {
        Some(old) => old.map(unsheaf).into_iter().flatten().collect(),
        None => unsheaf(fresh),
    }
}

#[test]
fn a_cpu_that_takes_and_puts_while_it_is_closed_loses_nothing() {
    ::loom::model(|| {
        let sides = Sides::with(&[&[1, 2]]);
        let other = sides.clone();
        let closer = thread::spawn(move || other.gather());
        let cpu = &sides.cpus[0];
        let mut mine: Vec<usize> = (0..2).filter_map(|_| cpu.take(&Modelled).map(number)).collect();
        if let Err(refused) = cpu.put(&Modelled, object(3)) {
            mine.push(number(refused));
        }
        let gathered = closer.join().expect("the other CPU is done");
        each_is_in_one_place([mine, gathered, rest(sides)].concat(), &[1, 2, 3]);
    });
}

#[test]
fn a_cpu_that_changes_its_sheaf_while_it_is_closed_keeps_bounds_and_sheaf_together() {
    ::loom::model(|| {
        let sides = Sides::with(&[&[1]]);
        let other = sides.clone();
        let closer = thread::spawn(move || other.gather());
        let cpu = &sides.cpus[0];
        let mut mine = exchange(cpu);
        mine.extend(cpu.take(&Modelled).map(number));
        let gathered = closer.join().expect("the other CPU is done");
        // Whatever happened, the CPU can work on.
        let last = cpu.with(&Modelled, CAPACITY, |held| held.with_objects(ArrayVec::pop).flatten());
        mine.extend(last.expect("it is open").map(number));
        each_is_in_one_place([mine, gathered, rest(sides)].concat(), &[1, 2, 3]);
    });
}

#[test]
fn two_that_close_one_after_the_other_leave_the_cpu_open_with_its_own_bounds() {
    let mut model = ::loom::model::Builder::new();
    model.preemption_bound = model.preemption_bound.or(Some(3));
    model.check(|| {
        let sides = Sides::with(&[&[1]]);
        let [taker, looker] = [sides.clone(), sides.clone()];
        let taker = thread::spawn(move || taker.gather());
        let looker = thread::spawn(move || looker.finds(1));
        let cpu = &sides.cpus[0];
        let mut mine = exchange(cpu);
        mine.extend(cpu.put(&Modelled, object(4)).err().map(number));
        let gathered = taker.join().expect("the first CPU is done");
        looker.join().expect("the second CPU is done");
        mine.extend(cpu.take(&Modelled).map(number));
        assert!(cpu.with(&Modelled, CAPACITY, |_| ()).is_some(), "it was left closed");
        each_is_in_one_place([mine, gathered, rest(sides)].concat(), &[1, 2, 3, 4]);
    });
}

#[test]
fn one_barrier_is_enough_for_all_cpus_and_what_they_do_meanwhile() {
    let mut model = ::loom::model::Builder::new();
    model.preemption_bound = model.preemption_bound.or(Some(3));
    model.check(|| {
        let sides = Sides::with(&[&[1], &[2]]);
        let [closer, second] = [sides.clone(), sides.clone()];
        let closer = thread::spawn(move || closer.gather());
        let second = thread::spawn(move || {
            let cpu = &second.cpus[1];
            let refused = cpu.put(&Modelled, object(3)).err();
            [refused, cpu.take(&Modelled)].into_iter().flatten().map(number).collect::<Vec<_>>()
        });
        let mut mine: Vec<usize> = sides.cpus[0].take(&Modelled).map(number).into_iter().collect();
        mine.extend(sides.cpus[0].put(&Modelled, object(4)).err().map(number));
        let gathered = closer.join().expect("the closer is done");
        let theirs = second.join().expect("the second CPU is done");
        each_is_in_one_place([mine, theirs, gathered, rest(sides)].concat(), &[1, 2, 3, 4]);
    });
}

/// The closer is a task on the very CPU: what interrupts it finds the CPU closed and touches nothing, and what interrupts a
/// busy CPU finds it busy.
#[test]
fn a_handler_touches_neither_a_busy_cpu_nor_a_closed_one() {
    ::loom::model(|| {
        let sides = Sides::with(&[&[1]]);
        let cpu = &sides.cpus[0];
        let mut closed =
            ClosedCpus::close(&sides.cpus, CAPACITY, || Modelled.heavy_barrier()).expect("there are sheaves");
        closed.each(|held| {
            assert_eq!(cpu.take(&Modelled), None, "the task has it");
            assert_eq!(cpu.put(&Modelled, object(2)), Err(object(2)), "the task has it");
            assert!(cpu.with(&Modelled, CAPACITY, |_| ()).is_none(), "the task has it");
            assert_eq!(held.at_hand().len(), 1);
        });
        drop(closed);
        let inside = cpu.with(&Modelled, CAPACITY, |_| {
            (cpu.take(&Modelled), cpu.put(&Modelled, object(2)), cpu.with(&Modelled, CAPACITY, |_| ()))
        });
        assert_eq!(inside, Some((None, Err(object(2)), None)), "it is busy");
        assert_eq!(cpu.take(&Modelled).map(number), Some(1));
        drop(rest(sides));
    });
}
