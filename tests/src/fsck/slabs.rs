//! Caches of objects: every slab of each, by the list that it is on (SLAB-2, SLAB-3, and DESC-1 of its pages).

use std::collections::{HashMap, HashSet};

use super::frames::Frames;
use super::image::{At, Fault, Image};
use super::owners::{self, SLAB};
use super::report::Report;
use super::sheaves;

/// Caches there can be.
const MOST: usize = 1 << 12;
/// Bits of a slab's map.
const OBJECTS: u64 = 512;

/// A cache as it says that it is.
#[derive(Clone, Debug)]
pub(super) struct Cache<'i> {
    pub(super) place: At<'i>,
    pub(super) name: String,
    pub(super) stride: u64,
    pub(super) objects: u64,
    order: u32,
}

/// A slab that is on its cache's list.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slab {
    /// The address of its first slot.
    pub(super) first: u64,
    /// A bit for each object that is in it.
    pub(super) free: [u64; 8],
}

pub(super) fn check(image: &Image, frames: &Frames, report: &mut Report) -> Result<(), Fault> {
    let all = image.place("caches")?;
    if all.field("caches.held")?.is_held()? {
        report.skip("all caches, while the list of them is locked");
        return Ok(());
    }
    let mut next = all.field("caches.value")?.u64()?;
    let mut seen = HashSet::new();
    while next != 0 {
        if !seen.insert(next) || seen.len() > MOST {
            report.find("SLAB-3", None, format!("the list of caches comes back to {next:#x}, or has no end"));
            return Ok(());
        }
        let place = image.at(next);
        match check_cache(frames, place, report).and_then(|()| place.field("Cache.next")?.u64()) {
            Ok(behind) => next = behind,
            Err(Fault::Nowhere(address)) => {
                let what = format!("the cache at {next:#x} leads to {address:#x}, where no memory is");
                report.find("SLAB-3", None, what);
                let Ok(behind) = place.field("Cache.next").and_then(At::u64) else { return Ok(()) };
                next = behind;
            }
            Err(fault) => return Err(fault),
        }
    }
    report.look("caches", seen.len() as u64);
    Ok(())
}

