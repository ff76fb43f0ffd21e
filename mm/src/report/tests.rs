//! Reports against what Linux prints for the same numbers, and against a reader of its files.

use core::num::NonZeroU16;
use std::string::{String, ToString};
use std::vec;
use std::vec::Vec;

use procfs_core::{FromBufRead, Meminfo};

use super::{
    BuddyInfo, ByOwner, MemInfo, NumaStat, PageTypeInfo, PageTypes, Pages, SlabInfo, Totals, Usage, VmStat, ZoneInfo,
};
use crate::boot_map::{BootMap, Region, RegionKind};
use crate::host::HostMachine;
use crate::machine::{Geometry, Standard};
use crate::migratetype::Migratetype;
use crate::owner::Owners;
use crate::page::{NumaEvents, PageblockReport, Request};
use crate::slab::{CacheName, CacheReport, CacheSpec, KmemCaches};
use crate::units::{Bytes, Count, NodeId, Order, Pfn, PfnRange, PhysAddr, ZoneId};
use crate::zone::{Watermarks, ZoneKind, ZoneReport};
use crate::{MetadataBytes, OwnerKind};

const MAX_ORDER: Order = <Standard as Geometry>::MAX_ORDER;
const PAGEBLOCK_ORDER: Order = <Standard as Geometry>::PAGEBLOCK_ORDER;
const NOTHING: [[u32; Order::LIMIT.index() + 1]; Migratetype::ALL.len()] = [[0; 11]; 4];

fn zone(id: u8, node: u8, kind: ZoneKind, span: (u32, u32)) -> ZoneReport {
    ZoneReport {
        id: ZoneId(id),
        node: NodeId(node),
        kind,
        span: PfnRange::new(Pfn::new(span.0), Pfn::new(span.1)),
        present: 0,
        managed: 0,
        free: 0,
        cached: 0,
        nodes: 0,
        peak_nodes: 0,
        watermarks: Watermarks::default(),
        blocks: NOTHING,
    }
}

/// Two nodes in the order of the allocator's table: the first with highmem, the second with a zone all of whose
/// memory went to descriptors, and one without a page.
fn machine() -> Vec<ZoneReport> {
    let highmem = ZoneReport {
        present: 1_048_576,
        managed: 1_048_576,
        free: 772_917,
        nodes: 11,
        peak_nodes: 805,
        blocks: [
            [1, 2, 4, 2, 5, 4, 3, 3, 4, 2, 752],
            [7202, 1964, 898, 516, 280, 2692, 1760, 1413, 829, 465, 3645],
            [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1_234_567],
            [0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 8],
        ],
        watermarks: Watermarks { min: 128, low: 160, high: 192, protection: [0; 3] },
        ..zone(0, 0, ZoneKind::Highmem, (0x4000, 0x10_4000))
    };
    let lowmem = ZoneReport {
        present: 16_286,
        managed: 15_000,
        free: 3,
        blocks: [[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], [0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0], [0; 11], [0; 11]],
        ..zone(1, 0, ZoneKind::Dma32, (1, 0x4000))
    };
    let all_carved = ZoneReport { present: 512, ..zone(2, 1, ZoneKind::Normal, (0x10_4000, 0x10_4200)) };
    let no_memory = zone(3, 1, ZoneKind::Dma32, (0, 0));
    vec![highmem, lowmem, all_carved, no_memory]
}

/// These values, and nothing of the other kinds.
fn by_owner<T: Copy>(values: &[(OwnerKind, T)], nothing: T) -> ByOwner<T> {
    ByOwner::new(|kind| values.iter().find(|(other, _)| *other == kind).map_or(nothing, |&(_, value)| value))
}

/// A machine with this much lowmem, of which nobody has a page.
fn unused(lowmem: Totals) -> Usage {
    Usage {
        lowmem,
        highmem: Totals::default(),
        allocated: ByOwner::new(|_| Pages(0)),
        metadata: MetadataBytes::default(),
        descriptors: ByOwner::new(|_| Bytes(0)),
    }
}

