//! What parses input that anybody may have made, run on any bytes.
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
pub mod memory_map;
pub mod trace;

/// A target: its name, which is also its corpus's, and what checks an input.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: [Target; 6] = [
    ("acpi", acpi::check),
    ("boot_map", boot_map::check),
    ("cmdline", cmdline::check),
    ("elf", elf::check),
    ("memory_map", memory_map::check),
    ("trace", trace::check),
];
