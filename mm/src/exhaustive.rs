//! Every state that a small machine can get into, and every operation from each of them.
//!
//! With two entries a node and two inline, eight pages already cross every edge that the real sizes meet at millions
//! of pages: trees of several levels, nodes in the way of merges, lists without room for one more, the last pages inside
//! nodes. The search starts from the machine as it boots, tries every allocation and every free on every CPU, every contiguous
//! range, a drain of all CPUs and every wrong free, and goes on from each state that it has not seen, until there is none.
//!
//! A state is what the descriptors say, which node is stuck, and what CPUs have at hand: with FREE-1 and FREE-4 checked, all
//! else follows. States that differ in nothing but which CPU is which are one. What is known of a state that was seen is 128 bits
//! of hash: of ten million states two have the same with a chance of 10^-25.
#![expect(unsafe_code, reason = "frees bare frames, the wrong ones too")]

use core::num::NonZeroU16;
use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, Instant};
use std::vec::Vec;
use std::{env, println};

use crate::PageState;
use crate::arena::{ArenaMachine, Deep};
use crate::boot_map::{BootMap, Region, RegionKind};
use crate::host::scaled;
use crate::machine::{Geometry, Machine};
use crate::migratetype::Migratetype;
use crate::page::{PageAllocator, Request};
use crate::units::{CpuId, NodeId, Order, PAGE_SIZE, Pfn, PfnRange};

/// Where the small machine's pages start; its tables stand below.
const BASE: Pfn = Pfn::new(40);

/// A sparse copy of a state: the words that differ from the state after boot.
type Delta = Vec<(u32, u64)>;

const TWO: NonZeroU16 = NonZeroU16::new(2).unwrap();

/// Words that are compared at once.
const PIECE: usize = 64;

#[derive(Clone, Copy, Debug)]
enum Operation {
    Alloc(CpuId, Order, Migratetype),
    Free(CpuId, Pfn),
    Contig(PfnRange),
    Drain,
}

struct Search<'m, G: Geometry> {
    machine: &'m ArenaMachine<G>,
    allocator: PageAllocator<'m, ArenaMachine<G>>,
    frames: PfnRange,
    boot: Vec<u64>,
    /// The same, to be changed into what is brought back.
    state: Vec<u64>,
    kinds: &'static [Migratetype],
}

/// How far a search goes.
#[derive(Clone, Copy)]
enum Bound {
    /// All there is.
    Complete,
    /// So many operations from boot.
    Depth(usize),
    /// As deep as `SECONDS` reach; an hour if the environment does not say.
    Time,
}

/// What a search saw.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    states: usize,
    operations: usize,
    /// From so many operations after boot every operation was tried.
    depth: usize,
    /// Whether no state was left to go on from.
    complete: bool,
    most_nodes: u32,
}

impl<'m, G: Geometry> Search<'m, G> {
    fn new(machine: &'m ArenaMachine<G>, pages: u32, kinds: &'static [Migratetype]) -> Self {
        let region = |start: u32, end: u32, node| Region {
            start: Pfn::new(start).address(),
            len: u64::from(end - start) * PAGE_SIZE as u64,
            kind: RegionKind::Usable,
            node: NodeId(node),
        };
        let frames = PfnRange::new(BASE, BASE.plus(pages));
        let regions = [region(1, BASE.number(), 0), region(BASE.number(), frames.end.number(), 1)];
        let mut boot_map: BootMap = BootMap::new(&regions).expect("the regions are disjoint");
        let allocator = machine.allocator(&mut boot_map).expect("the tables fit below the small machine");
        // What the tables left of their node is out of the game.
        let elsewhere = Request::movable(Order::ZERO).near(NodeId(0));
        while let Ok(pfn) = allocator.alloc_raw(elsewhere) {
            if frames.contains(pfn) {
                // SAFETY: just allocated.
                unsafe { allocator.free_raw(pfn) }.expect("what was just allocated can be freed");
                break;
            }
        }
        allocator.drain();
        let boot = machine.save(BASE, frames.end);
        let state = boot.clone();
        Self { machine, allocator, frames, boot, state, kinds }
    }

