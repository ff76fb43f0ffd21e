//! Page tables: every table that an entry leads to is owned, in its place, and its entries are counted (SPACE-1); users'
//! entries lead to folios, or to frames that somebody lent them, which are no owner's; and nothing but the direct map and the
//! slots leads to a page that is free (SPACE-2); the direct map ends where highmem begins, and slots hold highmem alone (HIGH-1).
//!
//! Who changes users' tables counts what it changed right behind: one entry more or less is accepted there.

use std::collections::{HashMap, HashSet};

use super::frames::{Census, Frames};
use super::image::{At, Fault, Image};
use super::memory::PAGE;
use super::owners::{self, FOLIO, PAGE_TABLE, PLAIN};
use super::report::Report;
use super::words::{State, Words};

/// Where in an entry the address stands.
const TARGET: u64 = 0x000f_ffff_ffff_f000;
const PRESENT: u64 = 1;
const WRITABLE: u64 = 2;
const USER: u64 = 4;
const LARGE: u64 = 0x80;
const NO_EXECUTE: u64 = 1 << 63;

/// A table that somebody owns.
#[derive(Clone, Copy, Debug)]
struct Owned {
    level: u64,
    used: u64,
    is_held: bool,
}

pub(super) fn check(image: &Image, frames: &Frames, census: &Census, report: &mut Report) -> Result<(), Fault> {
    let mut tables = HashMap::new();
    for block in census.allocated.iter().filter(|block| block.words.kind() == PAGE_TABLE) {
        let descriptor = image.at(block.words.descriptor());
        match read(descriptor) {
            Ok(Some(table)) => _ = tables.insert(block.head, table),
            Ok(None) => report.meet("page tables whose owner is frozen, or has just died"),
            // DESC-1 has said so.
            Err(Fault::Nowhere(_)) => {}
            Err(fault) => return Err(fault),
        }
    }
    let root = image.said("kernel_root")?;
    let bounds = Bounds {
        direct_map: image.said("direct_map")?,
        end: image.said("direct_map.end")?,
        slots: image.said("slots")?,
    };
    let mut walk = Walk { image, frames, tables: &tables, bounds, is_user: false, seen: HashSet::new(), report };
    if let Some(table) = tables.get(&root).filter(|table| table.level != 4) {
        let what = format!("the kernel's topmost table is of level 4: {table:?}");
        walk.report.find("SPACE-1", Some(root), what);
    }
    if walk.table(root, 4, 0, 0..512)?.is_none() {
        walk.report.find("SPACE-1", Some(root), "the kernel's topmost table is not there".into());
    }
    // A root of users' is one that nothing leads to.
    walk.is_user = true;
    let roots = tables.iter().filter(|&(&frame, table)| table.level == 4 && frame != root);
    for (&frame, _) in roots {
        walk.table(frame, 4, 0, 0..256)?;
    }
    let seen = walk.seen;
    let lost = tables.keys().filter(|frame| !seen.contains(frame)).count();
    for _ in 0..lost {
        report.meet("page tables that are not hung in, or not any more");
    }
    report.look("page tables", seen.len() as u64);
    Ok(())
}

fn read(descriptor: At<'_>) -> Result<Option<Owned>, Fault> {
    if owners::described(descriptor, "page_table")?.references == 0 {
        return Ok(None);
    }
    let owner = descriptor.field("Descriptor.page_table.owner")?;
    let lock = owner.field("PageTable.used")?;
    let (level, used) = (owner.field("PageTable.level")?.u8()?, lock.field("PageTable.used.value")?.u16()?);
    Ok(Some(Owned { level: level.into(), used: used.into(), is_held: lock.field("PageTable.used.held")?.is_held()? }))
}

struct Bounds {
    direct_map: u64,
    end: u64,
    slots: u64,
}

struct Walk<'w> {
    image: &'w Image,
    frames: &'w Frames,
    tables: &'w HashMap<u64, Owned>,
    bounds: Bounds,
    is_user: bool,
    seen: HashSet<u64>,
    report: &'w mut Report,
}