fn usage() -> Usage {
    Usage {
        lowmem: Totals::of(machine().into_iter().filter(|zone| zone.kind != ZoneKind::Highmem)),
        highmem: Totals::of(machine().into_iter().filter(|zone| zone.kind == ZoneKind::Highmem)),
        allocated: by_owner(
            &[
                (OwnerKind::Plain, Pages(290_000)),
                (OwnerKind::Folio, Pages(500)),
                (OwnerKind::Slab, Pages(100)),
                (OwnerKind::PageTable, Pages(40)),
                (OwnerKind::CompressedStore, Pages(7)),
                (OwnerKind::PerCpuArea, Pages(5)),
                (OwnerKind::KernelStack, Pages(4)),
                (OwnerKind::LargeKmalloc, Pages(1)),
                (OwnerKind::Poisoned, Pages(2)),
            ],
            Pages(0),
        ),
        metadata: MetadataBytes { descriptors: 17_039_360, tables: 8192, ..MetadataBytes::default() },
        descriptors: by_owner(
            &[(OwnerKind::Folio, Bytes(24_000)), (OwnerKind::Slab, Bytes(4_800)), (OwnerKind::PageTable, Bytes(1_281))],
            Bytes(0),
        ),
    }
}

#[test]
fn buddyinfo_has_linuxs_columns_and_trailing_space_and_zones_from_low_to_high() {
    assert_eq!(
        BuddyInfo::new(MAX_ORDER, machine().into_iter()).to_string(),
        "\
Node 0, zone    DMA32      1      1      0      0      0      0      0      0      0      0      0 
Node 0, zone  HighMem   7203   1966    902    519    285   2696   1763   1416    833    467 1238972 
Node 1, zone    DMA32      0      0      0      0      0      0      0      0      0      0      0 
Node 1, zone   Normal      0      0      0      0      0      0      0      0      0      0      0 
"
    );
}

#[test]
fn a_geometry_of_smaller_blocks_has_fewer_columns() {
    let lowmem = machine().into_iter().skip(1).take(1);
    let text = BuddyInfo::new(Order::of(1), lowmem).to_string();
    assert_eq!(text, "Node 0, zone    DMA32      1      1 \n");
}

#[test]
fn pagetypeinfo_repeats_its_tables_for_each_node_and_counts_beyond_linuxs_limit() {
    let pageblocks = |zone: ZoneReport| PageblockReport { pageblocks: [zone.managed >> 9, 7, 2, 1], zone };
    assert_eq!(
        PageTypeInfo::new(MAX_ORDER, PAGEBLOCK_ORDER, machine().into_iter().map(pageblocks)).to_string(),
        "\
Page block order: 9
Pages per block:  512

Free pages count per migrate type at order       0      1      2      3      4      5      6      7      8      9     10 
Node    0, zone    DMA32, type    Unmovable      1      0      0      0      0      0      0      0      0      0      0 
Node    0, zone    DMA32, type      Movable      0      1      0      0      0      0      0      0      0      0      0 
Node    0, zone    DMA32, type  Reclaimable      0      0      0      0      0      0      0      0      0      0      0 
Node    0, zone    DMA32, type   HighAtomic      0      0      0      0      0      0      0      0      0      0      0 
Node    0, zone  HighMem, type    Unmovable      1      2      4      2      5      4      3      3      4      2    752 
Node    0, zone  HighMem, type      Movable   7202   1964    898    516    280   2692   1760   1413    829    465   3645 
Node    0, zone  HighMem, type  Reclaimable      0      0      0      0      0      0      0      0      0      0 1234567 
Node    0, zone  HighMem, type   HighAtomic      0      0      0      1      0      0      0      0      0      0      8 

Number of blocks type     Unmovable      Movable  Reclaimable   HighAtomic 
Node 0, zone    DMA32           29            7            2            1 
Node 0, zone  HighMem         2048            7            2            1 
Page block order: 9
Pages per block:  512

Free pages count per migrate type at order       0      1      2      3      4      5      6      7      8      9     10 
Node    1, zone    DMA32, type    Unmovable      0      0      0      0      0      0      0      0      0      0      0 
Node    1, zone    DMA32, type      Movable      0      0      0      0      0      0      0      0      0      0      0 
Node    1, zone    DMA32, type  Reclaimable      0      0      0      0      0      0      0      0      0      0      0 
Node    1, zone    DMA32, type   HighAtomic      0      0      0      0      0      0      0      0      0      0      0 
Node    1, zone   Normal, type    Unmovable      0      0      0      0      0      0      0      0      0      0      0 
Node    1, zone   Normal, type      Movable      0      0      0      0      0      0      0      0      0      0      0 
Node    1, zone   Normal, type  Reclaimable      0      0      0      0      0      0      0      0      0      0      0 
Node    1, zone   Normal, type   HighAtomic      0      0      0      0      0      0      0      0      0      0      0 

Number of blocks type     Unmovable      Movable  Reclaimable   HighAtomic 
Node 1, zone    DMA32            0            7            2            1 
Node 1, zone   Normal            0            7            2            1 
"
    );
}