fn read(place: At<'_>) -> Result<Cache<'_>, Fault> {
    let layout = place.field("Cache.layout")?;
    let name = place.field("Cache.name")?;
    let letters = name.field("Cache.name.bytes")?;
    let letters = (0..u64::from(name.u32()?.min(32))).map(|at| letters.plus(at).u8()).collect::<Result<Vec<_>, _>>()?;
    Ok(Cache {
        place,
        name: String::from_utf8_lossy(&letters).into_owned(),
        stride: layout.field("SlabLayout.stride")?.u32()?.into(),
        objects: layout.field("SlabLayout.objects")?.u32()?.into(),
        order: layout.field("SlabLayout.order")?.u8()?.into(),
    })
}

fn check_cache(frames: &Frames, place: At<'_>, report: &mut Report) -> Result<(), Fault> {
    let cache = read(place)?;
    let Cache { name, stride, objects, order, .. } = &cache;
    if *stride == 0 || !(1..=OBJECTS).contains(objects) || *order > frames.max_order {
        let what = format!("cache {name}: {objects} objects {stride} bytes apart in blocks of order {order}");
        report.find("SLAB-2", None, what);
        return Ok(());
    }
    let lock = place.field("Cache.slabs")?;
    if lock.field("Cache.slabs.held")?.is_held()? {
        report.skip("caches whose lock is held");
        return Ok(());
    }
    let slabs = lock.field("Cache.slabs.value")?;
    let own = u64::from(slabs.field("Slabs.own")?.u32()?);
    let mut found = Lists { frames, cache: &cache, own, slabs: HashMap::new(), taken: 0, report };
    for (list, what) in (0..).zip(["empty", "partial", "full"]) {
        found.list(slabs.field("Slabs.lists")?.element(list, "SlabList")?, what)?;
    }
    let (taken, lists) = (found.taken, found.slabs);
    let said = u64::from(slabs.field("Slabs.taken")?.u32()?) + own * lists.len() as u64;
    if said != taken {
        report.find("SLAB-2", None, format!("cache {name}: {said} objects are said to be out of slabs, {taken} are"));
    }
    report.look("slabs", lists.len() as u64);
    sheaves::check(&cache, slabs, &lists, report)
}

struct Lists<'l, 'i> {
    frames: &'l Frames,
    cache: &'l Cache<'i>,
    own: u64,
    slabs: HashMap<u64, Slab>,
    taken: u64,
    report: &'l mut Report,
}

impl Lists<'_, '_> {
    fn find(&mut self, invariant: &'static str, frame: Option<u64>, what: &str) {
        let what = format!("cache {}: {what}", self.cache.name);
        self.report.find(invariant, frame, what);
    }

    fn list(&mut self, list: At<'_>, what: &str) -> Result<(), Fault> {
        let len = list.field("SlabList.len")?.u32()?;
        let (mut previous, mut next, mut count) = (0, list.field("SlabList.first")?.u64()?, 0);
        let mut seen = HashSet::new();
        while next != 0 {
            count += 1;
            // One that is dead is nowhere else.
            if count > len || self.slabs.contains_key(&next) || !seen.insert(next) {
                break;
            }
            let descriptor = At { address: next, ..list };
            let state = descriptor.field("Descriptor.slab.owner")?.field("Slab.state")?;
            let back = state.field("SlabState.previous")?.u64()?;
            if back != previous {
                let what = format!("the slab at {next:#x} is behind {previous:#x}, and says behind {back:#x}");
                self.find("SLAB-3", None, &what);
            }
            self.slab(descriptor, what)?;
            (previous, next) = (next, state.field("SlabState.next")?.u64()?);
        }
        if next != 0 || count != len {
            self.find("SLAB-3", None, &format!("{len} slabs are said to be {what}, and the list has another end"));
        }
        Ok(())
    }

    fn slab(&mut self, descriptor: At<'_>, list: &str) -> Result<(), Fault> {
        let described = owners::described(descriptor, "slab")?;
        let head = Some(described.head);
        if described.references == 0 || described.order != self.cache.order {
            let what = format!("a slab on a list is referred to and of order {}: {described:x?}", self.cache.order);
            self.find("DESC-1", head, &what);
            return Ok(());
        }
        let owner = descriptor.field("Descriptor.slab.owner")?;
        let cache = owner.field("Slab.cache")?.u64()?;
        if cache != self.cache.place.address {
            self.find("SLAB-3", head, &format!("a slab on this cache's list is of the cache at {cache:#x}"));
        }
        let state = owner.field("Slab.state")?;
        let taken = u64::from(state.field("SlabState.taken")?.u32()?);
        let mut free = [0; 8];
        for (word, bits) in (0..).zip(&mut free) {
            *bits = state.field("SlabState.free")?.plus(8 * word).u64()?;
        }
        self.taken += taken;
        let objects = self.cache.objects;
        let inside: u64 = free.iter().map(|bits| u64::from(bits.count_ones())).sum();
        let beyond = (objects..OBJECTS).any(|slot| is_set(&free, slot));
        if beyond || taken + inside != objects {
            let what = format!("of {objects} objects {taken} are said to be out of the slab, and {inside} are in it");
            self.find("SLAB-2", head, &what);
        }
        let place = match taken {
            taken if taken == self.own => "empty",
            taken if taken == objects => "full",
            _ => "partial",
        };
        if place != list {
            self.find(
                "SLAB-3",
                head,
                &format!("a slab with {taken} of {objects} objects out of it is {place}, not {list}"),
            );
        }
        for frame in described.head..described.head + (1 << described.order) {
            let words = self.frames.words(frame);
            if words.is_none_or(|words| words.allocatee != descriptor.address | SLAB) {
                let found = words.map_or("no descriptor".to_owned(), |words| words.to_string());
                let what = format!("a page of the slab at {:#x} names it, not {found}", descriptor.address);
                self.find("DESC-1", Some(frame), &what);
            }
        }
        self.slabs.insert(descriptor.address, Slab { first: owner.field("Slab.first")?.u64()?, free });
        Ok(())
    }
}

/// Whether a slot's object is in its slab.
pub(super) fn is_set(free: &[u64; 8], slot: u64) -> bool {
    usize::try_from(slot / 64).ok().and_then(|word| free.get(word)).is_some_and(|bits| bits >> (slot % 64) & 1 == 1)
}
