//! The machines that every in-kernel test runs on.

use std::num::NonZeroU8;

use crate::machine::{KmapLocal, Machine, Reserved};
use crate::size::Size;
use crate::topology::{Cpus, Node, NodeCount, Topology, Uneven};

/// A machine and the name that its tests carry.
#[derive(Clone, Copy, Debug)]
pub struct Named {
    /// Short, without spaces, and no prefix of another one up to `::`.
    pub name: &'static str,
    /// The machine.
    pub machine: Machine,
}

/// From the smallest machine that boots to one whose freelist nodes are nearly all highmem.
pub const MACHINES: &[Named] = &[
    Named { name: "16M", machine: Machine::with_memory(Size::mib(16)).specified() },
    Named { name: "512M", machine: Machine::with_memory(Size::mib(512)) },
    Named { name: "5G", machine: Machine::with_memory(Size::gib(5)) },
    Named { name: "5G-lowmem64M", machine: Machine::with_memory(Size::gib(5)).with_lowmem(Size::mib(64)) },
    Named {
        name: "1G-cut",
        machine: Machine { fake_nodes: NonZeroU8::new(2), ..Machine::with_memory(Size::gib(1)) }
            .hardened(&["debug_pagealloc=on"]),
    },
    Named {
        name: "512M-slubdebug",
        machine: Machine { slab_debug: Some("FZPU"), ..Machine::with_memory(Size::mib(512)) }.hardened(POISONED),
    },
    Named {
        name: "512M-ragged",
        machine: Machine {
            reserved: RAGGED,
            kmap_local: KmapLocal::Always,
            ..Machine::with_memory(Size::mib(512)).specified()
        },
    },
    Named { name: "512M-2cpus", machine: Machine::with_memory(Size::mib(512)).with_cpus(Cpus::of(2)).specified() },
    Named {
        name: "1G-2nodes-8cpus",
        machine: Machine {
            topology: Topology::Even(NodeCount::of(2)),
            ..Machine::with_memory(Size::gib(1)).with_cpus(Cpus::of(8))
        },
    },
    Named { name: "768M-4nodes-4cpus", machine: Machine::with_nodes(&RING).with_lowmem(Size::mib(256)).specified() },
];

/// Free memory holds a pattern and is in no order, and fresh memory holds nothing.
const POISONED: &[&str] =
    &["page_poison=1", "init_on_alloc=1", "init_on_free=1", "page_alloc.shuffle=1", "slab_freelist_random=1"];

/// Four nodes in a ring, one of them without CPUs and one nearly without memory. What is next to a node is not at one
/// distance, and to node 1 it is farther than back from it.
const RING: Uneven = Uneven {
    nodes: &[
        Node { memory: Some(Size::mib(256)), cpus: 1 },
        Node { memory: Some(Size::mib(192)), cpus: 0 },
        Node { memory: Some(Size::mib(6)), cpus: 2 },
        Node { memory: Some(Size::mib(314)), cpus: 1 },
    ],
    distances: &[&[10, 21, 31, 16], &[19, 10, 14, 31], &[31, 16, 10, 21], &[16, 33, 21, 10]],
};

/// Holes that fit no page, no block and no order.
const RAGGED: &[Reserved] = &[
    // One byte at the end of a page, and a page's worth that lies on two pages.
    Reserved { start: Size::bytes(0x4000fff), size: Size::bytes(1) },
    Reserved { start: Size::bytes(0x4800800), size: Size::bytes(0x1000) },
    // Two that touch, on the edge of a 4 MiB block, and one that overlaps the second.
    Reserved { start: Size::bytes(0x6000000 - 0x3000), size: Size::bytes(0x3000) },
    Reserved { start: Size::mib(0x60), size: Size::bytes(0x5001) },
    Reserved { start: Size::bytes(0x6004000), size: Size::bytes(0x8000) },
    // Every second page of a run: free pages without a buddy.
    Reserved { start: Size::bytes(0x8001000), size: Size::bytes(0x1000) },
    Reserved { start: Size::bytes(0x8003000), size: Size::bytes(0x1000) },
    Reserved { start: Size::bytes(0x8005000), size: Size::bytes(0x1000) },
    // More than the largest block, unaligned at both ends.
    Reserved { start: Size::bytes(0xa123456), size: Size::bytes(0x876543) },
    // Reaches past the end of memory.
    Reserved { start: Size::bytes(0x1fe01234), size: Size::mib(64) },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machines_name_says_which_one_and_can_stand_in_a_tests_name() {
        for (index, named) in MACHINES.iter().enumerate() {
            assert!(named.name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-'), "{}", named.name);
            assert!(MACHINES[..index].iter().all(|other| other.name != named.name), "{}", named.name);
        }
    }

    #[test]
    fn uneven_nodes_have_a_distance_to_each_other_and_are_nearest_to_themselves() {
        for named in MACHINES {
            let Topology::Uneven(Uneven { nodes, distances }) = named.machine.topology else { continue };
            assert_eq!(distances.len(), nodes.len(), "{}", named.name);
            for (from, row) in distances.iter().enumerate() {
                assert_eq!(row.len(), nodes.len(), "{}", named.name);
                assert!(row.iter().enumerate().all(|(to, &distance)| (from == to) == (distance <= 10)), "{row:?}");
            }
        }
    }

    #[test]
    fn a_machine_is_bent_by_words_that_the_kernel_reads() {
        let of = |name| MACHINES.iter().find(|named| named.name == name).unwrap().machine.to_string();
        assert_eq!(of("16M"), "16M specification=on");
        assert_eq!(of("5G-lowmem64M"), "5G lowmem=64M");
        assert_eq!(of("1G-cut"), "1G numa=fake=2 debug_pagealloc=on");
        assert_eq!(of("1G-2nodes-8cpus"), "1G smp=8 nodes=2");
        assert_eq!(of("768M-4nodes-4cpus"), "768M smp=4 nodes=256M/1+192M/0+6M/2+314M/1 lowmem=256M specification=on");
        let poisoned = POISONED.join(" ");
        assert_eq!(of("512M-slubdebug"), format!("512M slub_debug=FZPU {poisoned}"));
        assert!(
            of("512M-ragged").starts_with("512M kmap_local=always memmap=1$67112959,4K$73730K,12K$98292K,20481$96M,")
        );
    }
}
