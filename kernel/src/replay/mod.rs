//! Recorded allocations of a running Linux, done again by this machine's allocator.
//!
//! Every page is filled with a pattern of its own when it is allocated, and must hold it when it is freed: no block
//! overlaps another, and no freelist writes where it should not. What a record calls kernel memory comes from the
//! direct map; if that is too small, from highmem, and the report says so.
//!
//! Memory has owners: what can move or may be highmem is had as folios of the page cache, and written and read through
//! their mapping; what is unmovable and charged or zeroed as page tables, other kernel memory as objects. What the trace
//! charges is charged to a group, whose count must be that of the charged pages that are live.
//!
//! `failure` is what may go wrong, `held` memory of every kind, `live` the table of blocks, `pattern` what is written into them, `zones` how memory
//! stands.

mod failure;
mod held;
mod live;
mod pattern;
mod tests;
mod zones;

use alloc::string::String;
use core::num::NonZeroU64;

use kernel_core::statistics::Distribution;
use mm::charge::{ChargeGroup, GroupId};
use mm::migratetype::Migratetype;
use mm::page::AllocError;
use mm::trace::{AllocationFlags, Decoder, Event, Header};
use mm::units::{Order, PAGE_SIZE};

use self::failure::Failure;
use self::held::{Held, Id, Wanted};
use self::live::LiveBlocks;
use self::zones::Zones;
use crate::bench::{Figure, NoFigure, Row, Source, Unit, print_table};
use crate::clock::{Clock, Stopwatch};
use crate::exit::Exit;
use crate::fw_cfg::{self, FileError};
use crate::memory::{self, Allocator, Wholeness};
use crate::platform::Platform;
use crate::serial::{print, println};

/// The fw_cfg file that holds the trace.
const TRACE_FILE: &str = "opt/mm/trace";

/// Replays the trace that the host has passed, and prints what it cost and how memory stands.
pub(crate) fn run(allocator: &'static Allocator, check_every: NonZeroU64, machine: &str) -> Exit {
    let source = Source { clock: Clock::measure(), machine };
    let platform: &Platform = allocator.machine();
    let outcome = fw_cfg::open(platform, TRACE_FILE).map_err(Failure::File).and_then(|mut file| {
        println!("replay: a trace of {} bytes", file.remaining());
        replay(allocator, |buffer| file.read(buffer), check_every)
    });
    match outcome {
        Ok(replayed) => {
            replayed.print(source);
            println!("replay: every pattern was intact, every check passed, all memory has coalesced");
            Exit::Success
        }
        Err(failure) => {
            println!("replay: FAILED: {failure}");
            Exit::Failure
        }
    }
}

/// Replays the trace that `read` gives piece by piece; afterwards all memory is as before.
fn replay(
    allocator: &'static Allocator,
    mut read: impl FnMut(&mut [u8]) -> Result<usize, FileError>,
    check_every: NonZeroU64,
) -> Result<Replayed, Failure> {
    let before = Wholeness::now(allocator);
    let mut buffer = alloc::vec![0; PAGE_SIZE];
    let length = read(&mut buffer).map_err(Failure::File)?;
    let (header, mut piece) = Header::parse(&buffer[..length]).map_err(Failure::Header)?;
    let mut decoder = Decoder::new(header);
    let mut replay = Replay::new(allocator, header, check_every)?;
    while !piece.is_empty() {
        for event in decoder.decode(piece) {
            replay.step(event.map_err(Failure::Record)?)?;
        }
        let length = read(&mut buffer).map_err(Failure::File)?;
        piece = &buffer[..length];
    }
    decoder.finish().map_err(Failure::End)?;
    let replayed = replay.finish()?;
    drop(buffer);
    let after = Wholeness::now(allocator);
    if after.is_restored(&before) { Ok(replayed) } else { Err(Failure::NotCoalesced { before, after }) }
}

/// A replay under way.
#[derive(Debug)]
struct Replay {
    allocator: &'static Allocator,
    header: Header,
    check_every: NonZeroU64,
    stopwatch: Stopwatch,
    live: LiveBlocks,
    source: held::Source,
    /// Pays for what the trace charges.
    group: ChargeGroup<'static>,
    charged_pages: u32,
    most_charged_pages: u32,
    kinds: Kinds,
    live_pages: u32,
    most_live_pages: u32,
    at_peak: Option<Zones>,
    /// Room to note how memory stands at the peak, and at the end.
    rooms: [Option<Zones>; 2],
    operations: u64,
    allocs: Distribution,
    frees: Distribution,
    displaced: Displaced,
}

