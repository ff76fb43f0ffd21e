//! What the kernel makes of a trace, a command line, or firmware's tables that somebody has made up to hurt it: it says
//! what is wrong, and ends or goes on without. It never hangs, and never takes the machine down with it.

use std::io::Write as _;
use std::time::Duration;

use harness::launch::{FirmwareTable, Launch, Select, Task};
use harness::machine::Machine;
use harness::run::{End, Run};
use harness::size::Size;
use harness::trace::{Trace, bundled};
use libtest_mimic::Trial;
use tempfile::NamedTempFile;

use crate::{checked, trial};

const MACHINE: Machine = Machine::with_memory(Size::mib(64));

/// Far longer than any of this takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(100);

/// Something made up: its name, the bytes, what the kernel is to say of it at the beginning of a line and inside that line.
struct Case {
    name: &'static str,
    bytes: fn() -> Vec<u8>,
    says: (&'static str, &'static str),
    end: End,
}

const TRACES: &[Case] = &[
    malformed("nothing_in_it", Vec::new, "0 bytes are too few for a header"),
    malformed("half_a_header", || trace([9, 9, 1, 9], &[])[..17].to_vec(), "17 bytes are too few for a header"),
    malformed("another_magic", || b"mmtrace\x01".repeat(99), "the file is no page-allocation trace"),
    malformed("a_version_to_come", || b"MMTRACE\x02".repeat(99), "version 2 of the format is unknown"),
    malformed(
        "records_that_are_missing",
        || trace([u32::MAX, 2, 1, 1], &[[0; 8]]),
        "the trace ends after 1 of 4294967295",
    ),
    malformed("half_a_record", || trace([2, 2, 1, 1], &[[0; 8]; 2])[..43].to_vec(), "the trace ends after 1 of 2"),
    malformed("a_record_too_many", || trace([0, 2, 1, 0], &[[0; 8]]), "the header announced no such record"),
    malformed(
        "a_block_that_is_none",
        || trace([1, 2, 1, 1], &[[2, 0, 0, 0, 0, 0, 0, 0]]),
        "block 2 is none of the header's",
    ),
    malformed("an_impossible_order", || trace([1, 2, 1, 1], &[[0, 0, 0, 0, 11, 0, 0, 0]]), "0x0b names no operation"),
    malformed(
        "a_block_freed_twice",
        || trace([2, 2, 1, 1], &[[0, 0, 0, 0, 0x80, 0, 0, 0]; 2]),
        "frees block 0, which is not",
    ),
    malformed("a_block_allocated_twice", || trace([2, 2, 1, 2], &[[0; 8]; 2]), "allocates block 0, which is allocated"),
    malformed("another_peak", || trace([1, 2, 1, 77], &[[0; 8]]), "but 77 were announced"),
    refused(
        "more_blocks_than_memory",
        || trace([1, u32::MAX, 1, 1], &[[0; 8]]),
        "no room for a table of 4294967295 blocks",
    ),
    refused("more_than_all_memory", too_much, "pages of the trace are live"),
];

const fn malformed(name: &'static str, bytes: fn() -> Vec<u8>, says: &'static str) -> Case {
    Case { name, bytes, says: ("replay: FAILED: malformed trace: ", says), end: End::Failure }
}

const fn refused(name: &'static str, bytes: fn() -> Vec<u8>, says: &'static str) -> Case {
    Case { name, bytes, says: ("replay: FAILED: ", says), end: End::Failure }
}

/// A trace whose header says: records, blocks, CPUs, and the peak.
fn trace(header: [u32; 4], records: &[[u8; 8]]) -> Vec<u8> {
    let words = header.map(u32::to_le_bytes);
    [b"MMTRACE\x01", words.as_flattened(), &[0; 8], records.as_flattened()].concat()
}

/// Blocks of 4 MiB that nobody frees, more of them than the machine has.
fn too_much() -> Vec<u8> {
    let records: Vec<_> = (0..64).map(|id| [id, 0, 0, 0, 10, 0, 1, 0]).collect();
    trace([64, 64, 1, 1 << 16], &records)
}

