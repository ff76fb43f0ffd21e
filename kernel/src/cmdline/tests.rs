//! Command lines as people and boot loaders write them.

use alloc::string::String;
use alloc::vec;

use mm::boot_map::RegionKind;
use mm::faults::FaultField;
use mm::units::NodeId;

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
        for (value, taken) in [("1", measure), ("on", measure), ("0", Hardening::empty()), ("off", Hardening::empty())]
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
            selection: Selection { filter: Some("order".into()), exact: Some("a/b".into()), after: Some("a/a".into()) },
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
