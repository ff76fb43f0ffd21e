//! From a frame number to its descriptor: how the descriptors are laid out is known here and nowhere else.
//!
//! Descriptors come a section at a time, a section being one aligned block of the largest order: so the buddy of any
//! page that has a descriptor has one as well. A section has descriptors if any of its frames is usable, or was before
//! it was carved out; the frames around that are holes or reserved. Two levels of tables lead to a section: a root with
//! one pointer for 512 sections (2 GiB), and below it only what is populated. Where nothing is, all tables and sections
//! are one and the same: a section of holes. So a look-up has one bound to check, and no pointer.
//!
//! The type of each pageblock stands beside its section's pointer, two bits a pageblock: it is read on every free, and
//! a gigabyte of them fits into a few cache lines.
//!
//! Cost: a lookup is two dependent loads and an address. Memory: 16 bytes a page of populated sections, 8 KiB for each
//! populated 2 GiB, 8 bytes a 2 GiB up to the highest usable frame; 24 KiB for what is not there.
#![expect(unsafe_code, reason = "a section's descriptors are reached through a thin pointer")]

use core::marker::PhantomData;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};

use super::allocator_word::{AllocatorWord, End, ListId};
use super::word::Page;
use crate::boot_map::{BootMap, CarveError, Extent, RegionKind};
use crate::early::{MetadataBytes, carve_slice};
use crate::image::{Note, NoteFull, layout};
use crate::machine::{Geometry, Machine};
use crate::migratetype::Migratetype;
use crate::units::{NodeId, Order, PAGE_SHIFT, PAGE_SIZE, Pfn, PfnRange, PhysAddr};

/// log2 of the sections in one table.
const TABLE_SHIFT: u32 = 9;

/// The descriptors of one aligned block of the largest order, and the types of its pageblocks.
#[derive(Debug)]
pub(crate) struct Section<'m, G> {
    descriptors: Descriptors<'m, G>,
    types: AtomicU64,
}

/// The descriptors of one aligned block of the largest order.
#[derive(Debug)]
pub(crate) struct Descriptors<'m, G> {
    /// INVARIANT: leads to `1 << G::MAX_ORDER` descriptors that live as long as `'m`.
    pages: NonNull<Page>,
    lifetime: PhantomData<&'m Page>,
    geometry: PhantomData<fn() -> G>,
}

impl<G> Clone for Descriptors<'_, G> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<G> Copy for Descriptors<'_, G> {}

impl<'m, G: Geometry> Descriptors<'m, G> {
    const PAGES: usize = G::MAX_ORDER.pages() as usize;

    /// The descriptor of `pfn`, or of the frame at the same place in this section if it lies in another.
    #[inline(always)]
    pub(crate) fn page(self, pfn: Pfn) -> &'m Page {
        // SAFETY: the index is below the number of descriptors in a section.
        let page = unsafe { self.pages.add(pfn.index() % Self::PAGES) };
        // SAFETY: the section's descriptors were initialised when it was made, and live as long as `'m`.
        unsafe { page.as_ref() }
    }
}

// SAFETY: a section is a shared reference to descriptors, which are atomics, and an atomic beside it.
unsafe impl<G> Sync for Section<'_, G> {}
// SAFETY: as above.
unsafe impl<G> Send for Section<'_, G> {}

impl<'m, G: Geometry> Section<'m, G> {
    const PAGES: usize = G::MAX_ORDER.pages() as usize;

    fn of(pages: NonNull<Page>) -> Self {
        let descriptors = Descriptors { pages, lifetime: PhantomData, geometry: PhantomData };
        Self { descriptors, types: AtomicU64::new(0) }
    }

    /// All its descriptors.
    #[inline(always)]
    pub(crate) fn descriptors(&self) -> Descriptors<'m, G> {
        self.descriptors
    }

    /// The descriptor of `pfn`, or of the frame at the same place in this section if it lies in another.
    #[inline(always)]
    pub(crate) fn page(&self, pfn: Pfn) -> &'m Page {
        self.descriptors.page(pfn)
    }

    const fn type_shift(pfn: Pfn) -> u32 {
        const { assert!(G::MAX_ORDER.index() - G::PAGEBLOCK_ORDER.index() <= 5) };
        ((pfn.number() % G::MAX_ORDER.pages()) >> G::PAGEBLOCK_ORDER.number()) * 2
    }

    /// The type of the pageblock around `pfn`.
    pub(crate) fn migratetype(&self, pfn: Pfn) -> Migratetype {
        Migratetype::decode(self.type_bits(pfn))
    }

    /// The list for a free block of the pageblock around `pfn`.
    #[inline(always)]
    pub(crate) fn list(&self, pfn: Pfn, order: Order, end: End) -> ListId {
        ListId::of_bits(self.type_bits(pfn), order, end)
    }

    #[inline(always)]
    fn type_bits(&self, pfn: Pfn) -> u8 {
        ((self.types.load(Ordering::Relaxed) >> Self::type_shift(pfn)) & 3) as u8
    }

    /// Gives the pageblock around `pfn` a type. Whoever calls holds the lock of the pageblock's zone; where two zones
    /// share a section, the update must not lose the other's, hence one atomic step.
    pub(crate) fn set_migratetype(&self, pfn: Pfn, migratetype: Migratetype) {
        let flip = (self.migratetype(pfn) as u64 ^ migratetype as u64) << Self::type_shift(pfn);
        if flip != 0 {
            self.types.fetch_xor(flip, Ordering::Relaxed);
        }
    }
}

