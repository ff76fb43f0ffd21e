//! Recorded traces, unpacked for QEMU to hand over.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use flate2::read::GzDecoder;
use tempfile::NamedTempFile;

/// Bytes of the header, which says at 8 how many records there are and at 20 the most pages that are live at once.
const HEADER: usize = 32;
/// Bytes of a record: a block's number, then what becomes of it, which is its order if it is allocated.
const RECORD: usize = 8;
/// What becomes of a block that is freed.
const FREE: u8 = 0x80;

/// A trace unpacked into a file that goes away with this value.
#[derive(Debug)]
pub struct Trace(NamedTempFile);

impl Trace {
    /// Unpacks a trace.
    ///
    /// # Errors
    /// It cannot be read, or is no whole gzip file.
    pub fn unpack(packed: &Path) -> anyhow::Result<Trace> {
        let open = || -> anyhow::Result<Trace> {
            let mut unpacked = NamedTempFile::new()?;
            io::copy(&mut GzDecoder::new(File::open(packed)?), &mut unpacked)?;
            unpacked.flush()?;
            Ok(Trace(unpacked))
        };
        open().with_context(|| format!("cannot unpack the trace {}", packed.display()))
    }

    /// Its first records, with a header that is theirs.
    ///
    /// # Errors
    /// There are not so many, or a file cannot be read or written.
    pub fn beginning(&self, records: u32) -> anyhow::Result<Trace> {
        let whole = std::fs::read(self.path())?;
        let mut bytes = whole.get(..HEADER + RECORD * records as usize).context("the trace is shorter")?.to_vec();
        let (mut live, mut pages, mut peak) = (HashMap::new(), 0_u32, 0_u32);
        for &[a, b, c, d, operation, ..] in bytes[HEADER..].as_chunks::<RECORD>().0 {
            let id = [a, b, c, d];
            if operation & FREE == 0 {
                live.insert(id, 1 << operation);
                pages += 1 << operation;
                peak = peak.max(pages);
            } else {
                pages -= live.remove(&id).context("a block is freed that is not allocated")?;
            }
        }
        bytes[8..12].copy_from_slice(&records.to_le_bytes());
        bytes[20..24].copy_from_slice(&peak.to_le_bytes());
        let mut beginning = NamedTempFile::new()?;
        beginning.write_all(&bytes)?;
        Ok(Trace(beginning))
    }

    /// Where it lies.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

/// A trace that comes with the project.
#[must_use]
pub fn bundled(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("traces").join(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bundled_traces_unpack_to_a_head_and_whole_records() {
        for name in ["server-thp.mmtrace.gz", "cargo-build.mmtrace.gz"] {
            let trace = Trace::unpack(&bundled(name)).unwrap();
            let bytes = std::fs::read(trace.path()).unwrap();
            let records = u32::from_le_bytes(bytes[8..12].try_into().unwrap());
            assert_eq!(&bytes[..8], b"MMTRACE\x01", "{name}");
            assert_eq!(bytes.len() as u64, 32 + 8 * u64::from(records), "{name}");
        }
    }

    #[test]
    fn the_beginning_of_a_trace_says_how_long_it_is_and_how_much_is_live_in_it() {
        let trace = Trace::unpack(&bundled("server-thp.mmtrace.gz")).unwrap();
        let whole = std::fs::read(trace.path()).unwrap();
        let number = |bytes: &[u8], at: usize| u32::from_le_bytes(*bytes[at..].first_chunk().unwrap());
        let records = number(&whole, 8);
        // Of all of it, what was recorded of it.
        assert!(std::fs::read(trace.beginning(records).unwrap().path()).unwrap() == whole);
        let first = std::fs::read(trace.beginning(1).unwrap().path()).unwrap();
        assert_eq!((first.len(), number(&first, 8), number(&first, 20)), (40, 1, 1 << whole[36]));
        assert!(trace.beginning(records + 1).is_err());
    }

    #[test]
    fn a_trace_cut_off_or_not_there_is_an_error_that_names_it() {
        let whole = std::fs::read(bundled("server-thp.mmtrace.gz")).unwrap();
        let mut cut = NamedTempFile::new().unwrap();
        cut.write_all(&whole[..whole.len() / 2]).unwrap();
        for path in [cut.path(), Path::new("no/such.gz"), Path::new(env!("CARGO_MANIFEST_DIR"))] {
            let error = Trace::unpack(path).unwrap_err().to_string();
            assert!(error.contains(path.to_str().unwrap()), "{error}");
        }
    }
}
