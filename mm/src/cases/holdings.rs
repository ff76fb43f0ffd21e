//! The blocks a case holds, as many as there are, without a heap: one bit a frame, in pages of the direct map.
//!
//! The pages themselves are not touched, so that holding all memory of a large machine stays cheap.
//!
//! Invariants: HELD, a bit is set if and only if its frame heads a block that the set owns.
//! Cost: insert and take O(1); the next block from a frame on, one word for 64 frames in between.
#![expect(unsafe_code, reason = "owns blocks as bare frame numbers")]

use super::Failure;
use crate::machine::{Geometry, Machine};
use crate::page::{AllocError, Block, PageAllocator, Request};
use crate::units::{Order, PAGE_SIZE, Pfn, PfnRange};
use crate::zone::{ZoneKind, ZoneReport};

/// A set of owned blocks; they are freed with it.
pub(super) struct Holdings<'a, M: Machine> {
    allocator: &'a PageAllocator<'a, M>,
    /// All frames there can be blocks in.
    span: PfnRange,
    bits: Block<'a, M>,
    pages: u32,
    /// Around everything that was ever held.
    hull: PfnRange,
}

impl<'a, M: Machine> Holdings<'a, M> {
    /// An empty set.
    ///
    /// # Errors
    /// Skips the case if the direct map has no block left for the bits.
    pub(super) fn new(allocator: &'a PageAllocator<'a, M>) -> Result<Self, Failure> {
        let start = allocator.zones().map(|zone| zone.span.start).min().unwrap_or(Pfn::new(0));
        let end = allocator.zones().map(|zone| zone.span.end).max().unwrap_or(start);
        let span = PfnRange::new(start, end);
        let room = |order: Order| (order.pages() as usize) * PAGE_SIZE * 8 >= span.pages() as usize;
        let mut rooms = orders::<M>().filter(|&order| room(order));
        let low = |zone: &ZoneReport| zone.kind != ZoneKind::Highmem;
        let free = |order: Order| allocator.zones().filter(low).any(|zone| zone.blocks_of(order) > 0);
        let order = rooms.clone().next().filter(|_| rooms.any(free));
        let order = order.ok_or(Failure::Skipped("the direct map has no room to note what is held"))?;
        let mut bits = allocator.alloc(Request::new(order).from_reserve())?;
        if let Some(bytes) = bits.bytes_mut() {
            bytes.fill(0);
        }
        Ok(Self { allocator, span, bits, pages: 0, hull: PfnRange::new(start, start) })
    }

    pub(super) const fn allocator(&self) -> &'a PageAllocator<'a, M> {
        self.allocator
    }

    /// Pages in the blocks that are held.
    pub(super) const fn pages(&self) -> u32 {
        self.pages
    }

    /// From the first frame that was ever held to behind the last.
    pub(super) const fn hull(&self) -> PfnRange {
        self.hull
    }

    /// Adds a block.
    ///
    /// # Errors
    /// A block with this head is held already: it was handed out twice.
    pub(super) fn insert(&mut self, block: Block<'a, M>) -> Result<(), Failure> {
        let range = block.range();
        let head = block.into_raw();
        let held = self.replace_bit(head, true);
        Failure::unless_of(held.is_some(), head, "a block lies in a zone")?;
        Failure::unless_of(held == Some(false), head, "no block is handed out twice")?;
        self.pages += range.pages();
        let empty = self.hull.is_empty();
        let start = if empty { head } else { self.hull.start.min(head) };
        self.hull = PfnRange::new(start, self.hull.end.max(range.end));
        Ok(())
    }

