//! Typed owners: made, converted, split up and given up in any order, while walks check where frames lead.

use arrayvec::ArrayVec;

use super::random::Random;
use super::{Failure, Seed};
use crate::OwnerKind;
use crate::machine::{Geometry, Machine};
use crate::owner::{KernelStack, Owned, Owners, Reference, Seen, TaskId};
use crate::page::{Block, PageAllocator, Request};
use crate::slab::KmemCaches;
use crate::units::{Order, Pfn};

const STEPS: u32 = 4000;
/// What is held at once.
const HELD: usize = 48;

/// What the stack at `head` says whose it is.
fn task_of(head: Pfn) -> TaskId {
    TaskId(u64::from(head.number()).wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

/// Takes a reference from any frame of the block, and checks what it leads to.
fn visit<'o, M: Machine>(
    owners: &'o Owners<'o, M>,
    pfn: Pfn,
    head: Pfn,
    order: Order,
) -> Result<Reference<'o, M>, Failure> {
    let walker = owners.walk();
    let sighting = walker.look(pfn);
    let owned = sighting.seen() == Seen::Allocated(OwnerKind::KernelStack);
    Failure::unless_of(owned, pfn, "a frame leads to its block's kind of owner")?;
    Failure::unless_of(sighting.head() == head && sighting.order() == order, pfn, "a frame leads to its block")?;
    let reference = sighting.get();
    match &reference {
        Some(Reference::KernelStack(stack)) => {
            Failure::unless_of(stack.task == task_of(head), pfn, "a frame leads to its owner")?;
        }
        _ => return Err(Failure::ExpectedOf { what: "the owner that was seen can be referred to", pfn }),
    }
    reference.ok_or(Failure::ExpectedOf { what: "there is a reference", pfn })
}

/// Gives a block an owner; without a descriptor it is freed.
fn adopt<'o, M: Machine>(owners: &'o Owners<'o, M>, block: Block<'o, M>) -> Option<Owned<'o, M, KernelStack>> {
    let stack = KernelStack { task: task_of(block.head()) };
    owners.adopt(block, stack).ok()
}

pub(super) fn blocks_change_owners_and_every_frame_leads_to_the_right_one<M: Machine>(
    allocator: &PageAllocator<'_, M>,
    seed: Seed,
) -> Result<(), Failure> {
    const NO_ROOM: Failure = Failure::Skipped("there is no memory for caches and owners");
    let caches = KmemCaches::new(allocator).map_err(|_| NO_ROOM)?;
    let owners = Owners::new(&caches).map_err(|_| NO_ROOM)?;
    let mut random = Random::new(seed);
    let mut stacks: ArrayVec<Owned<'_, M, KernelStack>, HELD> = ArrayVec::new();
    let mut references: ArrayVec<Reference<'_, M>, HELD> = ArrayVec::new();
    for _ in 0..STEPS {
        match random.below(5) {
            0 | 1 if !stacks.is_full() => {
                let order = random.small_order(M::Geometry::MAX_ORDER);
                if let Ok(block) = allocator.alloc(Request::movable(order)) {
                    stacks.extend(adopt(&owners, block));
                }
            }
            2 if !stacks.is_empty() && !references.is_full() => {
                let stack = &stacks[random.index(stacks.len())];
                let pfn = random.frame(stack.range());
                references.push(visit(&owners, pfn, stack.head(), stack.order())?);
            }
            3 if stacks.len() > 1 && !stacks.is_full() => {
                let stack = stacks.swap_remove(random.index(stacks.len()));
                let head = stack.head();
                let referred = references.iter().any(|reference| reference.range().start == head);
                match stack.into_block() {
                    Ok((block, owner)) => {
                        Failure::unless_of(!referred, head, "a block that is referred to keeps its owner")?;
                        Failure::unless_of(owner.task == task_of(head), head, "an owner comes out as it went in")?;
                        match block.split() {
                            Ok((low, high)) => {
                                stacks.extend([low, high].into_iter().filter_map(|half| adopt(&owners, half)));
                            }
                            Err(block) => drop(block),
                        }
                    }
                    Err(stack) => {
                        Failure::unless_of(referred, head, "a block that nobody refers to can be plain again")?;
                        stacks.push(stack);
                    }
                }
            }
            _ if random.below(2) == 0 => drop(references.pop()),
            _ if !stacks.is_empty() => drop(stacks.swap_remove(random.index(stacks.len()))),
            _ => {}
        }
    }
    caches.verify()?;
    for stack in &stacks {
        drop(visit(&owners, random.frame(stack.range()), stack.head(), stack.order())?);
    }
    drop(stacks);
    drop(references);
    let left = owners.reports().find(|report| report.kind == OwnerKind::KernelStack);
    Failure::unless_equal(0, left.map_or(0, |report| report.pages.0), "pages of owners that have gone")
}
