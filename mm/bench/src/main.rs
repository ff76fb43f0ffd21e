//! `mm` beside other page allocators, natively, in one run: what a pair costs, all of memory, mixes, threads, what is left
//! whole after churn, and recorded traces.
//!
//! ```text
//!   cargo run --release -p mm-bench -- [ROW] [--json FILE] [--svg DIRECTORY] [--memory MIB]
//! ```
//!
//! Times are criterion's; each row is measured for all contenders one right after the other, and what counts is how they
//! compare: machines differ, and are noisy. A contender is left out where it has no such operation, or where a row would
//! take it hours.

mod contenders;
mod figures;
mod machine;
mod memory;
mod plot;
mod rows;
mod script;
mod suite;
mod table;

use std::path::PathBuf;

use clap::Parser;
use mm::units::Order;

use contenders::{Bitmap, BuddySlab, BuddySystem, Depot, LinkedList, Locked, Ours, Stack, Talc};
use figures::Unit;
use rows::Sweep;
use script::Script;
use suite::Suite;

/// Our own column.
const OURS: &str = "mm";
/// The column of what does less than any allocator.
const FLOOR: &str = "stack (floor)";

/// Blocks that scripts choose among.
const LARGEST: Order = Order::of(9);

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

/// Measures a row for contenders that one thread uses.
macro_rules! each {
    ($suite:ident, $row:expr, $unit:expr, $work:expr; $($name:expr => $contender:ty),+ $(,)?) => {
        if $suite.wants($row) {
            $($suite.time::<$contender>($row, $name, $unit, $work)?;)+
        }
    };
}

/// Measures a row for contenders that threads share.
macro_rules! each_shared {
    ($suite:ident, $row:expr, $work:expr; $($name:expr => $contender:ty),+ $(,)?) => {
        if $suite.wants($row) {
            $($suite.time::<$contender>($row, $name, Unit::MillionsPerSecond, $work)?;)+
        }
    };
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let mut suite = Suite::new(options.memory << 20, options.row.clone())?;
    pairs(&mut suite)?;
    all_frames(&mut suite)?;
    mixes(&mut suite)?;
    threads(&mut suite)?;
    churn(&mut suite)?;
    traces(&mut suite, &options.traces)?;
    set_up(&mut suite)?;
    let figures = suite.finish();
    print!("\n{}", table::table(&figures));
    if let Some(file) = &options.json {
        std::fs::write(file, suite::json(&figures)?)?;
    }
    if let Some(directory) = &options.svg {
        plot::plots(directory, &figures)?;
    }
    Ok(())
}

fn pairs(suite: &mut Suite) -> anyhow::Result<()> {
    each!(suite, "order0_pair", Unit::Nanoseconds, |pages, pairs| rows::hot_pair(pages, Order::ZERO, pairs);
        OURS => Ours, FLOOR => Stack, "frame-alloc" => Depot, "buddy-slab" => BuddySlab, "buddy-slab+lock" => Locked<BuddySlab>,
        "buddy_system" => BuddySystem, "bitmap" => Bitmap, "talc" => Talc, "linked_list" => LinkedList);
    each!(suite, "order9_pair", Unit::Nanoseconds, |pages, pairs| rows::hot_pair(pages, Order::of(9), pairs);
        OURS => Ours, "frame-alloc" => Depot, "buddy-slab" => BuddySlab, "buddy-slab+lock" => Locked<BuddySlab>,
        "buddy_system" => BuddySystem, "bitmap" => Bitmap, "talc" => Talc, "linked_list" => LinkedList);
    Ok(())
}

fn all_frames(suite: &mut Suite) -> anyhow::Result<()> {
    for (row, what) in [
        ("all_alloc", Sweep::Alloc),
        ("all_free_in_order", Sweep::FreeInOrder),
        ("all_free_at_random", Sweep::FreeAtRandom),
    ] {
        each!(suite, row, Unit::Nanoseconds, move |pages, frames| rows::sweep(pages, what, frames);
            OURS => Ours, FLOOR => Stack, "frame-alloc" => Depot, "buddy-slab" => BuddySlab,
            "buddy-slab+lock" => Locked<BuddySlab>, "buddy_system" => BuddySystem, "bitmap" => Bitmap, "talc" => Talc);
    }
    Ok(())
}

