//! Every interleaving of a CPU that takes and puts with others that close it and take all: no block is lost, none is had
//! twice, and nobody is in the lists with another.
//!
//! Seen to fail, each by all three models of one CPU's list: `closed` read relaxed in `enter`, or before the barrier; `busy` read
//! relaxed in `wait`; either store that gives the lists over relaxed (`reopen`, `Busy::drop`); no heavy barrier.
//!
//! Run with `RUSTFLAGS="--cfg loom" cargo test -p mm --release --lib loom`.

use ::loom::cell::Cell;
use ::loom::sync::{Arc, Mutex};
use ::loom::thread;
use std::boxed::Box;
use std::vec::Vec;

use super::gate::Gate;
use super::list::{List, Slot};
use crate::desc::allocator_word::AllocatorWord;
use crate::desc::word::Page;
use crate::migratetype::Migratetype;
use crate::sync::Modelled;
use crate::units::{Count, Order, Pfn, ZoneId};

const WORD: AllocatorWord = AllocatorWord::allocated(Migratetype::Movable, Order::ZERO, ZoneId(0));

/// A block that was taken: its head's descriptor and its number.
type Block = (&'static Page, Pfn);

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
        let slots: Vec<_> = (0..4).map(|_| Slot::empty()).collect();
        let list = List::new(Box::leak(slots.into_boxed_slice()), WORD);
        for block in 0..blocks {
            let page = Box::leak(Box::new(Page::new(WORD)));
            list.put(page, Pfn::new(block)).expect("there is room");
        }
        Arc::new(Self { gate: Gate::open(), list, inside: Cell::new(0), turn: Mutex::new(()) })
    }

    fn touch(&self) {
        self.inside.set(self.inside.get() + 1);
    }

    /// Takes a block, as the CPU does.
    fn take(&self) -> Option<Block> {
        let _busy = self.gate.enter(&Modelled)?;
        self.touch();
        self.list.take()
    }

    /// Puts a block, as the CPU does.
    fn put(&self, (page, head): Block) -> Result<(), Pfn> {
        let Some(_busy) = self.gate.enter(&Modelled) else { return Err(head) };
        self.touch();
        self.list.put(page, head).ok_or(head)
    }

    /// Takes everything, as another CPU does.
    fn drain(&self) -> Vec<Pfn> {
        let _turn = self.turn.lock();
        self.gate.close();
        Modelled.heavy_barrier();
        self.gate.wait();
        self.touch();
        let taken = self.list.take_oldest(Count(u32::MAX)).map(|(_, head)| head).collect();
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
        assert_all(
            1,
            side.drain()
                .into_iter()
                .chain(drained)
                .chain(first.map(|block| block.1))
                .chain(second.map(|block| block.1)),
        );
    });
}

#[test]
fn two_that_drain_take_turns() {
    let mut model = ::loom::model::Builder::new();
    model.preemption_bound = model.preemption_bound.or(Some(3));
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

/// Two CPUs, and pages that one has allocated and the other frees.
struct Two {
    sides: [Arc<Side>; 2],
    /// What stands in each block's page. Whoever has the block is alone with it, or the model says so.
    pages: [Cell<u32>; 2],
    mail: Mutex<Option<Block>>,
    turn: Mutex<()>,
}

// SAFETY: that nobody is in a cell with another is what the model is about, and it looks.
unsafe impl Sync for Two {}
// SAFETY: as above.
unsafe impl Send for Two {}

impl Two {
    fn write(&self, head: Pfn) {
        let page = &self.pages[head.index()];
        page.set(page.get() + 1);
    }

    /// Takes everything of both CPUs, as a third one does: one barrier for both.
    fn drain(&self) -> Vec<Pfn> {
        let _turn = self.turn.lock();
        self.sides.iter().for_each(|side| side.gate.close());
        Modelled.heavy_barrier();
        self.sides.iter().for_each(|side| side.gate.wait());
        let mut taken = Vec::new();
        for side in &self.sides {
            side.touch();
            taken.extend(side.list.take_oldest(Count(u32::MAX)).map(|(_, head)| head));
        }
        taken.iter().for_each(|&head| self.write(head));
        self.sides.iter().for_each(|side| side.gate.reopen());
        taken
    }
}

/// One CPU allocates, another one frees what it was sent, and a third one drains both.
#[test]
fn a_page_that_another_cpu_frees_is_drained_from_there_with_what_was_written_to_it() {
    let mut model = ::loom::model::Builder::new();
    model.preemption_bound = model.preemption_bound.or(Some(2));
    model.check(|| {
        let world = Arc::new(Two {
            sides: [Side::with(2), Side::with(0)],
            pages: [Cell::new(0), Cell::new(0)],
            mail: Mutex::new(None),
            turn: Mutex::new(()),
        });
        let drainer = thread::spawn({
            let world = world.clone();
            move || world.drain()
        });
        let freer = thread::spawn({
            let world = world.clone();
            move || {
                let block = world.mail.lock().expect("nobody panics").take()?;
                world.write(block.1);
                world.sides[1].put(block).err()
            }
        });
        // A block is sent, and one comes back to where it was.
        let sent = world.sides[0].take();
        if let Some(block) = sent {
            world.write(block.1);
            *world.mail.lock().expect("nobody panics") = Some(block);
        }
        let back = world.sides[0].take().and_then(|block| {
            world.write(block.1);
            world.sides[0].put(block).err()
        });
        let refused = freer.join().expect("nobody panics");
        let drained = drainer.join().expect("nobody panics");
        let unread = world.mail.lock().expect("nobody panics").take().map(|block| block.1);
        assert_all(2, world.drain().into_iter().chain(drained).chain(back).chain(refused).chain(unread));
    });
}
