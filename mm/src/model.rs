//! The allocator against a naive one: random operations on random memory, compared after every step.
//!
//! The naive allocator is the specification, which runs along and knows what must be free; this adds who pays, and which zone a
//! frame is of. So it can say of every answer whether it is right: a block given out is free, aligned, in a zone that may serve the request; a refusal means that
//! there is no such block, or that the group that was to pay would exceed its limit; a wrong free is refused. After every step the checker looks at every invariant.
#![expect(unsafe_code, reason = "frees bare frames, the wrong ones too")]

use core::num::NonZeroU16;
use std::collections::{BTreeMap, BTreeSet};
use std::vec::Vec;

use proptest::prelude::*;
use proptest::sample::Index;

use crate::PageState;
use crate::arena::{ArenaMachine, Deep};
use crate::boot_map::{BootMap, Extent, Region, RegionKind};
use crate::charge::{ChargeError, ChargeGroup, GroupId};
use crate::host::{HostMachine, at_each_step, scaled};
use crate::invariant::Violation;
use crate::machine::{Geometry, Machine, Standard};
use crate::migratetype::Migratetype;
use crate::page::{AllocError, Block, PageAllocator, Policy, Request};
use crate::specification::{Specification, Standing};
use crate::units::{NodeId, Order, PAGE_SIZE, Pfn, PfnRange, PhysAddr};
use crate::zone::ZoneKind;

/// Two entries a node and two inline: trees get deep in tiny memory.
type Small = Deep<4, 2, 2>;

/// The real sizes, with nothing at hand of any CPU: what stands on lists is all that is free.
struct Real;

impl Geometry for Real {
    const MAX_ORDER: Order = Standard::MAX_ORDER;
    const PAGEBLOCK_ORDER: Order = Standard::PAGEBLOCK_ORDER;
    const LEAF_SHIFT: u32 = Standard::LEAF_SHIFT;
    const NODE_SHIFT: u32 = Standard::NODE_SHIFT;
    const INLINE: u32 = Standard::INLINE;
    const RESERVE_SHARE: u32 = Standard::RESERVE_SHARE;
}

/// What stands in the map of a machine, in units that make trouble likely: not pages, but odd fractions of them.
#[derive(Clone, Debug)]
struct Memory {
    frames: u32,
    lowmem: u32,
    regions: Vec<Region>,
}

#[derive(Clone, Debug)]
enum Step {
    Alloc {
        order: u8,
        kind: usize,
        highest: usize,
        node: Option<u8>,
        payer: usize,
    },
    Split(Index),
    Recharge {
        block: Index,
        payer: usize,
    },
    Free(Index),
    /// Frees everything from some block on, so that memory drains as well as fills.
    FreeMany(Index),
    FreeWrongly(Index),
    Contig {
        start: Index,
        pages: u32,
    },
    ContigAligned {
        pages: u32,
        align: u8,
    },
    /// Hands in memory that was reserved at boot, or memory that was not.
    Adopt {
        start: Index,
        pages: u32,
    },
}

fn memory(frames: u32, reserved: usize) -> impl Strategy<Value = Memory> {
    let bytes = u64::from(frames) * PAGE_SIZE as u64;
    let hole = (0..bytes, 0..bytes / 16);
    (frames / 2..=frames, 1..=2u8, prop::collection::vec(hole, 0..=reserved)).prop_map(move |(lowmem, nodes, holes)| {
        let share = bytes / u64::from(nodes) + 0x1234;
        let usable = (0..nodes).map(|node| {
            let start = share * u64::from(node);
            let len = share.min(bytes - start);
            Region { start: PhysAddr(start), len, kind: RegionKind::Usable, node: NodeId(node) }
        });
        let reserved = holes.into_iter().map(|(start, len)| {
            let len = len.min(bytes - start);
            Region { start: PhysAddr(start), len, kind: RegionKind::Reserved, node: NodeId(0) }
        });
        Memory { frames, lowmem, regions: usable.chain(reserved).collect() }
    })
}

