//! Traces that are whole, cut off, and wrong in every byte.

use std::string::ToString;
use std::vec::Vec;

use proptest::prelude::*;

use super::{AllocationFlags, BadEnd, BlockId, Decoder, Defect, Event, Header, HeaderError, RecordError};
use crate::migratetype::Migratetype;
use crate::units::{CpuId, Order};

const HEADER: Header = Header { records: 3, blocks: 2, cpus: 2, peak_pages: 1025 };
const RECORDS: [[u8; 8]; 3] = [[0, 0, 0, 0, 10, 0, 1, 0b1011], [1, 0, 0, 0, 0, 1, 2, 4], [0, 0, 0, 0, 0x8a, 1, 0, 0]];

fn events() -> Vec<Event> {
    std::vec![
        Event::Alloc {
            id: BlockId(0),
            order: Order::of(10),
            migratetype: Migratetype::Movable,
            cpu: CpuId(0),
            flags: AllocationFlags::ZEROED | AllocationFlags::HIGHMEM | AllocationFlags::ATOMIC,
        },
        Event::Alloc {
            id: BlockId(1),
            order: Order::ZERO,
            migratetype: Migratetype::Reclaimable,
            cpu: CpuId(1),
            flags: AllocationFlags::ACCOUNTED,
        },
        Event::Free { id: BlockId(0), order: Order::of(10), cpu: CpuId(1) },
    ]
}

fn trace() -> Vec<u8> {
    let mut bytes = b"MMTRACE\x01".to_vec();
    for word in [HEADER.records, HEADER.blocks, HEADER.cpus, HEADER.peak_pages, 0, 0] {
        bytes.extend(word.to_le_bytes());
    }
    bytes.extend(RECORDS.as_flattened());
    bytes
}

fn decode_one(record: [u8; 8]) -> Result<Event, Defect> {
    let mut decoder = Decoder::new(HEADER);
    let mut events = decoder.decode(&record);
    let event = events.next().expect("a whole record");
    assert!(events.next().is_none());
    event.map_err(|error| {
        assert_eq!(error.record, 0);
        error.defect
    })
}

#[test]
fn a_trace_reads_back_as_it_was_recorded_in_pieces_of_every_size() {
    let bytes = trace();
    let (header, rest) = Header::parse(&bytes).expect("a header");
    assert_eq!(header, HEADER);
    for size in 1..=rest.len() {
        let mut decoder = Decoder::new(header);
        let mut read = Vec::new();
        for piece in rest.chunks(size) {
            read.extend(decoder.decode(piece).map(|event| event.expect("a good record")));
        }
        assert_eq!(read, events());
        assert_eq!(decoder.finish(), Ok(()));
    }
}

#[test]
fn a_trace_cut_anywhere_gives_the_whole_records_and_then_says_how_many_are_missing() {
    let bytes = trace();
    for len in 0..bytes.len() {
        let Ok((header, rest)) = Header::parse(&bytes[..len]) else {
            assert!(len < 32);
            assert_eq!(Header::parse(&bytes[..len]), Err(HeaderError::Truncated { bytes: len }));
            continue;
        };
        let mut decoder = Decoder::new(header);
        let whole = (len - 32) / 8;
        let read: Vec<_> = decoder.decode(rest).map(|event| event.expect("a good record")).collect();
        assert_eq!(read, events()[..whole]);
        let missing = BadEnd::Truncated { complete: u32::try_from(whole).expect("few"), announced: 3 };
        assert_eq!(decoder.finish(), Err(missing));
    }
}

#[test]
fn a_trace_with_less_than_a_record_behind_it_is_turned_away() {
    for bytes in 0..8 {
        let mut decoder = Decoder::new(HEADER);
        let file = [&trace()[32..], &[0; 8][..bytes]].concat();
        assert_eq!(decoder.decode(&file).count(), events().len());
        let end = if bytes == 0 { Ok(()) } else { Err(BadEnd::Unannounced { bytes }) };
        assert_eq!(decoder.finish(), end);
    }
}

