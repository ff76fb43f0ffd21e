//! What parses input that anybody may have made, run on any bytes; and what takes operations of any kind, in any order.
//!
//! Each module has one function, `check`, which takes bytes, makes of them what its parser takes, and panics if the
//! parser has promised something that does not hold. A parser that panics or does not end is found in passing. What a
//! parser must say is worked out a second time, as simply as can be: at every place where anything may change, and so
//! everywhere.
//!
//! `tests/fuzz` has libFuzzer call them, and keeps a corpus of what that has come up with; the tests of this crate are on
//! the corpus, as it is and damaged.

pub mod acpi;
pub mod boot_map;
pub mod cmdline;
pub mod elf;
pub mod folios;
pub mod memory_map;
pub mod objects;
pub mod pages;
pub mod trace;

use mm::invariant::Violation;

/// Panics if an invariant does not, and names it.
#[track_caller]
fn holds(checked: Result<(), Violation>) {
    if let Err(broken) = checked {
        panic!("{broken}");
    }
}

/// Something to be tried with any bytes.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name, which is also its corpus's.
    pub name: &'static str,
    /// Tries it.
    pub check: fn(&[u8]),
    /// How many damaged inputs take about a second.
    pub rounds: usize,
}

const fn target(name: &'static str, rounds: usize, check: fn(&[u8])) -> Target {
    Target { name, check, rounds }
}

/// All of them.
pub const TARGETS: [Target; 9] = [
    target("acpi", 4000, acpi::check),
    target("boot_map", 4000, boot_map::check),
    target("cmdline", 4000, cmdline::check),
    target("elf", 4000, elf::check),
    target("folios", 200, folios::check),
    target("memory_map", 4000, memory_map::check),
    target("objects", 300, objects::check),
    target("pages", 1000, pages::check),
    target("trace", 4000, trace::check),
];
