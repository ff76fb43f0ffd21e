//! What a measurement was taken on, in a few words.

use alloc::format;
use alloc::string::String;

use kernel_core::acpi::Topology;
use kernel_core::cmdline::CommandLine;
use mm::boot_map::BootMap;
use mm::units::PAGE_SHIFT;

/// Memory, lowmem boundary, nodes and CPUs; free of quotes, so it fits into JSON as it is.
pub(crate) fn of(map: &BootMap, topology: &Topology, words: &CommandLine) -> String {
    let bytes = u64::from(map.usable_pages()) << PAGE_SHIFT;
    let mut name = format!("{} MiB", bytes.div_ceil(1 << 20));
    if let Some(lowmem) = words.lowmem {
        name += &format!(", lowmem {} MiB", lowmem.0 >> 20);
    }
    if topology.nodes().get() > 1 {
        name += &format!(", {} nodes", topology.nodes());
    }
    if topology.cpus().get() > 1 {
        name += &format!(", {} CPUs", topology.cpus());
    }
    name
}
