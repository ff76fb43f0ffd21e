//! What happens when memory runs out, anywhere: a script allocates in every way there is, and the n-th allocation of a
//! page or an object fails, for every n.
//!
//! Each step holds what it has while the steps behind it run, so a failure unwinds all that came before. A new kind of
//! memory is one more function in [`SCRIPT`]; it may allocate on the heap only where it can be told that there is no
//! memory.

mod users;

use alloc::collections::TryReserveError;
use alloc::vec::Vec;

use kernel_core::layout::VMAP;
use mm::faults::Fired;
use mm::machine::Machine;
use mm::owner::{CompressedStore, Folio, OwnError, PageTable, PerCpuArea, TableLevel, TaskId};
use mm::page::{AllocError, Request};
use mm::slab::{CacheSpec, CreateError, FreeObjectError, NoMemory, ReallocError};
use mm::units::{Bytes, Count, CpuId, Order, PAGE_SIZE};

use crate::image::Protection;
use crate::kernel_stack::{MappedStack, StackError};
use crate::ktest::{check, diagnostic, ktest, skip};
use crate::memory::{self, Allocator, Caches, MachineOwners};
use crate::paging::space::{self, MapError, Space, page_at};
use crate::stacks::StackUse;

/// How a script ends early.
#[derive(Clone, Copy, Debug, thiserror::Error)]
enum Stopped {
    /// What is to happen.
    #[error("there is no memory")]
    NoMemory,
    #[error("{0}")]
    Create(CreateError),
    #[error("{0}")]
    Free(FreeObjectError),
    #[error("{0}")]
    Wrong(&'static str),
}

impl From<NoMemory> for Stopped {
    fn from(_: NoMemory) -> Self {
        Self::NoMemory
    }
}

impl From<AllocError> for Stopped {
    fn from(_: AllocError) -> Self {
        Self::NoMemory
    }
}

impl From<TryReserveError> for Stopped {
    fn from(_: TryReserveError) -> Self {
        Self::NoMemory
    }
}

impl From<CreateError> for Stopped {
    fn from(error: CreateError) -> Self {
        match error {
            CreateError::NoMemory(_) => Self::NoMemory,
            CreateError::Impossible { .. } => Self::Create(error),
        }
    }
}

impl From<MapError> for Stopped {
    fn from(error: MapError) -> Self {
        match error {
            MapError::NoTable(_) => Self::NoMemory,
            MapError::Outside(_) | MapError::Taken(_) => Self::Wrong("a page of the vmap area cannot be mapped"),
        }
    }
}

impl From<StackError> for Stopped {
    fn from(error: StackError) -> Self {
        match error {
            StackError::NoMemory(_) => Self::NoMemory,
            StackError::NotMapped(error) => error.into(),
            StackError::TooLarge | StackError::NoSlot => Self::Wrong("there is no slot for a stack"),
        }
    }
}

impl From<ReallocError> for Stopped {
    fn from(error: ReallocError) -> Self {
        match error {
            ReallocError::NoMemory(_) => Self::NoMemory,
            ReallocError::NotAllocated(error) => Self::Free(error),
        }
    }
}

#[derive(Clone, Copy)]
struct Memory {
    allocator: &'static Allocator,
    caches: &'static Caches,
    owners: &'static MachineOwners,
    space: &'static Space,
}

/// The steps that are to run while a step holds what it has.
struct Rest<'s>(&'s [Step]);

type Step = fn(Memory, Rest<'_>) -> Result<(), Stopped>;

impl Rest<'_> {
    fn run(self, memory: Memory) -> Result<(), Stopped> {
        match self.0 {
            [] => Ok(()),
            [first, rest @ ..] => first(memory, Rest(rest)),
        }
    }
}

const SCRIPT: &[Step] = &[
    pages_of_several_orders,
    a_cache_with_objects_and_some_set_aside,
    memory_by_size_that_changes_it,
    lists_that_grow_on_the_heap,
    owners_of_every_kind_that_a_group_pays_for,
    a_stack_and_a_page_far_from_all_others,
    users::folios_in_mappings,
    users::spaces_that_fault_fork_and_pin,
];

fn pages_of_several_orders(memory: Memory, rest: Rest<'_>) -> Result<(), Stopped> {
    let page = memory.allocator.alloc(Request::movable(Order::ZERO))?;
    let mut block = memory.allocator.alloc(Request::new(Order::of(3)))?;
    block.bytes_mut().ok_or(Stopped::Wrong("unmovable memory is not in the direct map"))?.fill(0xa5);
    rest.run(memory)?;
    drop(page);
    Ok(())
}

