//! Large blocks from a machine that is full of holes.

use alloc::vec::Vec;

use kernel_core::layout::USERS;
use mm::compact::{CompactReport, Compactor, Moved};
use mm::machine::{Geometry, Machine};
use mm::page::{Block, Request};
use mm::space::{AddressRange, PageProtection, Sharing};
use mm::units::{Count, Order, PAGE_SIZE, PageIndex, VirtualAddress};
use mm::zone::{Watermarks, ZoneKind};

use super::fault::with_spaces;
use super::{allocator, benchmark};
use crate::ktest::{NotPassed, check};
use crate::platform::Platform;
use crate::user::access::{copy_from_user, copy_to_user};
use crate::user::live;

const MAX_ORDER: Order = <<Platform as Machine>::Geometry as Geometry>::MAX_ORDER;
const HUGE: Order = Order::of(9);
/// Blocks that are made.
const BLOCKS: usize = 16;
/// Pages that are written, of which three in four go again.
const PAGES: u32 = 16_384;
const START: VirtualAddress = VirtualAddress(USERS.start);

const fn byte(page: u32) -> VirtualAddress {
    START.plus(page as u64 * PAGE_SIZE as u64)
}

/// Takes whole blocks until no more is free than that.
fn all_but(pages: u32) -> Result<Vec<Block<'static, Platform>>, NotPassed> {
    let allocator = allocator()?;
    let mut blocks = Vec::with_capacity((allocator.free_pages() / MAX_ORDER.pages()) as usize);
    while allocator.free_pages() >= pages + MAX_ORDER.pages() && blocks.len() < blocks.capacity() {
        match allocator.alloc(Request::movable(MAX_ORDER)) {
            Ok(block) => blocks.push(block),
            Err(_) => break,
        }
    }
    Ok(blocks)
}

benchmark!("compact", fn per_block(sampler) {
    if allocator()?.free_pages() < 2 * PAGES {
        return Err(NotPassed::Skipped("too little memory to fragment".into()));
    }
    // For folios: pages, descriptors, a tree, and page tables; what zones keep from requests that highmem could serve is none.
    let kept = |marks: Watermarks| marks.high + marks.protection[ZoneKind::Highmem as usize];
    let left_alone: u32 = allocator()?.zones().map(|zone| kept(zone.watermarks).min(zone.free)).sum();
    let _others = all_but(PAGES + PAGES / 16 + left_alone)?;
    with_spaces(|cache, spaces| {
        let mapping = cache.anonymous(Order::ZERO)?;
        let space = spaces.create()?;
        let all = AddressRange::of_pages(START, u64::from(PAGES));
        space.map_file(all, &mapping, PageIndex(0), PageProtection::ReadWrite, Sharing::Shared)?;
        live::with(&*space, || (0..PAGES).try_for_each(|page| copy_to_user(byte(page), &page.to_le_bytes()[..1])))?;
        let mut random = sampler.random();
        let kept: Vec<u32> = (0..PAGES).filter(|_| random.u8(..4) == 0).collect();
        let mut next = kept.iter().copied().peekable();
        for page in 0..PAGES {
            if next.next_if_eq(&page).is_none() {
                mapping.forget(PageIndex(u64::from(page)));
            }
        }

        let compactor = Compactor::new(&spaces);
        let mut sum = CompactReport::default();
        let mut blocks = Vec::with_capacity(BLOCKS);
        for _ in 0..BLOCKS {
            let report = sampler.sample(|| compactor.compact(HUGE, Count(1), |block| blocks.push(block)));
            add(&mut sum, &report);
        }
        let intact = live::with(&*space, || {
            let mut found = [0];
            kept.iter().all(|&page| copy_from_user(byte(page), &mut found).is_ok() && found == page.to_le_bytes()[..1])
        });
        check!(intact, "a page that was moved is not what it was");
        let Moved { folios, tables, nodes } = sum.moved;
        let (moved, blocks) = (folios.0 + tables.0 + nodes.0, blocks.len());
        sampler.note(alloc::format!(
            "2 MiB, a quarter of memory in use: of {} areas tried {} were cleared ({blocks} of {BLOCKS} blocks), {moved} pages moved",
            sum.tried.0,
            sum.cleared.0,
        ));
        Ok(())
    })
});

fn add(sum: &mut CompactReport, one: &CompactReport) {
    sum.tried.0 += one.tried.0;
    sum.cleared.0 += one.cleared.0;
    sum.moved.folios.0 += one.moved.folios.0;
    sum.moved.tables.0 += one.moved.tables.0;
    sum.moved.nodes.0 += one.moved.nodes.0;
}
