//! All CPUs at once, on the allocator that the kernel lives on. What they do is `mm::cases`', and the same as on the host;
//! here they are CPUs, and are interrupted.
//!
//! Bounded by steps, never by time. The host runs the short one under every clock that counts instructions, twice, and
//! compares what it prints.

mod crew;

use core::num::NonZeroU32;

use kernel_core::cmdline::Seed;
use mm::cases::exhausted_node::an_exhausted_node_is_helped_out;
use mm::cases::last_page::every_cpu_can_have_the_last_page;
use mm::cases::soak::{Account, Plan, soak, turn_over};
use mm::cases::{self, Failure};

use self::crew::Cpus;
use crate::cpu;
use crate::ktest::{self, NotPassed, Outcome, check, diagnostic, ktest};
use crate::memory::{self, Allocator};

/// Most that a zone's lock may be taken for 1000 single pages that are allocated or freed.
const LOCKED_PER_1000: u64 = 35;

/// The allocator, on a machine with several CPUs.
fn on_many_cpus() -> Result<&'static Allocator, NotPassed> {
    match cpu::online().count() {
        0 | 1 => Err(NotPassed::Skipped("the machine has one CPU".into())),
        _ => Ok(memory::allocator().ok_or("the page allocator is not up")?),
    }
}

fn seed() -> cases::Seed {
    let Seed(seed) = ktest::seed();
    cases::Seed(seed)
}

fn plan(steps: u32) -> Plan {
    Plan { seed: seed(), steps: NonZeroU32::new(steps).unwrap_or(NonZeroU32::MIN), interrupts: 0, pages: None }
}

/// Runs a soak, and prints what it did and where all pages are in the end.
fn run(plan: Plan) -> Outcome {
    let allocator = on_many_cpus()?;
    let done = soak(allocator, &Cpus::new(seed()), plan).map_err(not_passed)?;
    memory::owners().ok_or("there are no owners")?.verify().map_err(Failure::from).map_err(not_passed)?;
    diagnostic!("{:?}", done.tally);
    for zone in allocator.zones() {
        diagnostic!("{}", Account::of(allocator, &zone).map_err(not_passed)?);
    }
    diagnostic!("seed {}, {} CPUs, digest {:#018x}", plan.seed.0, cpu::online().count(), done.digest);
    check!(done.tally.remote > 0, "no CPU freed what another had allocated");
    check!(plan.pages.is_none() || done.tally.refused > 0, "memory was not short");
    Ok(())
}

fn not_passed(failure: Failure) -> NotPassed {
    match failure {
        Failure::Skipped(why) => NotPassed::Skipped(why.into()),
        failure => failure.into(),
    }
}

ktest!(
    "soak",
    fn nothing_is_lost_or_shared_with_memory_to_spare() {
        run(plan(2000))
    }
);

ktest!(
    "soak",
    fn nothing_is_lost_or_shared_where_memory_is_short() {
        let cpus = u32::try_from(cpu::online().count())?;
        // Every refusal stops all CPUs for a moment, which takes long where there are fewer processors than CPUs.
        run(Plan { pages: NonZeroU32::new(64 * cpus), ..plan(400 / cpus) })
    }
);

ktest!(
    "soak",
    fn nothing_is_lost_where_interrupts_allocate_and_free_at_any_point() {
        run(Plan { interrupts: 100, ..plan(1000) })
    }
);

ktest!(
    "soak",
    fn what_a_short_one_does_follows_from_how_cpus_take_turns() {
        run(Plan { interrupts: 10, ..plan(150) })
    }
);

ktest!(
    "soak",
    fn every_cpu_can_have_the_last_page_wherever_it_is() {
        let allocator = on_many_cpus()?;
        every_cpu_can_have_the_last_page(allocator, &Cpus::new(seed()), 4000).map_err(not_passed)
    }
);

ktest!(
    "soak",
    fn an_exhausted_node_is_helped_out_whichever_cpus_ask() {
        let allocator = on_many_cpus()?;
        an_exhausted_node_is_helped_out(allocator, &Cpus::new(seed())).map_err(not_passed)
    }
);

ktest!(
    "soak",
    fn a_zones_lock_is_seldom_taken_for_single_pages() {
        let allocator = on_many_cpus()?;
        let steps = NonZeroU32::new(5000).unwrap_or(NonZeroU32::MIN);
        let turnover = turn_over(allocator, &Cpus::new(seed()), seed(), steps).map_err(not_passed)?;
        let per_1000 = turnover.per_1000();
        diagnostic!("zone lock: taken {per_1000} times for 1000 order-0 operations ({turnover:?})");
        allocator.drain();
        check!(per_1000 <= LOCKED_PER_1000, "zone lock taken {per_1000} times for 1000 operations");
        Ok(())
    }
);
