//! What can be damaged in an image: one word of each kind of structure that a check looks at, and what the check is to say of
//! it. With this, trials see that what a check calls clean it has looked at.

use std::ops::RangeInclusive;

use super::frames::{self, Census, Frames};
use super::image::{At, Fault, Image};
use super::memory::PAGE;
use super::owners::{self, SLAB};
use super::report::Report;
use super::words::{State, Words};
use super::zones::{self, Zone};

/// One word of an image that is to be replaced by another.
#[derive(Clone, Debug)]
pub struct Damage {
    /// What it is.
    pub what: String,
    /// Where it stands.
    pub address: u64,
    /// What is to stand there.
    pub word: u64,
    /// The invariants of which one has to be named.
    pub names: &'static [&'static str],
}

const WORDS: &[&str] =
    &["WORD-1", "FREE-1", "FREE-2", "FREE-4", "ZONE-1", "ACCT-1", "PCP-1", "DESC-1", "ACCT-2", "SPACE-1", "SPACE-2"];
const LISTS: &[&str] = &["FREE-1", "FREE-3", "FREE-4", "HIGH-1"];
const SLABS: &[&str] = &["SLAB-2", "SLAB-3", "DESC-1", "SLAB-1"];

/// Bits of a first word: all but the marks of memory that failed, each of which may stand alone.
const FIRST: &[RangeInclusive<u32>] = &[0..=10, 13..=63];

/// Damages to an image of which all is clean: bits of descriptors of every state, counts, positions, pointers, entries.
///
/// Empty where the image has nothing of a kind: the names tell.
#[must_use]
pub fn damages(image: &Image) -> Vec<Damage> {
    let mut damages = Damages { image, all: Vec::new() };
    // What cannot be read is no part of a clean image.
    let _ = damages.collect();
    damages.all
}

struct Damages<'i> {
    image: &'i Image,
    all: Vec<Damage>,
}