/// Allocations by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Kinds {
    folios: u64,
    plain: u64,
    tables: u64,
    objects: u64,
}

impl Kinds {
    fn count(&mut self, held: &Held) {
        match held {
            Held::Folio(_) => self.folios += 1,
            Held::Plain(_) => self.plain += 1,
            Held::Table(_) => self.tables += 1,
            Held::Object(_) => self.objects += 1,
        }
    }
}

/// Kernel memory that the direct map had no room for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Displaced {
    blocks: u64,
    pages: u64,
}

/// What a replay came to.
#[derive(Debug)]
struct Replayed {
    operations: u64,
    allocs: Distribution,
    frees: Distribution,
    displaced: Displaced,
    kinds: Kinds,
    /// The most pages that were charged at one time.
    peak_charged: u32,
    peak_pages: u32,
    at_peak: Zones,
    /// Pages of blocks that the trace does not free.
    left_pages: u32,
    at_end: Zones,
}

impl Replay {
    fn new(allocator: &'static Allocator, header: Header, check_every: NonZeroU64) -> Result<Self, Failure> {
        let no_room = |_| Failure::Table { blocks: header.blocks };
        let (Some(caches), Some(owners), Some(cache)) = (memory::caches(), memory::owners(), memory::page_cache())
        else {
            panic!("a replay runs when memory is up");
        };
        let mapping = |_| cache.anonymous(Order::ZERO).map_err(Failure::Mapping);
        let mappings = (0..held::ORDERS).map(mapping).collect::<Result<_, _>>()?;
        Ok(Self {
            allocator,
            header,
            check_every,
            stopwatch: Stopwatch::calibrated(),
            live: LiveBlocks::new(header.blocks).map_err(no_room)?,
            source: held::Source { allocator, caches, owners, mappings },
            group: allocator.groups().create(None).map_err(Failure::Group)?,
            charged_pages: 0,
            most_charged_pages: 0,
            kinds: Kinds::default(),
            live_pages: 0,
            most_live_pages: 0,
            at_peak: None,
            rooms: [(); 2].map(|()| Some(Zones::of(allocator))),
            operations: 0,
            allocs: Distribution::new(),
            frees: Distribution::new(),
            displaced: Displaced::default(),
        })
    }

    fn step(&mut self, event: Event) -> Result<(), Failure> {
        match event {
            Event::Alloc { id, order, migratetype, flags, cpu: _ } => {
                self.alloc(id.into(), order, migratetype, flags)?;
            }
            Event::Free { id, order, cpu: _ } => self.free(id.into(), order)?,
        }
        self.operations += 1;
        if self.operations.is_multiple_of(self.check_every.get()) { self.verify() } else { Ok(()) }
    }

    fn alloc(&mut self, id: Id, order: Order, migratetype: Migratetype, flags: AllocationFlags) -> Result<(), Failure> {
        let Self { ref source, stopwatch, operations: operation, live_pages, .. } = *self;
        let group = if flags.contains(AllocationFlags::ACCOUNTED) { self.group.id() } else { GroupId::ROOT };
        let wanted = Wanted { order, migratetype, flags, group };
        // Before anything is had, which a folio's place in its mapping would be refused to.
        if self.live.has(id) {
            return Err(Failure::Taken { operation, id });
        }
        let (mut block, mut ticks) = stopwatch.time(|| Held::alloc(source, &wanted, id));
        if matches!(block, Err(AllocError::Exhausted(_))) && !flags.contains(AllocationFlags::HIGHMEM) {
            let (displaced, more) = stopwatch.time(|| source.allocator.alloc(wanted.anywhere()));
            (block, ticks) = (displaced.map(Held::Plain), ticks + more);
            self.displaced.blocks += 1;
            self.displaced.pages += u64::from(order.pages());
        }
        let mut block = block.map_err(|error| Failure::Alloc { operation, error, live_pages })?;
        self.allocs.record(ticks);
        self.kinds.count(&block);
        pattern::fill(&mut block, id).map_err(|broken| Failure::Pattern { operation, id, broken })?;
        let charged_pages = block.pages_charged_to(self.group.id());
        self.live.insert(id, block).map_err(|_freed| Failure::Taken { operation, id })?;
        self.charged_pages += charged_pages;
        self.most_charged_pages = self.most_charged_pages.max(self.charged_pages);
        self.live_pages += order.pages();
        self.most_live_pages = self.most_live_pages.max(self.live_pages);
        if self.at_peak.is_none() && self.live_pages == self.header.peak_pages {
            self.at_peak = self.rooms.iter_mut().find_map(Option::take).map(|room| room.again(self.allocator));
        }
        Ok(())
    }