#[test]
fn a_header_that_is_wrong_in_any_constant_byte_is_turned_away() {
    let parse_with = |index: usize, byte: u8| {
        let mut bytes = trace();
        bytes[index] = byte;
        Header::parse(&bytes).map(|(header, _)| header)
    };
    for index in 0..7 {
        assert_eq!(parse_with(index, 0), Err(HeaderError::BadMagic));
    }
    assert_eq!(parse_with(7, 2), Err(HeaderError::UnknownVersion(2)));
    assert_eq!(parse_with(18, 1), Err(HeaderError::TooManyCpus(0x1_0002)));
    for index in 24..32 {
        assert_eq!(parse_with(index, 1), Err(HeaderError::UnusedBytes(1 << (8 * (index - 24)))));
    }
}

#[test]
fn each_impossible_value_is_named() {
    assert_eq!(decode_one([2, 0, 0, 0, 0, 0, 0, 0]), Err(Defect::UnknownBlock(2)));
    assert_eq!(decode_one([0, 0, 0, 1, 0, 0, 0, 0]), Err(Defect::UnknownBlock(1 << 24)));
    for operation in [11, 0x1f, 0x20, 0x40, 0x8b, 0xa0, 0xc0, 0xff] {
        assert_eq!(decode_one([0, 0, 0, 0, operation, 0, 0, 0]), Err(Defect::BadOperation(operation)));
    }
    assert_eq!(decode_one([0, 0, 0, 0, 0, 2, 0, 0]), Err(Defect::UnknownCpu(2)));
    assert_eq!(decode_one([0, 0, 0, 0, 0, 0, 3, 0]), Err(Defect::BadMigratetype(3)));
    assert_eq!(decode_one([0, 0, 0, 0, 0x80, 0, 1, 0]), Err(Defect::BadMigratetype(1)));
    assert_eq!(decode_one([0, 0, 0, 0, 0, 0, 0, 0x10]), Err(Defect::BadFlags(0x10)));
    assert_eq!(decode_one([0, 0, 0, 0, 0x80, 0, 0, 1]), Err(Defect::BadFlags(1)));
}

#[test]
fn a_bad_record_does_not_hide_the_next_and_one_too_many_is_reported() {
    let mut bytes = RECORDS.as_flattened().to_vec();
    bytes[4] = 11;
    bytes.extend(RECORDS[1]);
    let mut decoder = Decoder::new(HEADER);
    let read: Vec<_> = decoder.decode(&bytes).collect();
    let error = RecordError { record: 0, defect: Defect::BadOperation(11) };
    let surplus = RecordError { record: 3, defect: Defect::Unannounced };
    assert_eq!(read, [Err(error), Ok(events()[1]), Ok(events()[2]), Err(surplus)]);
    assert_eq!(error.to_string(), "record 0: 0x0b names no operation and order");
}

proptest! {
    #[test]
    fn any_bytes_are_events_or_errors_and_events_keep_to_the_header(
        flips in proptest::collection::vec((0..56_usize, any::<u8>()), 0..6),
        garbage in proptest::collection::vec(any::<u8>(), 0..64),
    ) {
        let mut bytes = trace();
        for (index, byte) in flips {
            bytes[index] = byte;
        }
        bytes.extend(&garbage);
        if let Ok((header, rest)) = Header::parse(&bytes) {
            let mut decoder = Decoder::new(header);
            let events: Vec<_> = decoder.decode(rest).collect();
            prop_assert_eq!(events.len(), rest.len() / 8);
            for event in events.into_iter().flatten() {
                let (Event::Alloc { id, cpu, .. } | Event::Free { id, cpu, .. }) = event;
                prop_assert!(id.index() < header.blocks as usize && u32::from(cpu.0) < header.cpus);
            }
        }
    }
}
