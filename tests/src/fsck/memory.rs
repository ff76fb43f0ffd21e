//! The machine's memory as the image has it, by physical address.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt as _;

use super::NotAnImage;
use super::core_file::{self, Segment};

/// Bytes of a page.
pub(super) const PAGE: u64 = PAGE_BYTES as u64;
pub(super) const PAGE_BYTES: usize = 4096;

type Page = [u8; PAGE_BYTES];

/// A physical address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Physical(pub(super) u64);

/// The machine's memory.
#[derive(Debug)]
pub(super) struct Memory {
    file: File,
    segments: Vec<Segment>,
    /// Pages that were looked at, by their addresses.
    pages: RefCell<HashMap<u64, Option<Box<Page>>>>,
}

impl Memory {
    pub(super) fn open(file: File) -> Result<Memory, NotAnImage> {
        let segments = core_file::segments(&file)?;
        Ok(Memory { file, segments, pages: RefCell::default() })
    }

    /// The bytes at an address; `None` where there are not so many.
    pub(super) fn read<const N: usize>(&self, Physical(start): Physical) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        let mut done = 0;
        while done < N {
            let at = start.checked_add(done as u64)?;
            let inside = usize::try_from(at % PAGE).ok()?;
            let count = (N - done).min(PAGE_BYTES - inside);
            self.with_page(at - at % PAGE, |page| {
                bytes[done..done + count].copy_from_slice(&page[inside..inside + count]);
            })?;
            done += count;
        }
        Some(bytes)
    }

    /// Puts bytes into a page, in the image as it is looked at from now on; `None` if they are not all in one that is there.
    pub(super) fn write(&self, Physical(at): Physical, bytes: &[u8]) -> Option<()> {
        let inside = usize::try_from(at % PAGE).ok()?;
        self.with_page(at - at % PAGE, |page| {
            page.get_mut(inside..inside + bytes.len()).map(|place| place.copy_from_slice(bytes))
        })?
    }

    fn with_page<R>(&self, start: u64, look: impl FnOnce(&mut Page) -> R) -> Option<R> {
        let mut pages = self.pages.borrow_mut();
        let page = pages.entry(start).or_insert_with(|| self.load(start));
        page.as_mut().map(|page| look(page))
    }

    fn load(&self, start: u64) -> Option<Box<Page>> {
        let segment = self.segments.iter().find(|segment| start.wrapping_sub(segment.start) < segment.len)?;
        let inside = start - segment.start;
        if segment.len - inside < PAGE {
            return None;
        }
        let mut page = Box::new([0; PAGE_BYTES]);
        self.file.read_exact_at(&mut page[..], segment.offset.checked_add(inside)?).ok()?;
        Some(page)
    }

    /// The first bytes of each page, without a look at the rest.
    pub(super) fn page_starts<const N: usize>(&self) -> impl Iterator<Item = (Physical, [u8; N])> {
        let of = move |segment: &Segment| {
            let Segment { start, len, offset } = *segment;
            // A segment that ends where addresses do has no page there.
            let first = start.checked_next_multiple_of(PAGE).unwrap_or(u64::MAX);
            let pages = start.saturating_add(len).saturating_sub(first) / PAGE;
            (0..pages).filter_map(move |page| {
                let mut bytes = [0; N];
                self.file.read_exact_at(&mut bytes, offset + (first - start) + page * PAGE).ok()?;
                Some((Physical(first + page * PAGE), bytes))
            })
        };
        self.segments.iter().flat_map(of)
    }
}
