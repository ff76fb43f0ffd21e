//! Reports on memory, read by programs that were written for Linux's files and know of nothing else.
//!
//! Those look in `/proc` only, so a second process, in a mount namespace of its own, puts our reports where Linux's
//! are. Where the host grants no such namespace, there is nothing to test with, and the test says so.

use std::fmt::Display;
use std::num::NonZeroU16;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use mm::OwnerKind;
use mm::boot_map::{BootMap, Region, RegionKind};
use mm::host::HostMachine;
use mm::machine::{Geometry, Standard};
use mm::page::{PageAllocator, Request};
use mm::report::{BuddyInfo, ByOwner, MemInfo, PageTypeInfo, Pages, SlabInfo, Totals, Usage, VmStat, ZoneInfo};
use mm::slab::{CacheReport, CacheSpec, KmemCaches};
use mm::units::{Bytes, NodeId, Order, Pfn, PhysAddr};
use mm::zone::{ZoneKind, ZoneReport};

const MAX_ORDER: Order = Standard::MAX_ORDER;
const MIB: u64 = 1 << 20;

#[test]
#[cfg_attr(miri, ignore = "an interpreter starts no processes")]
fn readers_of_linuxs_files_read_ours() {
    let namespace = ["--user", "--map-root-user", "--mount"];
    let mut trial = Command::new("unshare");
    trial.args(namespace).args(["mount", "--bind", "/proc/version", "/proc/meminfo"]);
    match trial.output() {
        Ok(output) if output.status.success() => {}
        refused => {
            eprintln!("not tested, no mounts in a namespace of one's own on this host: {refused:?}");
            return;
        }
    }
    let program = env::current_exe().expect("a test has a program");
    let mut inside = Command::new("unshare");
    inside.args(namespace).arg(program).args([
        "--ignored",
        "--exact",
        "reports::inside_a_namespace_of_its_own",
        "--nocapture",
    ]);
    inside.env(OUTSIDE, mount_namespace());
    let output = inside.output().expect("it ran before");
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

/// Where the inner process learns in which namespace it must not be.
const OUTSIDE: &str = "MM_REPORTS_OUTSIDE";

fn mount_namespace() -> PathBuf {
    fs::read_link("/proc/self/ns/mnt").expect("Linux names it")
}

#[test]
#[ignore = "mounts files in /proc: the other test runs it where that harms nobody"]
fn inside_a_namespace_of_its_own() {
    let outside = env::var_os(OUTSIDE).expect("the other test runs this one");
    assert_ne!(mount_namespace(), PathBuf::from(outside), "these mounts would be everybody's");
    // Two nodes, a direct map that ends inside the first, blocks of every order in use.
    let pfn = |address| Pfn::containing(PhysAddr(address)).expect("low");
    let machine = HostMachine::<Standard>::new(pfn(256 * MIB), pfn(65 * MIB), NonZeroU16::MIN).expect("memory");
    let usable = |start, node| Region { start: PhysAddr(start), len: 128 * MIB, kind: RegionKind::Usable, node };
    let regions = [usable(0, NodeId(0)), usable(128 * MIB, NodeId(1))];
    let mut map: BootMap = BootMap::new(&regions).expect("the regions make a map");
    let allocator = machine.allocator(&mut map).expect("the tables fit");
    let requests = (0..=MAX_ORDER.index()).map(|order| Request::new(Order::of(order)).up_to(ZoneKind::Normal));
    let blocks: Vec<_> = requests.map(|request| allocator.alloc(request).expect("there is room")).collect();

    let of = |highmem| Totals::of(allocator.zones().filter(move |zone| (zone.kind == ZoneKind::Highmem) == highmem));
    let caches = KmemCaches::new(&allocator).expect("there is room");
    let cache = caches.create(CacheSpec::new("a cache", 320)).expect("there is room");
    let objects: Vec<_> = (0..100).map(|_| cache.alloc().expect("there is room")).collect();
    let usage = Usage {
        lowmem: of(false),
        highmem: of(true),
        allocated: ByOwner::new(|kind| Pages(if kind == OwnerKind::Slab { 20 } else { 30 })),
        metadata: allocator.metadata(),
        descriptors: ByOwner::new(|_| Bytes(561)),
    };
    let directory = env::temp_dir().join(format!("mm-reports-{}", std::process::id()));
    fs::create_dir(&directory).expect("a directory of one's own");
    mount(&directory, "buddyinfo", &BuddyInfo::new(MAX_ORDER, allocator.zones()));
    let pagetypeinfo = PageTypeInfo::new(MAX_ORDER, Standard::PAGEBLOCK_ORDER, allocator.pageblocks());
    mount(&directory, "pagetypeinfo", &pagetypeinfo);
    mount(&directory, "zoneinfo", &ZoneInfo::new(allocator.zones()));
    mount(&directory, "vmstat", &VmStat(usage, allocator.numa_events().map(|(_, events)| events).sum()));
    mount(&directory, "meminfo", &MemInfo(usage));
    mount(&directory, "slabinfo", &SlabInfo::new(|look| caches.for_each_report(look)));
    fs::remove_dir_all(&directory).expect("what is mounted stays");

    let mut zones: Vec<_> = allocator.zones().collect();
    zones.sort_by_key(|zone| (zone.node, zone.kind));
    assert_eq!(zones.len(), 3);
    procfs2_reads_zones(&zones);
    procfs2_reads_types(&allocator, &zones);
    procfs2_reads_usage(&usage);
    procps_reads(&usage, &cache.report());
    drop((objects, blocks));
}

/// Puts a report in the place of Linux's file.
fn mount(directory: &Path, name: &str, report: &impl Display) {
    let ours = directory.join(name);
    fs::write(&ours, report.to_string()).expect("the directory is ours");
    rustix::mount::mount_bind(&ours, Path::new("/proc").join(name)).expect("the namespace is ours");
}

fn procfs2_reads_zones(zones: &[ZoneReport]) {
    let read = procfs2::proc::buddyinfo::buddyinfo().expect("it is a buddyinfo");
    assert_eq!(read.len(), zones.len());
    for (read, zone) in read.iter().zip(zones) {
        let blocks: Vec<_> = (0..=MAX_ORDER.index()).map(|order| u64::from(zone.blocks_of(Order::of(order)))).collect();
        assert_eq!((read.node, &*read.zone, &read.free_lists), (zone.node.0.into(), zone.kind.name(), &blocks));
    }
    let read = procfs2::proc::zoneinfo::zoneinfo().expect("it is a zoneinfo");
    assert_eq!(read.len(), zones.len());
    for (read, zone) in read.iter().zip(zones) {
        assert_eq!((read.node, &*read.name), (zone.node.0.into(), zone.kind.name()));
        let pages = [read.pages.free, read.pages.spanned, read.pages.present, read.pages.managed];
        assert_eq!(pages, [zone.free - zone.cached, zone.span.pages(), zone.present, zone.managed].map(u64::from));
        assert_eq!(read.stats["nr_freelist_nodes"], u64::from(zone.nodes));
        assert_eq!(read.start_pfn, u64::from(zone.span.start.number()));
    }
}

fn procfs2_reads_types(allocator: &PageAllocator<'_, HostMachine<Standard>>, zones: &[ZoneReport]) {
    let read = procfs2::proc::pagetypeinfo::pagetypeinfo().expect("it is a pagetypeinfo");
    assert_eq!((read.page_block_order, read.pages_per_block), (9, 512));
    assert_eq!(read.free.len(), 4 * zones.len());
    for (read, zone) in read.free.chunks(4).zip(zones) {
        assert_eq!(
            read.iter().map(|read| &*read.migrate_type).collect::<Vec<_>>(),
            ["Unmovable", "Movable", "Reclaimable", "HighAtomic"]
        );
        for (read, blocks) in read.iter().zip(zone.blocks) {
            assert_eq!((&*read.zone, &read.orders[..]), (zone.kind.name(), &blocks.map(u64::from)[..]));
        }
    }
    let mut pageblocks: Vec<_> = allocator.pageblocks().collect();
    pageblocks.sort_by_key(|report| (report.zone.node, report.zone.kind));
    for (read, report) in read.blocks.iter().zip(&pageblocks) {
        assert_eq!(read.types, report.pageblocks.map(u64::from));
    }
    assert!(read.blocks.len() == 3 && read.blocks[0].types[0] > 0, "{read:?}");
}

fn procfs2_reads_usage(usage: &Usage) {
    let read = procfs2::proc::vmstat::vmstat().expect("it is a vmstat");
    assert_eq!(read["nr_free_pages"], usage.lowmem.free.0 + usage.highmem.free.0);
    assert_eq!((read["nr_page_table_pages"], read["nr_slab_pages"]), (30, 20));
    let read = procfs2::proc::meminfo::MemInfo::current().expect("it is a meminfo");
    assert_eq!(read.total.0, (usage.lowmem.managed.0 + usage.highmem.managed.0) * 4);
    assert_eq!(read.page_tables.0, 120);
}

/// `free` and `slabtop`, where they are installed.
fn procps_reads(usage: &Usage, cache: &CacheReport) {
    if let Ok(output) = Command::new("free").arg("--kibi").output() {
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let memory = said.lines().find_map(|line| line.strip_prefix("Mem:")).expect("free has a line for memory");
        let total = (usage.lowmem.managed.0 + usage.highmem.managed.0) * 4;
        let free = (usage.lowmem.free.0 + usage.highmem.free.0) * 4;
        let numbers: Vec<u64> = memory.split_whitespace().map(|number| number.parse().expect("a number")).collect();
        assert_eq!((numbers[0], numbers[2]), (total, free), "{said}");
    }
    if let Ok(output) = Command::new("slabtop").args(["--once", "--sort=o"]).output() {
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let line = said.lines().find(|line| line.trim_end().ends_with(" a_cache")).unwrap_or_else(|| panic!("{said}"));
        let words: Vec<_> = line.split_whitespace().collect();
        let numbers =
            [cache.objects, cache.active, cache.slabs, cache.objects_per_slab].map(|count| count.0.to_string());
        assert_eq!([words[0], words[1], words[4], words[5]], numbers, "{said}");
        assert!(cache.active.0 >= 100, "{said}");
    }
}
