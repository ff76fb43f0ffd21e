//! Recorded allocations of a running Linux, done again by this machine's allocator.
//!
//! Every page is filled with a pattern of its own when it is allocated, and must hold it when it is freed: no block
//! overlaps another, and no freelist writes where it should not. What a record calls kernel memory comes from the
//! direct map; if that is too small, from highmem, and the report says so.
//!
//! `failure` is what may go wrong, `live` the table of blocks, `pattern` what is written into them, `zones` how memory
//! stands.

mod failure;
mod live;
mod pattern;
mod tests;
mod zones;

use alloc::string::String;
use core::num::NonZeroU64;

use kernel_core::statistics::Distribution;
use mm::migratetype::Migratetype;
use mm::page::{AllocError, Request};
use mm::trace::{AllocationFlags, Decoder, Event, Header};
use mm::units::{Order, PAGE_SIZE};
use mm::zone::ZoneKind;

use self::failure::Failure;
use self::live::{Id, LiveBlocks};
use self::zones::Zones;
use crate::bench::{Figure, NoFigure, Row, Source, Unit, print_table};
use crate::clock::{Clock, Stopwatch};
use crate::exit::Exit;
use crate::fw_cfg::{self, FileError};
use crate::memory::{Allocator, Wholeness};
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
    decoder.finish().map_err(Failure::Truncated)?;
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
    peak_pages: u32,
    at_peak: Zones,
    /// Pages of blocks that the trace does not free.
    left_pages: u32,
    at_end: Zones,
}

impl Replay {
    fn new(allocator: &'static Allocator, header: Header, check_every: NonZeroU64) -> Result<Self, Failure> {
        let no_room = |error| Failure::Table { blocks: header.blocks, error };
        Ok(Self {
            allocator,
            header,
            check_every,
            stopwatch: Stopwatch::calibrated(),
            live: LiveBlocks::new(allocator, header.blocks).map_err(no_room)?,
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
        let Self { allocator, stopwatch, operations: operation, live_pages, .. } = *self;
        let anywhere = Request::movable(order).with_migratetype(migratetype);
        let highmem = flags.contains(AllocationFlags::HIGHMEM);
        let request = if highmem { anywhere } else { anywhere.up_to(ZoneKind::Normal) };
        let (mut block, mut ticks) = stopwatch.time(|| allocator.alloc(request));
        if matches!(block, Err(AllocError::Exhausted(_))) && !highmem {
            let (displaced, more) = stopwatch.time(|| allocator.alloc(anywhere));
            (block, ticks) = (displaced, ticks + more);
            self.displaced.blocks += 1;
            self.displaced.pages += u64::from(order.pages());
        }
        let mut block = block.map_err(|error| Failure::Alloc { operation, error, live_pages })?;
        self.allocs.record(ticks);
        pattern::fill(&mut block, id);
        self.live.insert(id, block).map_err(|_freed| Failure::Taken { operation, id })?;
        self.live_pages += order.pages();
        self.most_live_pages = self.most_live_pages.max(self.live_pages);
        if self.at_peak.is_none() && self.live_pages == self.header.peak_pages {
            self.at_peak = self.rooms[0].take().map(|room| room.again(allocator));
        }
        Ok(())
    }

    fn free(&mut self, id: Id, order: Order) -> Result<(), Failure> {
        let operation = self.operations;
        let block = self.live.take(id).map_err(|error| Failure::Free { operation, error })?;
        let mut block = block.ok_or(Failure::NotLive { operation, id })?;
        if block.order() != order {
            return Err(Failure::OtherOrder { operation, id, freed: order, allocated: block.order() });
        }
        pattern::check(&mut block, id).map_err(|broken| Failure::Pattern { operation, id, broken })?;
        let ((), ticks) = self.stopwatch.time(|| drop(block));
        self.frees.record(ticks);
        self.live_pages -= order.pages();
        Ok(())
    }

    fn verify(&self) -> Result<(), Failure> {
        let operations = self.operations;
        let checked = self.allocator.verify().and_then(|()| self.allocator.verify_charges());
        checked.map_err(|violation| Failure::Invariant { operations, violation })
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
            let block = self.live.take(id).map_err(|error| Failure::Free { operation, error })?;
            let broken = block.and_then(|mut block| pattern::check(&mut block, id).err());
            if let Some(broken) = broken {
                return Err(Failure::Pattern { operation, id, broken });
            }
        }
        self.verify()?;
        let Self { operations, allocs, frees, displaced, live_pages: left_pages, .. } = self;
        Ok(Replayed { operations, allocs, frees, displaced, peak_pages: seen, at_peak, left_pages, at_end })
    }
}

impl Replayed {
    fn print(&self, source: Source<'_>) {
        let Self { operations, displaced, peak_pages, at_peak, left_pages, at_end, .. } = self;
        println!("replay: {operations} operations, {peak_pages} pages live at the peak, {left_pages} at the end");
        if let Displaced { blocks: blocks @ 1.., pages } = displaced {
            println!("replay: {pages} pages in {blocks} kernel blocks came from highmem: the direct map was full");
        }
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
