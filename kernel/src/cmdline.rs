//! The kernel's command line: space-separated words of the form `key=value`.
//!
//! Parsing cannot fail: a word that is unknown or malformed is told to the caller, with the reason, and left out. Of
//! `dump=`, only the names are left out that there is no report of.

use alloc::string::ToString;
use alloc::vec::Vec;
use core::fmt;
use core::num::{NonZeroU8, NonZeroU16, NonZeroU64};

use mm::boot_map::{Region, RegionKind};
use mm::faults::{FaultAttr, FaultAttrError};
use mm::hardening::Hardening;
use mm::slab::{SlabDebug, SlabDebugError};
use mm::units::{NodeId, PhysAddr};

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
            "run" => once(&mut self.run, run(value)),
            "filter" => once(&mut self.filter, text(value)),
            "exact" => once(&mut self.exact, text(value)),
            "after" => once(&mut self.after, text(value)),
            "seed" => once(&mut self.seed, decimal(value).map(Seed)),
            "lowmem" => once(&mut self.lowmem, size(value).and_then(non_zero).map(|end| PhysAddr(end.get()))),
            "kmap_local" => once(&mut self.kmap_local, kmap_local(value)),
            "numa" => once(&mut self.nodes, fake_nodes(value)),
            "nr_cpus" => once(&mut self.cpus, cpus(value)),
            "memmap" => self.reserve(value),
            "slub_debug" => once(&mut self.slab_debug, SlabDebug::parse(value).map_err(Reason::SlabDebug)),
            "page_poison" => self.harden(Hardening::PAGE_POISON, value),
            "init_on_alloc" => self.harden(Hardening::INIT_ON_ALLOC, value),
            "init_on_free" => self.harden(Hardening::INIT_ON_FREE, value),
            "page_alloc.shuffle" => self.harden(Hardening::SHUFFLE_PAGES, value),
            "slab_freelist_random" => self.harden(Hardening::SHUFFLE_OBJECTS, value),
            "debug_pagealloc" => self.harden(Hardening::DEBUG_PAGEALLOC, value),
            "specification" => once(&mut self.specification, beside(value)),
            "fail_page_alloc" => once(&mut self.faults.page_alloc, value.parse().map_err(Reason::Faults)),
            "failslab" => once(&mut self.faults.slab, value.parse().map_err(Reason::Faults)),
            "check" => once(&mut self.check_every, decimal(value).and_then(non_zero)),
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
        for name in text(names)?.split(',') {
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
        let ranges: Vec<Region> = value.split(',').map(range).collect::<Result<_, _>>()?;
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

fn kmap_local(value: &str) -> Result<KmapLocal, Reason> {
    match value {
        "always" => Ok(KmapLocal::Always),
        "highmem" => Ok(KmapLocal::Highmem),
        _ => Err(Reason::NoSuchValue),
    }
}

fn run(value: &str) -> Result<Run, Reason> {
    match value {
        "list" => Ok(Run::List),
        "test" => Ok(Run::Test),
        "bench" => Ok(Run::Bench),
        "replay" => Ok(Run::Replay),
        _ => Err(Reason::NoSuchValue),
    }
}

fn beside(value: &str) -> Result<Beside, Reason> {
    match value {
        "on" => Ok(Beside::Runs),
        "off" => Ok(Beside::IsOff),
        _ => Err(Reason::NoSuchValue),
    }
}

fn text(value: &str) -> Result<&str, Reason> {
    if value.is_empty() { Err(Reason::Empty) } else { Ok(value) }
}

fn fake_nodes(value: &str) -> Result<NonZeroU8, Reason> {
    let count = value.strip_prefix("fake=").ok_or(Reason::NoSuchValue)?;
    let count = u8::try_from(decimal(count)?).map_err(|_| Reason::NotANumber)?;
    NonZeroU8::new(count).ok_or(Reason::Zero)
}

fn cpus(value: &str) -> Result<NonZeroU16, Reason> {
    let count = u16::try_from(decimal(value)?).map_err(|_| Reason::NotANumber)?;
    NonZeroU16::new(count).ok_or(Reason::Zero)
}

fn range(value: &str) -> Result<Region, Reason> {
    let (length, start) = value.split_once('$').ok_or(Reason::NoDollar)?;
    let length = non_zero(size(length)?)?;
    let start = size(start)?;
    start.checked_add(length.get()).ok_or(Reason::TooHigh)?;
    Ok(Region { start: PhysAddr(start), len: length.get(), kind: RegionKind::Reserved, node: NodeId(0) })
}

fn non_zero(value: u64) -> Result<NonZeroU64, Reason> {
    NonZeroU64::new(value).ok_or(Reason::Zero)
}

fn decimal(value: &str) -> Result<u64, Reason> {
    digits(value, 10)
}

/// Decimal, or hexadecimal behind `0x`, with K, M or G for its binary thousands.
fn size(value: &str) -> Result<u64, Reason> {
    let (number, shift) = match value.as_bytes().last() {
        Some(b'K' | b'k') => (&value[..value.len() - 1], 10),
        Some(b'M' | b'm') => (&value[..value.len() - 1], 20),
        Some(b'G' | b'g') => (&value[..value.len() - 1], 30),
        _ => (value, 0),
    };
    let number = match number.strip_prefix("0x") {
        Some(number) => digits(number, 16)?,
        None => digits(number, 10)?,
    };
    number.checked_mul(1 << shift).ok_or(Reason::NotANumber)
}

/// `from_str_radix` takes a sign, too; a number of ours has none.
fn digits(value: &str, radix: u32) -> Result<u64, Reason> {
    if value.is_empty() {
        return Err(Reason::Empty);
    }
    if value.starts_with('+') {
        return Err(Reason::NotANumber);
    }
    u64::from_str_radix(value, radix).map_err(|_| Reason::NotANumber)
}

#[cfg(test)]
mod tests {
    use alloc::string::String;
    use alloc::vec;

    use mm::faults::FaultField;

    use super::*;

    fn parse(line: &str) -> (CommandLine, Vec<(String, Reason)>) {
        let mut ignored = Vec::new();
        let parsed = CommandLine::parse(line, |word| ignored.push((word.word.to_string(), word.reason)));
        (parsed, ignored)
    }

    fn reserved(start: u64, end: u64) -> Region {
        Region { start: PhysAddr(start), len: end - start, kind: RegionKind::Reserved, node: NodeId(0) }
    }

    fn defaults() -> CommandLine {
        CommandLine {
            run: Run::Test,
            selection: Selection::default(),
            seed: Seed(0),
            lowmem: None,
            kmap_local: KmapLocal::Highmem,
            nodes: None,
            cpus: None,
            reserved: Vec::new(),
            slab_debug: SlabDebug::NONE,
            hardening: Hardening::empty(),
            specification: Beside::IsOff,
            faults: FaultWords::default(),
            check_every: NonZeroU64::new(50_000).unwrap(),
            dump: Vec::new(),
        }
    }

    #[test]
    fn a_measure_is_taken_or_not_and_neither_half_nor_twice() {
        let measures = [
            ("page_poison", Hardening::PAGE_POISON),
            ("init_on_alloc", Hardening::INIT_ON_ALLOC),
            ("init_on_free", Hardening::INIT_ON_FREE),
            ("page_alloc.shuffle", Hardening::SHUFFLE_PAGES),
            ("slab_freelist_random", Hardening::SHUFFLE_OBJECTS),
            ("debug_pagealloc", Hardening::DEBUG_PAGEALLOC),
        ];
        for (word, measure) in measures {
            for (value, taken) in
                [("1", measure), ("on", measure), ("0", Hardening::empty()), ("off", Hardening::empty())]
            {
                let (parsed, ignored) = parse(&alloc::format!("{word}={value}"));
                assert_eq!((parsed.hardening, ignored), (taken, Vec::new()), "{word}={value}");
                let (parsed, ignored) = parse(&alloc::format!("{word}={value} {word}=1"));
                assert_eq!((parsed.hardening, ignored), (taken, vec![(alloc::format!("{word}=1"), Reason::Twice)]));
            }
            for value in ["", "2", "yes", "On", "1,1"] {
                let line = alloc::format!("{word}={value}");
                let (parsed, ignored) = parse(&line);
                assert_eq!((parsed.hardening, ignored), (Hardening::empty(), vec![(line, Reason::NoSuchValue)]));
            }
        }
    }

    #[test]
    fn an_empty_line_runs_every_test() {
        let (parsed, ignored) = parse("  \n ");
        assert_eq!(parsed, defaults());
        assert_eq!(parsed.run, Run::Test);
        assert!(ignored.is_empty());
    }

    #[test]
    fn every_word_of_a_full_line_arrives() {
        let (parsed, ignored) = parse(
            "run=replay filter=order exact=a/b after=a/a seed=18446744073709551615 lowmem=64M numa=fake=2 nr_cpus=3 check=1000 \
             memmap=4K$0x10000,0x1M$3G memmap=1$5 dump=meminfo \
             slub_debug=FZ;-,kmalloc-* specification=on kmap_local=always fail_page_alloc=7,30,100,-1 \
             failslab=1,100,0,3 page_poison=1 init_on_alloc=on init_on_free=0",
        );
        assert_eq!(
            parsed,
            CommandLine {
                run: Run::Replay,
                selection: Selection {
                    filter: Some("order".into()),
                    exact: Some("a/b".into()),
                    after: Some("a/a".into())
                },
                seed: Seed(u64::MAX),
                lowmem: Some(PhysAddr(64 << 20)),
                kmap_local: KmapLocal::Always,
                nodes: NonZeroU8::new(2),
                cpus: NonZeroU16::new(3),
                reserved: vec![reserved(0x1_0000, 0x1_1000), reserved(3 << 30, (3 << 30) + (1 << 20)), reserved(5, 6)],
                slab_debug: SlabDebug::parse("FZ;-,kmalloc-*").unwrap(),
                hardening: Hardening::PAGE_POISON | Hardening::INIT_ON_ALLOC,
                specification: Beside::Runs,
                faults: FaultWords { page_alloc: "7,30,100,-1".parse().ok(), slab: "1,100,0,3".parse().ok() },
                check_every: NonZeroU64::new(1000).unwrap(),
                dump: vec![Report::Meminfo],
            }
        );
        assert!(ignored.is_empty());
    }

    #[test]
    fn every_malformed_word_is_reported_and_the_rest_still_counts() {
        let malformed = [
            ("quiet", Reason::Unknown),
            ("root=/dev/sda", Reason::Unknown),
            ("run=fly", Reason::NoSuchValue),
            ("filter=", Reason::Empty),
            ("seed=-1", Reason::NotANumber),
            ("seed=+1", Reason::NotANumber),
            ("seed=18446744073709551616", Reason::NotANumber),
            ("specification=yes", Reason::NoSuchValue),
            ("kmap_local=never", Reason::NoSuchValue),
            ("lowmem=", Reason::Empty),
            ("lowmem=M", Reason::Empty),
            ("lowmem=0", Reason::Zero),
            ("lowmem=0x", Reason::Empty),
            ("lowmem=64Q", Reason::NotANumber),
            ("lowmem=64é", Reason::NotANumber),
            ("lowmem=17179869184G", Reason::NotANumber),
            ("numa=fake=0", Reason::Zero),
            ("numa=fake=256", Reason::NotANumber),
            ("numa=on", Reason::NoSuchValue),
            ("nr_cpus=0", Reason::Zero),
            ("nr_cpus=65536", Reason::NotANumber),
            ("memmap=", Reason::NoDollar),
            ("memmap=4K", Reason::NoDollar),
            ("memmap=4K@8K", Reason::NoDollar),
            ("memmap=4K$8K,0$1", Reason::Zero),
            ("memmap=4K$0xfffffffffffffff0", Reason::TooHigh),
            ("check=0", Reason::Zero),
            ("fail_page_alloc=1,100,0", Reason::Faults(FaultAttrError::NotFour)),
            ("fail_page_alloc=", Reason::Faults(FaultAttrError::NotFour)),
            ("failslab=1,101,0,-1", Reason::Faults(FaultAttrError::TooProbable)),
            ("failslab=1,x,0,-1", Reason::Faults(FaultAttrError::NotANumber(FaultField::Probability))),
            ("dump=", Reason::Empty),
            ("slub_debug=FX", Reason::SlabDebug(SlabDebugError::NoSuchFlag('X'))),
        ];
        for (word, reason) in malformed {
            let (parsed, ignored) = parse(&alloc::format!("{word} run=bench"));
            assert_eq!(ignored, [(word.to_string(), reason)]);
            assert_eq!(parsed, CommandLine { run: Run::Bench, ..defaults() }, "{word}");
        }
    }

    #[test]
    fn reports_are_named_in_any_order_each_counts_once_and_all_is_every_one_of_them() {
        let dump = |line| {
            let (parsed, ignored) = parse(line);
            assert!(ignored.is_empty(), "{line}: {ignored:?}");
            parsed.dump
        };
        assert_eq!(dump("dump=meminfo,buddyinfo"), [Report::Meminfo, Report::Buddyinfo]);
        assert_eq!(dump("dump=vmstat,vmstat dump=zoneinfo,vmstat"), [Report::Vmstat, Report::Zoneinfo]);
        assert_eq!(dump("dump=all"), Report::ALL);
        assert_eq!(dump("dump=meminfo,all,all")[0], Report::Meminfo);
        assert_eq!(dump("dump=meminfo,all,all").len(), Report::ALL.len());
    }

    #[test]
    fn a_report_that_there_is_none_of_is_named_by_itself_and_the_others_still_count() {
        let (parsed, ignored) = parse("run=bench dump=meminfos,vmstat,,ALL");
        assert_eq!(parsed, CommandLine { run: Run::Bench, dump: vec![Report::Vmstat], ..defaults() });
        let unknown = ["meminfos", "", "ALL"].map(|name| (name.to_string(), Reason::NoSuchReport));
        assert_eq!(ignored, unknown);
    }

    #[test]
    fn reports_without_a_run_are_all_that_is_printed() {
        assert_eq!(parse("dump=vmstat").0.run, Run::Dump);
        assert_eq!(parse("dump=vmstat run=test").0.run, Run::Test);
        assert_eq!(parse("dump=nothing").0.run, Run::Test);
        assert_eq!(parse("run=fly dump=vmstat").0.run, Run::Dump);
    }

    #[test]
    fn of_two_like_words_the_first_counts_and_the_second_is_reported() {
        let (parsed, ignored) = parse("run=list run=bench seed=1 seed=2");
        assert_eq!((parsed.run, parsed.seed), (Run::List, Seed(1)));
        assert_eq!(ignored, [("run=bench".into(), Reason::Twice), ("seed=2".into(), Reason::Twice)]);
    }

    #[test]
    fn slub_debug_alone_is_all_that_is_usual_for_every_cache() {
        for line in ["slub_debug", "slub_debug=", "slub_debug=FZPU"] {
            let (parsed, ignored) = parse(line);
            assert_eq!(parsed.slab_debug, SlabDebug::parse("FZPU").unwrap(), "{line}");
            assert!(ignored.is_empty());
        }
        assert_eq!(parse("slub_debug slub_debug=F").1, [("slub_debug=F".into(), Reason::Twice)]);
    }

    #[test]
    fn a_report_reads_as_the_protocol_says() {
        let mut line = String::new();
        CommandLine::parse("run=fly", |word| line = word.to_string());
        assert_eq!(line, "ignored: run=fly (no such value)");
    }
}
