//! What is pure of the kernel: no instruction, port or page of the machine in it, so the host tests it too.
//!
//! Each module knows only those before it: the address space's layout, firmware's tables, the boot memory map, the command line and what
//! it selects, the words for exceptions and for what they say was violated, the statistics of a benchmark.
#![no_std]

extern crate alloc;

pub mod layout;

pub mod acpi;

pub mod boot_regions;
pub mod cmdline;
pub mod exception;
pub mod fw_cfg_directory;
pub mod selection;
pub mod statistics;
pub mod violation;