    fn free(&mut self, id: Id, order: Order) -> Result<(), Failure> {
        let operation = self.operations;
        let mut block = self.live.take(id).ok_or(Failure::NotLive { operation, id })?;
        if block.order() != order {
            return Err(Failure::OtherOrder { operation, id, freed: order, allocated: block.order() });
        }
        pattern::check(&mut block, id).map_err(|broken| Failure::Pattern { operation, id, broken })?;
        self.charged_pages -= block.pages_charged_to(self.group.id());
        let ((), ticks) = self.stopwatch.time(|| drop(block));
        self.frees.record(ticks);
        self.live_pages -= order.pages();
        Ok(())
    }

    fn verify(&self) -> Result<(), Failure> {
        let operations = self.operations;
        let held::Source { allocator, caches, owners, mappings } = &self.source;
        let checked = allocator
            .verify()
            .and_then(|()| allocator.verify_specified())
            .and_then(|()| caches.verify())
            .and_then(|()| owners.verify());
        let checked = checked
            .and_then(|()| allocator.verify_charges())
            .and_then(|()| mappings.iter().try_for_each(|mapping| mapping.verify()));
        checked.map_err(|violation| Failure::Invariant { operations, violation })?;
        let charged = self.group.report().usage;
        let live = self.charged_pages;
        if charged == live { Ok(()) } else { Err(Failure::Charges { operations, charged, live }) }
    }

    /// Checks everything, frees what the trace has left, and checks everything again.
    fn finish(mut self) -> Result<Replayed, Failure> {
        self.verify()?;
        let (announced, seen) = (self.header.peak_pages, self.most_live_pages);
        let at_peak = match self.at_peak.take() {
            Some(zones) if seen == announced => zones,
            _ if seen == 0 && announced == 0 => Zones::of(self.allocator),
            _ => return Err(Failure::OtherPeak { announced, seen }),
        };
        let at_end = self.rooms[1].take().map(|room| room.again(self.allocator));
        let at_end = at_end.unwrap_or_else(|| Zones::of(self.allocator));
        let operation = self.operations;
        for id in self.live.ids() {
            let Some(mut block) = self.live.take(id) else { continue };
            pattern::check(&mut block, id).map_err(|broken| Failure::Pattern { operation, id, broken })?;
            self.charged_pages -= block.pages_charged_to(self.group.id());
        }
        self.verify()?;
        let Self { operations, allocs, frees, displaced, kinds, live_pages: left_pages, .. } = self;
        let (peak_charged, peak_pages) = (self.most_charged_pages, seen);
        Ok(Replayed {
            operations,
            allocs,
            frees,
            displaced,
            kinds,
            peak_charged,
            peak_pages,
            at_peak,
            left_pages,
            at_end,
        })
    }
}

impl Replayed {
    fn print(&self, source: Source<'_>) {
        let Self { operations, displaced, peak_pages, at_peak, left_pages, at_end, .. } = self;
        println!("replay: {operations} operations, {peak_pages} pages live at the peak, {left_pages} at the end");
        if let Displaced { blocks: blocks @ 1.., pages } = displaced {
            println!("replay: {pages} pages in {blocks} kernel blocks came from highmem: the direct map was full");
        }
        let Kinds { folios, plain, tables, objects } = self.kinds;
        println!("replay: {folios} blocks were folios, {plain} plain, {tables} page tables, {objects} objects");
        println!("replay: at most {} pages were charged, and every charge was given back", self.peak_charged);
        println!("replay: {} node pages at most", at_end.peak_nodes());
        println!("replay: at peak use {}", at_peak.wholeness());
        println!("replay: at the end {}", at_end.wholeness());
        print!("{}", at_end.buddyinfo());
        let row = |name, samples| {
            let result = Figure::of(samples).ok_or_else(|| NoFigure::Skipped(String::from("the trace has none")));
            Row { name, unit: Unit::Ticks, result }
        };
        let rows = [row("replay/alloc", &self.allocs), row("replay/free", &self.frees)];
        rows.iter().for_each(|row| row.print_json(source));
        print_table(&rows, source);
    }
}