#[test]
fn zoneinfo_is_linuxs_paragraph_without_what_there_is_none_of_and_ends_early_without_memory() {
    assert_eq!(
        ZoneInfo::new(machine().into_iter().filter(|zone| zone.managed != 15_000)).to_string(),
        "\
Node 0, zone  HighMem
  pages free     772917
        min      128
        low      160
        high     192
        spanned  1048576
        present  1048576
        managed  1048576
        protection: (0, 0, 0)
      nr_free_pages 772917
      nr_freelist_nodes 11
      nr_freelist_nodes_peak 805
      nr_cpu_list_pages 0
  start_pfn:           16384
Node 1, zone    DMA32
  pages free     0
        min      0
        low      0
        high     0
        spanned  0
        present  0
        managed  0
        protection: (0, 0, 0)
Node 1, zone   Normal
  pages free     0
        min      0
        low      0
        high     0
        spanned  512
        present  512
        managed  0
        protection: (0, 0, 0)
      nr_free_pages 0
      nr_freelist_nodes 0
      nr_freelist_nodes_peak 0
      nr_cpu_list_pages 0
  start_pfn:           1064960
"
    );
}

#[test]
fn vmstat_has_a_name_and_a_number_a_line_and_stacks_in_kib() {
    let events = NumaEvents { hit: 90, miss: 5, foreign: 6, local: 80, other: 15 };
    assert_eq!(
        VmStat(usage(), events).to_string(),
        "\
nr_free_pages 772920
nr_managed_pages 1063576
nr_freelist_nodes 11
numa_hit 90
numa_miss 5
numa_foreign 6
numa_local 80
numa_other 15
nr_plain_pages 290000
nr_folio_pages 500
nr_page_table_pages 40
nr_zspages 7
nr_percpu_pages 5
nr_kernel_stack 16
nr_large_kmalloc_pages 1
nr_hwpoison_pages 2
nr_slab_pages 100
nr_memmap_boot_pages 4160
"
    );
}

#[test]
fn numastat_has_a_column_a_node() {
    let local =
        NumaEvents { hit: 76_557_759, miss: 30_772_308, foreign: 30_827_638, local: 76_502_227, other: 30_827_840 };
    let nodes = [(NodeId(0), local), (NodeId(12), NumaEvents::default())];
    assert_eq!(
        NumaStat::new(nodes.into_iter()).to_string(),
        "                           node0          node12
numa_hit                76557759               0
numa_miss               30772308               0
numa_foreign            30827638               0
local_node              76502227               0
other_node              30827840               0
"
    );
}

#[test]
fn meminfo_keeps_linuxs_order_and_columns_and_has_descriptor_bytes_by_kind() {
    assert_eq!(
        MemInfo(usage()).to_string(),
        "\
MemTotal:        4254304 kB
MemFree:         3091680 kB
Buffers:               0 kB
Cached:                0 kB
SwapCached:            0 kB
Active:                0 kB
Inactive:              0 kB
HighTotal:       4194304 kB
HighFree:        3091668 kB
LowTotal:          60000 kB
LowFree:              12 kB
SwapTotal:             0 kB
SwapFree:              0 kB
Dirty:                 0 kB
Writeback:             0 kB
Mapped:                0 kB
Slab:                404 kB
KernelStack:          16 kB
PageTables:          160 kB
Committed_AS:          0 kB
VmallocTotal:          0 kB
VmallocUsed:           0 kB
VmallocChunk:          0 kB
Percpu:               20 kB
HardwareCorrupted:     8 kB
Plain:           1160000 kB
Folios:             2000 kB
CompressedStore:      28 kB
LargeKmalloc:          4 kB
DescriptorBytes: 17069441
DescriptorBytes(page): 17039360
DescriptorBytes(folio): 24000
DescriptorBytes(page_table): 1281
DescriptorBytes(zsmalloc): 0
DescriptorBytes(percpu): 0
DescriptorBytes(kernel_stack): 0
DescriptorBytes(slab): 4800
"
    );
}