/// See [`PageMap::neighbours`].
pub(crate) struct Neighbours<'m, G: Geometry> {
    map: PageMap<'m, G>,
    /// The number of the section that was looked up last, and its descriptors; at first one that no frame is in.
    section: u32,
    descriptors: Descriptors<'m, G>,
}

impl<'m, G: Geometry> Neighbours<'m, G> {
    /// As [`PageMap::get`].
    #[inline(always)]
    pub(crate) fn get(&mut self, pfn: Pfn) -> Option<&'m Page> {
        let section = pfn.number() >> PageMap::<G>::SECTION_SHIFT;
        if self.section != section {
            self.descriptors = self.map.section(pfn)?.descriptors();
            self.section = section;
        }
        Some(self.descriptors.page(pfn))
    }
}

type Table<'m, G> = [Section<'m, G>; 1 << TABLE_SHIFT];

/// All descriptors of the machine.
#[derive(Debug)]
pub(crate) struct PageMap<'m, G> {
    root: &'m [&'m Table<'m, G>],
    /// The section of holes' descriptors.
    holes: NonNull<Page>,
}

impl<G> Clone for PageMap<'_, G> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<G> Copy for PageMap<'_, G> {}

// SAFETY: the map is shared references to sections and to the descriptors of holes, which are atomics.
unsafe impl<G> Sync for PageMap<'_, G> {}
// SAFETY: as above.
unsafe impl<G> Send for PageMap<'_, G> {}

impl<'m, G: Geometry> PageMap<'m, G> {
    const SECTION_SHIFT: u32 = G::MAX_ORDER.number() as u32;

    /// The section around `pfn`, which may be the one of holes; `None` above all tables.
    #[inline(always)]
    pub(crate) fn section(&self, pfn: Pfn) -> Option<&'m Section<'m, G>> {
        let section = pfn.index() >> Self::SECTION_SHIFT;
        let table = *self.root.get(section >> TABLE_SHIFT)?;
        Some(&table[section % (1 << TABLE_SHIFT)])
    }

