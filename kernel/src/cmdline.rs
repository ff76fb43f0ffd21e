//! The kernel's command line: space-separated words of the form `key=value`.
//!
//! Parsing cannot fail: a word that is unknown or malformed is told to the caller, with the reason, and left out. Of
//! `dump=`, only the names are left out that there is no report of.

mod value;

#[cfg(test)]
mod tests;

use alloc::string::ToString;
use alloc::vec::Vec;
use core::fmt;
use core::num::{NonZeroU8, NonZeroU16, NonZeroU64};

use mm::boot_map::Region;
use mm::faults::{FaultAttr, FaultAttrError};
use mm::hardening::Hardening;
use mm::slab::{SlabDebug, SlabDebugError};
use mm::units::PhysAddr;

use crate::selection::Selection;

/// What the kernel is to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Run {
    /// Print the names of all tests and benchmarks.
    List,
    /// Run tests.
    #[default]
    Test,
    /// Run benchmarks.
    Bench,
    /// Replay a recorded trace.
    Replay,
    /// Nothing but print reports: what a line asks for that has `dump=` and no `run=`.
    Dump,
}

/// What the kernel can tell of its memory: Linux's name of the file, or the tool, that says the same there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Report {
    /// Free blocks by zone and order.
    Buddyinfo,
    /// Free blocks by zone, migratetype and order, and pageblocks by migratetype.
    Pagetypeinfo,
    /// Sizes of zones.
    Zoneinfo,
    /// Caches of objects.
    Slabinfo,
    /// Counters.
    Vmstat,
    /// Allocations by node.
    Numastat,
    /// Memory by use.
    Meminfo,
    /// Pages by kind: what Linux's tool of that name sums up.
    PageTypes,
}

impl Report {
    /// Every report, in the order in which `all` prints them.
    pub const ALL: [Self; 8] = [
        Self::Buddyinfo,
        Self::Pagetypeinfo,
        Self::Zoneinfo,
        Self::Slabinfo,
        Self::Vmstat,
        Self::Numastat,
        Self::Meminfo,
        Self::PageTypes,
    ];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Buddyinfo => "buddyinfo",
            Self::Pagetypeinfo => "pagetypeinfo",
            Self::Zoneinfo => "zoneinfo",
            Self::Slabinfo => "slabinfo",
            Self::Vmstat => "vmstat",
            Self::Numastat => "numastat",
            Self::Meminfo => "meminfo",
            Self::PageTypes => "page-types",
        }
    }
}

/// Whether something runs beside what it watches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Beside {
    /// It does.
    Runs,
    /// It does not.
    #[default]
    IsOff,
}

/// Which memory is looked at through `kmap_local` slots.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KmapLocal {
    /// What the direct map does not reach.
    #[default]
    Highmem,
    /// All, page by page: Linux's `CONFIG_DEBUG_KMAP_LOCAL_FORCE_MAP`.
    Always,
}

/// What pseudo-random sequences start from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seed(pub u64);

/// Which allocations of pages and of objects fail: Linux's words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultWords {
    /// `fail_page_alloc=`.
    pub page_alloc: Option<FaultAttr>,
    /// `failslab=`.
    pub slab: Option<FaultAttr>,
}

/// The command line's words, each with its default where it is not given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandLine {
    /// `run=`: what to do.
    pub run: Run,
    /// `filter=`, `exact=`, `after=`: with which tests or benchmarks.
    pub selection: Selection,
    /// `seed=`: what randomness starts from; 0 by default.
    pub seed: Seed,
    /// `lowmem=`: where the direct map is to end; by default where memory does.
    pub lowmem: Option<PhysAddr>,
    /// `kmap_local=always`: whether slots serve for all memory, in kernels with checks; by default for highmem alone.
    pub kmap_local: KmapLocal,
    /// `numa=fake=`: into how many nodes memory is split; by default not at all.
    pub nodes: Option<NonZeroU8>,
    /// `nr_cpus=`: how many CPUs there may be; by default all that firmware lists.
    pub cpus: Option<NonZeroU16>,
    /// `memmap=`: what is to be reserved.
    pub reserved: Vec<Region>,
    /// `slub_debug`, `slub_debug=`: which caches are debugged, and how; none by default.
    pub slab_debug: SlabDebug,
    /// `page_poison=1`, `init_on_alloc=1`, `init_on_free=1`, `page_alloc.shuffle=1`, `slab_freelist_random=1`,
    /// `debug_pagealloc=on`: what is done to free memory; nothing by default.
    pub hardening: Hardening,
    /// `specification=on`: whether the page allocator's specification runs along, in kernels with checks; by default not.
    pub specification: Beside,
    /// `fail_page_alloc=`, `failslab=`: which allocations fail in the tests that are about that, in kernels with checks; by
    /// default as those tests like.
    pub faults: FaultWords,
    /// `check=`: after how many operations of a replay everything is checked; 50 000 by default, and at the end.
    pub check_every: NonZeroU64,
    /// `dump=`: the reports to print when all is done, in this order; none by default.
    pub dump: Vec<Report>,
}