fn a_cache_with_objects_and_some_set_aside(memory: Memory, rest: Rest<'_>) -> Result<(), Stopped> {
    const OBJECTS: usize = 30;
    let cache = memory.caches.create(CacheSpec::new("sweep", 700).aligned(64))?;
    let mut objects = [const { None }; OBJECTS];
    for object in &mut objects {
        *object = Some(cache.alloc()?);
    }
    let mut aside = cache.prefill(Count(70))?;
    rest.run(memory)?;
    let taken = core::iter::from_fn(|| aside.alloc()).count();
    if taken != 70 {
        return Err(Stopped::Wrong("what was set aside is not all there"));
    }
    drop((objects, aside));
    cache.destroy().map_err(|_| Stopped::Wrong("a cache without objects is not destroyed"))
}

/// Memory by size, with its own pattern; freed when it drops.
struct Sized {
    memory: Memory,
    place: core::ptr::NonNull<u8>,
    size: Bytes,
}

impl Sized {
    const PATTERN: u8 = 0x5a;

    fn new(memory: Memory, size: Bytes) -> Result<Self, Stopped> {
        let place = memory.caches.kmalloc(size)?;
        // SAFETY: so long it is, and nobody else's.
        unsafe { place.write_bytes(Self::PATTERN, size.0) };
        Ok(Self { memory, place, size })
    }

    fn resize(&mut self, size: Bytes) -> Result<(), Stopped> {
        // SAFETY: the memory is this one's alone, and the old place is forgotten.
        self.place = unsafe { self.memory.caches.krealloc(self.place, size) }?;
        let kept = self.size.0.min(size.0);
        // SAFETY: so long it is at least, and all of it was written.
        let bytes = unsafe { core::slice::from_raw_parts(self.place.as_ptr(), kept) };
        if bytes.iter().any(|&byte| byte != Self::PATTERN) {
            return Err(Stopped::Wrong("memory that got another size has lost its contents"));
        }
        // SAFETY: as above.
        unsafe { self.place.write_bytes(Self::PATTERN, size.0) };
        self.size = size;
        Ok(())
    }
}

impl Drop for Sized {
    fn drop(&mut self) {
        // SAFETY: the memory is this one's alone.
        if let Err(error) = unsafe { self.memory.caches.kfree(self.place) } {
            panic!("sweep: {error}");
        }
    }
}

fn memory_by_size_that_changes_it(memory: Memory, rest: Rest<'_>) -> Result<(), Stopped> {
    let mut small = Sized::new(memory, Bytes(24))?;
    let mut middle = Sized::new(memory, Bytes(3000))?;
    let mut large = Sized::new(memory, Bytes(3 * PAGE_SIZE))?;
    small.resize(Bytes(100))?;
    middle.resize(Bytes(50_000))?;
    large.resize(Bytes(6 * PAGE_SIZE))?;
    rest.run(memory)?;
    large.resize(Bytes(200))
}

fn lists_that_grow_on_the_heap(memory: Memory, rest: Rest<'_>) -> Result<(), Stopped> {
    let mut numbers = Vec::new();
    let mut lists: Vec<Vec<u64>> = Vec::new();
    for number in 0..2000_u64 {
        if numbers.len() == numbers.capacity() {
            numbers.try_reserve(1)?;
            lists.try_reserve(1)?;
            let mut list = Vec::new();
            list.try_reserve_exact(numbers.len() + 1)?;
            list.extend(&numbers);
            lists.push(list);
        }
        numbers.push(number);
    }
    rest.run(memory)?;
    let kept = |list: &Vec<u64>| list.iter().zip(0..).all(|(&found, number)| found == number);
    let intact = kept(&numbers) && lists.iter().all(kept);
    if intact { Ok(()) } else { Err(Stopped::Wrong("a list has lost its contents")) }
}