    /// Takes the block at `head` out of the set, if it is there.
    pub(super) fn take(&mut self, head: Pfn) -> Option<Block<'a, M>> {
        self.replace_bit(head, false).filter(|&held| held)?;
        // SAFETY: HELD, the set owned the block, and its bit has just been cleared.
        let block = unsafe { self.allocator.from_raw(head) }.ok()?;
        self.pages -= block.order().pages();
        Some(block)
    }

    /// Takes the first block from `from` on, or else the first of all.
    pub(super) fn take_next(&mut self, from: Pfn) -> Option<Block<'a, M>> {
        let hull = self.hull;
        let from = if hull.contains(from) { from } else { hull.start };
        let parts = [PfnRange::new(from, hull.end), PfnRange::new(hull.start, from)];
        let head = parts.into_iter().find_map(|part| self.first_in(part))?;
        self.take(head)
    }

    /// Whether the head of a block that is held lies in `range`.
    pub(super) fn holds_in(&mut self, range: PfnRange) -> bool {
        self.first_in(range.intersection(self.hull)).is_some()
    }

    /// Allocates a block into the set; `None` if there is none left.
    ///
    /// # Errors
    /// The block is not what was asked for, or the error says something else than that memory is exhausted.
    pub(super) fn alloc(&mut self, request: Request) -> Result<Option<Pfn>, Failure> {
        match self.allocator.alloc(request) {
            Ok(block) => {
                let head = block.head();
                Failure::unless_of(block.order() == request.order, head, "a block has the order that was asked for")?;
                Failure::unless_of(head.is_aligned(request.order), head, "a block is aligned to its size")?;
                self.insert(block)?;
                Ok(Some(head))
            }
            Err(AllocError::Exhausted(exhausted)) if exhausted == request => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Allocates blocks like this until there are no more, reserves included, and says how many there were.
    pub(super) fn alloc_all(&mut self, request: Request) -> Result<u32, Failure> {
        let request = request.from_reserve();
        let mut count = 0;
        while self.alloc(request)?.is_some() {
            count += 1;
        }
        Ok(count)
    }

    /// Allocates everything that serves the request, reserves included, in blocks as large as there are.
    pub(super) fn alloc_everything(&mut self, request: Request) -> Result<(), Failure> {
        for order in orders::<M>().rev() {
            self.alloc_all(Request { order, ..request })?;
        }
        Ok(())
    }

    /// Allocates largest blocks, from the direct map and from anywhere in turn, until about `pages` are left free.
    pub(super) fn leave_free(&mut self, pages: u32) -> Result<(), Failure> {
        let largest = M::Geometry::MAX_ORDER;
        let request = Request::movable(largest).from_reserve();
        while self.allocator.free_pages() > pages + 2 * largest.pages() {
            let low = self.alloc(request.up_to(ZoneKind::Normal))?;
            let any = self.alloc(request)?;
            if low.or(any).is_none() {
                break;
            }
        }
        Ok(())
    }

    /// Allocates all of a part of the zones, reserves included, from the largest blocks down, with requests that prefer this part.
    ///
    /// # Errors
    /// A block came from elsewhere although the part had one large enough.
    pub(super) fn use_up(&mut self, request: Request, part: impl Fn(&ZoneReport) -> bool) -> Result<(), Failure> {
        let allocator = self.allocator;
        let request = request.from_reserve();
        let free = || allocator.zones().filter(&part).map(|zone| zone.free).sum::<u32>();
        let has = |order: Order| {
            // What is at hand of a CPU is in no block, and the next zone comes before it.
            allocator.drain();
            let larger = |zone: ZoneReport| orders::<M>().filter(|&k| k >= order).any(|k| zone.blocks_of(k) > 0);
            allocator.zones().filter(&part).any(larger)
        };
        for order in orders::<M>().rev() {
            while has(order) {
                let before = free();
                let head = self.alloc(Request { order, ..request })?;
                Failure::unless(head.is_some(), "a request is served while there is a block large enough")?;
                Failure::unless_equal(
                    before - order.pages(),
                    free(),
                    "free pages after a block came from where it should",
                )?;
            }
        }
        Failure::unless_equal(0, free(), "free pages where no block is left")
    }

    /// Which word has the bit for `head`, and which bit of it that is.
    fn place(&self, head: Pfn) -> (usize, u32) {
        let index = head.number().wrapping_sub(self.span.start.number());
        ((index / u64::BITS) as usize, index % u64::BITS)
    }

    /// Sets or clears the bit for `head` and says what it was; `None` outside the span.
    fn replace_bit(&mut self, head: Pfn, held: bool) -> Option<bool> {
        if !self.span.contains(head) {
            return None;
        }
        let (word, bit) = self.place(head);
        let place = self.words().get_mut(word)?;
        let before = u64::from_le_bytes(*place);
        let after = if held { before | 1 << bit } else { before & !(1 << bit) };
        *place = after.to_le_bytes();
        Some(before >> bit & 1 == 1)
    }

    fn words(&mut self) -> &mut [[u8; 8]] {
        self.bits.bytes_mut().unwrap_or_default().as_chunks_mut().0
    }

    /// The first held block whose head is in `range`, which lies in the span.
    fn first_in(&mut self, range: PfnRange) -> Option<Pfn> {
        if range.is_empty() {
            return None;
        }
        let (word, bit) = self.place(range.start);
        let (first, rest) = self.words().get(word..)?.split_first()?;
        let here = u64::from_le_bytes(*first) >> bit;
        let distance = if here != 0 {
            here.trailing_zeros()
        } else {
            let (words, next) = (1..).zip(rest).find(|&(_, &word)| word != [0; 8])?;
            words * u64::BITS - bit + u64::from_le_bytes(*next).trailing_zeros()
        };
        Some(range.start.plus(distance)).filter(|&head| head < range.end)
    }
}

impl<M: Machine> Drop for Holdings<'_, M> {
    fn drop(&mut self) {
        let mut at = self.hull.start;
        while let Some(head) = self.first_in(PfnRange::new(at, self.hull.end)) {
            at = head.plus(1);
            drop(self.take(head));
        }
    }
}

impl<M: Machine> core::fmt::Debug for Holdings<'_, M> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Holdings({} pages in {:?})", self.pages, self.hull)
    }
}

/// Every order of the machine, ascending.
pub(super) fn orders<M: Machine>() -> impl DoubleEndedIterator<Item = Order> + Clone {
    (0..=M::Geometry::MAX_ORDER.index()).map(Order::of)
}
