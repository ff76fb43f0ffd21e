//! Firmware's tables: any bytes where they are looked for, and any bytes as what tables say whose checksums are right,
//! since no fuzzer guesses those.
//!
//! Input: a byte that says which, and then memory from a fixed place on; or tables, each behind its name's number, its
//! revision, and its length.

use kernel_core::acpi::{ApicId, MAX_NODES, Topology};
use kernel_core::layout::CPUS;
use mm::boot_map::{BootMap, BootMapError, Region, RegionKind};
use mm::units::{Bytes, CpuId, Distance, NodeId, PhysAddr};

const BASE: u64 = 0xe_0000;
const BOOT: ApicId = ApicId(2);
const NAMES: [&[u8; 4]; 4] = [b"APIC", b"SRAT", b"SLIT", b"FACP"];

/// See the module.
pub fn check(bytes: &[u8]) {
    let Some((&which, rest)) = bytes.split_first() else { return };
    match which % 4 {
        0 => check_memory(rest),
        1 => check_memory(&firmware(rest, Pointers::Narrow)),
        _ => check_memory(&firmware(rest, Pointers::Wide)),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Pointers {
    Narrow,
    Wide,
}

fn firmware(mut described: &[u8], pointers: Pointers) -> Vec<u8> {
    let mut memory = vec![0; 48];
    let mut list = Vec::new();
    while let Some((&[name, revision, low, high], rest)) = described.split_first_chunk() {
        let length = usize::from(u16::from_le_bytes([low, high])).min(rest.len());
        let (body, rest) = rest.split_at(length);
        let address = (BASE + memory.len() as u64).to_le_bytes();
        list.extend(if pointers == Pointers::Wide { &address[..] } else { &address[..4] });
        memory.extend(table(NAMES[usize::from(name) % NAMES.len()], revision, body));
        described = rest;
    }
    let root = (BASE + memory.len() as u64).to_le_bytes();
    memory.extend(table(if pointers == Pointers::Wide { b"XSDT" } else { b"RSDT" }, 1, &list));
    memory[..8].copy_from_slice(b"RSD PTR ");
    memory[15] = if pointers == Pointers::Wide { 2 } else { 0 };
    memory[16..20].copy_from_slice(&root[..4]);
    memory[20] = 36;
    memory[24..32].copy_from_slice(&root);
    complete(&mut memory[..20], 8);
    complete(&mut memory[..36], 32);
    memory
}

fn table(name: &[u8; 4], revision: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(36 + body.len()).expect("a body has at most 64 KiB");
    let mut table = [&name[..], &length.to_le_bytes(), &[revision, 0], &[b'f'; 26], body].concat();
    complete(&mut table, 9);
    table
}

/// Makes the bytes add up to zero.
fn complete(bytes: &mut [u8], place: usize) {
    bytes[place] = 0;
    bytes[place] = bytes.iter().fold(0, |sum: u8, &byte| sum.wrapping_sub(byte));
}

fn check_memory(memory: &[u8]) {
    let read = |at: PhysAddr, length: Bytes| -> Option<&[u8]> {
        let start = usize::try_from(at.0.checked_sub(BASE)?).ok()?;
        memory.get(start..start.checked_add(length.0)?)
    };
    let mut faults = Vec::new();
    let root = BASE + boot::rsdp::find(memory).unwrap_or(0);
    let topology = Topology::read(Some(PhysAddr(root)), BOOT, &read, &mut |fault| faults.push(fault.to_string()));
    assert!(faults.len() <= 4 && faults.iter().all(|fault| !fault.is_empty()), "{faults:?}");
    check_cpus(&topology);
    check_distances(&topology);
    check_regions(&topology);
}

fn check_cpus(topology: &Topology) {
    let count = topology.cpus().get();
    assert!(usize::from(count) <= CPUS && usize::from(topology.nodes().get()) <= MAX_NODES);
    let mut apics: Vec<_> = (0..count).map(|cpu| topology.apic(CpuId(cpu)).expect("so many CPUs")).collect();
    assert!(apics[0] == BOOT && topology.apic(CpuId(count)).is_none());
    apics.sort_unstable();
    assert!(apics.windows(2).all(|pair| pair[0] != pair[1]), "{apics:?}");
    assert!((0..count).all(|cpu| topology.node_of(CpuId(cpu)).0 < topology.nodes().get()));
}

fn check_distances(topology: &Topology) {
    for (from, to) in (0..=u8::MAX).flat_map(|from| (0..=topology.nodes().get()).map(move |to| (from, to))) {
        let distance = topology.distance(NodeId(from), NodeId(to));
        assert!(if from == to { distance == Distance::LOCAL } else { distance > Distance::LOCAL });
    }
}

/// Cutting loses nothing, and makes no region that a map turns away.
fn check_regions(topology: &Topology) {
    let region = |start, len| Region { start: PhysAddr(start), len, kind: RegionKind::Usable, node: NodeId(77) };
    let regions = [
        region(0, 0x9_fc00),
        region(0x10_0000, 0xfff0_0001),
        region(0x1_0000_0001, (1 << 43) - 5),
        region(1 << 44, 1 << 63),
        region(7, 0),
        region(u64::MAX, 1),
    ];
    for region in regions {
        let pieces = topology.assign(&[region]);
        let mut at = region.start.0;
        for piece in &pieces {
            assert!(piece.start.0 == at && piece.kind == region.kind && piece.node.0 < topology.nodes().get());
            assert!(piece.len > 0 || region.len == 0, "{pieces:?}");
            at = at.wrapping_add(piece.len);
        }
        assert_eq!(at, region.start.0.wrapping_add(region.len), "{region} became {pieces:?}");
    }
    let map = BootMap::<512>::new(&topology.assign(&regions[..3]));
    assert!(matches!(map, Ok(_) | Err(BootMapError::TooManyExtents { .. })), "{map:?}");
}
