//! Objects in sheaves: each is one of its cache's slabs', is not in that slab, and is in one sheaf (SLAB-1). A CPU that is
//! busy with its sheaves, or that somebody has closed to look into them, is left out (SHEAF-1).

use std::collections::{HashMap, HashSet};

use super::image::{At, Fault};
use super::report::Report;
use super::slabs::{Cache, Slab, is_set};

/// Objects that a sheaf has room for.
const ROOM: u64 = 61;
/// Sheaves that a stack of them can have.
const MOST: u32 = 1 << 20;

pub(super) fn check(
    cache: &Cache<'_>,
    slabs: At<'_>,
    lists: &HashMap<u64, Slab>,
    report: &mut Report,
) -> Result<(), Fault> {
    let mut by_address: Vec<_> = lists.values().copied().collect();
    by_address.sort_by_key(|slab| slab.first);
    let mut all = Sheaves { cache, by_address, seen: HashSet::new(), report };
    for name in ["Slabs.full_sheaves", "Slabs.empty_sheaves"] {
        all.stack(slabs.field(name)?)?;
    }
    let capacity = u64::from(cache.place.field("Cache.sheaf_objects")?.u32()?);
    if capacity > 0 {
        all.cpus(capacity)?;
    }
    let seen = all.seen.len() as u64;
    report.look("objects in sheaves", seen);
    Ok(())
}

struct Sheaves<'s, 'i> {
    cache: &'s Cache<'i>,
    by_address: Vec<Slab>,
    seen: HashSet<u64>,
    report: &'s mut Report,
}

impl<'i> Sheaves<'_, 'i> {
    fn find(&mut self, invariant: &'static str, what: &str) {
        let what = format!("cache {}: {what}", self.cache.name);
        self.report.find(invariant, None, what);
    }

    fn stack(&mut self, stack: At<'i>) -> Result<(), Fault> {
        let len = stack.field("SheafStack.len")?.u32()?;
        let (mut next, mut count) = (stack.field("SheafStack.top")?.u64()?, 0);
        while next != 0 && count < len.min(MOST) {
            let sheaf = At { address: next, ..stack };
            self.sheaf(sheaf)?;
            next = sheaf.field("Sheaf.next")?.u64()?;
            count += 1;
        }
        if next != 0 || count != len {
            self.find("SHEAF-1", &format!("{len} sheaves are said to be on a stack of them, which has another end"));
        }
        Ok(())
    }

    /// A sheaf that is in nobody's hands, or a CPU's second one: it counts its objects.
    fn sheaf(&mut self, sheaf: At<'i>) -> Result<(), Fault> {
        let count = u64::from(sheaf.field("Sheaf.objects")?.u32()?);
        self.objects(sheaf, count)
    }

    fn objects(&mut self, sheaf: At<'i>, count: u64) -> Result<(), Fault> {
        if count > ROOM {
            self.find(
                "SHEAF-1",
                &format!("the sheaf at {:#x} has {count} objects, and room for {ROOM}", sheaf.address),
            );
            return Ok(());
        }
        let elements = sheaf.field("Sheaf.objects")?.field("Sheaf.objects.elements")?;
        for index in 0..count {
            self.object(elements.plus(8 * index).u64()?);
        }
        Ok(())
    }

    fn object(&mut self, slot: u64) {
        let behind = self.by_address.partition_point(|slab| slab.first <= slot);
        let slab = behind.checked_sub(1).map(|index| self.by_address[index]);
        let number = slab.map(|slab| (slab, slot - slab.first)).filter(|(_, offset)| offset % self.cache.stride == 0);
        match number.map(|(slab, offset)| (slab, offset / self.cache.stride)) {
            Some((slab, number)) if number < self.cache.objects => {
                if is_set(&slab.free, number) {
                    self.find("SLAB-1", &format!("the object at {slot:#x} is in a sheaf, and in its slab as well"));
                }
            }
            _ => self.find("SLAB-1", &format!("{slot:#x} is in a sheaf, and is no object of the cache's slabs")),
        }
        if !self.seen.insert(slot) {
            self.find("SLAB-1", &format!("the object at {slot:#x} is in sheaves twice"));
        }
    }

    fn cpus(&mut self, capacity: u64) -> Result<(), Fault> {
        let place = self.cache.place;
        if place.field("Cache.closing")?.is_held()? {
            self.report.skip("sheaves of CPUs that somebody has closed");
            return Ok(());
        }
        let sides = place.field("Cache.sides")?.target()?;
        for cpu in 0..place.image.said("cpus.count")?.min(1 << 16) {
            let side = sides.element(cpu, "CpuSheaf")?;
            if side.field("CpuSheaf.busy")?.u32()? != 0 {
                self.report.skip("sheaves of CPUs that are busy with them");
                continue;
            }
            let held = side.field("CpuSheaf.sheaves")?;
            let [main, spare] = ["Sheaves.main", "Sheaves.spare"].map(|name| held.field(name)?.u64());
            let (main, spare) = (main?, spare?);
            let [lower, upper, top] =
                ["CpuSheaf.lower", "CpuSheaf.upper", "CpuSheaf.top"].map(|name| side.field(name)?.u64());
            let (lower, upper, top) = (lower?, upper?, top?);
            let sheaf = At { address: main, ..place };
            let start = sheaf.field("Sheaf.objects")?.field("Sheaf.objects.elements")?.address;
            let count = top.wrapping_sub(start) / 8;
            let expected = (start, start.wrapping_add(8 * capacity));
            if main == 0 || (lower, upper) != expected || count > capacity || top % 8 != 0 {
                let what = format!(
                    "CPU {cpu} has the sheaf at {main:#x} at hand, up to {top:#x}, and may go from {lower:#x} to {upper:#x}"
                );
                self.find("SHEAF-1", &what);
                continue;
            }
            self.objects(sheaf, count)?;
            if spare != 0 {
                self.sheaf(At { address: spare, ..place })?;
            }
        }
        Ok(())
    }
}
