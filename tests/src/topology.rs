//! CPUs and memory nodes: what firmware's tables (ACPI's MADT, SRAT and SLIT) tell the kernel of them.
//!
//! QEMU writes the tables from its arguments. The kernel's `numa=fake=` is something else: it cuts memory into nodes
//! whatever firmware says.

use std::fmt;
use std::num::NonZeroU8;
use std::str::FromStr;

use crate::size::Size;

/// A number of CPUs.
///
/// # Invariants
/// From 1 to [`MOST`](Self::MOST).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cpus(NonZeroU8);

impl Cpus {
    /// A single one.
    pub const ONE: Cpus = Cpus(NonZeroU8::MIN);

    /// As many as the kernel is tried with.
    pub const MOST: u8 = 16;

    /// So many.
    ///
    /// # Panics
    /// None, or more than [`MOST`](Self::MOST): in a constant, that does not compile.
    #[must_use]
    pub const fn of(count: u8) -> Cpus {
        assert!(count <= Self::MOST, "more CPUs than the kernel is tried with");
        Cpus(NonZeroU8::new(count).expect("a machine has a CPU"))
    }

    /// How many.
    #[must_use]
    pub const fn get(self) -> u8 {
        self.0.get()
    }
}

impl fmt::Display for Cpus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Cpus {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Cpus, anyhow::Error> {
        match text.parse() {
            Ok(count @ 1..=Self::MOST) => Ok(Cpus::of(count)),
            _ => anyhow::bail!("a machine has 1 to {} CPUs", Self::MOST),
        }
    }
}

/// A number of nodes.
///
/// # Invariants
/// From 1 to [`MOST`](Self::MOST).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeCount(NonZeroU8);

impl NodeCount {
    /// As many as the kernel is tried with.
    pub const MOST: u8 = 8;

    /// So many.
    ///
    /// # Panics
    /// None, or more than [`MOST`](Self::MOST): in a constant, that does not compile.
    #[must_use]
    pub const fn of(count: u8) -> NodeCount {
        assert!(count <= Self::MOST, "more nodes than the kernel is tried with");
        NodeCount(NonZeroU8::new(count).expect("a machine has a node"))
    }
}

impl fmt::Display for NodeCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for NodeCount {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<NodeCount, anyhow::Error> {
        match text.parse() {
            Ok(count @ 1..=Self::MOST) => Ok(NodeCount::of(count)),
            _ => anyhow::bail!("a machine has 1 to {} nodes", Self::MOST),
        }
    }
}

/// What firmware says of nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topology {
    /// Nothing.
    Flat,
    /// Shares of memory that differ by less than 1 MiB a node, runs of CPUs likewise, and one distance between any two.
    Even(NodeCount),
    /// Exactly these.
    Uneven(&'static Uneven),
}

/// Nodes that differ.
#[derive(Debug, PartialEq, Eq)]
pub struct Uneven {
    /// From node 0 on, in the order of their memory and of their CPUs.
    pub nodes: &'static [Node],
    /// How far memory is: a row for each node whose CPUs ask, in it the distance to each node. 10 is a node's own
    /// memory, as SLIT has it, and only that.
    pub distances: &'static [&'static [u8]],
}

/// A node: it may lack memory or CPUs, but not both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its memory; `None`: it has CPUs only.
    pub memory: Option<Size>,
    /// How many CPUs it has.
    pub cpus: u8,
}

/// What SLIT says of a node's own memory.
const LOCAL: u8 = 10;
/// What it says of all other memory where nodes are even.
const REMOTE: u8 = 20;

impl Uneven {
    /// All nodes' memory.
    #[must_use]
    pub const fn memory(&self) -> Size {
        let (mut bytes, mut node) = (0, 0);
        while node < self.nodes.len() {
            if let Some(memory) = self.nodes[node].memory {
                bytes += memory.in_bytes();
            }
            node += 1;
        }
        Size::bytes(bytes)
    }

