use alloc::string::{String, ToString};
use alloc::vec;

use mm::boot_map::RegionKind;
use mm::units::Bytes;

use super::*;

/// Physical memory with tables in it, from [`BASE`](Firmware::BASE) on.
#[derive(Clone)]
struct Firmware(Vec<u8>);

impl Firmware {
    const BASE: u64 = 0xe_0000;

    /// A root pointer, and tables that its list names.
    fn with(tables: &[Vec<u8>]) -> Self {
        let mut bytes = vec![0; 64];
        let mut pointers = Vec::new();
        for table in tables {
            pointers.extend((Self::BASE + bytes.len() as u64).to_le_bytes());
            bytes.extend(table);
        }
        let root = Self::BASE + bytes.len() as u64;
        bytes.extend(table(*b"XSDT", &pointers));
        let mut pointer = b"RSD PTR \0maker.\x02\0\0\0\0".to_vec();
        pointer.extend(36_u32.to_le_bytes());
        pointer.extend(root.to_le_bytes());
        pointer.extend([0; 4]);
        complete(&mut pointer[..20], 8);
        complete(&mut pointer, 32);
        bytes[..36].copy_from_slice(&pointer);
        Self(bytes)
    }

    fn read(&self) -> (Topology, Vec<String>) {
        let read = |at: PhysAddr, length: Bytes| -> Option<&[u8]> {
            let start = usize::try_from(at.0.checked_sub(Self::BASE)?).ok()?;
            self.0.get(start..start.checked_add(length.0)?)
        };
        let mut faults = Vec::new();
        let topology = Topology::read(Some(PhysAddr(Self::BASE)), ApicId(2), &read, &mut |fault| {
            faults.push(fault.to_string());
        });
        (topology, faults)
    }
}

/// Makes the bytes add up to zero.
fn complete(bytes: &mut [u8], place: usize) {
    bytes[place] = 0;
    bytes[place] = bytes.iter().fold(0, |sum: u8, &byte| sum.wrapping_sub(byte));
}

fn table(name: [u8; 4], body: &[u8]) -> Vec<u8> {
    let mut table = name.to_vec();
    table.extend(u32::try_from(36 + body.len()).unwrap().to_le_bytes());
    table.extend([3, 0]);
    table.extend([b'x'; 26]);
    table.extend(body);
    complete(&mut table, 9);
    table
}

fn local_apic(id: u8, flags: u8) -> Vec<u8> {
    vec![0, 8, 0, id, flags, 0, 0, 0]
}

fn madt(entries: &[Vec<u8>]) -> Vec<u8> {
    let mut body = 0xfee0_0000_u32.to_le_bytes().to_vec();
    body.extend([1, 0, 0, 0]);
    body.extend(entries.concat());
    table(*b"APIC", &body)
}

fn cpu_affinity(id: u8, domain: u32) -> Vec<u8> {
    let [low, high @ ..] = domain.to_le_bytes();
    let mut entry = vec![0, 16, low, id, 1, 0, 0, 0, 0];
    entry.extend(high);
    entry.extend([0; 4]);
    entry
}

