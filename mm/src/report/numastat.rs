//! `numastat`: from which node memory came, and from which it was to come.

use core::fmt;

use crate::page::NumaEvents;
use crate::units::NodeId;

/// A column a node, as Linux's tool of that name shows `/sys/devices/system/node/node*/numastat`.
///
/// Nothing is interleaved here, so there is no line for that.
#[derive(Clone, Debug)]
pub struct NumaStat<N> {
    nodes: N,
}

impl<N> NumaStat<N> {
    /// The report on `nodes`.
    pub const fn new(nodes: N) -> Self {
        Self { nodes }
    }
}

/// A line's name, and its number in a column.
type Line = (&'static str, fn(&NumaEvents) -> u64);

const LINES: [Line; 5] = [
    ("numa_hit", |events| events.hit),
    ("numa_miss", |events| events.miss),
    ("numa_foreign", |events| events.foreign),
    ("local_node", |events| events.local),
    ("other_node", |events| events.other),
];

impl<N: Iterator<Item = (NodeId, NumaEvents)> + Clone> fmt::Display for NumaStat<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:16}", "")?;
        for (NodeId(node), _) in self.nodes.clone() {
            let digits = node.checked_ilog10().unwrap_or(0) as usize + 1;
            write!(f, "{:>width$}{node}", "node", width = 16 - digits)?;
        }
        writeln!(f)?;
        for (name, number) in LINES {
            write!(f, "{name:16}")?;
            for (_, events) in self.nodes.clone() {
                write!(f, "{:>16}", number(&events))?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}
