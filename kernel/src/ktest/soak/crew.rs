//! This machine's CPUs, at work for a case, each interrupted by its own timer at random.

use mm::cases::Seed;
use mm::cases::crew::{Crew, Work};
use mm::units::CpuId;
use spin::Mutex;

use crate::cpu;
use crate::timer::{self, Ticks};

/// All CPUs that are online.
#[derive(Debug)]
pub(super) struct Cpus {
    seed: Seed,
}

/// A tick comes so long after the one before, and up to as many times as long.
const SHORTEST: u32 = 50_000;
const SPREAD: u32 = 40;

impl Cpus {
    /// Whose interrupts come at times that follow from the seed.
    pub(super) fn new(seed: Seed) -> Self {
        Self { seed }
    }

    /// How long after a tick the next one comes.
    fn pause(random: &mut fastrand::Rng) -> Ticks {
        Ticks(random.u32(SHORTEST..SHORTEST * SPREAD))
    }
}

impl Crew for Cpus {
    fn everywhere(&self, work: Work<'_>, handler: Option<Work<'_>>) {
        cpu::on_all(&|cpu| {
            let Seed(seed) = self.seed;
            let mut random = fastrand::Rng::with_seed(!seed.wrapping_add(u64::from(cpu.0) << 32));
            let first = Self::pause(&mut random);
            // Of this CPU's interrupts only, and one at a time.
            let random = Mutex::new(random);
            let tick = |_: &mut _| {
                if let Some(handler) = handler {
                    handler();
                }
                Some(Self::pause(&mut *random.lock()))
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
