//! The allocator on hosted machines whose CPUs take turns as a scheduler says: at every access to what they share, another
//! one may come. The schedules are PCT's, which finds what takes a few ill-timed turns in runs of any length.
//!
//! `RUSTFLAGS="--cfg shuttle" cargo test -p mm --test schedules`, in a target directory of its own. `SCHEDULES` says how many are
//! tried of each, `SHUTTLE_RANDOM_SEED` which; `SCHEDULE` names the file with the one that failed, to see that again.
#![cfg(shuttle)]

use std::num::{NonZeroU16, NonZeroU32};

use mm::boot_map::{BootMap, Region, RegionKind};
use mm::cases::Seed;
use mm::cases::crew::{Crew, Work};
use mm::cases::last_page::every_cpu_can_have_the_last_page;
use mm::cases::soak::{Plan, soak, turn_over};
use mm::host::{HostMachine, on_cpu};
use mm::machine::Standard;
use mm::owner::{KernelStack, Owners, Reference, TaskId};
use mm::page::{PageAllocator, Request};
use mm::slab::KmemCaches;
use mm::units::{CpuId, NodeId, Order, Pfn, PhysAddr};
use shuttle::scheduler::PctScheduler;
use shuttle::{Config, FailurePersistence, MaxSteps, Runner, thread};

const CPUS: u16 = 3;

/// What PCT is told of how many ill-timed turns a bug takes. The first is what most take, anywhere in the run; where they have
/// to come close together, many tries in a run find it sooner.
const DEPTHS: [usize; 3] = [3, 30, 300];

/// What shuttle schedules, as CPUs.
struct Scheduled;

impl Crew for Scheduled {
    fn everywhere(&self, work: Work<'_>, _: Option<Work<'_>>) {
        thread::scope(|scope| {
            for cpu in 0..CPUS {
                scope.spawn(move || on_cpu(CpuId(cpu), work));
            }
        });
    }

    fn on(&self, cpu: CpuId, work: &mut (dyn FnMut() + Send)) {
        on_cpu(cpu, work);
    }
}

fn number(variable: &str, otherwise: usize) -> usize {
    std::env::var(variable).map_or(otherwise, |number| number.parse().expect("a number"))
}

/// Tries schedules of some work on a machine of so many frames, the upper half of them highmem.
fn schedules(frames: u32, work: impl Fn(&PageAllocator<'_, HostMachine>) + Clone + Send + Sync + 'static) {
    let on_machine = move || {
        let cpus = NonZeroU16::new(CPUS).expect("a machine has a CPU");
        let (end, lowmem) = (Pfn::new(frames), Pfn::new(frames / 2));
        let machine = HostMachine::<Standard>::new(end, lowmem, cpus).expect("the host has room for the machine");
        let machine = machine.specified();
        let memory = Region { start: PhysAddr(0), len: end.address().0, kind: RegionKind::Usable, node: NodeId(0) };
        let mut map: BootMap = BootMap::new(&[memory]).expect("the map is sound");
        work(&machine.allocator(&mut map).expect("the allocator's tables fit"));
    };
    if let Ok(schedule) = std::env::var("SCHEDULE") {
        return shuttle::replay_from_file(on_machine, schedule);
    }
    let mut config = Config::new();
    config.stack_size = 1 << 20;
    config.max_steps = MaxSteps::FailAfter(20_000_000);
    config.failure_persistence = FailurePersistence::File(Some(env!("CARGO_TARGET_TMPDIR").into()));
    for depth in DEPTHS {
        let scheduler = PctScheduler::new(depth, number("SCHEDULES", 300).div_ceil(DEPTHS.len()));
        let tried = Runner::new(scheduler, config.clone()).run(on_machine.clone());
        println!("{tried} schedules of depth {depth}");
    }
}

#[test]
fn pages_ranges_folios_and_objects_go_from_cpu_to_cpu_and_none_is_lost() {
    let steps = NonZeroU32::new(u32::try_from(number("STEPS", 100)).expect("a few")).expect("a soak has steps");
    schedules(4096, move |allocator| {
        let plan = Plan { seed: Seed(1), steps, interrupts: 0, pages: NonZeroU32::new(400) };
        let done = soak(allocator, &Scheduled, plan).unwrap_or_else(|failure| panic!("{failure}"));
        assert!(done.tally.remote > 0, "nothing was freed elsewhere");
    });
}

/// CPUs of which the last takes all that the others have at hand, again and again.
struct Drained<'a>(&'a PageAllocator<'a, HostMachine>);

impl Crew for Drained<'_> {
    fn everywhere(&self, work: Work<'_>, _: Option<Work<'_>>) {
        let drain = || (0..40).for_each(|_| _ = self.0.drain());
        thread::scope(|scope| {
            for cpu in 0..CPUS - 1 {
                scope.spawn(move || on_cpu(CpuId(cpu), work));
            }
            scope.spawn(|| on_cpu(CpuId(CPUS - 1), drain));
        });
    }

    fn on(&self, cpu: CpuId, work: &mut (dyn FnMut() + Send)) {
        on_cpu(cpu, work);
    }
}

