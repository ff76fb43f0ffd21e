//! How memory is divided.

use alloc::vec::Vec;
use core::fmt;

use mm::machine::{Geometry, Machine};
use mm::migratetype::Migratetype;
use mm::page::{Block, Request};
use mm::units::Order;
use mm::zone::{ZoneKind, ZoneReport};

use super::process::PROCESSES;
use crate::ktest::NotPassed;
use crate::memory::Allocator;
use crate::platform::Platform;

/// The most pages that are left to work in: more only take longer.
const MOST_FREE: u32 = 3000;
/// The fewest that it makes sense with.
const LEAST_FREE: u32 = 300;

/// Pages, all of them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    /// What is left to work in.
    pub(super) free: u32,
    /// Each of two files.
    pub(super) file: u32,
    /// The swap store.
    pub(super) swap: u32,
    /// Anonymous memory of a process.
    pub(super) anonymous: u32,
    /// What a process shows privately of a file.
    pub(super) private: u32,
}

impl Sizes {
    /// How so many free pages are divided; `None` if there are too few.
    pub(super) fn of(free: u32) -> Option<Self> {
        let free = (free / 6).min(MOST_FREE);
        let (file, swap) = (free, 2 * free);
        // A fork leaves behind what both sides had: with so many processes there are as many of those, less one.
        let each = swap / u32::try_from(2 * PROCESSES - 1).ok()?;
        let (anonymous, private) = (each * 3 / 4, each / 4);
        (free >= LEAST_FREE).then_some(Self { free, file, swap, anonymous, private })
    }

    /// Takes what there is too much of: from each zone, until those of one kind have as much to work in as they are to have.
    pub(super) fn set_aside(&self, allocator: &'static Allocator) -> Result<Vec<Block<'static, Platform>>, NotPassed> {
        const MAX_ORDER: Order = <<Platform as Machine>::Geometry as Geometry>::MAX_ORDER;

        let zones = || allocator.zones().filter(|zone| to_work_in(zone) > 0);
        let kinds = ZoneKind::ALL.into_iter().filter(|&kind| zones().any(|zone| zone.kind == kind)).count();
        let mut blocks = Vec::new();
        blocks.try_reserve_exact((allocator.free_pages() / MAX_ORDER.pages()) as usize + 64 * zones().count())?;
        let begun: Vec<_> = zones().collect();
        for zone in &begun {
            let alike = begun.iter().filter(|other| other.kind == zone.kind).count();
            let share = self.free / u32::try_from(kinds * alike)?;
            let left = || allocator.zones().find(|now| now.id == zone.id).map_or(0, |now| to_work_in(&now));
            for order in (0..=MAX_ORDER.index()).rev().map(Order::of) {
                let request = Request::movable(order).up_to(zone.kind).bound_to(zone.node).from_reserve();
                while left() >= share + order.pages() && blocks.len() < blocks.capacity() {
                    match allocator.alloc(request) {
                        Ok(block) if zone.span.contains(block.head()) => blocks.push(block),
                        // It has no block so large any more.
                        _ => break,
                    }
                }
            }
        }
        Ok(blocks)
    }
}

/// Free pages that a zone gives to anybody before others are asked to give something up.
fn to_work_in(zone: &ZoneReport) -> u32 {
    let orders = (0..).zip(zone.blocks[Migratetype::HighAtomic.index()]);
    let set_aside: u32 = orders.map(|(order, blocks)| blocks << order).sum();
    let protected = zone.watermarks.protection.into_iter().max().unwrap_or(0);
    zone.free.saturating_sub(set_aside + protected + zone.watermarks.high)
}

impl fmt::Display for Sizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { free, file, swap, anonymous, private } = self;
        write!(
            f,
            "{free} pages to work in, two files of {file}, up to {PROCESSES} processes with {anonymous} anonymous pages \
             and {private} private ones of a file, a swap store of {swap}"
        )
    }
}
