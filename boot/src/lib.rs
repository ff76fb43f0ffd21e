//! A loader that takes a `bootloader_api` kernel from QEMU's `-kernel`/`-initrd` into 64-bit mode.
//!
//! This library holds everything that can be decided without the machine, so that it is tested on the host; the
//! binary of the same name holds the entry code, the page tables and the jump. One way, each module knows only those
//! before it:
//!
//! ```text
//! error -> start_info, rsdp -> memory_map -> frames -> segment -> kernel_image -> load
//!       -> address_space -> layout -> (binary)
//! ```
//!
//! # What is loaded
//! The first module: an x86-64 ELF file, `ET_EXEC` at its own addresses or `ET_DYN` with relative relocations only.
//! Segments are refused if they share a page or are writable and executable. Every refusal, and every exception of the
//! loader's own, is a line `boot: error: …` on COM1 and 0x11 at QEMU's `isa-debug-exit` (port 0xf4).
//!
//! # What the kernel finds
//! * Everything that `bootloader_api` 0.11 promises: entry point, stack with a guard page, [`BootInfo`], the mappings
//!   of its [`BootloaderConfig`]. No framebuffer, no ramdisk.
//! * Memory regions: `Usable` is free; `Bootloader` is frame 0, the loader, the start-info structures, everything the
//!   loader allocated (the kernel's image, its stack, page tables, boot info) and the kernel's ELF file, because
//!   `kernel_addr` and `kernel_len` go on naming it; `UnknownBios(n)` is what the firmware calls type `n`.
//!   Regions are sorted and do not overlap; usable ones hold whole pages.
//! * Mappings without a fixed address lie in the configured dynamic range, by default from 512 GiB (level-4 entry 1)
//!   up; with `aslr` their places are random.
//! * The physical-memory mapping reaches to the end of memory and at least to 4 GiB. Reserved address space above the
//!   last memory is left out: some CPU models list one near 1 TiB, whose tables a 16 MiB machine could not pay.
//! * One page more than it asked for: the page that switches the page tables stays mapped at its physical address,
//!   read-only and executable. It also holds the GDT, as in the `bootloader` crate.
//! * No page is writable and executable; relocated data (`PT_GNU_RELRO`) is read-only.
//!
//! [`BootInfo`]: bootloader_api::BootInfo
//! [`BootloaderConfig`]: bootloader_api::BootloaderConfig
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

pub mod address_space;
pub mod error;
pub mod frames;
pub mod kernel_image;
pub mod layout;
pub mod load;
pub mod memory_map;
pub mod rsdp;
pub mod segment;
pub mod start_info;
#[cfg(test)]
mod test_elf;