/// A word that was left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ignored<'w> {
    /// The word.
    pub word: &'w str,
    /// Why.
    pub reason: Reason,
}

/// Why a word was left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// No such key.
    Unknown,
    /// The key stands twice; the first one counts.
    Twice,
    /// The value is empty.
    Empty,
    /// The value is none of the names that the key takes.
    NoSuchValue,
    /// There is no report of that name.
    NoSuchReport,
    /// The value is not a number that fits.
    NotANumber,
    /// The value is zero.
    Zero,
    /// A range without its `$`.
    NoDollar,
    /// A range that ends above the highest address.
    TooHigh,
    /// The text does not say which caches are debugged.
    SlabDebug(SlabDebugError),
    /// The text does not say which allocations fail.
    Faults(FaultAttrError),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SlabDebug(error) => return error.fmt(f),
            Self::Faults(error) => return error.fmt(f),
            Self::Unknown => "unknown word",
            Self::Twice => "given twice",
            Self::Empty => "no value",
            Self::NoSuchValue => "no such value",
            Self::NoSuchReport => "no such report",
            Self::NotANumber => "not a number that fits",
            Self::Zero => "must not be zero",
            Self::NoDollar => "a range is SIZE$START",
            Self::TooHigh => "ends above the highest address",
        })
    }
}

impl fmt::Display for Ignored<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ignored: {} ({})", self.word, self.reason)
    }
}

impl CommandLine {
    /// Parses `line`; every word that is left out goes to `ignored`.
    pub fn parse(line: &str, mut ignored: impl FnMut(Ignored<'_>)) -> Self {
        let mut words = Words::default();
        for word in line.split_whitespace() {
            let taken = match word.strip_prefix("dump=") {
                Some(names) => words.dump(names, &mut ignored),
                None => words.take(word),
            };
            if let Err(reason) = taken {
                ignored(Ignored { word, reason });
            }
        }
        let without_run = if words.dump.is_empty() { Run::default() } else { Run::Dump };
        Self {
            run: words.run.unwrap_or(without_run),
            selection: Selection {
                filter: words.filter.map(ToString::to_string),
                exact: words.exact.map(ToString::to_string),
                after: words.after.map(ToString::to_string),
            },
            seed: words.seed.unwrap_or_default(),
            lowmem: words.lowmem,
            kmap_local: words.kmap_local.unwrap_or_default(),
            nodes: words.nodes,
            cpus: words.cpus,
            reserved: words.reserved,
            slab_debug: words.slab_debug.unwrap_or(SlabDebug::NONE),
            hardening: words.hardening,
            specification: words.specification.unwrap_or_default(),
            faults: words.faults,
            check_every: words.check_every.unwrap_or(CHECK_EVERY),
            dump: words.dump,
        }
    }
}

/// Often enough to see about where a replay went wrong, and seldom enough to take less time than the replay.
const CHECK_EVERY: NonZeroU64 = NonZeroU64::new(50_000).unwrap();

/// The words so far, before defaults: what is there already may not come again.
#[derive(Default)]
struct Words<'l> {
    run: Option<Run>,
    filter: Option<&'l str>,
    exact: Option<&'l str>,
    after: Option<&'l str>,
    seed: Option<Seed>,
    lowmem: Option<PhysAddr>,
    kmap_local: Option<KmapLocal>,
    nodes: Option<NonZeroU8>,
    cpus: Option<NonZeroU16>,
    reserved: Vec<Region>,
    slab_debug: Option<SlabDebug>,
    hardening: Hardening,
    /// Those that were spoken of, if only to say no.
    hardening_given: Hardening,
    specification: Option<Beside>,
    faults: FaultWords,
    check_every: Option<NonZeroU64>,
    dump: Vec<Report>,
}

