//! What is done at random, and how it is checked.
//!
//! All that the workload itself needs it has from the start: nothing here is to fail because memory is short.

use alloc::boxed::Box;
use alloc::format;
use core::pin::Pin;

use kernel_core::cmdline::Seed;
use mm::cache::{MappingRef, PageCache, Store};
use mm::compact::Compactor;
use mm::folio::SplitTo;
use mm::space::{Access, Spaces, UserPages};
use mm::units::{Bytes, Count, FileOffset, Order, PAGE_SIZE, PageIndex};

use super::contents::{Stamp, Stamps};
use super::process::{self, Model, PROCESSES, Part, ProcessRef};
use super::sizes::Sizes;
use crate::ktest::{NotPassed, Outcome, check, diagnostic};
use crate::platform::Platform;
use crate::user::access::{copy_from_user, copy_to_user};
use crate::user::live;
use crate::user::mmu::ProcessorTables;

/// Accesses that a process makes in one turn.
const ACCESSES: usize = 16;
/// Turns between two looks at everything that can be looked at.
const VERIFIED_EVERY: u32 = 400;
/// Pages that are pinned at one time, at most.
const PINNED: usize = 8;

/// The number of the first file in stamps; processes have their own.
const FILES: u8 = 0x80;

pub(super) struct Workload<'u> {
    sizes: Sizes,
    cache: Pin<&'u PageCache<'u, Platform>>,
    spaces: Pin<&'u Spaces<'u, Platform, ProcessorTables>>,
    pins: Option<UserPages<'u, Platform>>,
    processes: [Option<ProcessRef<'u>>; PROCESSES],
    files: [MappingRef<'u, Platform>; 2],
    filed: [Stamps; 2],
    models: [Model; PROCESSES],
    random: fastrand::Rng,
    page: Box<[u8; PAGE_SIZE]>,
    done: Done,
}

/// What was done.
#[derive(Default, Debug)]
struct Done {
    reads: u32,
    writes: u32,
    forks: u32,
    exits: u32,
    pins: u32,
    splits: u32,
    compacted: u32,
    moved: u32,
    /// The most pages of contents that there were at one time.
    most_pages: u64,
}

impl<'u> Workload<'u> {
    pub(super) fn new(
        sizes: Sizes,
        cache: Pin<&'u PageCache<'u, Platform>>,
        spaces: Pin<&'u Spaces<'u, Platform, ProcessorTables>>,
        files: [MappingRef<'u, Platform>; 2],
        filed: [Stamps; 2],
        models: [Model; PROCESSES],
        Seed(seed): Seed,
    ) -> Self {
        Self {
            sizes,
            cache,
            spaces,
            pins: None,
            processes: [const { None }; PROCESSES],
            files,
            filed,
            models,
            random: fastrand::Rng::with_seed(seed),
            page: Box::new([0; PAGE_SIZE]),
            done: Done::default(),
        }
    }

    /// Pages of contents that there were at one time: of files, and swapped out.
    pub(super) fn pages(&self) -> u64 {
        self.done.most_pages
    }

    /// Fills all objects, then does at random what there is to be done; in the end, checks every byte, also of what has
    /// reached the stores.
    pub(super) fn run(&mut self, stores: [&dyn Store; 2]) -> Outcome {
        self.fill_everything()?;
        self.check_everything()?;
        let turns = self.sizes.free;
        for turn in 0..turns {
            self.turn().map_err(|error| at(turn, error))?;
            let report = self.cache.report();
            let written: u64 = self.filed.iter().map(Stamps::written).sum();
            self.done.most_pages = self.done.most_pages.max(written + u64::from(report.swapped.0));
            if turn % VERIFIED_EVERY == 0 {
                self.verify().map_err(|error| at(turn, error))?;
            }
        }
        self.pins = None;
        self.check_everything()?;
        self.verify()?;
        for process in 0..PROCESSES {
            self.processes[process] = None;
        }
        diagnostic!("{:?}", self.done);
        diagnostic!("{:?}", self.cache.report());
        self.check_stores(stores)
    }

    fn fill_everything(&mut self) -> Outcome {
        self.processes[0] = Some(process::create(self.spaces, &self.files, &self.sizes)?);
        for file in 0..self.files.len() {
            for page in 0..self.filed[file].pages() {
                self.write_file(file, page)?;
            }
        }
        for page in 0..self.models[0].anonymous.pages() {
            self.write_user(0, Part::Anonymous, page)?;
        }
        Ok(())
    }

    fn turn(&mut self) -> Outcome {
        let process = self.any_process()?;
        match self.random.u32(0..100) {
            0..75 => self.access(process),
            75..85 => self.access_file(),
            85..88 => self.fork(process),
            88..91 => self.exit(process),
            91 => self.start_anew(process),
            92..95 => self.pin(process),
            95 => self.split(),
            96 => self.compact(),
            97 => {
                self.cache.reclaim(Count(self.random.u32(1..64)));
                Ok(())
            }
            _ => {
                self.files[self.random.usize(..2)].write_back()?;
                Ok(())
            }
        }
    }

    /// One that runs; there always is one.
    fn any_process(&mut self) -> Result<usize, NotPassed> {
        let running = self.processes.iter().flatten().count();
        let chosen = self.random.usize(..running.max(1));
        let mut numbers = (0..PROCESSES).filter(|&number| self.processes[number].is_some());
        numbers.nth(chosen).ok_or_else(|| "no process runs".into())
    }

    /// A page of so many: half of the time one of the first quarter.
    fn any_page(&mut self, pages: u64) -> u64 {
        let most = if self.random.bool() { pages.div_ceil(4) } else { pages };
        self.random.u64(..most)
    }

    fn access(&mut self, process: usize) -> Outcome {
        for _ in 0..ACCESSES {
            let part = [Part::Anonymous, Part::Anonymous, Part::Shared, Part::Private][self.random.usize(..4)];
            let page = self.any_page(part.pages(&self.sizes));
            if self.random.u8(..3) == 0 {
                self.write_user(process, part, page)?;
            } else {
                self.check_user(process, part, page)?;
            }
        }
        Ok(())
    }

    fn access_file(&mut self) -> Outcome {
        for _ in 0..ACCESSES {
            let file = self.random.usize(..2);
            let page = self.any_page(self.filed[file].pages());
            if self.random.u8(..3) == 0 { self.write_file(file, page)? } else { self.check_file(file, page)? }
        }
        Ok(())
    }

    /// What is to be seen.
    fn stamp(&self, process: usize, part: Part, page: u64) -> Stamp {
        let model = &self.models[process];
        match part {
            Part::Anonymous => model.anonymous.of(page),
            Part::Shared => self.filed[0].of(page),
            Part::Private if model.private.of(page) == Stamp::ZERO => self.filed[1].of(page),
            Part::Private => model.private.of(page),
        }
    }

    fn space(&self, process: usize) -> Result<&ProcessRef<'u>, NotPassed> {
        self.processes[process].as_ref().ok_or_else(|| "the process does not run".into())
    }

    fn write_user(&mut self, process: usize, part: Part, page: u64) -> Outcome {
        let object = if part == Part::Shared { FILES } else { u8::try_from(process)? };
        let stamp = Stamp::new(object, page, self.done.writes);
        self.done.writes += 1;
        stamp.fill(&mut self.page);
        live::with(&**self.space(process)?, || copy_to_user(part.page(page), &self.page[..]))
            .map_err(|error| format!("process {process} cannot write {part:?} page {page}: {error}"))?;
        match part {
            Part::Anonymous => self.models[process].anonymous.set(page, stamp),
            Part::Shared => self.filed[0].set(page, stamp),
            Part::Private => self.models[process].private.set(page, stamp),
        }
        Ok(())
    }

    fn check_user(&mut self, process: usize, part: Part, page: u64) -> Outcome {
        let stamp = self.stamp(process, part, page);
        self.done.reads += 1;
        let space = self.processes[process].as_ref().ok_or("the process does not run")?;
        live::with(&**space, || copy_from_user(part.page(page), &mut self.page[..]))
            .map_err(|error| format!("process {process} cannot read {part:?} page {page}: {error}"))?;
        let checked = stamp.check(&self.page);
        Ok(checked.map_err(|broken| format!("process {process}, {part:?} page {page}: {broken}"))?)
    }

    fn write_file(&mut self, file: usize, page: u64) -> Outcome {
        let stamp = Stamp::new(FILES + u8::try_from(file)?, page, self.done.writes);
        self.done.writes += 1;
        stamp.fill(&mut self.page);
        let written = self.files[file].write(PageIndex(page).start(), &self.page[..]);
        written.map_err(|error| format!("page {page} of file {file} cannot be written: {error}"))?;
        self.filed[file].set(page, stamp);
        Ok(())
    }

    fn check_file(&mut self, file: usize, page: u64) -> Outcome {
        self.done.reads += 1;
        let read = self.files[file].read(PageIndex(page).start(), &mut self.page[..]);
        read.map_err(|error| format!("page {page} of file {file} cannot be read: {error}"))?;
        let checked = self.filed[file].of(page).check(&self.page);
        Ok(checked.map_err(|broken| format!("file {file}, page {page}: {broken}"))?)
    }

    fn fork(&mut self, parent: usize) -> Outcome {
        let Some(child) = self.processes.iter().position(Option::is_none) else { return Ok(()) };
        self.processes[child] = Some(self.space(parent)?.fork()?);
        // Two of an array at a time.
        let (low, high) = self.models.split_at_mut(parent.max(child));
        let (lower, upper) = (&mut low[parent.min(child)], &mut high[0]);
        if child < parent {
            lower.copy_from(upper);
        } else {
            upper.copy_from(lower);
        }
        self.done.forks += 1;
        Ok(())
    }

    /// Ends a process, if it is not the last one.
    fn exit(&mut self, process: usize) -> Outcome {
        if self.processes.iter().flatten().count() > 1 {
            self.processes[process] = None;
            self.done.exits += 1;
        }
        Ok(())
    }

    /// Gives a process new memory, or replaces it by one that has never run.
    fn start_anew(&mut self, process: usize) -> Outcome {
        if self.random.bool() {
            process::renew(self.space(process)?, &self.sizes)?;
            self.models[process].anonymous.set_all(Stamp::ZERO);
        } else {
            self.processes[process] = None;
            self.processes[process] = Some(process::create(self.spaces, &self.files, &self.sizes)?);
            self.models[process].clear();
        }
        Ok(())
    }

    /// Splits a folio of a file, if a large one is there that can be split.
    fn split(&mut self) -> Outcome {
        let file = self.random.usize(..2);
        let page = self.any_page(self.filed[file].pages());
        let Some(folio) = self.files[file].lookup(PageIndex(page)) else { return Ok(()) };
        let around = folio.head().plus(u32::try_from(page - folio.index().0)?);
        let to = if self.random.bool() { SplitTo::Uniform(Order::ZERO) } else { SplitTo::Around(around, Order::ZERO) };
        if self.cache.split(folio.lock(), to).is_ok() {
            self.done.splits += 1;
        }
        Ok(())
    }

    /// Makes a larger block of what is free, after making some more free.
    fn compact(&mut self) -> Outcome {
        // Every area of the size is looked at, and a large machine has many.
        let least = if self.sizes.free < 1000 { 2 } else { 6 };
        let order = Order::of(self.random.usize(least..=9));
        self.cache.reclaim(Count(2 * order.pages().min(self.sizes.free / 4)));
        let report = Compactor::new(&self.spaces).compact(order, Count(1), drop);
        self.done.compacted += report.cleared.0;
        self.done.moved += report.moved.folios.0 + report.moved.tables.0;
        Ok(())
    }

    /// Pins some pages of a process in the place of those that are pinned, and checks what is in them.
    fn pin(&mut self, process: usize) -> Outcome {
        self.pins = None;
        let part = [Part::Anonymous, Part::Shared, Part::Private][self.random.usize(..3)];
        let first = self.any_page(part.pages(&self.sizes) - PINNED as u64);
        let pins = self.space(process)?.get_user_pages(part.page(first), Bytes(PINNED * PAGE_SIZE), Access::Read)?;
        let mut page = first;
        for run in pins.runs() {
            for offset in (0..run.len().0).step_by(PAGE_SIZE) {
                let copied = run.folio().copy_to(Bytes(run.offset().0 + offset), &mut self.page[..]);
                copied.ok_or("a pinned folio has no such bytes")?;
                let checked = self.stamp(process, part, page).check(&self.page);
                checked.map_err(|broken| format!("pinned of process {process}, {part:?} page {page}: {broken}"))?;
                page += 1;
            }
        }
        check!(page == first + PINNED as u64, "{} of {PINNED} pages are pinned", page - first);
        self.done.pins += 1;
        self.pins = Some(pins);
        Ok(())
    }

    /// Looks at every page of every object.
    fn check_everything(&mut self) -> Outcome {
        for file in 0..self.files.len() {
            (0..self.filed[file].pages()).try_for_each(|page| self.check_file(file, page))?;
        }
        for process in (0..PROCESSES)
            .filter(|&process| self.processes[process].is_some())
            .collect::<arrayvec::ArrayVec<_, PROCESSES>>()
        {
            for part in [Part::Anonymous, Part::Shared, Part::Private] {
                (0..part.pages(&self.sizes)).try_for_each(|page| self.check_user(process, part, page))?;
            }
        }
        Ok(())
    }

    fn verify(&self) -> Outcome {
        self.files.iter().try_for_each(|file| file.verify())?;
        self.processes.iter().flatten().try_for_each(|space| space.verify())?;
        Ok(())
    }

    /// Looks at what the stores have, once everything is written.
    fn check_stores(&mut self, stores: [&dyn Store; 2]) -> Outcome {
        for (file, store) in stores.into_iter().enumerate() {
            self.files[file].write_back()?;
            for page in 0..self.filed[file].pages() {
                store.read(FileOffset(page * PAGE_SIZE as u64), &mut self.page[..])?;
                let checked = self.filed[file].of(page).check(&self.page);
                checked.map_err(|broken| format!("store {file}, page {page}: {broken}"))?;
            }
        }
        Ok(())
    }
}

fn at(turn: u32, error: NotPassed) -> NotPassed {
    match error {
        NotPassed::Failed(message) => NotPassed::Failed(format!("turn {turn}: {message}")),
        skipped @ NotPassed::Skipped(_) => skipped,
    }
}