    /// All nodes' CPUs.
    ///
    /// # Panics
    /// None, or more than [`Cpus::MOST`]: in a constant, that does not compile.
    #[must_use]
    pub const fn cpus(&self) -> Cpus {
        let (mut cpus, mut node) = (0, 0);
        while node < self.nodes.len() {
            cpus += self.nodes[node].cpus;
            node += 1;
        }
        Cpus::of(cpus)
    }
}

impl Topology {
    /// The nodes that a machine of so much memory and so many CPUs has, and their distances; nothing of a flat one.
    fn nodes(self, memory: Size, cpus: Cpus) -> (Vec<Node>, Vec<Vec<u8>>) {
        match self {
            Topology::Flat => (Vec::new(), Vec::new()),
            Topology::Uneven(uneven) => {
                (uneven.nodes.to_vec(), uneven.distances.iter().map(|row| row.to_vec()).collect())
            }
            Topology::Even(NodeCount(count)) => {
                let count = count.get();
                let shares = shares(memory, count);
                // Where a share of the CPUs begins.
                let first = |node: u8| (u32::from(node) * u32::from(cpus.get())).div_ceil(u32::from(count));
                let cpus =
                    |node| u8::try_from(first(node + 1) - first(node)).expect("no share is larger than the whole");
                let nodes =
                    (0..count).zip(shares).map(|(node, memory)| Node { memory: Some(memory), cpus: cpus(node) });
                let distance = |from, to| if from == to { LOCAL } else { REMOTE };
                let distances = (0..count).map(|from| (0..count).map(|to| distance(from, to)).collect());
                (nodes.collect(), distances.collect())
            }
        }
    }

    /// The options, each with its value, that have QEMU build this.
    #[must_use]
    pub fn arguments(self, memory: Size, cpus: Cpus) -> Vec<(&'static str, String)> {
        // Not reserved up front: the 8 GiB machines run on hosts that have far less.
        let backend = |id: &str, size| format!("memory-backend-ram,id={id},size={size},reserve=off");
        let (nodes, distances) = self.nodes(memory, cpus);
        let mut arguments = vec![("-smp", cpus.to_string())];
        if nodes.is_empty() {
            arguments.push(("-object", backend("memory", memory)));
            arguments.push(("-machine", "memory-backend=memory".to_owned()));
        }
        let mut first = 0;
        for (id, node) in nodes.iter().enumerate() {
            let mut value = format!("node,nodeid={id}");
            if let Some(memory) = node.memory {
                arguments.push(("-object", backend(&format!("memory{id}"), memory)));
                value += &format!(",memdev=memory{id}");
            }
            if node.cpus > 0 {
                value += &format!(",cpus={first}-{}", first + node.cpus - 1);
            }
            first += node.cpus;
            arguments.push(("-numa", value));
        }
        for (from, row) in distances.iter().enumerate() {
            let dist = |(to, distance)| ("-numa", format!("dist,src={from},dst={to},val={distance}"));
            arguments.extend(row.iter().enumerate().map(dist));
        }
        arguments
    }
}

/// Memory in whole MiB for each of so many nodes; what does not divide goes to the last.
fn shares(memory: Size, count: u8) -> impl Iterator<Item = Size> {
    const MIB: u64 = 1 << 20;
    let share = memory.in_bytes() / MIB / u64::from(count) * MIB;
    let last = memory.in_bytes() - share * u64::from(count - 1);
    (1..=count).map(move |node| Size::bytes(if node == count { last } else { share }))
}