    fn save(&self) -> Delta {
        let now = self.machine.save(BASE, self.frames.end);
        let mut delta = Delta::new();
        // Most of it is as it was, and that shows sooner in larger pieces.
        for ((now, boot), start) in now.chunks(PIECE).zip(self.boot.chunks(PIECE)).zip((0..).step_by(PIECE)) {
            if now != boot {
                let words = now.iter().zip(boot).zip(start..);
                delta.extend(words.filter(|((now, boot), _)| now != boot).map(|((&now, _), index)| (index, now)));
            }
        }
        delta
    }

    fn restore(&mut self, delta: &Delta) {
        for &(index, word) in delta {
            self.state[index as usize] = word;
        }
        self.machine.restore(&self.state, BASE, self.frames.end);
        for &(index, _) in delta {
            self.state[index as usize] = self.boot[index as usize];
        }
    }

    fn operations(&self) -> Vec<Operation> {
        let orders = || (0..=G::MAX_ORDER.index()).map(Order::of);
        let cpus = || (0..self.machine.cpus().get()).map(CpuId);
        let mut operations = Vec::new();
        for cpu in cpus() {
            let of_kind = |&kind| orders().map(move |order| Operation::Alloc(cpu, order, kind));
            operations.extend(self.kinds.iter().flat_map(of_kind));
        }
        for pfn in self.frames.frames() {
            match self.allocator.page_state(pfn).0 {
                PageState::Allocated => operations.extend(cpus().map(|cpu| Operation::Free(cpu, pfn))),
                _ => operations.extend((1..=3).map(|pages| Operation::Contig(PfnRange::new(pfn, pfn.plus(pages))))),
            }
        }
        if self.frames.frames().any(|pfn| self.allocator.page_state(pfn).0 == PageState::Cached) {
            operations.push(Operation::Drain);
        }
        operations
    }

    fn free_pages(&self) -> u32 {
        self.allocator.zones().filter(|zone| zone.node == NodeId(1)).map(|zone| zone.free).sum()
    }

    /// Does one operation and checks what a user would: that it had to succeed, or why it did not.
    fn apply(&self, operation: Operation) {
        let free = self.free_pages();
        match operation {
            Operation::Alloc(cpu, order, kind) => {
                self.machine.play(cpu);
                let request = Request::movable(order).with_migratetype(kind);
                match self.allocator.alloc_raw(request) {
                    Ok(pfn) => {
                        assert!(self.frames.contains(pfn) && pfn.is_aligned(order));
                        assert_eq!(self.allocator.page_state(pfn), (PageState::Allocated, order));
                        assert_eq!(self.free_pages(), free - order.pages());
                    }
                    Err(_) => assert!(order > Order::ZERO || free == 0, "FREE-3: {free} pages free, none to be had"),
                }
            }
            Operation::Free(cpu, pfn) => {
                self.machine.play(cpu);
                let pages = self.allocator.page_state(pfn).1.pages();
                // SAFETY: nobody uses the page.
                unsafe { self.allocator.free_raw(pfn) }.expect("an allocated head can be freed");
                assert_eq!(self.free_pages(), free + pages);
            }
            Operation::Contig(range) => match self.allocator.alloc_contig(range) {
                Ok(range) => {
                    let frames = range.range();
                    for block in range.into_blocks() {
                        let _ = block.into_raw();
                    }
                    assert_eq!(self.free_pages(), free - frames.pages());
                }
                Err(_) => assert_eq!(self.free_pages(), free),
            },
            Operation::Drain => {
                self.allocator.drain();
                assert_eq!(self.free_pages(), free);
            }
        }
        if let Err(violation) = self.allocator.verify() {
            panic!("{violation}");
        }
    }

    /// Every free that is wrong in this state is turned away, and changes nothing.
    fn try_wrong_frees(&self) {
        let state = self.allocator.fingerprint(self.frames);
        for pfn in (BASE.number() - 1..=self.frames.end.number()).map(Pfn::new) {
            if self.allocator.page_state(pfn).0 != PageState::Allocated {
                // SAFETY: the frame heads no allocated block, which is what is to be found out.
                assert!(unsafe { self.allocator.free_raw(pfn) }.is_err(), "{pfn:?} was freed");
            }
        }
        assert_eq!(self.allocator.fingerprint(self.frames), state, "a wrong free changed the state");
    }