fn mixes(suite: &mut Suite) -> anyhow::Result<()> {
    for (row, percent) in [("mix_50", 50), ("mix_90", 90)] {
        if !suite.wants(row) {
            continue;
        }
        let script = Script::mix(suite.frames(), percent, LARGEST, 1 << 20);
        each!(suite, row, Unit::Nanoseconds, |pages, operations| rows::scripted(pages, &script, operations);
            OURS => Ours, "frame-alloc" => Depot, "buddy-slab" => BuddySlab, "buddy-slab+lock" => Locked<BuddySlab>,
            "buddy_system" => BuddySystem, "talc" => Talc);
    }
    Ok(())
}

fn threads(suite: &mut Suite) -> anyhow::Result<()> {
    each_shared!(suite, "two_threads_order0", |pages, pairs| rows::two_hot(pages, pairs);
        OURS => Ours, "frame-alloc" => Depot, "buddy-slab+lock" => Locked<BuddySlab>, "buddy_system" => Locked<BuddySystem>);
    if suite.wants("two_threads_mix_50") {
        let half = |seed| Script::mix(suite.frames() / 2 - seed, 50, LARGEST, 1 << 20);
        let scripts = [half(0), half(1)];
        each_shared!(suite, "two_threads_mix_50", |pages, operations| rows::two_scripted(pages, &scripts, operations);
            OURS => Ours, "frame-alloc" => Depot, "buddy-slab+lock" => Locked<BuddySlab>,
            "buddy_system" => Locked<BuddySystem>);
    }
    each_shared!(suite, "two_threads_remote", |pages, pairs| rows::remote(pages, pairs);
        OURS => Ours, "frame-alloc" => Depot, "buddy-slab+lock" => Locked<BuddySlab>, "buddy_system" => Locked<BuddySystem>);
    Ok(())
}

/// Turns of random churn, as in the comparison that the bars come from.
const TURNS: usize = 8;

fn churn(suite: &mut Suite) -> anyhow::Result<()> {
    for (row, percent) in [("recoverable_50", 50), ("recoverable_90", 90)] {
        suite.share::<Ours>(row, OURS, percent, TURNS)?;
        suite.share::<Depot>(row, "frame-alloc", percent, TURNS)?;
        suite.share::<BuddySlab>(row, "buddy-slab", percent, TURNS)?;
        suite.share::<BuddySystem>(row, "buddy_system", percent, TURNS)?;
        suite.share::<Bitmap>(row, "bitmap", percent, TURNS)?;
    }
    Ok(())
}

fn traces(suite: &mut Suite, files: &[PathBuf]) -> anyhow::Result<()> {
    for file in files {
        let name = file.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        let row = format!("trace_{}", name.split('.').next().unwrap_or_default());
        if !suite.wants(&row) {
            continue;
        }
        let script = Script::recorded(file)?;
        each!(suite, &row, Unit::Nanoseconds, |pages, operations| rows::scripted(pages, &script, operations);
            OURS => Ours, "frame-alloc" => Depot, "buddy-slab" => BuddySlab, "buddy-slab+lock" => Locked<BuddySlab>,
            "buddy_system" => BuddySystem, "talc" => Talc);
    }
    Ok(())
}

fn set_up(suite: &mut Suite) -> anyhow::Result<()> {
    suite.set_up::<Ours>(OURS)?;
    suite.set_up::<Stack>(FLOOR)?;
    suite.set_up::<Depot>("frame-alloc")?;
    suite.set_up::<BuddySlab>("buddy-slab")?;
    suite.set_up::<BuddySystem>("buddy_system")?;
    suite.set_up::<Bitmap>("bitmap")?;
    suite.metadata();
    Ok(())
}