#[test]
fn procfs_reads_meminfo_as_it_reads_linuxs() {
    let read = |usage| Meminfo::from_buf_read(MemInfo(usage).to_string().as_bytes()).expect("it is a meminfo");
    let meminfo = read(usage());
    assert_eq!((meminfo.mem_total, meminfo.mem_free), (1_063_576 << 12, 772_920 << 12));
    assert_eq!((meminfo.high_total, meminfo.low_free), (Some(1_048_576 << 12), Some(3 << 12)));
    assert_eq!((meminfo.slab, meminfo.kernel_stack, meminfo.page_tables), (101 << 12, Some(4 << 12), Some(40 << 12)));
    assert_eq!((meminfo.per_cpu, meminfo.hardware_corrupted), (Some(5 << 12), Some(2 << 12)));
    // A machine of 16 TiB has more digits than there are columns.
    let all = Totals { managed: Pages(1 << 32), ..Totals::default() };
    assert_eq!(read(unused(all)).mem_total, 1 << 44);
}

#[test]
fn slabinfo_is_version_2_1_and_neither_wide_values_nor_odd_names_shift_a_column() {
    let small = CacheReport {
        name: CacheName::from("bio-312").expect("it fits"),
        active: Count(12),
        objects: Count(24),
        size: Bytes(312),
        stride: Bytes(320),
        objects_per_slab: Count(12),
        order: Order::ZERO,
        sheaf_objects: Count(32),
        active_slabs: Count(1),
        slabs: Count(2),
    };
    let wide = CacheReport {
        name: CacheName::from("more than\u{2003}17\tletters").expect("it fits"),
        active: Count(12_345_678),
        objects: Count(12_345_679),
        stride: Bytes(4_194_304),
        order: Order::of(10),
        ..small
    };
    assert_eq!(
        SlabInfo::new(|look| [small, wide].into_iter().for_each(look)).to_string(),
        "\
slabinfo - version: 2.1
# name            <active_objs> <num_objs> <objsize> <objperslab> <pagesperslab> : tunables <limit> <batchcount> <sharedfactor> : slabdata <active_slabs> <num_slabs> <sharedavail>
bio-312               12     24    320   12    1 : tunables   32   32    0 : slabdata      1      2      0
more_than_17_letters 12345678 12345679 4194304   12 1024 : tunables   32   32    0 : slabdata      1      2      0
"
    );
}

#[test]
fn page_types_lists_the_kinds_there_are_with_their_flags_and_adds_up() {
    let text = PageTypes(usage()).to_string();
    assert_eq!(
        text,
        "             flags\tpage-count       MB  symbolic-flags\t\t\tlong-symbolic-flags
0x0000000000000000\t    290000     1132  ____________\t
0x0020000000000000\t       500        1  ______F_____\tfolio
0x0000000004000000\t        40        0  ___g________\tpgtable
0x0040000000000000\t         7        0  _______C____\tzspage
0x0080000000000000\t         5        0  ________p___\tpercpu
0x0100000000000000\t         4        0  _________k__\tkernel_stack
0x0200000000000000\t         1        0  __________K_\tlarge_kmalloc
0x0000000000080000\t         2        0  __X_________\thwpoison
0x0000000000000080\t       100        0  S___________\tslab
0x0000000000000400\t    772909     3019  _B__________\tbuddy
0x0010000000000400\t        11        0  _B___N______\tbuddy,freelist_node
0x0000000100000000\t      1798        7  ____r_______\treserved
             total\t   1065377     4161
"
    );
    let nothing = PageTypes(unused(Totals::default())).to_string();
    assert_eq!(nothing.lines().skip(1).collect::<Vec<_>>(), ["             total\t         0        0"]);
}

#[test]
fn numbers_that_contradict_each_other_are_shown_and_do_not_panic() {
    let all = Pages(u64::MAX);
    let memory = Totals { managed: all, nodes: all, ..Totals::default() };
    let usage = Usage {
        highmem: memory,
        allocated: by_owner(&[], all),
        descriptors: by_owner(&[], Bytes(usize::MAX)),
        ..unused(memory)
    };
    for text in
        [VmStat(usage, NumaEvents::default()).to_string(), MemInfo(usage).to_string(), PageTypes(usage).to_string()]
    {
        assert!(text.lines().count() > 3, "{text}");
    }
}

