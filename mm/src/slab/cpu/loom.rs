//! Every interleaving of a CPU with another that closes it: no object is lost, none is had twice, and nobody touches
//! what another one holds.
//!
//! Run with `RUSTFLAGS="--cfg loom" cargo test -p mm --release --lib loom`.

use ::loom::cell::Cell;
use ::loom::sync::Arc;
use ::loom::thread;
use std::boxed::Box;
use std::vec::Vec;

use super::*;

/// Objects that a sheaf of these models has room for.
const CAPACITY: u32 = 2;

/// A CPU's side with its first sheaf, in which there are `objects`, and one to change it for.
struct Side {
    cpu: CpuSheaf,
    /// Whoever works on what is held says so here: two at once are a data race that the model reports.
    inside: Cell<u32>,
}

// SAFETY: that nobody is in the cell with another is what the model is about, and it looks.
unsafe impl Sync for Side {}
// SAFETY: as above.
unsafe impl Send for Side {}

impl Side {
    fn with(objects: &[usize]) -> Arc<Self> {
        let mut cpu = CpuSheaf::closed(usize::MAX);
        cpu.start(sheaf(objects), CAPACITY);
        Arc::new(Self { cpu, inside: Cell::new(0) })
    }

    fn touch(&self) {
        self.inside.set(self.inside.get() + 1);
    }

    /// Takes everything, as another CPU does.
    fn gather(&self) -> Vec<usize> {
        let taken = self.cpu.close(CAPACITY, light_barrier, |held| {
            self.touch();
            let spare = held.spare.take().map(unsheaf);
            let at_hand = held.with_objects(core::mem::take);
            at_hand.into_iter().flatten().map(number).chain(spare.into_iter().flatten()).collect()
        });
        taken.unwrap_or_default()
    }
}

/// What is left when all is done.
fn rest(side: Arc<Side>) -> Vec<usize> {
    let mut side = Arc::try_unwrap(side).unwrap_or_else(|_| panic!("a thread still has it"));
    side.cpu.dismantle().into_iter().flatten().flat_map(unsheaf).collect()
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

#[test]
fn a_cpu_that_takes_and_puts_while_it_is_closed_loses_nothing() {
    ::loom::model(|| {
        let side = Side::with(&[1, 2]);
        let other = side.clone();
        let closer = thread::spawn(move || other.gather());
        let mut mine: Vec<usize> = (0..2).filter_map(|_| side.cpu.take().map(number)).collect();
        if let Err(refused) = side.cpu.put(object(3)) {
            mine.push(number(refused));
        }
        let gathered = closer.join().expect("the other CPU is done");
        each_is_in_one_place([mine, gathered, rest(side)].concat(), &[1, 2, 3]);
    });
}

#[test]
fn a_cpu_that_changes_its_sheaf_while_it_is_closed_keeps_bounds_and_sheaf_together() {
    ::loom::model(|| {
        let side = Side::with(&[1]);
        let other = side.clone();
        let closer = thread::spawn(move || other.gather());
        let mut mine = Vec::new();
        let fresh = sheaf(&[2, 3]);
        let changed = side.cpu.with(CAPACITY, |held| {
            side.touch();
            held.exchange(Some(fresh))
        });
        match changed {
            Some(old) => mine.extend(old.map(unsheaf).into_iter().flatten()),
            None => mine.extend(unsheaf(fresh)),
        }
        mine.extend(side.cpu.take().map(number));
        let gathered = closer.join().expect("the other CPU is done");
        // Whatever happened, the CPU can work on.
        mine.extend(side.cpu.with(CAPACITY, |held| held.with_objects(ArrayVec::pop).flatten()).flatten().map(number));
        each_is_in_one_place([mine, gathered, rest(side)].concat(), &[1, 2, 3]);
    });
}
