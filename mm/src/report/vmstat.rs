//! `/proc/vmstat`: counters by name.

use core::fmt;

use super::{Pages, Usage};
use crate::OwnerKind;
use crate::page::NumaEvents;
use crate::units::PAGE_SIZE;

/// A line a counter, in pages, but for the kernel's stacks, like Linux's in KiB, and for what happened to allocations, of
/// all nodes together.
#[derive(Clone, Copy, Debug)]
pub struct VmStat(pub Usage, pub NumaEvents);

impl fmt::Display for VmStat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(usage, events) = self;
        let memory = usage.memory();
        writeln!(f, "nr_free_pages {}", memory.free.0)?;
        writeln!(f, "nr_managed_pages {}", memory.managed.0)?;
        writeln!(f, "nr_freelist_nodes {}", memory.nodes.0)?;
        writeln!(f, "numa_hit {}", events.hit)?;
        writeln!(f, "numa_miss {}", events.miss)?;
        writeln!(f, "numa_foreign {}", events.foreign)?;
        writeln!(f, "numa_local {}", events.local)?;
        writeln!(f, "numa_other {}", events.other)?;
        for &kind in OwnerKind::ALL {
            let (name, value) = counter(kind, usage.allocated[kind]);
            writeln!(f, "{name} {value}")?;
        }
        writeln!(f, "nr_memmap_boot_pages {}", usage.metadata.descriptors.div_ceil(PAGE_SIZE as u64))
    }
}

/// Linux's name where it has one, and the value in Linux's unit.
const fn counter(kind: OwnerKind, pages: Pages) -> (&'static str, u64) {
    match kind {
        OwnerKind::Plain => ("nr_plain_pages", pages.0),
        OwnerKind::Folio => ("nr_folio_pages", pages.0),
        OwnerKind::Slab => ("nr_slab_pages", pages.0),
        OwnerKind::PageTable => ("nr_page_table_pages", pages.0),
        OwnerKind::CompressedStore => ("nr_zspages", pages.0),
        OwnerKind::PerCpuArea => ("nr_percpu_pages", pages.0),
        OwnerKind::KernelStack => ("nr_kernel_stack", pages.kib()),
        OwnerKind::LargeKmalloc => ("nr_large_kmalloc_pages", pages.0),
        OwnerKind::Poisoned => ("nr_hwpoison_pages", pages.0),
    }
}