    /// Visits every state within a bound, those that are fewer operations from boot first.
    fn run(&mut self, bound: Bound) -> Seen {
        let began = Instant::now();
        let (depth, end) = match bound {
            Bound::Complete => (usize::MAX, None),
            Bound::Depth(depth) => (depth, None),
            Bound::Time => (usize::MAX, Some(began + seconds())),
        };
        let mut known = HashSet::from([digest(&self.allocator.fingerprint(self.frames))]);
        let mut frontier = std::vec![Delta::new()];
        let mut seen = Seen { states: 1, operations: 0, depth: 0, complete: false, most_nodes: 0 };
        'levels: while seen.depth < depth && !seen.complete {
            let mut next = Vec::new();
            for delta in &frontier {
                if end.is_some_and(|end| Instant::now() > end) {
                    break 'levels;
                }
                self.restore(delta);
                self.try_wrong_frees();
                for operation in self.operations() {
                    self.restore(delta);
                    self.apply(operation);
                    seen.operations += 1;
                    if known.insert(digest(&self.allocator.fingerprint(self.frames))) {
                        let nodes = self.allocator.zones().map(|zone| zone.nodes).sum();
                        seen.most_nodes = seen.most_nodes.max(nodes);
                        next.push(self.save());
                    }
                }
            }
            frontier = next;
            seen.depth += 1;
            seen.complete = frontier.is_empty();
            if end.is_some() {
                println!("{} s: {} states, {seen:?}", began.elapsed().as_secs(), known.len());
            }
        }
        self.restore(&Delta::new());
        seen.states = known.len();
        seen
    }
}

fn digest(fingerprint: &[u64]) -> (u64, u64) {
    let half = |salt: u8| {
        let mut hasher = DefaultHasher::new();
        (salt, fingerprint).hash(&mut hasher);
        hasher.finish()
    };
    (half(0), half(1))
}

fn seconds() -> Duration {
    Duration::from_secs(env::var("SECONDS").ok().and_then(|seconds| seconds.parse().ok()).unwrap_or(3600))
}

/// Two entries a node, two inline: eight pages are one block of the largest order.
type Tiny = Deep<3, 2, 2>;

/// As [`Tiny`], with no order above single pages: no page ever merges, so lists and trees get as long as can be.
type Flat = Deep<0, 0, 2>;

/// As [`Tiny`], and each CPU has up to two single pages of a kind at hand.
type Cached = Deep<3, 2, 2, 2>;

/// Until there is no new state; less where that takes too long.
const ALL: Bound = scaled(Bound::Complete, Bound::Depth(2));

fn search<G: Geometry>(pages: u32, lowmem: u32, kinds: &'static [Migratetype], bound: Bound) -> Seen {
    search_on::<G>(NonZeroU16::MIN, pages, lowmem, kinds, bound)
}

fn search_on<G: Geometry>(
    cpus: NonZeroU16,
    pages: u32,
    lowmem: u32,
    kinds: &'static [Migratetype],
    bound: Bound,
) -> Seen {
    let machine = ArenaMachine::<G>::new(BASE.plus(pages), BASE.plus(lowmem)).with_cpus(cpus, NodeId(1));
    let seen = Search::new(&machine, pages, kinds).run(bound);
    println!("{cpus} CPUs, {pages} pages, {lowmem} of them lowmem, {} migratetypes: {seen:?}", kinds.len());
    seen
}

#[test]
fn eight_pages_reach_no_bad_state_wherever_lowmem_ends() {
    for lowmem in (0..=8).step_by(scaled(1, 3)) {
        let seen = search::<Tiny>(8, lowmem, &[Migratetype::Movable], ALL);
        assert_eq!(seen.complete, scaled(true, false));
    }
}

#[test]
fn eight_pages_of_two_migratetypes_reach_no_bad_state() {
    for lowmem in [0, 3, 8] {
        let seen = search::<Tiny>(8, lowmem, &[Migratetype::Movable, Migratetype::Unmovable], ALL);
        assert_eq!(seen.complete, scaled(true, false));
    }
}

#[test]
fn eight_pages_of_which_a_cpu_has_two_at_hand_reach_no_bad_state_within_six_operations() {
    let seen = search::<Cached>(8, 8, &[Migratetype::Movable], Bound::Depth(scaled(6, 2)));
    assert!(seen.states > scaled(1000, 10));
}