fn memory_affinity(start: u64, end: u64, domain: u32) -> Vec<u8> {
    let mut entry = vec![1, 40];
    entry.extend(domain.to_le_bytes());
    entry.extend([0; 2]);
    entry.extend(start.to_le_bytes());
    entry.extend((end - start).to_le_bytes());
    entry.extend([0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    entry
}

fn srat(entries: &[Vec<u8>]) -> Vec<u8> {
    table(*b"SRAT", &[vec![0; 12], entries.concat()].concat())
}

fn slit(width: u64, distances: &[u8]) -> Vec<u8> {
    table(*b"SLIT", &[&width.to_le_bytes(), distances].concat())
}

/// Three CPUs, one of them listed twice, on domains 1 and 7; one CPU is disabled.
fn machine() -> Vec<Vec<u8>> {
    let mut x2apic = vec![9, 16, 0, 0];
    x2apic.extend(5_u32.to_le_bytes());
    x2apic.extend([1, 0, 0, 0, 9, 0, 0, 0]);
    let mut distances = [20; 64];
    (0..8).for_each(|domain| distances[domain * 9] = 10);
    (distances[8 + 7], distances[7 * 8 + 1]) = (31, 17);
    vec![
        table(*b"FACP", &[1; 9]),
        madt(&[local_apic(0, 1), local_apic(1, 0), local_apic(2, 1), local_apic(5, 1), x2apic, local_apic(0xff, 1)]),
        srat(&[
            cpu_affinity(5, 7),
            cpu_affinity(0, 7),
            cpu_affinity(2, 1),
            cpu_affinity(1, 90),
            memory_affinity(0x10_0000, 0x8000_0000, 7),
            memory_affinity(0, 0xa_0000, 1),
            memory_affinity(0x1_0000_0000, 0x1_8000_0000, 1),
        ]),
        slit(8, &distances),
    ]
}

fn region(start: u64, end: u64, node: u8) -> Region {
    Region { start: PhysAddr(start), len: end - start, kind: RegionKind::Usable, node: NodeId(node) }
}

#[test]
fn the_cpu_that_boots_comes_first_domains_become_dense_and_only_what_is_enabled_counts() {
    let (topology, faults) = Firmware::with(&machine()).read();
    assert!(faults.is_empty(), "{faults:?}");
    assert_eq!((topology.cpus().get(), topology.nodes().get()), (3, 2));
    let apics: Vec<_> = (0..4).map(|cpu| topology.apic(CpuId(cpu))).collect();
    assert_eq!(apics, [Some(ApicId(2)), Some(ApicId(0)), Some(ApicId(5)), None]);
    let nodes: Vec<_> = (0..3).map(|cpu| topology.node_of(CpuId(cpu))).collect();
    assert_eq!(nodes, [NodeId(0), NodeId(1), NodeId(1)]);
    let distance = |from, to| topology.distance(NodeId(from), NodeId(to)).0;
    assert_eq!([distance(0, 0), distance(0, 1), distance(1, 0), distance(1, 1)], [10, 31, 17, 10]);
    assert_eq!(distance(9, 200), 20);
}

#[test]
fn regions_are_cut_where_nodes_meet_and_what_nobody_mentions_is_the_first_nodes() {
    let (topology, _) = Firmware::with(&machine()).read();
    let cut = topology.assign(&[region(0x9_0000, 0x20_0000, 9), region(0x2_0000_0000, 0x2_0000_1000, 9)]);
    assert_eq!(
        cut,
        [
            region(0x9_0000, 0xa_0000, 0),
            region(0xa_0000, 0x10_0000, 0),
            region(0x10_0000, 0x20_0000, 1),
            region(0x2_0000_0000, 0x2_0000_1000, 0),
        ]
    );
    let odd = [region(5, 5, 0), Region { len: u64::MAX, ..region(0x1_0000_0001, 0x1_0000_0002, 0) }];
    assert_eq!(topology.assign(&odd[..1]), odd[..1]);
    assert_eq!(topology.assign(&odd[1..]).len(), 2);
}

#[test]
fn faked_nodes_replace_what_firmware_says_of_nodes_but_not_its_cpus() {
    let (topology, _) = Firmware::with(&machine()).read();
    let split = topology.split(NonZeroU8::new(2).unwrap());
    let nodes: Vec<_> = (0..3).map(|cpu| split.node_of(CpuId(cpu))).collect();
    assert_eq!(nodes, [NodeId(0), NodeId(1), NodeId(0)]);
    assert_eq!(split.distance(NodeId(0), NodeId(1)), Distance::REMOTE);
    assert_eq!(split.assign(&[region(0, 0x20_0000, 0)]).len(), 1);
    assert_eq!(split.limited_to(NonZeroU16::new(2).unwrap()).cpus().get(), 2);
}

#[test]
fn a_machine_without_tables_or_with_few_has_one_cpu_or_one_node() {
    let read = |_: PhysAddr, _: Bytes| -> Option<&[u8]> { None };
    let mut faults = Vec::new();
    let topology = Topology::read(None, ApicId(3), &read, &mut |fault| faults.push(fault.to_string()));
    assert_eq!((topology.cpus().get(), topology.apic(CpuId(0))), (1, Some(ApicId(3))));
    assert_eq!(faults, ["the loader knows of no root pointer"]);

    let (topology, faults) = Firmware::with(&machine()[1..2]).read();
    assert_eq!((topology.cpus().get(), topology.nodes().get()), (3, 1));
    assert!(faults.is_empty(), "no nodes is no fault: {faults:?}");

    let (topology, faults) = Firmware::with(&[madt(&[local_apic(0, 1)])]).read();
    assert_eq!((topology.cpus().get(), topology.apic(CpuId(0))), (1, Some(ApicId(2))));
    assert_eq!(faults, ["APIC does not list the CPU that boots"]);
}

#[test]
fn tables_that_make_no_sense_are_named_and_left_out_as_a_whole() {
    let fault = |tables: &[Vec<u8>]| {
        let (topology, faults) = Firmware::with(&[&machine()[1..2], tables].concat()).read();
        assert_eq!(topology.cpus().get(), 3);
        assert_eq!(faults.len(), 1, "{faults:?}");
        (topology.nodes().get(), faults[0].clone())
    };
    let twice = srat(&[memory_affinity(0, 0x2000, 1), memory_affinity(0x1000, 0x3000, 2)]);
    assert_eq!(fault(&[twice]), (1, "SRAT gives the memory at 0x1000 to two nodes".into()));
    let endless = srat(&[memory_affinity(0, 0x2000, 1), vec![7, 0]]);
    assert_eq!(fault(&[endless]), (1, "SRAT has an entry of kind 7 that is malformed".into()));
    let short = srat(&[vec![1, 4, 0, 0]]);
    assert_eq!(fault(&[short]), (1, "SRAT has an entry of kind 1 that is malformed".into()));
    let many: Vec<_> = (0..=64).map(|n| memory_affinity(n << 20, (n << 20) + 1, 0)).collect();
    assert_eq!(fault(&[srat(&many)]), (1, "SRAT lists more than 64 nodes or ranges".into()));
    let nodes: Vec<_> = (0..33).map(|n| memory_affinity(u64::from(n) << 20, (u64::from(n) << 20) + 1, n)).collect();
    assert_eq!(fault(&[srat(&nodes)]), (1, "SRAT lists more than 32 nodes or ranges".into()));
    let two = srat(&[memory_affinity(0, 0x1000, 0), memory_affinity(0x1000, 0x2000, 1)]);
    assert_eq!(fault(&[two.clone(), slit(2, &[10, 9, 20, 10])]), (2, "SLIT has distances that make no sense".into()));
    assert_eq!(fault(&[two.clone(), slit(u64::MAX, &[10, 20])]), (2, "SLIT is too short".into()));
    let mut wrong = two;
    wrong[50] ^= 1;
    assert_eq!(fault(&[wrong]), (1, "SRAT has a wrong checksum".into()));
}

#[test]
fn tables_that_end_anywhere_or_have_any_byte_changed_are_read_without_harm() {
    let whole = Firmware::with(&machine());
    for end in 0..whole.0.len() {
        let (topology, faults) = Firmware(whole.0[..end].to_vec()).read();
        assert!(!faults.is_empty() && topology.cpus().get() <= 3, "cut at {end}");
    }
    for place in 0..whole.0.len() {
        for change in [1, 0x80, 0xff] {
            let mut broken = whole.clone();
            broken.0[place] ^= change;
            assert!(broken.read().0.cpus().get() <= 3);
        }
    }
}

#[test]
fn any_bytes_with_a_right_checksum_are_read_without_harm() {
    let mut random = fastrand::Rng::with_seed(5);
    for name in [*b"APIC", *b"SRAT", *b"SLIT"] {
        for _ in 0..2000 {
            let body: Vec<u8> = (0..random.usize(..300)).map(|_| random.u8(..) & random.u8(..)).collect();
            let tables = [&[table(name, &body)], &machine()[..]].concat();
            let (topology, _) = Firmware::with(&tables).read();
            topology.assign(&[region(0, u64::MAX, 0)]);
            assert!(topology.cpus().get() >= 1 && topology.distance(NodeId(0), NodeId(0)) == Distance::LOCAL);
        }
    }
}