/// Blocks with owners, one that was plain before, and a reference that outlives its owner.
fn owners_of_every_kind_that_a_group_pays_for(memory: Memory, rest: Rest<'_>) -> Result<(), Stopped> {
    let Memory { allocator, owners, .. } = memory;
    let group = allocator.groups().create(None).map_err(|_| Stopped::Wrong("there is no group"))?;
    let request = |order| Request::new(Order::of(order)).charged_to(group.id());
    let table = owners.alloc(request(0), PageTable::new(TableLevel(1))).map_err(no_owner)?;
    let store = owners.alloc(request(2), CompressedStore::new(Bytes(96))).map_err(no_owner)?;
    let area = owners.alloc(request(1), PerCpuArea { cpu: CpuId(0) }).map_err(no_owner)?;
    let plain = allocator.alloc(request(4))?;
    let folio = owners.adopt(plain, Folio::new()).map_err(|(block, folio, error)| {
        drop(block);
        no_owner((folio, error))
    })?;
    let reference = owners.walk().look(store.head().plus(3)).get();
    drop(store);
    rest.run(memory)?;
    let charged = group.report().usage;
    if charged != 1 + 4 + 2 + 16 {
        return Err(Stopped::Wrong("a group does not pay for what its owners and a reference hold"));
    }
    drop((table, area, folio, reference));
    group.destroy().map_err(|_| Stopped::Wrong("a group pays for what is free"))
}

fn no_owner<T>((_, error): (T, OwnError)) -> Stopped {
    match error {
        OwnError::Descriptor(_) | OwnError::Pages(_) => Stopped::NoMemory,
        OwnError::Foreign => Stopped::Wrong("a block is another allocator's"),
    }
}

fn a_stack_and_a_page_far_from_all_others(memory: Memory, rest: Rest<'_>) -> Result<(), Stopped> {
    let mut stack = MappedStack::new(memory.space, memory.owners, Order::of(3), StackUse::Task, TaskId(1))?;
    let frame = memory.allocator.alloc(Request::movable(Order::ZERO))?;
    let page = page_at(VMAP.end - PAGE_SIZE as u64);
    memory.space.map(page, frame.head(), Protection::ReadWrite)?;
    let outcome = stack.run(|| rest.run(memory));
    // SAFETY: nobody looks at the page.
    let unmapped = unsafe { memory.space.unmap(page) };
    outcome?;
    if unmapped == Ok(frame.head()) { Ok(()) } else { Err(Stopped::Wrong("a page is not mapped as it was")) }
}

ktest!(
    "heap",
    fn the_nth_allocation_may_fail_for_every_n_and_all_that_came_before_unwinds() {
        /// Descriptors that the page checker may look at in all steps but the last.
        const BUDGET: u64 = 1 << 24;

        let (allocator, caches) = memory::allocator().zip(memory::caches()).ok_or("the allocators are not up")?;
        let (owners, space) = memory::owners().zip(space::kernel()).ok_or("page tables have no owners")?;
        let memory = Memory { allocator, caches, owners, space };
        let Some(faults) = allocator.machine().injected_faults() else {
            return skip("nothing fails in a build that is measured", "no debug assertions");
        };
        let managed: u32 = allocator.zones().map(|zone| zone.managed).sum();
        let (mut looked_at, mut reported, mut absorbed) = (0, 0, 0);
        let (before, owned) = (caches.census(), memory::owned_pages(owners));
        for n in 1.. {
            // Whatever is at hand would hide that memory is short.
            caches.shrink();
            faults.fail_nth(n);
            let outcome = Rest(SCRIPT).run(memory);
            let fired = faults.stop();
            let census = caches.census();
            check!(census == before, "allocation {n} failed: {before} became {census}");
            caches.verify()?;
            let (free, held) = (allocator.free_pages(), caches.pages_held().0 + owned);
            check!(free + held == managed, "allocation {n} failed: {free} pages free, {held} held, of {managed}");
            looked_at += u64::from(managed);
            if looked_at < BUDGET || fired == Fired::No {
                allocator.verify()?;
                allocator.verify_charges()?;
            }
            match (fired, outcome) {
                (Fired::Yes, Err(Stopped::NoMemory)) => reported += 1,
                // A sheaf more or less, or another CPU's objects: it goes on without. And the page cache makes smaller folios,
                // or reclaims some.
                (Fired::Yes, Ok(())) => absorbed += 1,
                (_, Err(stopped)) => check!(false, "allocation {n}: {stopped}"),
                (Fired::No, Ok(())) => break,
            }
        }
        diagnostic!("{reported} allocations were reported when they failed, {absorbed} were done without");
        check!(reported > 200 && absorbed < reported, "{reported} failures were reported, {absorbed} were not");
        Ok(())
    }
);
