//! `/proc/zoneinfo`: how large each zone is, what of it is free, and how low that may fall.

use core::fmt;

use super::{in_node, nodes};
use crate::zone::ZoneReport;

/// A paragraph a zone.
///
/// Pagesets are left out: what CPUs have at hand is in `ZoneReport`. A zone without a page of memory ends
/// behind its sizes, as in Linux.
#[derive(Clone, Debug)]
pub struct ZoneInfo<Z> {
    zones: Z,
}

impl<Z> ZoneInfo<Z> {
    /// The report on `zones`, node by node.
    pub const fn new(zones: Z) -> Self {
        Self { zones }
    }
}

impl<Z: Iterator<Item = ZoneReport> + Clone> fmt::Display for ZoneInfo<Z> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        nodes(self.zones.clone()).flat_map(|node| in_node(&self.zones, node)).try_for_each(|zone| paragraph(f, &zone))
    }
}

fn paragraph(f: &mut fmt::Formatter<'_>, zone: &ZoneReport) -> fmt::Result {
    let ZoneReport { node, kind, span, present, managed, free, cached, nodes, peak_nodes, watermarks, .. } = *zone;
    // What CPUs have at hand is in no list, and Linux leaves it out.
    let free = free - cached;
    writeln!(f, "Node {}, zone {:>8}", node.0, kind.name())?;
    writeln!(f, "  pages free     {free}")?;
    writeln!(f, "        min      {}", watermarks.min)?;
    writeln!(f, "        low      {}", watermarks.low)?;
    writeln!(f, "        high     {}", watermarks.high)?;
    writeln!(f, "        spanned  {}", span.pages())?;
    writeln!(f, "        present  {present}")?;
    writeln!(f, "        managed  {managed}")?;
    let [dma32, normal, highmem] = watermarks.protection;
    writeln!(f, "        protection: ({dma32}, {normal}, {highmem})")?;
    if present == 0 {
        return Ok(());
    }
    let counts = [
        ("nr_free_pages", free),
        ("nr_freelist_nodes", nodes),
        ("nr_freelist_nodes_peak", peak_nodes),
        ("nr_cpu_list_pages", cached),
    ];
    for (name, count) in counts {
        writeln!(f, "      {name:<12} {count}")?;
    }
    writeln!(f, "  start_pfn:           {}", span.start.number())
}