    /// The descriptor of the frame at a physical address, as [`get`](Self::get), of any address there may be.
    #[inline(always)]
    pub(crate) fn at(&self, PhysAddr(address): PhysAddr) -> Option<&'m Page> {
        let address = usize::try_from(address).ok()?;
        let table = *self.root.get(address >> (PAGE_SHIFT + Self::SECTION_SHIFT + TABLE_SHIFT))?;
        let section = (address >> (PAGE_SHIFT + Self::SECTION_SHIFT)) % (1 << TABLE_SHIFT);
        #[expect(clippy::cast_possible_truncation, reason = "a section tells its frames apart by the lower bits")]
        let pfn = Pfn::new((address >> PAGE_SHIFT) as u32);
        Some(table[section].page(pfn))
    }

    /// The descriptor of `pfn`, which may be that of a hole; `None` above all tables.
    #[inline(always)]
    pub(crate) fn get(&self, pfn: Pfn) -> Option<&'m Page> {
        Some(self.section(pfn)?.page(pfn))
    }

    /// Whether a frame holds descriptors, or tables that lead to them. Cost: a look at every section there may be.
    pub(crate) fn stands_in(&self, machine: &impl Machine<Geometry = G>, frame: Pfn) -> bool {
        let holds = |place: NonNull<u8>, bytes: usize| {
            let start = machine.physical(place);
            start.0 < frame.address().0 + PAGE_SIZE as u64 && frame.address().0 < start.0 + bytes as u64
        };
        let of_section = |pages: NonNull<Page>| holds(pages.cast(), Section::<G>::PAGES * size_of::<Page>());
        let of_table = |table: &&'m Table<'m, G>| {
            holds(NonNull::from(*table).cast(), size_of::<Table<'m, G>>())
                || table.iter().any(|section| of_section(section.descriptors.pages))
        };
        holds(NonNull::from(self.root).cast(), size_of_val(self.root)) || self.root.iter().any(of_table)
    }

    /// Descriptors of frames of which most stand near the one before.
    pub(crate) fn neighbours(&self) -> Neighbours<'m, G> {
        let descriptors = Descriptors { pages: self.holes, lifetime: PhantomData, geometry: PhantomData };
        Neighbours { map: *self, section: u32::MAX, descriptors }
    }

    /// Behind the last frame that any table leads to.
    pub(crate) fn end(&self) -> Pfn {
        let frames = (self.root.len() as u64) << (TABLE_SHIFT + Self::SECTION_SHIFT);
        u32::try_from(frames).map_or(Pfn::LIMIT, Pfn::new)
    }

    /// The section around `pfn`, if it has descriptors of its own.
    pub(crate) fn populated_section(&self, pfn: Pfn) -> Option<&'m Section<'m, G>> {
        self.section(pfn).filter(|section| section.descriptors.pages != self.holes)
    }

    /// Whether the section around `pfn` has descriptors of its own.
    pub(crate) fn is_populated(&self, pfn: Pfn) -> bool {
        self.populated_section(pfn).is_some()
    }

    /// Whether the descriptors that all sections of holes share say that they are holes.
    pub(crate) fn has_sound_holes(&self) -> bool {
        let holes: Descriptors<'m, G> = Descriptors { pages: self.holes, lifetime: PhantomData, geometry: PhantomData };
        (0..G::MAX_ORDER.pages()).all(|frame| holes.page(Pfn::new(frame)).word() == AllocatorWord::HOLE)
    }

    /// For who reads an image of memory.
    pub(crate) fn write_note(&self, note: &mut Note) -> Result<(), NoteFull> {
        note.place("map.root", self.root.as_ptr().addr())?;
        note.place("map.tables", self.root.len())?;
        note.place("map.table_shift", TABLE_SHIFT as usize)?;
        note.place("map.holes", self.holes.addr().get())?;
        layout!(note, Section<'m, G> as "Section": descriptors.pages, types)
    }

    /// The descriptor of a frame that the allocator knows to have one.
    ///
    /// # Panics
    /// ZONE-1 is broken: a block, a list or a zone names a frame outside the map.
    pub(crate) fn page(&self, pfn: Pfn) -> &'m Page {
        self.known_section(pfn).page(pfn)
    }

    /// The section of a frame that the allocator knows to have a descriptor.
    ///
    /// # Panics
    /// ZONE-1 is broken, as in [`page`](Self::page).
    pub(crate) fn known_section(&self, pfn: Pfn) -> &'m Section<'m, G> {
        match self.section(pfn) {
            Some(section) => section,
            None => panic!("invariant ZONE-1 broken: {pfn:?} is in use but has no descriptor"),
        }
    }

    /// The head of the block around `pfn`: the nearest page at or below it, by ever larger alignment, that is not
    /// behind another. Any block that holds `pfn` starts at one of these, and everything between is its tail.
    ///
    /// `None` if there is no descriptor, or no head in the largest block around.
    pub(crate) fn head_of(&self, pfn: Pfn) -> Option<Pfn> {
        let section = self.section(pfn)?;
        (0..=G::MAX_ORDER.index())
            .map(|order| pfn.align_down(Order::of(order)))
            .find(|&head| !section.page(head).word().is_tail())
    }

    /// Carves tables and descriptors for every section that holds a frame of the boot map. Pages of sections that are usable as
    /// a whole are behind a head that is yet to come, all others holes until [`fill`](Self::fill) has seen the final map.
    ///
    /// # Errors
    /// The direct map has no room for them.
    pub(crate) fn carve<M: Machine<Geometry = G>, const CAPACITY: usize>(
        machine: &'m M,
        boot_map: &mut BootMap<CAPACITY>,
        bytes: &mut MetadataBytes,
    ) -> Result<Self, CarveError> {
        let sections = Self::sections_of(boot_map.extents(), 0..usize::MAX);
        let tables = sections.end.div_ceil(1 << TABLE_SHIFT);
        let hole = |_| Page::new(AllocatorWord::HOLE);
        let (holes, hole_bytes) = carve_slice(machine, boot_map, NodeId(0), Section::<G>::PAGES, hole)?;
        let holes = NonNull::from(holes).cast();
        let (nothing, nothing_bytes) =
            carve_slice(machine, boot_map, NodeId(0), 1 << TABLE_SHIFT, |_| Section::of(holes))?;
        let nothing: &'m Table<'m, G> = (&*nothing).try_into().expect("the slice is as long as a table");
        let (root, root_bytes) = carve_slice(machine, boot_map, NodeId(0), tables, |_| nothing)?;
        bytes.tables += hole_bytes + nothing_bytes + root_bytes;
        for (index, entry) in root.iter_mut().enumerate() {
            let window = index << TABLE_SHIFT..(index + 1) << TABLE_SHIFT;
            let populated = |section: usize| !Self::sections_of(boot_map.extents(), section..section + 1).is_empty();
            let usable = boot_map.extents().iter().filter(|extent| extent.kind == RegionKind::Usable);
            let is_whole = |section| usable.clone().any(|extent| Self::covers(extent.range, section));
            // The word that all pages of a section begin with.
            let mut words = [None; 1 << TABLE_SHIFT];
            for section in window.clone().filter(|&section| populated(section)) {
                let whole = is_whole(section);
                words[section - window.start] = Some(if whole { AllocatorWord::TAIL } else { AllocatorWord::HOLE });
            }
            let count = words.iter().flatten().count();
            if count == 0 {
                continue;
            }
            let node = Self::node_of(boot_map.extents(), window);
            let pages = count * Section::<G>::PAGES;
            let mut of_chunks = [AllocatorWord::HOLE; 1 << TABLE_SHIFT];
            of_chunks.iter_mut().zip(words.iter().flatten()).for_each(|(chunk, word)| *chunk = *word);
            let page = |index: usize| Page::new(of_chunks[index / Section::<G>::PAGES % (1 << TABLE_SHIFT)]);
            let (pages, page_bytes) = carve_slice(machine, boot_map, node, pages, page)?;
            let mut chunks = pages.chunks_exact(Section::<G>::PAGES);
            let section = |index: usize| {
                let pages = words[index].and_then(|_| chunks.next());
                Section::of(pages.map_or(holes, |pages| NonNull::from(pages).cast()))
            };
            let (table, table_bytes) = carve_slice(machine, boot_map, node, 1 << TABLE_SHIFT, section)?;
            *entry = (&*table).try_into().expect("the slice is as long as a table");
            bytes.descriptors += page_bytes;
            bytes.tables += table_bytes;
        }
        Ok(Self { root, holes })
    }

    /// Says of every frame of the boot map what it is: behind a head that is yet to come, or reserved. Pageblocks
    /// start out movable, as Linux's do.
    pub(crate) fn fill(&self, extents: &[Extent]) {
        for extent in extents {
            let mut pfn = extent.range.start;
            while pfn < extent.range.end {
                let section = self.known_section(pfn);
                let end = pfn.plus(1).align_up(G::MAX_ORDER).min(extent.range.end);
                match extent.kind {
                    // What is usable as a whole now was so before.
                    RegionKind::Usable if Self::covers(extent.range, pfn.index() >> Self::SECTION_SHIFT) => {}
                    RegionKind::Usable => {
                        PfnRange::new(pfn, end).frames().for_each(|frame| section.page(frame).set_tail());
                    }
                    RegionKind::Reserved => {
                        PfnRange::new(pfn, end).frames().for_each(|frame| section.page(frame).set_reserved());
                    }
                }
                for block in 0..G::MAX_ORDER.pages() >> G::PAGEBLOCK_ORDER.number() {
                    section.set_migratetype(Pfn::new(block << G::PAGEBLOCK_ORDER.number()), Migratetype::Movable);
                }
                pfn = end;
            }
        }
    }

    /// Whether a range has all frames of a section.
    fn covers(range: PfnRange, section: usize) -> bool {
        let start = section << Self::SECTION_SHIFT;
        range.start.index() <= start && start + Section::<G>::PAGES <= range.end.index()
    }

    /// The sections in `window` that hold frames of the extents: from the first to the last.
    fn sections_of(extents: &[Extent], window: core::ops::Range<usize>) -> core::ops::Range<usize> {
        let touched = |extent: &Extent| {
            let start = extent.range.start.index() >> Self::SECTION_SHIFT;
            let end = ((extent.range.end.index() - 1) >> Self::SECTION_SHIFT) + 1;
            start.max(window.start)..end.min(window.end)
        };
        extents
            .iter()
            .map(touched)
            .filter(|sections| !sections.is_empty())
            .reduce(|all, next| all.start.min(next.start)..all.end.max(next.end))
            .unwrap_or(0..0)
    }

    /// The node of the first extent in `window`.
    fn node_of(extents: &[Extent], window: core::ops::Range<usize>) -> NodeId {
        let inside = |extent: &&Extent| !Self::sections_of(core::slice::from_ref(extent), window.clone()).is_empty();
        extents.iter().find(inside).map_or(NodeId(0), |extent| extent.node)
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
