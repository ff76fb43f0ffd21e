//! Handlers that allocate and free in front of any instruction of whoever allocates, frees and drains.
//!
//! Neither side may use the process's heap while instructions are counted: what is held stands in arrays.

use core::num::NonZeroU64;

use super::*;
use crate::host::stepping::{Came, When, interrupted};
use crate::migratetype::Migratetype;
use crate::units::{Count, CpuId};

type Allocator<'m> = PageAllocator<'m, Machine>;

/// Pages with who holds them written into each.
struct Held<const N: usize> {
    heads: [Option<(Pfn, Order)>; N],
    stamp: u64,
}

impl<const N: usize> Held<N> {
    const fn new(stamp: u64) -> Self {
        Self { heads: [None; N], stamp }
    }

    fn word(allocator: &Allocator<'_>, head: Pfn) -> core::ptr::NonNull<u64> {
        crate::machine::Machine::direct_map(allocator.machine(), head).cast()
    }

    fn alloc(&mut self, allocator: &Allocator<'_>, place: usize, request: Request) {
        let Ok(head) = allocator.alloc_raw(request) else { return };
        // SAFETY: the page is lowmem and was just allocated.
        unsafe { Self::word(allocator, head).write(self.stamp + u64::from(head.number())) };
        assert!(self.heads[place].replace((head, request.order)).is_none());
    }

    fn free(&mut self, allocator: &Allocator<'_>, place: usize) {
        let Some((head, _)) = self.heads[place].take() else { return };
        // SAFETY: the page is this side's.
        let found = unsafe { Self::word(allocator, head).read() };
        assert_eq!(found, self.stamp + u64::from(head.number()), "{head:?} was given to another as well");
        // SAFETY: it was allocated by this side, which alone has it.
        assert_eq!(unsafe { allocator.free_raw(head) }, Ok(()));
    }

    fn free_all(&mut self, allocator: &Allocator<'_>) {
        (0..N).for_each(|place| self.free(allocator, place));
    }
}

/// What interrupts: takes a block of some order, or gives back what it has.
struct Handler {
    held: Held<24>,
    random: u32,
}

impl Handler {
    const fn new() -> Self {
        Self { held: Held::new(1 << 40), random: 1 }
    }

    fn random(&mut self, below: usize) -> usize {
        self.random = self.random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (self.random >> 8) as usize % below
    }

    fn run(&mut self, allocator: &Allocator<'_>) {
        let place = self.random(24);
        if self.held.heads[place].is_some() {
            return self.held.free(allocator, place);
        }
        let order = Order::of([0, 0, 0, 1, 3, 9, 10][self.random(7)]);
        let migratetype = Migratetype::REQUESTED[self.random(3)];
        self.held.alloc(allocator, place, Request::new(order).atomic().with_migratetype(migratetype));
    }
}

/// Runs `work` interrupted, on a machine of its own, and checks that nothing was lost.
fn run(when: When, work: fn(&Allocator<'_>)) -> Came {
    let machine = machine(32 * MIB, 32 * MIB);
    let allocator = allocator(&machine, &[usable(0, 32 * MIB)]);
    let free = allocator.free_pages();
    let mut handler = Handler::new();
    let ((), came) = interrupted(&machine, when, || handler.run(&allocator), || work(&allocator));
    allocator.verify().expect("all is well while the handler holds some");
    handler.held.free_all(&allocator);
    allocator.verify().expect("all is well when it is over");
    allocator.drain();
    allocator.verify().expect("and when all is drained");
    assert_eq!(allocator.free_pages(), free, "{when:?}");
    came
}

/// What is at hand, what is not, in rows, batches and ranges, and the draining of it.
fn all_ways(allocator: &Allocator<'_>) {
    let mut held = Held::<96>::new(1 << 32);
    for place in 0..96 {
        let order = Order::of([0, 0, 0, 2, 9, 10][place % 6]);
        held.alloc(allocator, place, Request::movable(order));
    }
    for start in [0, 1] {
        (0..96).skip(start).step_by(2).for_each(|place| held.free(allocator, place));
    }
    let batch = allocator.alloc_bulk::<40>(Request::new(Order::ZERO));
    let heads = batch.into_raw();
    // SAFETY: they are the batch's.
    assert_eq!(unsafe { allocator.free_bulk_raw(&heads) }, Ok(()));
    allocator.tick();
    let Count(_) = allocator.drain();
    drop(allocator.alloc_contig(PfnRange::new(Pfn::new(0x1100), Pfn::new(0x1133))));
    let down = allocator.take_cpu_down(CpuId(0)).expect("there is such a CPU");
    held.alloc(allocator, 0, Request::movable(Order::ZERO));
    drop(down);
    held.free_all(allocator);
}

fn number(instructions: u64) -> NonZeroU64 {
    NonZeroU64::new(instructions).expect("not zero")
}

#[test]
fn handlers_at_every_instruction_lose_nothing_and_share_nothing() {
    for instructions in [1, 59] {
        let came = run(When::Every(number(instructions)), all_ways);
        // What has interrupts off has none, and that is all that zones do.
        assert!(came.interrupts > 500, "{came:?}");
    }
}

/// A pair out of an empty list, one out of a list that has some, and a full list.
fn short_ways(allocator: &Allocator<'_>) {
    let mut held = Held::<3>::new(1 << 32);
    for place in 0..3 {
        held.alloc(allocator, place, Request::movable(Order::ZERO));
    }
    held.free_all(allocator);
    held.alloc(allocator, 0, Request::new(Order::of(9)));
    held.free_all(allocator);
}

#[test]
fn one_interrupt_anywhere_changes_nothing_for_what_it_interrupts() {
    // A stride that shares no factor with a loop's length lands on each of its instructions in some turn.
    let mut first = 1;
    while run(When::Once(number(first)), short_ways).interrupts == 1 {
        first += 17;
    }
    assert!(first > 1000, "{first}");
}