/// All that two CPUs can do with as many pages as both keep.
#[test]
fn four_pages_in_two_zones_of_which_two_cpus_have_two_at_hand_reach_no_bad_state() {
    assert_eq!(search_on::<Cached>(TWO, 4, 1, &[Migratetype::Movable], ALL).complete, scaled(true, false));
}

#[test]
#[ignore = "two minutes: a part of ./qemu-run.sh prove"]
fn four_pages_in_one_zone_of_which_two_cpus_have_two_at_hand_reach_no_bad_state() {
    assert!(search_on::<Cached>(TWO, 4, 0, &[Migratetype::Movable], Bound::Complete).complete);
}

#[test]
fn eight_pages_of_which_two_cpus_have_two_at_hand_reach_no_bad_state_within_five_operations() {
    let seen = search_on::<Cached>(TWO, 8, 5, &[Migratetype::Movable], Bound::Depth(scaled(5, 2)));
    assert!(seen.states > scaled(1000, 10));
}

/// Trees three levels high, all of it in highmem, and half of it.
#[test]
fn eight_pages_that_never_merge_reach_no_bad_state() {
    never_merging([4]);
}

#[test]
#[ignore = "four minutes: a part of ./qemu-run.sh prove"]
fn eight_pages_that_never_merge_reach_no_bad_state_wherever_lowmem_ends() {
    never_merging(0..=8);
}

fn never_merging(boundaries: impl IntoIterator<Item = u32>) {
    for lowmem in boundaries {
        let seen = search::<Flat>(8, lowmem, &[Migratetype::Movable], ALL);
        assert_eq!(seen.complete, scaled(true, false));
    }
}

/// Two largest blocks, so that the nodes of one stand in the way of the other.
#[test]
fn sixteen_pages_reach_no_bad_state_within_three_operations_wherever_a_block_ends_at_lowmems_end() {
    three_operations((0..=16).step_by(scaled(4, 8)));
}

#[test]
#[ignore = "half a minute: a part of ./qemu-run.sh prove"]
fn sixteen_pages_reach_no_bad_state_within_three_operations_wherever_lowmem_ends() {
    three_operations(0..=16);
}

fn three_operations(boundaries: impl Iterator<Item = u32>) {
    for lowmem in boundaries {
        let seen = search::<Tiny>(16, lowmem, &[Migratetype::Movable], Bound::Depth(scaled(3, 1)));
        assert!(seen.states > scaled(1000, 10));
    }
}

/// As deep as a test may take, with one end of the list table in highmem and the other in lowmem.
#[test]
fn sixteen_pages_reach_no_bad_state_within_four_operations() {
    let seen = search::<Tiny>(16, 8, &[Migratetype::Movable], Bound::Depth(scaled(4, 1)));
    assert!(seen.states > scaled(100_000, 10));
}

/// The deepest states of a search that is cut off have had no operation tried from them.
fn for_a_time(search: impl FnOnce(Bound) -> Seen) {
    let seen = search(Bound::Time);
    assert!(seen.complete || seen.depth >= 4, "that was too short to say anything");
}

#[test]
#[ignore = "a quarter of an hour: a part of ./qemu-run.sh prove"]
fn sixteen_pages_reach_no_bad_state() {
    assert!(search::<Tiny>(16, 8, &[Migratetype::Movable], Bound::Complete).complete);
}

#[test]
#[ignore = "SECONDS, an hour: a part of ./qemu-run.sh prove"]
fn sixteen_pages_of_two_migratetypes_reach_no_bad_state_as_deep_as_time_reaches() {
    for_a_time(|bound| search::<Tiny>(16, 8, &[Migratetype::Movable, Migratetype::Unmovable], bound));
}

#[test]
#[ignore = "four minutes: a part of ./qemu-run.sh prove"]
fn eight_pages_of_which_a_cpu_has_two_at_hand_reach_no_bad_state() {
    assert!(search::<Cached>(8, 8, &[Migratetype::Movable], Bound::Complete).complete);
}

#[test]
#[ignore = "SECONDS, an hour: a part of ./qemu-run.sh prove"]
fn eight_pages_of_which_two_cpus_have_two_at_hand_reach_no_bad_state() {
    for_a_time(|bound| search_on::<Cached>(TWO, 8, 5, &[Migratetype::Movable], bound));
}
