//! How fast the machine is at the moment: what the floor's pair takes on it. Machines differ, and the same machine is now fast
//! and now slow; bars are for one on which that pair takes [`NOMINAL`], and are moved to where they are for this one.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mm::migratetype::Migratetype;
use mm::units::Order;

use crate::contenders::{Contender as _, Pages as _, Stack};
use crate::memory::Memory;

/// Nanoseconds of the floor's pair where the bars were set.
const NOMINAL: f64 = 2.7;

/// Pairs that are timed together, and how often.
const PAIRS: u32 = 200_000;
const TIMES: u32 = 5;

/// How many times longer than where the bars were set the floor's pair takes: the shortest of a few times.
///
/// # Errors
/// There is no memory for it.
pub(crate) fn slowness() -> anyhow::Result<f64> {
    let mut floor = Stack::new(&Arc::new(Memory::new(4 << 20)?))?;
    let mut time = || {
        let start = Instant::now();
        for _ in 0..PAIRS {
            let place = black_box(floor.alloc(Order::ZERO, Migratetype::Movable)).expect("memory is free");
            floor.free(black_box(place), Order::ZERO);
        }
        start.elapsed()
    };
    let shortest = (0..TIMES).map(|_| time()).min().unwrap_or(Duration::ZERO);
    Ok(shortest.as_secs_f64() * 1e9 / f64::from(PAIRS) / NOMINAL)
}
