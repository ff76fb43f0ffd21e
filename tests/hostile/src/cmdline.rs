//! Command lines: any text, as the kernel makes it of the host's bytes.
//!
//! What is understood can be said again in a line of which no word is left out.

use std::fmt::Write as _;

use kernel_core::cmdline::{Beside, CommandLine, KmapLocal, Run};
use mm::boot_map::RegionKind;
use mm::hardening::Hardening;
use mm::slab::SlabDebug;

/// See the module.
pub fn check(bytes: &[u8]) {
    let line = String::from_utf8_lossy(bytes);
    let mut ignored = 0;
    let parsed = CommandLine::parse(&line, |word| {
        assert!(line.contains(word.word));
        assert!(word.to_string().starts_with("ignored: "));
        ignored += 1;
    });
    assert!(ignored <= line.split_whitespace().count() + line.matches(',').count());
    for region in &parsed.reserved {
        assert!(region.kind == RegionKind::Reserved && region.len > 0, "{region}");
        assert!(region.start.0.checked_add(region.len).is_some(), "{region}");
    }
    let again = CommandLine::parse(&said(&parsed, &line), |word| panic!("{word} of {parsed:?}"));
    assert_eq!(again, parsed);
}

fn said(words: &CommandLine, line: &str) -> String {
    let mut said = format!("seed={} check={}", words.seed.0, words.check_every);
    let mut add = |key: &str, value: Option<String>| {
        if let Some(value) = value {
            write!(said, " {key}={value}").expect("a string takes all");
        }
    };
    let run = match words.run {
        Run::List => Some("list"),
        Run::Test => Some("test"),
        Run::Bench => Some("bench"),
        Run::Replay => Some("replay"),
        Run::Dump => None,
    };
    add("run", run.map(str::to_owned));
    add("filter", words.selection.filter.clone());
    add("exact", words.selection.exact.clone());
    add("after", words.selection.after.clone());
    add("lowmem", words.lowmem.map(|end| end.0.to_string()));
    add("kmap_local", (words.kmap_local == KmapLocal::Always).then(|| "always".to_owned()));
    add("specification", (words.specification == Beside::Runs).then(|| "on".to_owned()));
    add("numa", words.nodes.map(|nodes| format!("fake={nodes}")));
    add("nr_cpus", words.cpus.map(|cpus| cpus.to_string()));
    for region in &words.reserved {
        add("memmap", Some(format!("{}${:#x}", region.len, region.start.0)));
    }
    add("fail_page_alloc", words.faults.page_alloc.map(|attr| attr.to_string()));
    add("failslab", words.faults.slab.map(|attr| attr.to_string()));
    for report in &words.dump {
        add("dump", Some(report.name().to_owned()));
    }
    for (word, measure) in [
        ("page_poison", Hardening::PAGE_POISON),
        ("init_on_alloc", Hardening::INIT_ON_ALLOC),
        ("init_on_free", Hardening::INIT_ON_FREE),
        ("page_alloc.shuffle", Hardening::SHUFFLE_PAGES),
        ("slab_freelist_random", Hardening::SHUFFLE_OBJECTS),
        ("debug_pagealloc", Hardening::DEBUG_PAGEALLOC),
    ] {
        add(word, words.hardening.contains(measure).then(|| "1".to_owned()));
    }
    add("slub_debug", slab_debug(line).map(str::to_owned));
    said
}

/// The first text that says which caches are debugged: what is kept of it says it no more.
fn slab_debug(line: &str) -> Option<&str> {
    let text = |word: &'_ str| if word == "slub_debug" { Some("") } else { None };
    let texts = line.split_whitespace().filter_map(|word| text(word).or(word.strip_prefix("slub_debug=")));
    texts.into_iter().find(|text| SlabDebug::parse(text).is_ok())
}