impl Walk<'_> {
    /// Looks at a table and at all below. `None` if there is no memory.
    fn table(
        &mut self,
        frame: u64,
        level: u64,
        address: u64,
        entries: std::ops::Range<usize>,
    ) -> Result<Option<()>, Fault> {
        let Some(page) = self.image.page(frame) else { return Ok(None) };
        self.seen.insert(frame);
        let entry = |index: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&page[8 * index..8 * index + 8]);
            u64::from_le_bytes(word)
        };
        let used = entries.clone().filter(|&index| entry(index) != 0).count() as u64;
        self.counts(frame, level, used);
        for index in entries {
            let at = address + ((index as u64) << (12 + 9 * (level - 1)));
            let bits = entry(index);
            if bits & PRESENT == 0 {
                continue;
            }
            let target = (bits & TARGET) / PAGE;
            if level == 1 || bits & LARGE != 0 {
                self.leaf(at, bits, target, level);
                continue;
            }
            self.child(frame, target, level - 1);
            if self.seen.contains(&target) {
                let what = format!("the table at pfn {frame:#x} is not the only one that leads to this one");
                self.report.find("SPACE-1", Some(target), what);
            } else if self.table(target, level - 1, at, 0..512)?.is_none() {
                let what = format!("an entry of level {level} leads to a table where no memory is");
                self.report.find("SPACE-1", Some(target), what);
            }
        }
        Ok(Some(()))
    }

    fn counts(&mut self, frame: u64, level: u64, used: u64) {
        let Some(table) = self.tables.get(&frame) else { return };
        let slack = u64::from(self.is_user);
        if table.is_held {
            self.report.skip("page tables whose lock is held");
        } else if table.used.abs_diff(used) > slack {
            let what = format!("a table of level {level} says that {} entries are used, and {used} are", table.used);
            self.report.find("SPACE-1", Some(frame), what);
        } else if table.used != used {
            self.report.meet("users' entries that are being counted");
        }
    }

    /// Whether what an entry leads to is a table of a level.
    fn child(&mut self, above: u64, frame: u64, level: u64) {
        let words = self.frames.words(frame);
        // The table of the slots is a part of the kernel's image.
        let is_kernels = !self.is_user && level == 1 && words.is_some_and(|words| words.is(State::Reserved));
        let owned = self.tables.get(&frame);
        if !is_kernels && owned.is_none_or(|table| table.level != level) {
            let found = words.map_or("no descriptor".to_owned(), |words| words.to_string());
            let what = format!("the table at pfn {above:#x} leads to a table of level {level}: {owned:?}, {found}");
            self.report.find("SPACE-1", Some(frame), what);
        }
    }

    fn leaf(&mut self, low: u64, bits: u64, target: u64, level: u64) {
        let pages = 1 << (9 * (level - 1));
        if self.is_user {
            self.report.look("users' pages mapped", pages);
            let around = self.frames.block_around(target);
            let is_folio = around.is_some_and(|words| words.is(State::Allocated) && words.kind() == FOLIO);
            let is_lent = around.is_none_or(|words| words.state().is_some_and(is_used) && words.kind() == PLAIN);
            if is_lent {
                self.report.look("pages lent to users", pages);
            }
            if !(is_folio || is_lent) || bits & USER == 0 {
                let what =
                    format!("at {low:#x} a user has a page that should be a folio's: {bits:#x}, {}", told(around));
                self.report.find("SPACE-2", Some(target), what);
            }
            return;
        }
        self.report.look("kernel's pages mapped", pages);
        // The upper half's addresses have the upper bits set.
        let address = (low.cast_signed() << 16 >> 16).cast_unsigned();
        let Bounds { direct_map, end, slots } = self.bounds;
        if bits & USER != 0 || (bits & WRITABLE != 0 && bits & NO_EXECUTE == 0) {
            let what = format!(
                "at {address:#x} the kernel maps what users may use, or may be written and executed: {bits:#x}"
            );
            self.report.find("SPACE-2", Some(target), what);
        }
        if (direct_map..slots).contains(&address) {
            let expected = (address - direct_map) / PAGE;
            if target != expected || target + pages > end {
                let what = format!("the direct map has pfn {expected:#x} at {address:#x}, and ends at pfn {end:#x}");
                self.report.find("HIGH-1", Some(target), what);
            }
        } else if (slots..slots + 512 * PAGE).contains(&address) {
            self.report.look("slots in use", 1);
            if target < end {
                self.report.find(
                    "HIGH-1",
                    Some(target),
                    format!("the slot at {address:#x} has a page that is no highmem"),
                );
            }
        } else {
            let around = self.frames.block_around(target);
            if !around.is_none_or(|words| words.state().is_some_and(is_used)) {
                let what = format!("at {address:#x} the kernel maps a page that is free: {}", told(around));
                self.report.find("SPACE-2", Some(target), what);
            }
        }
    }
}

/// Whether a page is somebody's: devices have holes.
fn is_used(state: State) -> bool {
    matches!(state, State::Allocated | State::Reserved | State::Hole)
}

fn told(words: Option<Words>) -> String {
    words.map_or("no descriptor".to_owned(), |words| words.to_string())
}