fn step(max_order: u8) -> impl Strategy<Value = Step> {
    let small = (0..=1u8, 0..3usize, 0..PAYERS);
    let alloc = (0..=max_order + 1, 0..3usize, 0..3usize, prop::option::of(0..3u8), 0..PAYERS);
    prop_oneof![
        8 => small.prop_map(|(order, kind, payer)| Step::Alloc { order, kind, highest: 2, node: None, payer }),
        8 => alloc.prop_map(|(order, kind, highest, node, payer)| Step::Alloc { order, kind, highest, node, payer }),
        1 => any::<Index>().prop_map(Step::Split),
        2 => (any::<Index>(), 0..PAYERS).prop_map(|(block, payer)| Step::Recharge { block, payer }),
        10 => any::<Index>().prop_map(Step::Free),
        1 => any::<Index>().prop_map(Step::FreeMany),
        1 => any::<Index>().prop_map(Step::FreeWrongly),
        1 => (any::<Index>(), 1..40u32).prop_map(|(start, pages)| Step::Contig { start, pages }),
        1 => (1..40u32, 0..=max_order).prop_map(|(pages, align)| Step::ContigAligned { pages, align }),
        2 => (any::<Index>(), 1..12u32).prop_map(|(start, pages)| Step::Adopt { start, pages }),
    ]
}

/// The limits of the groups that pay beside the root: none, one that small blocks soon meet, one that large ones do.
const LIMITS: [Option<u32>; 3] = [None, Some(7), Some(60)];

const PAYERS: usize = LIMITS.len() + 1;

/// A block that is held.
#[derive(Clone, Copy)]
struct Held {
    head: Pfn,
    order: Order,
    /// The place of who pays among the groups, the root's being 0.
    payer: usize,
}

/// The naive allocator beside the real one.
struct Model<'a, 'm, M: Machine> {
    allocator: &'a PageAllocator<'m, M>,
    /// The node and kind of every frame that the allocator was given.
    memory: BTreeMap<Pfn, (NodeId, ZoneKind)>,
    /// Frames that were reserved when the machine started, and were not handed in yet.
    reserved: BTreeSet<Pfn>,
    specification: Specification<'a>,
    blocks: Vec<Held>,
    groups: [ChargeGroup<'m>; LIMITS.len()],
}

impl<'a, M: Machine> Model<'a, '_, M> {
    fn is_free(&self, pfn: Pfn) -> bool {
        self.memory.contains_key(&pfn) && self.specification.standing(pfn) == Standing::Free
    }

    /// Whether all of the range is free memory of one zone.
    fn is_free_run(&self, range: PfnRange) -> bool {
        let zone = self.memory.get(&range.start);
        range.frames().all(|pfn| self.is_free(pfn) && self.memory.get(&pfn) == zone)
    }

    fn id(&self, payer: usize) -> GroupId {
        payer.checked_sub(1).map_or(GroupId::ROOT, |group| self.groups[group].id())
    }

    fn charged(&self, payer: usize) -> u32 {
        self.blocks.iter().filter(|block| block.payer == payer).map(|block| block.order.pages()).sum()
    }

    /// Whether so many pages more are more than the payer may have.
    fn is_over_limit(&self, payer: usize, pages: u32) -> bool {
        let limit = payer.checked_sub(1).and_then(|group| LIMITS[group]);
        limit.is_some_and(|limit| self.charged(payer) + pages > limit)
    }

    fn hold(&mut self, head: Pfn, order: Order, payer: usize) {
        let range = PfnRange::new(head, head.plus(order.pages()));
        let standing = |pfn| self.specification.standing(pfn);
        assert!(range.frames().all(|pfn| standing(pfn) == Standing::Held(order)), "{head:?} is not all there");
        assert!(head.is_aligned(order));
        assert_eq!(self.allocator.page_state(head), (PageState::Allocated, order));
        assert!(
            range.frames().all(|pfn| self.allocator.block_of(pfn) == Some(head)),
            "a page does not lead to its head"
        );
        self.blocks.push(Held { head, order, payer });
    }

    fn free(&mut self, index: usize) {
        let Held { head, .. } = self.blocks.swap_remove(index);
        // SAFETY: the block is this model's, which uses no page.
        unsafe { self.allocator.free_raw(head) }.expect("a held block can be freed");
    }

