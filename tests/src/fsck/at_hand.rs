//! What CPUs have at hand, and the shelves (PCP-1). A CPU that is busy with its lists may have a block in its hand that is
//! on its way out or in.

use std::collections::HashSet;

use super::frames::{Block, Census, Frames};
use super::image::{At, Fault, Image};
use super::report::Report;
use super::words::Words;
use super::zones::Zone;

/// CPUs there can be.
const MOST: u64 = 1 << 16;

pub(super) fn check(
    image: &Image,
    frames: &Frames,
    census: &Census,
    zones: &[Zone<'_>],
    report: &mut Report,
) -> Result<(), Fault> {
    if image.place("draining")?.is_held()? {
        report.skip("all that is at hand, while somebody takes it");
        return Ok(());
    }
    let cpus = image.said("cpus.count")?.min(MOST);
    let mut all = Lists { image, frames, seen: HashSet::new(), report };
    let mut busy = false;
    for cpu in 0..cpus {
        let gate = image.place("cpus")?.element(cpu, "Row")?.field("Row.gate")?;
        if gate.field("Gate.busy")?.u32()? != 0 {
            all.report.skip("CPUs that are busy with what they have at hand");
            busy = true;
            continue;
        }
        let first = cpu * zones.len() as u64;
        for (zone, index) in zones.iter().zip(first..) {
            let cache = image.place("cpus.caches")?.element(index, "CpuCache")?;
            all.check(cache, zone, &format!("CPU {cpu}, zone {}", zone.number))?;
        }
    }
    for (zone, index) in zones.iter().zip(0..) {
        if zone.held {
            all.report.skip("shelves of zones whose lock is held");
            busy = true;
            continue;
        }
        let cache = image.place("shelves")?.element(index, "CpuCache")?;
        all.check(cache, zone, &format!("the shelf of zone {}", zone.number))?;
    }
    let seen = all.seen;
    report.look("blocks at hand", seen.len() as u64);
    for block in census.cached.iter().filter(|block| !seen.contains(&block.head)) {
        if busy {
            report.meet("blocks at hand of whom is busy");
        } else {
            let what = format!("a block is on the list of who has it at hand, and nobody has this: {}", block.words);
            report.find("PCP-1", Some(block.head), what);
        }
    }
    // Who puts a block at hand writes its number first, and what it is then.
    let says_so = |block: &&Block| block.head != 0 && block.words.allocatee == Words::number_at_hand(block.head);
    for block in census.allocated.iter().filter(says_so) {
        if busy {
            report.meet("blocks that whoever is busy is about to have at hand");
        } else {
            let what = format!("a block says that it is at hand, and that it is allocated: {}", block.words);
            report.find("PCP-1", Some(block.head), what);
        }
    }
    Ok(())
}

struct Lists<'l, 'i> {
    image: &'i Image,
    frames: &'l Frames,
    seen: HashSet<u64>,
    report: &'l mut Report,
}

impl<'i> Lists<'_, 'i> {
    fn check(&mut self, cache: At<'i>, zone: &Zone<'_>, whose: &str) -> Result<(), Fault> {
        for index in 0..self.image.said("lists.count")?.min(1024) {
            let list = cache.field("CpuCache.lists")?.element(index, "List")?;
            let number = |name: &str| list.field(name)?.u32();
            let capacity = number("List.capacity")?;
            if capacity == 0 {
                continue;
            }
            let [bottom, near, top, limit] = ["List.bottom", "List.near", "List.top", "List.limit"].map(&number);
            let (bottom, near, top, limit, mask) = (bottom?, near?, top?, limit?, number("List.mask")?);
            let (len, above, high) = (top.wrapping_sub(bottom), near.wrapping_sub(bottom), limit.wrapping_sub(bottom));
            let word = list.field("List.word")?.u64()?;
            if len > capacity || above > len || high > capacity || len > high || mask != capacity - 1 {
                let what = format!(
                    "{whose}, list {index}: {len} blocks, {above} of them above the pivot, at most {high} now and \
                     {capacity} ever, mask {mask:#x}"
                );
                self.report.find("PCP-1", None, what);
                continue;
            }
            let slots = list.field("List.slots")?.target()?;
            for nth in 0..len {
                let slot = slots.element(u64::from(bottom.wrapping_add(nth) & mask), "Slot")?;
                let (number, page) = (slot.field("Slot.number")?.u64()?, slot.field("Slot.page")?.u64()?);
                self.block(number >> 32, page, word, zone, &format!("{whose}, list {index}"));
            }
        }
        Ok(())
    }

    fn block(&mut self, head: u64, page: u64, word: u64, zone: &Zone<'_>, whose: &str) {
        let expected = Words { allocator: Words::cached_as(word), allocatee: Words::number_at_hand(head) };
        let found = self.frames.words(head);
        let problem = if found != Some(expected) || expected.zone() != zone.number {
            let found = found.map_or("no descriptor".to_owned(), |found| found.to_string());
            Some(format!("{whose} has this block, which should say {expected}, and says {found}"))
        } else if self.frames.descriptor_address(head) != Some(page) {
            Some(format!("{whose} has this block, and thinks that its descriptor is at {page:#x}"))
        } else if !self.seen.insert(head) {
            Some(format!("{whose} has this block, and it is at hand twice"))
        } else {
            None
        };
        if let Some(problem) = problem {
            self.report.find("PCP-1", Some(head), problem);
        }
    }
}
