//! What a replay must notice, on traces that hurt.

use alloc::vec::Vec;

use mm::page::Request;
use mm::trace::{BadEnd, Defect, HeaderError};
use mm::units::{Order, PAGE_SIZE};

use super::failure::Failure;
use super::held::{Held, Id};
use super::{Replayed, pattern, replay};
use crate::ktest::{NotPassed, check, ktest};
use crate::memory::{self, Wholeness};

const FREE: u8 = 1 << 7;
const HIGHMEM: u8 = 1 << 1;

/// A trace of `records` (id, operation and order, flags) over eight blocks.
fn trace(peak_pages: u32, records: &[(u32, u8, u8)]) -> Vec<u8> {
    let count = u32::try_from(records.len()).unwrap_or(u32::MAX);
    let mut bytes = b"MMTRACE\x01".to_vec();
    for word in [count, 8, 1, peak_pages, 0, 0] {
        bytes.extend(word.to_le_bytes());
    }
    for &(id, operation, flags) in records {
        bytes.extend(id.to_le_bytes());
        bytes.extend([operation, 0, 0, flags]);
    }
    bytes
}

/// Replays these bytes; the test fails if memory is not as before.
fn outcome(mut bytes: &[u8]) -> Result<Result<Replayed, Failure>, NotPassed> {
    let allocator = memory::allocator().ok_or("the page allocator is not up")?;
    let before = Wholeness::now(allocator);
    let read = |buffer: &mut [u8]| {
        // Pieces that end inside a record.
        let (piece, rest) = bytes.split_at(bytes.len().min(45));
        buffer[..piece.len()].copy_from_slice(piece);
        bytes = rest;
        Ok(piece.len())
    };
    let outcome = replay(allocator, read, core::num::NonZeroU64::MIN);
    let after = Wholeness::now(allocator);
    check!(after.is_restored(&before), "memory is not as before: {before} became {after}");
    allocator.verify()?;
    Ok(outcome)
}

ktest!(
    "replay",
    fn a_trace_that_leaves_blocks_live_replays_and_leaves_memory_as_it_was() {
        let records = [(0, 0, 0), (1, 3, HIGHMEM), (7, 5, HIGHMEM), (1, FREE | 3, 0), (1, 0, 0), (0, FREE, 0)];
        let replayed = outcome(&trace(41, &records))??;
        check!(replayed.operations == 6 && replayed.allocs.samples() == 4, "{replayed:?}");
        check!(replayed.peak_pages == 41 && replayed.left_pages == 33, "{replayed:?}");
        outcome(&trace(0, &[]))??;
        Ok(())
    }
);

ktest!(
    "replay",
    fn a_malformed_trace_ends_in_an_error_that_names_the_operation_and_frees_everything() {
        let twice = outcome(&trace(1, &[(0, 0, 0), (0, FREE, 0), (0, FREE, 0)]))?;
        check!(matches!(twice, Err(Failure::NotLive { operation: 2, id: Id(0) })), "{twice:?}");
        let taken = outcome(&trace(2, &[(3, 0, 0), (3, 0, HIGHMEM)]))?;
        check!(matches!(taken, Err(Failure::Taken { operation: 1, id: Id(3) })), "{taken:?}");
        let folio = outcome(&trace(2, &[(3, 0, HIGHMEM), (3, 0, HIGHMEM)]))?;
        check!(matches!(folio, Err(Failure::Taken { operation: 1, id: Id(3) })), "{folio:?}");
        let order = outcome(&trace(4, &[(3, 2, 0), (3, FREE | 1, 0)]))?;
        check!(matches!(order, Err(Failure::OtherOrder { operation: 1, .. })), "{order:?}");
        let peak = outcome(&trace(3, &[(0, 1, 0), (1, 2, 0)]))?;
        check!(matches!(peak, Err(Failure::OtherPeak { announced: 3, seen: 6 })), "{peak:?}");
        let unknown = outcome(&trace(2, &[(0, 0, 0), (8, 0, 0)]))?;
        let is_unknown = matches!(&unknown, Err(Failure::Record(error)) if error.defect == Defect::UnknownBlock(8));
        check!(is_unknown, "{unknown:?}");
        let whole = trace(2, &[(0, 0, 0), (1, 0, 0)]);
        let short = outcome(&whole[..whole.len() - 1])?;
        let is_short = matches!(&short, Err(Failure::End(BadEnd::Truncated { complete: 1, announced: 2 })));
        check!(is_short, "{short:?}");
        let long = outcome(&[&whole[..], &[0; 3]].concat())?;
        check!(matches!(&long, Err(Failure::End(BadEnd::Unannounced { bytes: 3 }))), "{long:?}");
        let empty = outcome(&[])?;
        check!(matches!(empty, Err(Failure::Header(HeaderError::Truncated { bytes: 0 }))), "{empty:?}");
        Ok(())
    }
);

ktest!(
    "replay",
    fn one_flipped_bit_in_the_last_page_of_a_block_breaks_its_pattern() {
        let allocator = memory::allocator().ok_or("the page allocator is not up")?;
        let block = allocator.alloc(Request::movable(Order::of(2)))?;
        let last = block.head().plus(3);
        let mut block = Held::Plain(block);
        let id = Id(u32::MAX);
        check!(pattern::fill(&mut block, id).is_ok(), "a block cannot be written");
        check!(pattern::check(&mut block, id).is_ok(), "a fresh pattern is broken");
        check!(pattern::check(&mut block, Id(0)).is_err(), "two blocks have one pattern");
        block.with_page(3, |page| page[PAGE_SIZE - 1] ^= 0x80);
        let broken = pattern::check(&mut block, id).err().ok_or("the flipped bit was not found")?;
        let report = alloc::format!("{broken}");
        check!(report.contains(&alloc::format!("{last:?}")) && report.contains("byte 4088"), "{report}");
        Ok(())
    }
);