    fn alloc(&mut self, request: Request, payer: usize) {
        match self.allocator.alloc_raw(request.charged_to(self.id(payer))) {
            Ok(head) => {
                assert!(self.memory[&head].1 <= request.highest, "{head:?} lies above the zones asked for");
                if let Policy::Preferred(node) = request.policy
                    && self.memory[&head].0 != node
                {
                    assert!(!self.could_serve(request, Some(node)), "{node:?} had a block, but {head:?} was given out");
                }
                assert!(!self.is_over_limit(payer, request.order.pages()), "the limit was exceeded");
                self.hold(head, request.order, payer);
            }
            Err(AllocError::OrderTooLarge(order)) => assert!(order > M::Geometry::MAX_ORDER),
            Err(AllocError::Exhausted(_)) => assert!(!self.could_serve(request, None), "{request:?} was refused"),
            Err(AllocError::Charge(ChargeError::OverLimit { .. })) => {
                assert!(self.is_over_limit(payer, request.order.pages()), "{request:?} was not over the limit");
            }
            Err(AllocError::Charge(ChargeError::NoGroup(group))) => panic!("{group:?} is there"),
        }
    }

    fn owned(&self, block: Held) -> Block<'a, M> {
        // SAFETY: the block is this model's alone.
        unsafe { self.allocator.from_raw(block.head) }.expect("a held block heads one")
    }

    fn split(&mut self, index: usize) {
        let block = self.blocks[index];
        match self.owned(block).split() {
            Ok((low, high)) => {
                let halves = [low, high].map(|half| Held { order: half.order(), head: half.into_raw(), ..block });
                self.blocks.swap_remove(index);
                self.blocks.extend(halves);
            }
            Err(page) => {
                assert_eq!(page.order(), Order::ZERO);
                let _ = page.into_raw();
            }
        }
    }

    fn recharge(&mut self, index: usize, payer: usize) {
        let block = self.blocks[index];
        let mut owned = self.owned(block);
        let recharged = owned.recharge(self.id(payer));
        let _ = owned.into_raw();
        let possible = payer == block.payer || !self.is_over_limit(payer, block.order.pages());
        assert_eq!(recharged.is_ok(), possible, "{recharged:?}");
        if possible {
            self.blocks[index].payer = payer;
        }
    }

    /// Whether there is a free, aligned block in one zone, with no node in it: at order 0, whether there is a page.
    fn could_serve(&self, request: Request, node: Option<NodeId>) -> bool {
        self.memory.iter().any(|(&pfn, &(on, kind))| {
            let range = PfnRange::new(pfn, pfn.plus(request.order.pages()));
            let is_node = |pfn| self.allocator.page_state(pfn).0 == PageState::Node;
            node.is_none_or(|node| on == node)
                && kind <= request.highest
                && pfn.is_aligned(request.order)
                && self.is_free_run(range)
                && (request.order == Order::ZERO || !range.frames().any(is_node))
        })
    }

    fn hold_range(&mut self, range: PfnRange) {
        let mut at = range.start;
        while at < range.end {
            let (_, order) = self.allocator.page_state(at);
            self.hold(at, order, 0);
            at = at.plus(order.pages());
        }
        assert_eq!(at, range.end, "the last block sticks out of its range");
    }

    /// Hands frames in that nobody uses. Other reserved memory is the allocator's own: that must not be tried.
    fn adopt(&mut self, range: PfnRange) {
        let is_tables = |pfn| self.allocator.page_state(pfn).0 == PageState::Reserved && !self.reserved.contains(&pfn);
        if range.frames().any(is_tables) {
            return;
        }
        let kind = |pfn| kind(self.allocator, pfn);
        let ours = range.frames().all(|pfn| self.reserved.contains(&pfn) && kind(pfn) == kind(range.start));
        let zones: Vec<_> = self.allocator.zones().collect();
        let possible = ours && zones.iter().any(|zone| zone.kind == kind(range.start));
        // SAFETY: nobody uses the frames: they are none of the allocator's tables, and this model uses no page.
        let adopted = unsafe { self.allocator.adopt(range) };
        assert_eq!(adopted.is_ok(), possible, "{range:?}: {adopted:?}");
        if let Ok(adopted) = adopted {
            adopted.into_blocks().for_each(|block| {
                let _ = block.into_raw();
            });
            let grown = self.allocator.zones().zip(zones).find(|(now, before)| now.managed > before.managed);
            let (now, before) = grown.expect("some zone has more pages");
            assert_eq!(
                (now.managed, now.free, now.kind),
                (before.managed + range.pages(), before.free, kind(range.start))
            );
            self.reserved.retain(|&pfn| !range.contains(pfn));
            self.memory.extend(range.frames().map(|pfn| (pfn, (now.node, now.kind))));
            self.hold_range(range);
        }
    }

    fn apply(&mut self, step: &Step, frames: u32) {
        match *step {
            Step::Alloc { order, kind, highest, node, payer } => {
                let Some(order) = Order::new(order) else { return };
                let request =
                    Request::new(order).with_migratetype(Migratetype::REQUESTED[kind]).up_to(ZoneKind::ALL[highest]);
                let request = request.from_reserve();
                self.alloc(node.map_or(request, |node| request.near(NodeId(node))), payer);
            }
            Step::Split(which) if !self.blocks.is_empty() => self.split(which.index(self.blocks.len())),
            Step::Recharge { block, payer } if !self.blocks.is_empty() => {
                self.recharge(block.index(self.blocks.len()), payer);
            }
            Step::Free(which) if !self.blocks.is_empty() => self.free(which.index(self.blocks.len())),
            Step::FreeMany(which) if !self.blocks.is_empty() => {
                for index in (which.index(self.blocks.len())..self.blocks.len()).rev() {
                    self.free(index);
                }
            }
            Step::Free(_) | Step::FreeMany(_) | Step::Split(_) | Step::Recharge { .. } => {}
            Step::FreeWrongly(which) => {
                let pfn = Pfn::new(u32::try_from(which.index(frames as usize + 8)).expect("few frames"));
                if self.specification.head(pfn) != Some(pfn) {
                    // SAFETY: no block starts there, which is what is to be found out.
                    unsafe { self.allocator.free_raw(pfn) }.expect_err("no block starts there");
                }
            }
            Step::Contig { start, pages } => {
                let start = Pfn::new(u32::try_from(start.index(frames as usize)).expect("few frames"));
                let range = PfnRange::new(start, start.plus(pages));
                match self.allocator.alloc_contig(range) {
                    Ok(contig) => {
                        contig.into_blocks().for_each(|block| {
                            let _ = block.into_raw();
                        });
                        self.hold_range(range);
                    }
                    Err(_) => assert!(!self.is_free_run(range), "{range:?} is free, but was refused"),
                }
            }
            Step::Adopt { start, pages } => {
                // Mostly where there is something to adopt, else anywhere.
                let reserved: Vec<_> = self.reserved.iter().copied().collect();
                let start = match start.index(frames as usize) {
                    anywhere if reserved.is_empty() || anywhere % 8 == 0 => {
                        Pfn::new(u32::try_from(anywhere).expect("few frames"))
                    }
                    index => reserved[index % reserved.len()],
                };
                self.adopt(PfnRange::new(start, start.plus(pages)));
            }
            Step::ContigAligned { pages, align } => {
                let Some(align) = Order::new(align) else { return };
                match self.allocator.alloc_contig_aligned(pages, align, ZoneKind::Highmem) {
                    Ok(contig) => {
                        let range = contig.range();
                        assert!(range.start.is_aligned(align) && range.pages() == pages);
                        contig.into_blocks().for_each(|block| {
                            let _ = block.into_raw();
                        });
                        self.hold_range(range);
                    }
                    Err(_) => {
                        let run = |pfn: &&Pfn| {
                            pfn.is_aligned(align) && self.is_free_run(PfnRange::new(**pfn, pfn.plus(pages)))
                        };
                        assert_eq!(
                            self.memory.keys().find(run),
                            None,
                            "{pages} pages aligned to {align:?} were refused"
                        );
                    }
                }
            }
        }
    }

    fn verify(&self) -> Result<(), Violation> {
        self.allocator.verify()?;
        self.allocator.verify_specified()?;
        self.allocator.verify_charges()
    }

    fn check(&self) {
        if let Err(violation) = self.verify() {
            panic!("{violation}");
        }
        for payer in 1..PAYERS {
            assert_eq!(self.groups[payer - 1].report().usage, self.charged(payer), "a group was miscounted");
        }
        for &block in &self.blocks {
            let owned = self.owned(block);
            assert_eq!(owned.group(), self.id(block.payer), "{:?} names another group than pays", block.head);
            let _ = owned.into_raw();
        }
        for zone in self.allocator.zones() {
            let ours = |&(_, &at): &(&Pfn, &(NodeId, ZoneKind))| at == (zone.node, zone.kind);
            let free = self.memory.iter().filter(ours).filter(|&(&pfn, _)| self.is_free(pfn)).count();
            assert_eq!(zone.free as usize, free, "{} of {:?} has miscounted", zone.kind.name(), zone.node);
        }
    }
}