const LINES: &[Case] = &[
    line(
        "bytes_that_are_no_text",
        || [b"run=list ", &[0xff, 0xc0, 0x80, 7, 0x1b][..]].concat(),
        "cmdline: ignored: ",
        "unknown",
    ),
    line("zeros_behind_it", || [b"run=list quiet", &[0; 1000][..]].concat(), "cmdline: ignored: quiet", "unknown"),
    line(
        "a_word_without_end",
        || [b"run=list numa=fake=", &[b'1'; 60_000][..]].concat(),
        "cmdline: ignored: numa=fake=1",
        "not a number",
    ),
    line(
        "numbers_that_do_not_fit",
        || b"run=list seed=99999999999999999999999".to_vec(),
        "cmdline: ignored: seed=9",
        "not a number",
    ),
    line(
        "more_nodes_than_memory",
        || b"run=list numa=fake=255".to_vec(),
        "cmdline: ignored: numa=fake=255",
        "nodes do not fit",
    ),
    line(
        "a_range_twelve_thousand_times",
        || [b"run=list quiet memmap=1$1", &b",1$1".repeat(12_000)[..]].concat(),
        "cmdline: ignored: quiet",
        "",
    ),
    stopped("no_memory_left", || b"run=list memmap=0xfffffffffffff000$0".to_vec(), "boot memory map: no region leaves"),
    stopped("memory_in_a_thousand_pieces", || pieces(1000), "the map has room for"),
    stopped("no_direct_map", || b"run=list lowmem=1".to_vec(), "page tables: no memory is left for a table"),
];

fn pieces(count: u32) -> Vec<u8> {
    (0..count).fold(b"run=list".to_vec(), |line, piece| {
        [line, format!(" memmap=1${}K", 2048 + 8 * piece).into_bytes()].concat()
    })
}

const fn line(name: &'static str, bytes: fn() -> Vec<u8>, start: &'static str, says: &'static str) -> Case {
    Case { name, bytes, says: (start, says), end: End::Success }
}

const fn stopped(name: &'static str, bytes: fn() -> Vec<u8>, says: &'static str) -> Case {
    Case { name, bytes, says: ("PANIC: ", says), end: End::Failure }
}

/// What stands behind the header of a table whose name comes first.
const TABLES: &[Case] = &[
    table("SRAT_that_is_empty", Vec::new, "acpi: SRAT is too short"),
    table("SRAT_without_end", || srat(&[&[1, 0]]), "acpi: SRAT has an entry of kind 1 that is malformed"),
    table(
        "SRAT_that_ends_in_an_entry",
        || srat(&[&memory(0, 1 << 30, 0)[..20]]),
        "acpi: SRAT has an entry of kind 1 that is malformed",
    ),
    table(
        "SRAT_of_nodes_that_overlap",
        || srat(&[&memory(0, 2 << 20, 0), &memory(1 << 20, 1 << 30, 1)]),
        "acpi: SRAT gives the memory at 0x100000 to two nodes",
    ),
    table(
        "SRAT_of_too_many_ranges",
        || srat(&[]).into_iter().chain((0..65).flat_map(|range| memory(range << 12, 1, 0))).collect(),
        "acpi: SRAT lists more than",
    ),
    table(
        "SRAT_of_nodes_that_meet_in_a_page",
        || srat(&[&memory(0, 0x200_1235, 0), &memory(0x200_1235, 1 << 62, u32::MAX)]),
        "Node 1, zone",
    ),
    table(
        "SRAT_of_a_node_without_memory",
        || srat(&[&memory(0, 1 << 30, 0), &memory(1 << 50, u64::MAX, 1)]),
        "Node 0, zone",
    ),
];

/// The affinity table of these entries.
fn srat(entries: &[&[u8]]) -> Vec<u8> {
    [&[0; 12], &entries.concat()[..]].concat()
}

/// An entry of it: that memory is near to somebody.
fn memory(start: u64, length: u64, domain: u32) -> [u8; 40] {
    let mut entry = [0; 40];
    entry[..2].copy_from_slice(&[1, 40]);
    entry[2..6].copy_from_slice(&domain.to_le_bytes());
    entry[8..16].copy_from_slice(&start.to_le_bytes());
    entry[16..24].copy_from_slice(&length.to_le_bytes());
    entry[28] = 1;
    entry
}

