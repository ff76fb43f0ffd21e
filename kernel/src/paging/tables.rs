//! All tables that the processor may walk.
//!
//! The `kmap_local` window's own is left out: it is a variable of the image, which no allocator handed out, and the only
//! entry that leads to it never changes.

use core::sync::atomic::{AtomicU64, Ordering};

use kernel_core::layout::{KMAP_LOCAL, TABLE_ENTRIES, canonical};
use mm::machine::Machine;
use mm::owner::TableLevel;
use mm::units::{PAGE_SHIFT, Pfn, PhysAddr};
use x86_64::registers::control::Cr3;

use super::entry::{Entry, Target};
use crate::platform::Platform;

/// The level of the root.
pub(crate) const ROOT: TableLevel = TableLevel(4);

/// log2 of the entries in a table.
const TABLE_SHIFT: u32 = TABLE_ENTRIES.trailing_zeros();

/// A table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Table {
    pub(crate) frame: Pfn,
    pub(crate) level: TableLevel,
    /// The lowest address that it leads to.
    pub(crate) base: u64,
    /// How many of its entries lead anywhere.
    pub(crate) used: u16,
}

/// The root of the tables that this CPU runs on.
///
/// # Panics
/// It lies where no frame of this kernel is.
pub(crate) fn root() -> Pfn {
    let root = Cr3::read().0.start_address().as_u64();
    Pfn::containing(PhysAddr(root)).expect("the root lies in the direct map")
}

/// The entries of a table: the processor reads them, and marks what it has used, at any time.
///
/// # Safety
/// The frame is in the direct map, and a table as long as the result is used.
pub(super) unsafe fn entries(platform: &Platform, table: Pfn) -> &[AtomicU64; TABLE_ENTRIES] {
    let entries = platform.direct_map(table).cast();
    // SAFETY: the caller's promise; the entries fill the page.
    unsafe { entries.as_ref() }
}

/// Visits every table that this CPU's root leads to, each before those below it, until a visit fails.
///
/// # Errors
/// Whatever the visit gives.
pub(crate) fn try_for_each<E>(platform: &Platform, mut visit: impl FnMut(Table) -> Result<(), E>) -> Result<(), E> {
    descend(platform, root(), ROOT, 0, &mut visit)
}

/// Recurses three deep at most.
fn descend<E>(
    platform: &Platform,
    frame: Pfn,
    level: TableLevel,
    base: u64,
    visit: &mut impl FnMut(Table) -> Result<(), E>,
) -> Result<(), E> {
    // SAFETY: tables are built below the direct map's end, but for the window's; those that the live ones lead to stay
    // while nobody unmaps.
    let entries = unsafe { entries(platform, frame) };
    let read = |slot: &AtomicU64| Entry::from_bits(slot.load(Ordering::Acquire));
    // One that was only taken out for a time leads somewhere, too (`direct_map`).
    let used = entries.iter().map(|slot| u16::from(read(slot) != Entry::NONE)).sum();
    visit(Table { frame, level, base, used })?;
    let Some(below) = level.below() else { return Ok(()) };
    for (index, slot) in (0_u64..).zip(entries) {
        let base = canonical(base + (index << (PAGE_SHIFT + TABLE_SHIFT * u32::from(below.0))));
        let windows_own = below == TableLevel::LEAF && base == KMAP_LOCAL;
        if let Target::Table(next) = read(slot).target(level)
            && !windows_own
        {
            descend(platform, next, below, base, visit)?;
        }
    }
    Ok(())
}
