//! What is measured, a module for each kind of row: who takes part, and what is timed. What is timed takes a contender and
//! how many operations are wanted, and gives the time that so many take.

mod churn;
mod events;
mod mixes;
mod pairs;
mod set_up;
mod single;
mod sizes;
mod slab;
mod sweeps;
mod threads;
mod traces;

use std::path::PathBuf;

use mm::units::Order;

use crate::suite::Suite;

/// Blocks that scripts choose among.
const LARGEST: Order = Order::of(9);

/// Measures a row for each contender.
macro_rules! each {
    ($suite:ident, $row:expr, $work:expr; $($name:expr => $contender:ty),+ $(,)?) => {{
        let row: &Row = $row;
        if $suite.wants(&row.name) {
            $($suite.time::<$contender>(row, $name, $work)?;)+
        }
    }};
}
use each;

/// Measures all rows that were asked for.
///
/// # Errors
/// A contender cannot be made, or a trace not read.
pub(crate) fn measure(suite: &mut Suite, recorded: &[PathBuf]) -> anyhow::Result<()> {
    pairs::measure(suite)?;
    sweeps::measure(suite)?;
    mixes::measure(suite)?;
    threads::measure(suite)?;
    churn::measure(suite)?;
    traces::measure(suite, recorded)?;
    set_up::measure(suite)?;
    events::measure(suite)?;
    single::measure(suite, recorded)?;
    sizes::measure(suite)?;
    slab::measure(suite)
}