#[test]
fn single_pages_go_from_hand_to_hand_while_all_that_is_at_hand_is_drained() {
    // So few that no letter box is ever full: its lock is none that the scheduler knows.
    let steps = NonZeroU32::new(60).expect("there are steps");
    schedules(2048, move |allocator| {
        turn_over(allocator, &Drained(allocator), Seed(3), steps).unwrap_or_else(|failure| panic!("{failure}"));
        allocator.verify().unwrap_or_else(|violation| panic!("{violation}"));
        allocator.verify_specified().unwrap_or_else(|violation| panic!("{violation}"));
    });
}

#[test]
fn every_cpu_can_have_the_last_page_whoever_has_it_at_hand() {
    schedules(2048, |allocator| {
        every_cpu_can_have_the_last_page(allocator, &Scheduled, 30).unwrap_or_else(|failure| panic!("{failure}"));
    });
}

/// What a stack of that block is to say.
fn task(head: Pfn) -> TaskId {
    TaskId(u64::from(head.number()).wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

/// One CPU has blocks come and go with owners and without, one looks at frames and takes references, one takes back all that
/// is at hand, and the memory of descriptors.
#[test]
fn a_walker_finds_no_owner_but_the_blocks_own_whatever_comes_and_goes() {
    schedules(2048, |allocator| {
        let caches = KmemCaches::new(allocator).expect("there is memory");
        let owners = Owners::new(&caches).expect("there is memory");
        let churn = |turn: u32| {
            let request = Request::new(Order::of((turn % 3) as usize));
            let block = allocator.alloc(request).expect("there is memory");
            let head = block.head();
            let Ok(stack) = owners.adopt(block, KernelStack { task: task(head) }) else { return };
            if turn % 2 == 0 {
                // Somebody may refer to it just now.
                let _ = stack.into_block().map(|(block, owner)| assert_eq!(owner.task, task(block.head())));
            }
        };
        let walk = |turn: u32| {
            // What was allocated last is likely to be allocated next.
            let recent = allocator.alloc(Request::new(Order::ZERO)).expect("there is memory").head();
            let walker = owners.walk();
            let reference = walker.look(recent.plus(turn % 4)).get();
            drop(walker);
            if let Some(Reference::KernelStack(stack)) = &reference {
                assert_eq!(stack.task, task(stack.head()), "{stack:?}");
            }
        };
        let gather = |turn: u32| match turn % 3 {
            0 => drop(allocator.drain()),
            1 => drop(caches.shrink()),
            _ => (0..8).for_each(|_| churn(turn)),
        };
        thread::scope(|scope| {
            let turns = |cpu, work: &(dyn Fn(u32) + Sync)| on_cpu(CpuId(cpu), || (0..30).for_each(work));
            scope.spawn(move || turns(0, &churn));
            scope.spawn(move || turns(1, &walk));
            scope.spawn(move || turns(2, &gather));
        });
        owners.verify().expect("all is well");
        caches.verify().expect("all is well");
        allocator.verify().expect("all is well");
    });
}
