//! This machine's CPUs, at work for a case, each interrupted by its own timer at random.

use mm::cases::Seed;
use mm::cases::crew::{Crew, Work};
use mm::units::CpuId;
use spin::Mutex;

use crate::clock::{Stopwatch, count_down};
use crate::cpu;
use crate::timer::{self, Ticks};

/// All CPUs that are online.
#[derive(Debug)]
pub(super) struct Cpus {
    seed: Seed,
    shortest: Ticks,
}

/// Between two ticks of a CPU there is about the time of so many instructions, or up to so many times as much: whatever a
/// tick of the clock is, the work under a handler gets on.
const INSTRUCTIONS: u64 = 20_000;
const SPREAD: u32 = 8;
/// Whatever the clock says of a machine that was busy with something else.
const BOUNDS: (u32, u32) = (20_000, 3_000_000);

impl Cpus {
    /// Whose interrupts come at times that follow from the seed.
    pub(super) fn new(seed: Seed) -> Self {
        let ((), ticks) = Stopwatch::calibrated().time(|| count_down(INSTRUCTIONS / 2));
        let (least, most) = BOUNDS;
        Self { seed, shortest: Ticks(u32::try_from(ticks).unwrap_or(most).clamp(least, most)) }
    }

    /// How long after a tick the next one comes.
    fn pause(&self, random: &mut fastrand::Rng) -> Ticks {
        let Ticks(shortest) = self.shortest;
        Ticks(random.u32(shortest..shortest * SPREAD))
    }
}

impl Crew for Cpus {
    fn everywhere(&self, work: Work<'_>, handler: Option<Work<'_>>) {
        cpu::on_all(&|cpu| {
            let Seed(seed) = self.seed;
            let mut random = fastrand::Rng::with_seed(!seed.wrapping_add(u64::from(cpu.0) << 32));
            let first = self.pause(&mut random);
            // Of this CPU's interrupts only, and one at a time.
            let random = Mutex::new(random);
            let tick = |_: &mut _| {
                if let Some(handler) = handler {
                    handler();
                }
                Some(self.pause(&mut random.lock()))
            };
            timer::at_intervals(first, &tick, work);
        });
    }

    fn on(&self, cpu: CpuId, work: &mut (dyn FnMut() + Send)) {
        let work = Mutex::new(work);
        let done = cpu::run_on(cpu, &|| work.lock()());
        done.unwrap_or_else(|error| panic!("{error}"));
    }
}