/// Two nodes; in the first a pageblock begins with a reserved page, and a hole takes up a whole one; in the middle of
/// the second's first pageblock highmem begins.
#[test]
fn a_pageblock_counts_for_every_zone_that_has_a_page_in_it_and_for_its_present_type() {
    const MIB: u64 = 1 << 20;
    let end = Pfn::containing(PhysAddr(64 * MIB)).expect("low");
    // Highmem begins inside a pageblock of the second node.
    let direct_map_end = Pfn::containing(PhysAddr(33 * MIB)).expect("low");
    let machine = HostMachine::<Standard>::new(end, direct_map_end, NonZeroU16::MIN).expect("the host lends memory");
    let region = |start, len, kind, node| Region { start: PhysAddr(start), len, kind, node: NodeId(node) };
    let regions = [
        region(0, 16 * MIB, RegionKind::Usable, 0),
        region(18 * MIB, 14 * MIB, RegionKind::Usable, 0),
        region(18 * MIB, 4096, RegionKind::Reserved, 0),
        region(32 * MIB, 32 * MIB, RegionKind::Usable, 1),
    ];
    let mut map: BootMap = BootMap::new(&regions).expect("the regions make a map");
    let allocator = machine.allocator(&mut map).expect("the tables fit");
    let count = || -> Vec<_> {
        let shown = |report: PageblockReport| (report.zone.node.0, report.zone.kind.name(), report.pageblocks);
        allocator.pageblocks().map(shown).collect()
    };
    let at_boot = count();
    assert_eq!(at_boot, [(0, "DMA32", [0, 15, 0, 0]), (1, "HighMem", [0, 16, 0, 0]), (1, "DMA32", [0, 1, 0, 0])]);
    // No map has frame 0.
    let present: Vec<_> = allocator.zones().map(|zone| (zone.present, zone.managed)).collect();
    assert_eq!(present.iter().map(|zone| zone.0).collect::<Vec<_>>(), [30 * 256 - 1, 31 * 256, 256]);
    let reserved: u32 = present.iter().map(|zone| zone.0 - zone.1).sum();
    let carved = allocator.metadata().total() / 4096;
    assert_eq!(u64::from(reserved), carved + 1, "what was carved out and the page that is reserved");

    let unmovable = allocator.alloc(Request::new(Order::of(9)).up_to(ZoneKind::Normal)).expect("there is room");
    assert_eq!(count()[0], (0, "DMA32", [1, 14, 0, 0]));
    let text: String = PageTypeInfo::new(MAX_ORDER, PAGEBLOCK_ORDER, allocator.pageblocks()).to_string();
    assert_eq!(text.matches("Page block order: 9\n").count(), 2, "{text}");
    assert!(text.contains("Node 0, zone    DMA32            1           14            0            0 \n"), "{text}");
    drop(unmovable);
}

#[test]
fn every_allocated_page_counts_for_the_kind_of_its_owner_once() {
    let end = Pfn::new(0x4000);
    let machine = HostMachine::<Standard>::new(end, Pfn::new(0x1234), NonZeroU16::MIN).expect("the host lends memory");
    let memory = Region { start: PhysAddr(0), len: end.address().0, kind: RegionKind::Usable, node: NodeId(0) };
    let mut map: BootMap = BootMap::new(&[memory]).expect("the region makes a map");
    let pages = machine.allocator(&mut map).expect("the tables fit");
    let plain: Vec<_> = [10, 3, 0, 0].map(|order| pages.alloc(Request::movable(Order::of(order)))).into();
    let caches = KmemCaches::new(&pages).expect("there is room");
    let owners = Owners::new(&caches).expect("there is room");
    let cache = caches.create(CacheSpec::new("objects", 900)).expect("there is room");
    let objects: Vec<_> = (0..1000).map(|_| cache.alloc().expect("there is room")).collect();
    let mut slab_pages = 0;
    caches.for_each_report(|report| slab_pages += report.pages().0);
    let types = owners.walk().page_types();
    let allocated = |kind| types.allocated(kind).pages().0;
    assert_eq!((allocated(OwnerKind::Plain), allocated(OwnerKind::Slab)), (1024 + 8 + 1 + 1, slab_pages));
    assert!(slab_pages > 200, "{slab_pages}");
    let managed: u32 = pages.zones().map(|zone| zone.managed).sum();
    let all: u32 = OwnerKind::ALL.iter().map(|&kind| allocated(kind)).sum();
    assert_eq!(all, managed - pages.free_pages(), "ACCT-1");
    drop((objects, plain));
    cache.destroy().expect("nothing leaks");
}
