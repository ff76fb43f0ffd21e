//! `mm` beside other page allocators, natively, in one run: what a pair costs, all of memory, mixes, threads, what is left
//! whole after churn, recorded traces, single operations, sizes of memory, and objects smaller than a page.
//!
//! ```text
//!   cargo run --release -p mm-bench -- [ROW] [--json FILE] [--svg DIRECTORY] [--memory MIB]
//! ```
//!
//! Times are criterion's; each row is measured for all contenders one right after the other, and what counts is how they
//! compare: machines differ, and are noisy. A contender is left out where it has no such operation, or where a row would
//! take it hours.

mod clock;
mod contenders;
mod figures;
mod json;
mod machine;
mod memory;
mod mix;
mod objects;
mod plot;
mod rows;
mod script;
mod speed;
mod suite;
mod table;

use std::path::PathBuf;

use clap::Parser;

use suite::Suite;

/// Our own column.
const OURS: &str = "mm";
/// Our other column where objects are measured.
const OUR_KMALLOC: &str = "mm kmalloc";
/// The column of what does less than any allocator.
const FLOOR: &str = "stack (floor)";

/// Measures page allocators beside each other.
#[derive(Parser)]
struct Options {
    /// Only rows whose name has this in it.
    row: Option<String>,
    /// Writes all figures there: the array that github-action-benchmark reads.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Writes plots there.
    #[arg(long)]
    svg: Option<PathBuf>,
    /// Each contender's memory, in MiB.
    #[arg(long, default_value_t = 1024)]
    memory: usize,
    /// Recorded traces to replay.
    #[arg(long, num_args = 1.., default_values_os_t = recorded())]
    traces: Vec<PathBuf>,
}

/// The traces that come with the project.
fn recorded() -> Vec<PathBuf> {
    let traces = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/traces"));
    ["cargo-build.mmtrace.gz", "server-thp.mmtrace.gz"].map(|name| traces.join(name)).into()
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let mut suite = Suite::new(options.memory << 20, options.row.clone());
    rows::measure(&mut suite, &options.traces)?;
    let results = suite.finish();
    print!("\n{}", table::tables(&results));
    if let Some(file) = &options.json {
        std::fs::write(file, json::json(&results.figures)?)?;
    }
    if let Some(directory) = &options.svg {
        plot::plots(directory, &results)?;
    }
    Ok(())
}
