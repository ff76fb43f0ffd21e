//! `/proc/meminfo`: memory by what it is used for, in KiB.

use core::fmt;

use super::{Pages, Usage};
use crate::OwnerKind;

/// A line a kind of memory, `Name:   N kB`; then what descriptors take, to the byte and therefore, like Linux's counts
/// of huge pages, without a unit.
#[derive(Clone, Copy, Debug)]
pub struct MemInfo(pub Usage);

impl fmt::Display for MemInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(usage) = self;
        let (memory, allocated) = (usage.memory(), &usage.allocated);
        // Readers (`procfs-core` for one) refuse a file without these lines. What caches hold is not counted here but as folios,
        // behind Linux's lines, and by each cache (`CacheReport`); nothing is promised to anyone, and there is no vmalloc.
        const NONE: Pages = Pages(0);
        let kinds = [
            ("MemTotal:", memory.managed),
            ("MemFree:", memory.free),
            ("Buffers:", NONE),
            ("Cached:", NONE),
            ("SwapCached:", NONE),
            ("Active:", NONE),
            ("Inactive:", NONE),
            ("HighTotal:", usage.highmem.managed),
            ("HighFree:", usage.highmem.free),
            ("LowTotal:", usage.lowmem.managed),
            ("LowFree:", usage.lowmem.free),
            ("SwapTotal:", NONE),
            ("SwapFree:", NONE),
            ("Dirty:", NONE),
            ("Writeback:", NONE),
            ("Mapped:", NONE),
            // As Linux has it: what kmalloc passes on to the page allocator is slab memory, too.
            ("Slab:", allocated[OwnerKind::Slab] + allocated[OwnerKind::LargeKmalloc]),
            ("KernelStack:", allocated[OwnerKind::KernelStack]),
            ("PageTables:", allocated[OwnerKind::PageTable]),
            ("Committed_AS:", NONE),
            ("VmallocTotal:", NONE),
            ("VmallocUsed:", NONE),
            ("VmallocChunk:", NONE),
            ("Percpu:", allocated[OwnerKind::PerCpuArea]),
            ("HardwareCorrupted:", allocated[OwnerKind::Poisoned]),
        ];
        let ours = OwnerKind::ALL.iter().filter_map(|&kind| Some((own_line(kind)?, allocated[kind])));
        for (name, pages) in kinds.into_iter().chain(ours) {
            line(f, name, pages.kib(), " kB")?;
        }
        let of_owners = |kind| usage.descriptors[kind].0 as u64;
        let of_pages = usage.metadata.descriptors;
        let all = OwnerKind::ALL.iter().fold(of_pages, |all, &kind| all.saturating_add(of_owners(kind)));
        line(f, "DescriptorBytes:", all, "")?;
        line(f, "DescriptorBytes(page):", of_pages, "")?;
        for &kind in OwnerKind::ALL.iter().filter(|&&kind| has_descriptors(kind)) {
            writeln!(f, "DescriptorBytes({}): {}", kind.name(), of_owners(kind))?;
        }
        Ok(())
    }
}

/// The line of a kind that Linux has none for.
const fn own_line(kind: OwnerKind) -> Option<&'static str> {
    match kind {
        OwnerKind::Plain => Some("Plain:"),
        OwnerKind::Folio => Some("Folios:"),
        OwnerKind::CompressedStore => Some("CompressedStore:"),
        OwnerKind::LargeKmalloc => Some("LargeKmalloc:"),
        OwnerKind::Slab
        | OwnerKind::PageTable
        | OwnerKind::PerCpuArea
        | OwnerKind::KernelStack
        | OwnerKind::Poisoned => None,
    }
}

/// Whether owners of this kind have a descriptor that is allocated for them.
const fn has_descriptors(kind: OwnerKind) -> bool {
    match kind {
        OwnerKind::Folio
        | OwnerKind::Slab
        | OwnerKind::PageTable
        | OwnerKind::CompressedStore
        | OwnerKind::PerCpuArea
        | OwnerKind::KernelStack => true,
        OwnerKind::Plain | OwnerKind::LargeKmalloc | OwnerKind::Poisoned => false,
    }
}

/// Eight digits behind sixteen columns of name; a longer name takes from the room for digits.
fn line(f: &mut fmt::Formatter<'_>, name: &str, value: u64, unit: &str) -> fmt::Result {
    let name_width = (name.len() + 1).max(16);
    let value_width = 24_usize.saturating_sub(name_width);
    writeln!(f, "{name:<name_width$}{value:>value_width$}{unit}")
}