/// What kind of memory a frame is, on machines that end below 4 GiB.
fn kind<M: Machine>(allocator: &PageAllocator<'_, M>, pfn: Pfn) -> ZoneKind {
    if pfn < allocator.machine().direct_map_end() { ZoneKind::Dma32 } else { ZoneKind::Highmem }
}

/// Runs the steps on a machine, with the memory as the map describes it, if the map and the tables fit at all.
fn run<M: Machine>(machine: &M, memory: &Memory, steps: &[Step]) {
    let Ok(mut boot_map) = BootMap::<64>::new(&memory.regions) else { return };
    let is_reserved = |extent: &&Extent| extent.kind == RegionKind::Reserved;
    let reserved = boot_map.extents().iter().filter(is_reserved).flat_map(|extent| extent.range.frames()).collect();
    // SAFETY: MACHINE-MEMORY, the machine was made for this run.
    let Ok(allocator) = (unsafe { PageAllocator::new(machine, &mut boot_map) }) else { return };
    let frames = boot_map.usable().flat_map(|(range, node)| range.frames().map(move |pfn| (pfn, node)));
    let frames = frames.map(|(pfn, node)| (pfn, (node, kind(&allocator, pfn)))).collect();
    let groups = LIMITS.map(|limit| allocator.groups().create(limit).expect("few groups are made"));
    let specification = machine.specification().expect("the machine has one");
    let mut model =
        Model { allocator: &allocator, memory: frames, reserved, specification, blocks: Vec::new(), groups };
    model.check();
    for step in steps {
        model.apply(step, memory.frames);
        at_each_step(|| model.check());
    }
    // With the last block free, the checker sees that all has coalesced (FREE-6).
    for index in (0..model.blocks.len()).rev() {
        model.free(index);
        at_each_step(|| model.check());
    }
    model.check();
    for group in model.groups {
        group.destroy().expect("all is free");
    }
}

