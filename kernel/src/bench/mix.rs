//! Blocks of random orders, allocated and freed at random in a zone that is kept so full.

use alloc::vec::Vec;

use mm::page::{Block, Request};
use mm::units::Order;
use mm::zone::ZoneReport;

use super::{Sampler, allocator, benchmark};
use crate::clock::Stopwatch;
use crate::ktest::{NotPassed, Outcome};
use crate::memory::Allocator;
use crate::platform::Platform;

const STEPS: u32 = 20_000;
/// Orders 0 to 9, each as likely as any other.
const ORDERS: usize = 10;
const MEAN_PAGES: usize = ((1 << ORDERS) - 1) / ORDERS;

/// Blocks of the zone that serves movable requests first.
struct Zone {
    allocator: &'static Allocator,
    report: ZoneReport,
    used: u32,
    blocks: Vec<Block<'static, Platform>>,
    random: fastrand::Rng,
    /// Requests that the zone could not serve.
    failed: u32,
}

impl Zone {
    /// Fills the zone to `target` percent of its pages.
    fn filled(percent: u32, random: fastrand::Rng) -> Result<(Self, u32), NotPassed> {
        let allocator = allocator()?;
        let report = allocator.zones().next().ok_or("the machine has no zone")?;
        let target = report.managed / 100 * percent;
        let likely = target as usize / MEAN_PAGES;
        let mut blocks = Vec::new();
        let too_many = |_| NotPassed::Skipped(alloc::format!("some {likely} blocks are too many to remember"));
        blocks.try_reserve_exact(likely + likely / 8 + ORDERS).map_err(too_many)?;
        let mut zone = Self { allocator, report, used: report.managed - report.free, blocks, random, failed: 0 };
        let stopwatch = Stopwatch::calibrated();
        while zone.used < target {
            if zone.alloc(stopwatch).is_none() && zone.failed > STEPS {
                return Err(NotPassed::Skipped(alloc::format!("the zone cannot be filled to {target} pages")));
            }
        }
        zone.failed = 0;
        Ok((zone, target))
    }

    /// Allocates a block of a random order and says what that cost. What another zone serves goes back at once and
    /// does not count.
    fn alloc(&mut self, stopwatch: Stopwatch) -> Option<u64> {
        let order = Order::of(self.random.usize(..ORDERS));
        let (block, ticks) = stopwatch.time(|| self.allocator.alloc(Request::movable(order)));
        match block {
            Ok(block) if self.report.span.contains(block.head()) => {
                self.used += order.pages();
                self.blocks.push(block);
                Some(ticks)
            }
            _ => {
                self.failed += 1;
                None
            }
        }
    }

    /// Frees a random block and says what that cost; there is one.
    fn free(&mut self, stopwatch: Stopwatch) -> u64 {
        let block = self.blocks.swap_remove(self.random.usize(..self.blocks.len()));
        self.used -= block.order().pages();
        let ((), ticks) = stopwatch.time(|| drop(block));
        ticks
    }
}

/// Allocates and frees around a fill of so many percent; a sample is one allocation or one free.
fn mix(sampler: &mut Sampler, percent: u32) -> Outcome {
    let stopwatch = sampler.stopwatch;
    let (mut zone, target) = Zone::filled(percent, sampler.random())?;
    for _ in 0..STEPS {
        let ticks = if zone.used < target { zone.alloc(stopwatch) } else { Some(zone.free(stopwatch)) };
        if let Some(ticks) = ticks {
            sampler.record(ticks);
        }
    }
    sampler.note(alloc::format!("the zone had no such block {} times", zone.failed));
    Ok(())
}

benchmark!("page", fn mix50(sampler) {
    mix(sampler, 50)
});

benchmark!("page", fn mix90(sampler) {
    mix(sampler, 90)
});
