//! Every interleaving of a CPU that takes and puts with others that close it and take all: no block is lost, none is had
//! twice, and nobody is in the lists with another.
//!
//! Weakened one by one, each of these was seen to fail: the store of `busy` behind the look at `closed`, no heavy barrier, the
//! release when the CPU is done, the acquire of who waits for that, the release of who opens, the acquire of who enters.
//!
//! Run with `RUSTFLAGS="--cfg loom" cargo test -p mm --release --lib loom`.

use ::loom::cell::Cell;
use ::loom::sync::{Arc, Mutex};
use ::loom::thread;
use std::boxed::Box;
use std::vec::Vec;

use super::gate::Gate;
use super::list::List;
use crate::sync::{AtomicU32, light_barrier};
use crate::units::{Order, Pfn};

/// A CPU's gate, and one list behind it.
struct Side {
    gate: Gate,
    list: List<'static>,
    /// Whoever is in the lists says so here: two at once are a data race that the model reports.
    inside: Cell<u32>,
    /// Closers take turns.
    turn: Mutex<()>,
}

// SAFETY: that nobody is in the cell with another is what the model is about, and it looks.
unsafe impl Sync for Side {}
// SAFETY: as above.
unsafe impl Send for Side {}

impl Side {
    fn with(blocks: u32) -> Arc<Self> {
        let slots: Vec<_> = (0..4).map(|_| AtomicU32::new(0)).collect();
        let list = List::new(Box::leak(slots.into_boxed_slice()), Order::ZERO);
        (0..blocks).for_each(|block| list.put(Pfn::new(block)).expect("there is room"));
        Arc::new(Self { gate: Gate::open(), list, inside: Cell::new(0), turn: Mutex::new(()) })
    }

    fn touch(&self) {
        self.inside.set(self.inside.get() + 1);
    }

    /// Takes a block, as the CPU does.
    fn take(&self) -> Option<Pfn> {
        let _busy = self.gate.enter()?;
        self.touch();
        self.list.take()
    }

    /// Puts a block, as the CPU does.
    fn put(&self, block: Pfn) -> Result<(), Pfn> {
        let Some(_busy) = self.gate.enter() else { return Err(block) };
        self.touch();
        self.list.put(block)
    }

    /// Takes everything, as another CPU does.
    fn drain(&self) -> Vec<Pfn> {
        let _turn = self.turn.lock();
        self.gate.close();
        light_barrier();
        self.gate.wait();
        self.touch();
        let taken = core::iter::from_fn(|| self.list.take_oldest()).collect();
        self.gate.reopen();
        taken
    }
}

fn assert_all(blocks: u32, found: impl IntoIterator<Item = Pfn>) {
    let mut found: Vec<_> = found.into_iter().map(Pfn::number).collect();
    found.sort_unstable();
    assert_eq!(found, (0..blocks).collect::<Vec<_>>());
}

#[test]
fn what_a_cpu_takes_is_not_drained_and_what_it_puts_is_not_lost() {
    ::loom::model(|| {
        let side = Side::with(2);
        let other = thread::spawn({
            let side = side.clone();
            move || side.drain()
        });
        let taken = side.take();
        let back = taken.and_then(|block| side.put(block).err());
        let drained = other.join().expect("nobody panics");
        assert_all(2, side.drain().into_iter().chain(drained).chain(back));
    });
}

#[test]
fn a_cpu_finds_what_was_done_while_it_was_shut_out() {
    ::loom::model(|| {
        let side = Side::with(1);
        let other = thread::spawn({
            let side = side.clone();
            move || side.drain()
        });
        let first = side.take();
        let second = side.take();
        let drained = other.join().expect("nobody panics");
        assert_all(1, side.drain().into_iter().chain(drained).chain(first).chain(second));
    });
}

#[test]
fn two_that_drain_take_turns() {
    let mut model = ::loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(|| {
        let side = Side::with(2);
        let drain = || {
            let side = side.clone();
            thread::spawn(move || side.drain())
        };
        let others = [drain(), drain()];
        let taken = side.take();
        let back = taken.and_then(|block| side.put(block).err());
        let drained = others.map(|other| other.join().expect("nobody panics"));
        assert_all(2, side.drain().into_iter().chain(drained.into_iter().flatten()).chain(back));
    });
}