/// For people, as far as a machine's memory and CPUs do not tell: ` nodes=2`, ` nodes=512M/2+256M/0+0/2`.
impl fmt::Display for Topology {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Topology::Flat => Ok(()),
            Topology::Even(count) => write!(f, " nodes={count}"),
            Topology::Uneven(uneven) => uneven.nodes.iter().enumerate().try_for_each(|(id, node)| {
                let memory = node.memory.unwrap_or(Size::bytes(0));
                write!(f, "{}{memory}/{}", if id == 0 { " nodes=" } else { "+" }, node.cpus)
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(topology: Topology, memory: Size, cpus: u8) -> Vec<String> {
        let arguments = topology.arguments(memory, Cpus::of(cpus));
        arguments.into_iter().map(|(option, value)| format!("{option} {value}")).collect()
    }

    #[test]
    fn without_nodes_memory_is_one_piece_and_nothing_is_said_of_distances() {
        assert_eq!(
            lines(Topology::Flat, Size::mib(512), 2),
            ["-smp 2", "-object memory-backend-ram,id=memory,size=512M,reserve=off", "-machine memory-backend=memory"]
        );
    }

    #[test]
    fn even_nodes_share_memory_and_cpus_and_every_pair_has_a_distance() {
        assert_eq!(
            lines(Topology::Even(NodeCount::of(2)), Size::gib(1), 3),
            [
                "-smp 3",
                "-object memory-backend-ram,id=memory0,size=512M,reserve=off",
                "-numa node,nodeid=0,memdev=memory0,cpus=0-1",
                "-object memory-backend-ram,id=memory1,size=512M,reserve=off",
                "-numa node,nodeid=1,memdev=memory1,cpus=2-2",
                "-numa dist,src=0,dst=0,val=10",
                "-numa dist,src=0,dst=1,val=20",
                "-numa dist,src=1,dst=0,val=20",
                "-numa dist,src=1,dst=1,val=10"
            ]
        );
    }

    #[test]
    fn what_does_not_divide_is_lost_nowhere() {
        for (cpus, count) in (1..=Cpus::MOST).flat_map(|cpus| (1..=NodeCount::MOST).map(move |count| (cpus, count))) {
            let memory = Size::bytes((1 << 30) + 4096);
            let (nodes, _) = Topology::Even(NodeCount::of(count)).nodes(memory, Cpus::of(cpus));
            let total = nodes.iter().filter_map(|node| node.memory).map(Size::in_bytes).sum::<u64>();
            assert_eq!((nodes.len(), total), (usize::from(count), memory.in_bytes()));
            assert_eq!(nodes.iter().map(|node| node.cpus).sum::<u8>(), cpus);
            let [fewest, most] =
                [u8::min, u8::max].map(|pick| nodes.iter().map(|node| node.cpus).reduce(pick).unwrap());
            assert!(most - fewest <= 1, "{count} nodes of {cpus} CPUs: {nodes:?}");
        }
    }

    #[test]
    fn a_node_may_lack_cpus_or_memory_and_distances_may_differ_by_direction() {
        const UNEVEN: Uneven = Uneven {
            nodes: &[
                Node { memory: Some(Size::mib(64)), cpus: 0 },
                Node { memory: None, cpus: 3 },
                Node { memory: Some(Size::mib(32)), cpus: 1 },
            ],
            distances: &[&[10, 15, 40], &[17, 10, 30], &[40, 25, 10]],
        };
        assert_eq!((UNEVEN.memory(), UNEVEN.cpus()), (Size::mib(96), Cpus::of(4)));
        let lines = lines(Topology::Uneven(&UNEVEN), UNEVEN.memory(), 4);
        for line in [
            "-smp 4",
            "-numa node,nodeid=0,memdev=memory0",
            "-numa node,nodeid=1,cpus=0-2",
            "-numa node,nodeid=2,memdev=memory2,cpus=3-3",
            "-numa dist,src=0,dst=1,val=15",
            "-numa dist,src=1,dst=0,val=17",
        ] {
            assert!(lines.iter().any(|other| other == line), "{line} is not in {lines:#?}");
        }
        assert!(!lines.iter().any(|line| line.contains("memory1")), "{lines:#?}");
        assert_eq!(Topology::Uneven(&UNEVEN).to_string(), " nodes=64M/0+0/3+32M/1");
    }

    #[test]
    fn a_number_of_cpus_or_nodes_has_bounds() {
        for text in ["0", "-1", "17", "256", "1.5", "", "x"] {
            assert!(text.parse::<Cpus>().is_err(), "{text}");
        }
        for text in ["0", "9", "-1", ""] {
            assert!(text.parse::<NodeCount>().is_err(), "{text}");
        }
        assert_eq!(["1", "16"].map(|text| text.parse::<Cpus>().unwrap().get()), [1, 16]);
        assert_eq!("8".parse::<NodeCount>().unwrap(), NodeCount::of(8));
    }
}
