//! The host side: boots the kernel in QEMU and reads what it says.
//!
//! ```text
//! size, word -> topology -> machine, machines -> launch -> run -> { list, ktap, report -> crash, bench -> limits } -> suite
//!                       accel -> interleaving   guest, trace              debugger       symbols
//!                       monitor -> keeper -> run        fsck: images of memory, checked
//! ```
//!
//! The kernel's side of the talk is a command line and a trace through QEMU's `fw_cfg`, and lines on the serial port:
//! KTAP for tests, `BENCH {json}` for figures, behind either `# /proc/NAME` for reports on memory, `PANIC:` or `EXCEPTION:` with a backtrace for the end of a kernel.
//! Nothing here looks at the wall clock but to give up on a kernel that has gone silent.

pub mod accel;
pub mod bench;
pub mod crash;
pub mod debugger;
pub mod faults;
pub mod fsck;
pub mod guest;
pub mod interleaving;
pub mod keeper;
pub mod ktap;
pub mod launch;
pub mod limits;
pub mod list;
pub mod machine;
pub mod machines;
pub mod monitor;
pub mod report;
pub mod run;
pub mod size;
pub mod suite;
pub mod symbols;
pub mod topology;
pub mod trace;
pub mod word;