impl<'l> Words<'l> {
    fn take(&mut self, word: &'l str) -> Result<(), Reason> {
        // As in Linux, the word may stand alone.
        let word = if word == "slub_debug" { "slub_debug=" } else { word };
        let (key, value) = word.split_once('=').ok_or(Reason::Unknown)?;
        match key {
            "run" => once(&mut self.run, value::run(value)),
            "filter" => once(&mut self.filter, value::text(value)),
            "exact" => once(&mut self.exact, value::text(value)),
            "after" => once(&mut self.after, value::text(value)),
            "seed" => once(&mut self.seed, value::decimal(value).map(Seed)),
            "lowmem" => {
                once(&mut self.lowmem, value::size(value).and_then(value::non_zero).map(|end| PhysAddr(end.get())))
            }
            "kmap_local" => once(&mut self.kmap_local, value::kmap_local(value)),
            "numa" => once(&mut self.nodes, value::fake_nodes(value)),
            "nr_cpus" => once(&mut self.cpus, value::cpus(value)),
            "memmap" => self.reserve(value),
            "slub_debug" => once(&mut self.slab_debug, SlabDebug::parse(value).map_err(Reason::SlabDebug)),
            "page_poison" => self.harden(Hardening::PAGE_POISON, value),
            "init_on_alloc" => self.harden(Hardening::INIT_ON_ALLOC, value),
            "init_on_free" => self.harden(Hardening::INIT_ON_FREE, value),
            "page_alloc.shuffle" => self.harden(Hardening::SHUFFLE_PAGES, value),
            "slab_freelist_random" => self.harden(Hardening::SHUFFLE_OBJECTS, value),
            "debug_pagealloc" => self.harden(Hardening::DEBUG_PAGEALLOC, value),
            "specification" => once(&mut self.specification, value::beside(value)),
            "fail_page_alloc" => once(&mut self.faults.page_alloc, value.parse().map_err(Reason::Faults)),
            "failslab" => once(&mut self.faults.slab, value.parse().map_err(Reason::Faults)),
            "check" => once(&mut self.check_every, value::decimal(value).and_then(value::non_zero)),
            _ => Err(Reason::Unknown),
        }
    }

    /// Takes a measure, or says that it is not taken. Linux, too, reads both as numbers and as words.
    fn harden(&mut self, measure: Hardening, value: &str) -> Result<(), Reason> {
        if self.hardening_given.contains(measure) {
            return Err(Reason::Twice);
        }
        match value {
            "1" | "on" => self.hardening |= measure,
            "0" | "off" => {}
            _ => return Err(Reason::NoSuchValue),
        }
        self.hardening_given |= measure;
        Ok(())
    }

    /// Takes the reports that are named, each once; the word, too, may come again. Names of none go to `ignored`.
    fn dump(&mut self, names: &'l str, ignored: &mut impl FnMut(Ignored<'l>)) -> Result<(), Reason> {
        for name in value::text(names)?.split(',') {
            let named = |report: &Report| name == "all" || name == report.name();
            let before = self.dump.len();
            let mut known = false;
            for report in Report::ALL.into_iter().filter(named) {
                known = true;
                if !self.dump[..before].contains(&report) {
                    self.dump.push(report);
                }
            }
            if !known {
                ignored(Ignored { word: name, reason: Reason::NoSuchReport });
            }
        }
        Ok(())
    }

    /// Takes all ranges of the word, or none. Linux, too, lets the word come again and adds up.
    fn reserve(&mut self, value: &str) -> Result<(), Reason> {
        let ranges: Vec<Region> = value.split(',').map(value::range).collect::<Result<_, _>>()?;
        self.reserved.extend(ranges);
        Ok(())
    }
}

fn once<T>(place: &mut Option<T>, value: Result<T, Reason>) -> Result<(), Reason> {
    if place.is_some() {
        return Err(Reason::Twice);
    }
    *place = Some(value?);
    Ok(())
}