impl<'i> Damages<'i> {
    fn add(&mut self, what: &str, place: At<'_>, change: impl FnOnce(u64) -> u64, names: &'static [&'static str]) {
        if let Ok(before) = place.u64() {
            self.all.push(Damage { what: what.to_owned(), address: place.address, word: change(before), names });
        }
    }

    fn collect(&mut self) -> Result<(), Fault> {
        let image = self.image;
        let zones = zones::read(image)?;
        let mut report = Report::default();
        let frames = Frames::read(image, &mut report)?;
        let census = frames::take_census(&frames, &zones, &mut report);
        self.words(&frames, &zones);
        for zone in &zones {
            self.zone(zone)?;
        }
        self.at_hand(&zones)?;
        self.slabs(&census)?;
        self.tables()
    }

    /// Every bit of the first word, and those of the second that say something, of the first page in each state, and of a tail.
    fn words(&mut self, frames: &Frames, zones: &[Zone<'_>]) {
        let all = || zones.iter().flat_map(|zone| zone.span[0]..zone.span[1]);
        let with = |wanted: &dyn Fn(u64) -> bool| all().find(|&frame| wanted(frame));
        let is = |frame, state, order: RangeInclusive<u32>, owned: Option<bool>| {
            frames.words(frame).is_some_and(|words| {
                let owner = owned.is_none_or(|owned| owned == (words.kind() != 0));
                words.is(state) && order.contains(&words.order()) && owner
            })
        };
        let plain = with(&|frame| is(frame, State::Allocated, 0..=15, Some(false)));
        if let Some((head, place)) = plain.and_then(|head| Some((head, frames.descriptor_address(head)? + 8))) {
            let number = Words::number_at_hand(head);
            self.add("a plain block that says it is at hand", self.image.at(place), |_| number, &["PCP-1"]);
        }
        let samples = [
            ("a free block", with(&|frame| is(frame, State::Free, 1..=9, None)), 4..=31),
            ("a free block of the largest order", with(&|frame| is(frame, State::Free, 10..=10, None)), 4..=31),
            ("a free page", with(&|frame| is(frame, State::Free, 0..=0, None)), 4..=31),
            ("a node", with(&|frame| is(frame, State::Node, 0..=15, None)), 4..=31),
            ("a block at hand", with(&|frame| is(frame, State::Cached, 0..=15, None)), 0..=63),
            ("an owned block", with(&|frame| is(frame, State::Allocated, 0..=15, Some(true))), 0..=47),
            ("a plain block", plain, 0..=63),
            ("a tail", with(&|frame| is(frame, State::Free, 2..=10, None)).map(|head| head + 1), 0..=3),
        ];
        for (what, frame, second) in samples {
            let Some(place) = frame.and_then(|frame| frames.descriptor_address(frame)) else { continue };
            for bit in FIRST.iter().cloned().flatten() {
                self.add(
                    &format!("{what}: bit {bit} of the first word"),
                    self.image.at(place),
                    |word| word ^ 1 << bit,
                    WORDS,
                );
            }
            for bit in second {
                let place = self.image.at(place + 8);
                self.add(&format!("{what}: bit {bit} of the second word"), place, |word| word ^ 1 << bit, WORDS);
            }
        }
    }

    fn zone(&mut self, zone: &Zone<'_>) -> Result<(), Fault> {
        for name in ["Zone.free", "Zone.managed", "Zone.nodes"] {
            self.add(
                &format!("{name} one more"),
                zone.place.field(name)?,
                |word| word.wrapping_add(1),
                &["ACCT-1", "FREE-4"],
            );
        }
        self.add(
            "Zone.highatomic one more",
            zone.place.field("Zone.highatomic")?,
            |word| word.wrapping_add(1),
            &["RSRV-1"],
        );
        self.add(
            "Pending.todo",
            zone.place.field("Zone.pending")?.field("Pending.todo")?,
            |word| word | 4,
            &["ACCT-1"],
        );
        let lists = zone.place.field("Zone.lists")?;
        for end in 0..2 {
            let bits = lists.field("Freelists.occupied")?.plus(8 * end);
            self.add("which lists have entries", bits, |word| word ^ 1, LISTS);
        }
        for list in 0..128 {
            let stack = lists.field("Freelists.stacks")?.element(list, "Stack")?;
            let (len, stored) = (stack.field("Stack.len")?.u32()?, stack.field("Stack.stored")?.u32()?);
            if len == 0 {
                continue;
            }
            let position = u64::from(stored) % self.image.said("inline")?;
            let ring = stack.field("Stack.ring")?.plus(4 * position);
            self.add(&format!("list {list}: an entry in the zone"), ring, |word| word ^ 1, LISTS);
            self.add(
                &format!("list {list}: its length"),
                stack.field("Stack.len")?,
                |word| word.wrapping_sub(1),
                LISTS,
            );
            if stored > 0 {
                self.tree(list, stack)?;
            }
        }
        Ok(())
    }

    /// A list's tree: its shape, its pointers, and what stands in its nodes.
    fn tree(&mut self, list: u64, stack: At<'_>) -> Result<(), Fault> {
        // One entry more is none too many where the leaf still has what has come back to the zone from it.
        let leaf = 1 << self.image.said("leaf_shift")?;
        let mut add = |what: &str, place, change: &dyn Fn(u64) -> u64| {
            self.add(&format!("list {list}: {what}"), place, change, LISTS);
        };
        for (name, more) in [("Stack.stored", leaf), ("Stack.height", 1), ("Stack.prepared", 1)] {
            add(name, stack.field(name)?, &|word| word.wrapping_add(more));
        }
        for name in ["Stack.root", "Stack.tail"] {
            for bit in [0, 12, 20, 46] {
                add(&format!("bit {bit} of {name}"), stack.field(name)?, &|word| word ^ 1 << bit);
            }
        }
        let tail = stack.field("Stack.tail")?.u64()?;
        if let Some(leaf) = self.in_direct_map(tail) {
            let stored = u64::from(stack.field("Stack.stored")?.u32()?);
            let last = (stored - 1) % (1 << self.image.said("leaf_shift")?);
            for slot in [0, last / 2, last] {
                self.add(&format!("list {list}: slot {slot} of a leaf"), leaf.plus(4 * slot), |word| word ^ 2, LISTS);
            }
        }
        let root = stack.field("Stack.root")?.u64()?;
        if let Some(root) = self.in_direct_map(root).filter(|root| root.address != tail) {
            for bit in [0, 12, 30] {
                self.add(&format!("list {list}: bit {bit} of a child"), root, |word| word ^ 1 << bit, LISTS);
            }
        }
        Ok(())
    }

    /// A node that the kernel has an address for.
    fn in_direct_map(&self, pointer: u64) -> Option<At<'i>> {
        (pointer & 1 == 0).then(|| self.image.at(pointer / PAGE * PAGE))
    }

    fn at_hand(&mut self, zones: &[Zone<'_>]) -> Result<(), Fault> {
        const PCP: &[&str] = &["PCP-1"];
        let caches = self.image.said("cpus.count")? * zones.len() as u64;
        for cache in 0..caches {
            let lists = self.image.place("cpus.caches")?.element(cache, "CpuCache")?.field("CpuCache.lists")?;
            for list in 0..self.image.said("lists.count")? {
                let place = lists.element(list, "List")?;
                let number = |name: &str| place.field(name)?.u32();
                let (bottom, top) = (number("List.bottom")?, number("List.top")?);
                if bottom == top {
                    continue;
                }
                let slot = u64::from(bottom & number("List.mask")?);
                let slot = place.field("List.slots")?.target()?.element(slot, "Slot")?;
                let what = |what: &str| format!("cache {cache}, list {list}: {what}");
                self.add(&what("a block at hand"), slot.field("Slot.number")?, |word| word ^ 1 << 32, PCP);
                self.add(&what("where its descriptor is"), slot.field("Slot.page")?, |word| word.wrapping_add(16), PCP);
                self.add(&what("the top"), place.field("List.top")?, |word| word.wrapping_sub(1), PCP);
                self.add(&what("the bottom"), place.field("List.bottom")?, |word| word.wrapping_add(1), PCP);
                self.add(&what("its word"), place.field("List.word")?, |word| word ^ 1 << 16, PCP);
                self.add(&what("its mask"), place.field("List.mask")?, |word| word >> 1, PCP);
            }
        }
        Ok(())
    }

    fn slabs(&mut self, census: &Census) -> Result<(), Fault> {
        let is_slab = |block: &&frames::Block| block.words.kind() == SLAB;
        for block in census.allocated.iter().filter(is_slab).take(8) {
            let descriptor = self.image.at(block.words.descriptor());
            let owner = descriptor.field("Descriptor.slab.owner")?;
            let state = owner.field("Slab.state")?;
            let mut add = |what: &str, place, change: &dyn Fn(u64) -> u64| {
                self.add(&format!("the slab at pfn {:#x}: {what}", block.head), place, change, SLABS);
            };
            add("objects that are out", state.field("SlabState.taken")?, &|word| word ^ 1);
            add("an object's bit", state.field("SlabState.free")?, &|word| word ^ 1);
            add("a bit of no object", state.field("SlabState.free")?.plus(56), &|word| word ^ 1 << 63);
            add("the one before", state.field("SlabState.previous")?, &|word| word ^ 0x40);
            add("its cache", owner.field("Slab.cache")?, &|word| word ^ 0x40);
            add("its block", descriptor.field("Descriptor.slab.block")?, &|word| word ^ 1);
            add("its references", descriptor.field("Descriptor.slab.state")?, &|word| word & !0xffff_ffff);
            let slabs = owner.field("Slab.cache")?.target()?.field("Cache.slabs")?.field("Cache.slabs.value")?;
            add("its cache's count", slabs.field("Slabs.taken")?, &|word| word.wrapping_add(1));
        }
        Ok(())
    }

    fn tables(&mut self) -> Result<(), Fault> {
        let root = self.image.said("kernel_root")?;
        let direct_map = self.image.at(self.image.said("direct_map")?);
        let tables = direct_map.plus(root * PAGE);
        let first = tables.plus(8 * 256);
        self.add("a table's entry", first, |word| word ^ 1 << 13, &["SPACE-1", "HIGH-1", "ZONE-1"]);
        let frames = Frames::read(self.image, &mut Report::default())?;
        if let Some(words) = frames.words(root) {
            let owner = self.image.at(words.descriptor()).field("Descriptor.page_table.owner")?;
            let used = owner.field("PageTable.used")?.field("PageTable.used.value")?;
            self.add("a table's count", used, |word| word.wrapping_add(2), &["SPACE-1"]);
            self.add("a table's level", owner.field("PageTable.level")?, |word| word ^ 1, &["SPACE-1"]);
            let described = owners::described(self.image.at(words.descriptor()), "page_table")?;
            let block = self.image.at(words.descriptor()).field("Descriptor.page_table.block")?;
            self.add("a table's block", block, |word| word ^ (described.head | 1), &["DESC-1"]);
        }
        Ok(())
    }
}
