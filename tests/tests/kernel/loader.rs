//! What the loader does with a kernel that is none: it says so and ends, on every one of them.

use std::io::Write as _;
use std::path::Path;

use anyhow::Context as _;
use bootloader_api::BootloaderConfig;
use harness::launch::{Launch, Task};
use harness::machine::Machine;
use harness::run::End;
use harness::size::Size;
use libtest_mimic::Trial;
use tempfile::NamedTempFile;

use crate::{PATIENCE, checked, trial};

/// Makes a bad kernel of a good one.
type Damage = fn(&mut Vec<u8>);

const DAMAGES: &[(&str, Damage)] = &[
    ("one_byte", |elf| elf.truncate(1)),
    ("half_an_elf_header", |elf| elf.truncate(40)),
    ("an_elf_header_and_nothing_else", |elf| elf.truncate(64)),
    ("half_a_kernel", |elf| elf.truncate(elf.len() / 2)),
    ("no_elf_magic", |elf| elf[0] = b'?'),
    ("thirty_two_bits", |elf| elf[4] = 1),
    ("another_processor", |elf| elf[18] = 0xb7),
    ("program_headers_past_the_end", |elf| elf[32..40].fill(0xff)),
    ("no_program_headers", |elf| elf[56..58].fill(0)),
    ("a_segment_larger_than_the_machine", |elf| {
        let first = first_load(elf);
        elf[first + 40..first + 48].copy_from_slice(&(1_u64 << 46).to_le_bytes());
    }),
    ("a_segment_past_the_end_of_the_file", |elf| {
        let first = first_load(elf);
        elf[first + 8..first + 16].fill(0xff);
    }),
    ("a_segment_that_is_writable_and_executable", |elf| {
        let first = first_load(elf);
        elf[first + 4] = 7;
    }),
    ("an_entry_point_outside", |elf| elf[24..32].fill(0xff)),
    ("a_stack_that_ends_where_no_address_is", |elf| {
        // In the configuration, behind its mark and version: the stack's size, and whether and where it has a fixed place.
        let mark = &BootloaderConfig::new_default().serialize()[..16];
        let config = elf.windows(mark.len()).position(|bytes| bytes == mark).expect("a kernel has a configuration");
        let size = u64::from_le_bytes(*elf[config + 23..].first_chunk().expect("it has a size"));
        elf[config + 31] = 1;
        elf[config + 32..config + 40].copy_from_slice(&((1_u64 << 47) - size - 0x1000).to_le_bytes());
    }),
    ("text", |elf| *elf = b"KERNEL?".repeat(1000)),
];

/// Where the program header of the first segment to load stands.
fn first_load(elf: &[u8]) -> usize {
    const PT_LOAD: [u8; 4] = 1_u32.to_le_bytes();
    let table = usize::from(u16::from_le_bytes([elf[32], elf[33]]));
    (table..).step_by(56).find(|header| elf[*header..].starts_with(&PT_LOAD)).expect("a kernel has segments")
}

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = vec![trial("loader::refuses_to_start_without_a_kernel", || refused(None))];
    trials.extend(DAMAGES.iter().map(|(name, damage)| {
        trial(&format!("loader::refuses_a_kernel_with_{name}"), move || {
            let mut elf = std::fs::read(&checked()?.kernel)?;
            damage(&mut elf);
            let mut file = NamedTempFile::new()?;
            file.write_all(&elf)?;
            refused(Some(file.path()))
        })
    }));
    trials
}

fn refused(kernel: Option<&Path>) -> anyhow::Result<()> {
    let launch = Launch::new(checked()?, Machine::with_memory(Size::mib(64)));
    let run = Launch { kernel, ..launch }.run(&Task::List, PATIENCE, |_| ())?;
    let error = run.serial.lines().find_map(|line| line.strip_prefix("boot: error:"));
    let error = error.with_context(|| format!("no 'boot: error:' line; {}\n{}", run.end, run.serial))?;
    anyhow::ensure!(!error.trim().is_empty(), "the loader gives no reason");
    anyhow::ensure!(!error.contains("internal:"), "the loader has stumbled: {error}");
    anyhow::ensure!(run.end == End::Failure, "after '{}': {}", error.trim(), run.end);
    Ok(())
}
