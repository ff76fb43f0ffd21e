//! Every frame there is, allocated and freed.

use std::time::{Duration, Instant};

use mm::migratetype::Migratetype;
use mm::units::Order;

use super::each;
use crate::contenders::{Bitmap, BuddySlab, BuddySystem, Depot, Locked, Ours, Pages, Place, Stack, Talc};
use crate::figures::{Row, Section, Unit};
use crate::suite::Suite;
use crate::{FLOOR, OURS};

/// Measures taking all frames, and giving them back in either order.
///
/// # Errors
/// A contender cannot be made.
pub(crate) fn measure(suite: &mut Suite) -> anyhow::Result<()> {
    for (name, what) in [
        ("all_alloc", Sweep::Alloc),
        ("all_free_in_order", Sweep::FreeInOrder),
        ("all_free_at_random", Sweep::FreeAtRandom),
    ] {
        let row = Row::new(Section::Pages, name, Unit::Nanoseconds);
        each!(suite, &row, move |pages, frames| sweep(pages, what, frames);
            OURS => Ours, FLOOR => Stack, "frame-alloc" => Depot, "buddy-slab" => BuddySlab,
            "buddy-slab+lock" => Locked<BuddySlab>, "buddy_system" => BuddySystem, "bitmap" => Bitmap, "talc" => Talc);
    }
    Ok(())
}

/// Which half is timed, and how frames go back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Sweep {
    Alloc,
    FreeInOrder,
    FreeAtRandom,
}

/// Allocates every frame there is and frees it. Gives the time for so many frames.
fn sweep(pages: &mut impl Pages, sweep: Sweep, frames: u64) -> Duration {
    let mut held: Vec<Place> = Vec::with_capacity(1 << 19);
    let (mut spent, mut done) = (Duration::ZERO, 0);
    let mut random = fastrand::Rng::with_seed(1);
    while done < frames {
        let start = Instant::now();
        while let Some(place) = pages.alloc(Order::ZERO, Migratetype::Movable) {
            held.push(place);
        }
        let alloc = start.elapsed();
        if sweep == Sweep::FreeAtRandom {
            random.shuffle(&mut held);
        }
        done += held.len() as u64;
        let start = Instant::now();
        held.drain(..).for_each(|place| pages.free(place, Order::ZERO));
        spent += if sweep == Sweep::Alloc { alloc } else { start.elapsed() };
    }
    spent.mul_f64(frames as f64 / done as f64)
}