const CPU: NonZeroU16 = NonZeroU16::MIN;

proptest! {
    #[test]
    fn deep_trees_agree_with_the_naive_allocator(
        memory in memory(320, 4),
        steps in prop::collection::vec(step(4), 0..scaled(200, 20)),
    ) {
        run(&ArenaMachine::<Small>::new(Pfn::new(memory.frames), Pfn::new(memory.lowmem)).specified(), &memory, &steps);
    }

    #[test]
    fn deep_trees_in_memory_that_is_out_of_reach_agree_with_the_naive_allocator(
        memory in memory(320, 4),
        steps in prop::collection::vec(step(4), 0..scaled(60, 20)),
    ) {
        let machine = HostMachine::<Small>::new(Pfn::new(memory.frames), Pfn::new(memory.lowmem), CPU);
        run(&machine.expect("the host has memory for a test").specified(), &memory, &steps);
    }

    #[test]
    fn the_real_sizes_agree_with_the_naive_allocator(
        memory in memory(scaled(6000, 1500), 6),
        steps in prop::collection::vec(step(10), 0..scaled(60, 5)),
    ) {
        let machine = HostMachine::<Real>::new(Pfn::new(memory.frames), Pfn::new(memory.lowmem), CPU);
        run(&machine.expect("the host has memory for a test").specified(), &memory, &steps);
    }
}
