//! Traces: any bytes, and the same bytes as records behind a header that is right.
//!
//! The format has one way to say each thing, so a record that is taken is what its event encodes to; and it does not
//! matter in which pieces a file comes.

use mm::migratetype::Migratetype;
use mm::trace::{BadEnd, Decoder, Defect, Event, Header, HeaderError, RecordError};

const HEADER: usize = 32;
const RECORD: usize = 8;
const FREE: u8 = 1 << 7;

/// See the module.
pub fn check(bytes: &[u8]) {
    check_file(bytes);
    if let Some((&[records, blocks, cpus, peak], rest)) = bytes.split_first_chunk() {
        let mut file = b"MMTRACE\x01".to_vec();
        for word in [records, blocks, cpus, peak, 0, 0] {
            file.extend(u32::from(word).to_le_bytes());
        }
        check_file(&[&file, rest].concat());
    }
}

fn check_file(file: &[u8]) {
    let (header, rest) = match Header::parse(file) {
        Ok(parsed) => parsed,
        Err(error) => return check_refused(file, error),
    };
    let encoded = [header.records, header.blocks, header.cpus, header.peak_pages, 0, 0].map(u32::to_le_bytes);
    assert_eq!([b"MMTRACE\x01", encoded.as_flattened()].concat(), file[..HEADER]);
    assert_eq!(rest, &file[HEADER..]);

    let mut decoder = Decoder::new(header);
    let whole: Vec<_> = decoder.decode(rest).collect();
    let records = rest.as_chunks::<RECORD>().0;
    assert_eq!(whole.len(), records.len());
    for ((number, record), result) in (0..).zip(records).zip(&whole) {
        match *result {
            Ok(event) => assert!(encode(event) == *record && number < header.records, "{event:?} of {record:?}"),
            Err(error) => check_defect(header, number, record, error),
        }
    }
    let complete = header.records.min(u32::try_from(records.len()).unwrap_or(u32::MAX));
    match decoder.finish() {
        Ok(()) => assert!(complete == header.records && rest.len().is_multiple_of(RECORD)),
        Err(BadEnd::Truncated { complete: told, announced }) => {
            assert!((told, announced) == (complete, header.records) && complete < header.records);
        }
        Err(BadEnd::Unannounced { bytes }) => {
            assert!(complete == header.records && bytes > 0 && bytes == rest.len() % RECORD);
        }
    }
    for size in [1, 7, 45] {
        let mut decoder = Decoder::new(header);
        let mut pieces = Vec::new();
        rest.chunks(size).for_each(|piece| pieces.extend(decoder.decode(piece)));
        assert_eq!(pieces, whole, "in pieces of {size}");
    }
}

fn check_refused(file: &[u8], error: HeaderError) {
    let word = |at: usize| file.get(at..).and_then(|rest| rest.first_chunk()).copied().map(u32::from_le_bytes);
    let is_true = match error {
        HeaderError::Truncated { bytes } => bytes == file.len() && bytes < HEADER,
        HeaderError::BadMagic => !file.starts_with(b"MMTRACE"),
        HeaderError::UnknownVersion(version) => file.get(7) == Some(&version) && version != 1,
        HeaderError::UnusedBytes(_) => file.get(24..32).is_some_and(|unused| unused != [0; 8]),
        HeaderError::TooManyCpus(cpus) => word(16) == Some(cpus) && cpus > 1 << 16,
    };
    assert!(is_true, "{error}");
}

fn check_defect(header: Header, number: u32, record: &[u8; RECORD], error: RecordError) {
    let [id @ .., operation, cpu, migratetype, flags] = *record;
    let is_free = operation & FREE != 0;
    let is_true = match error.defect {
        Defect::Unannounced => return assert!(number >= header.records && error.record == header.records),
        Defect::UnknownBlock(block) => block == u32::from_le_bytes(id) && block >= header.blocks,
        Defect::BadOperation(told) => told == operation && operation & !FREE > 10,
        Defect::UnknownCpu(told) => told == cpu && u32::from(cpu) >= header.cpus,
        Defect::BadMigratetype(told) => told == migratetype && migratetype > if is_free { 0 } else { 2 },
        Defect::BadFlags(told) => told == flags && flags > if is_free { 0 } else { 15 },
    };
    assert!(is_true && error.record == number, "{error} in {record:?}");
}

fn encode(event: Event) -> [u8; RECORD] {
    let (id, operation, cpu, migratetype, flags) = match event {
        Event::Alloc { id, order, migratetype, cpu, flags } => {
            let kind = Migratetype::REQUESTED.iter().position(|&kind| kind == migratetype);
            (id, order.number(), cpu, kind.expect("one that can be asked for"), flags.bits())
        }
        Event::Free { id, order, cpu } => (id, order.number() | FREE, cpu, 0, 0),
    };
    let [a, b, c, d] = u32::try_from(id.index()).expect("a block's number has 32 bits").to_le_bytes();
    let byte = |number: usize| u8::try_from(number).expect("a record has a byte for it");
    [a, b, c, d, operation, byte(cpu.0.into()), byte(migratetype), flags]
}