const fn table(name: &'static str, bytes: fn() -> Vec<u8>, says: &'static str) -> Case {
    Case { name, bytes, says: (says, ""), end: End::Success }
}

pub(crate) fn trials() -> Vec<Trial> {
    let traces = TRACES.iter().map(|case| {
        trial(&format!("hostile::a_trace_with_{}", case.name), || {
            let trace = file(case)?;
            told(case, &Task::Replay { trace: trace.path(), check: None }, &[])
        })
    });
    let lines = LINES.iter().map(|case| {
        trial(&format!("hostile::a_command_line_with_{}", case.name), || {
            let words = file(case)?;
            told(case, &Task::Verbatim(words.path()), &[])
        })
    });
    let tables = TABLES.iter().map(|case| {
        trial(&format!("hostile::a_table_{}", case.name), || {
            let body = file(case)?;
            let task = Task::Test { select: Select::Containing("memory/".parse()?), after: None };
            told(case, &task, &[FirmwareTable { signature: &case.name[..4], revision: 3, body: body.path() }])
        })
    });
    let flipped = trial("hostile::a_recorded_trace_with_any_bit_flipped", flipped);
    let alone = trial("hostile::a_cpu_without_a_local_apic", without_local_apic);
    traces.chain(lines).chain(tables).chain([flipped, alone]).collect()
}

/// What firmware has left open interrupts at exceptions' vectors, as soon as interrupts are on; and the CPU does all work.
fn without_local_apic() -> anyhow::Result<()> {
    for tests in ["interrupts/", "cpus/"] {
        let task = Task::Test { select: Select::Containing(tests.parse()?), after: None };
        let machine = MACHINE.without_local_apic();
        let Run { serial, end } = Launch::new(checked()?, machine).run(&task, PATIENCE, |_| ())?;
        let is_said = serial.contains("cpus: no interrupts, and no other CPU: ");
        anyhow::ensure!(is_said && end == End::Success, "{end}\n{serial}");
    }
    Ok(())
}

/// The beginning of a recorded trace, and in each round another bit of it is another: the kernel says what is wrong with
/// it, if only that memory was not used as much as the header says.
fn flipped() -> anyhow::Result<()> {
    const ROUNDS: usize = 16;
    let recorded = std::fs::read(Trace::unpack(&bundled("server-thp.mmtrace.gz"))?.path())?;
    for round in 0..ROUNDS {
        let mut bytes = recorded[..32 + 8 * 1000].to_vec();
        bytes[8..12].copy_from_slice(&1000_u32.to_le_bytes());
        // As many in the header as behind it.
        let end = if round % 2 == 0 { 32 } else { bytes.len() };
        let bit = round * 7919 % (8 * end);
        bytes[bit / 8] ^= 1 << (bit % 8);
        let mut file = NamedTempFile::new()?;
        file.write_all(&bytes)?;
        let task = Task::Replay { trace: file.path(), check: None };
        let Run { serial, end } = Launch::new(checked()?, MACHINE).run(&task, PATIENCE, |_| ())?;
        let is_said = serial.lines().any(|line| line.starts_with("replay: FAILED: "));
        anyhow::ensure!(is_said && end == End::Failure, "bit {bit}: {end}\n{serial}");
    }
    Ok(())
}

fn file(case: &Case) -> anyhow::Result<NamedTempFile> {
    let mut file = NamedTempFile::new()?;
    file.write_all(&(case.bytes)())?;
    Ok(file)
}

fn told(case: &Case, task: &Task<'_>, tables: &[FirmwareTable<'_>]) -> anyhow::Result<()> {
    let Run { serial, end } = Launch { tables, ..Launch::new(checked()?, MACHINE) }.run(task, PATIENCE, |_| ())?;
    let (start, says) = case.says;
    let is_said = serial.lines().any(|line| line.starts_with(start) && line.contains(says));
    anyhow::ensure!(is_said, "nothing is said of '{start}…{says}': {end}\n{serial}");
    anyhow::ensure!(end == case.end, "{end}\n{serial}");
    Ok(())
}
