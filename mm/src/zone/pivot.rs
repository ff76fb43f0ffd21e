//! The pivot: where a zone's pages in use would end, did they stand one behind the other from its start.
//!
//! Below it memory is to be used, above it to be left alone until it has come together: who allocates takes blocks from below
//! first, so what is in use above goes away by and by, and nothing comes in its place. So whole blocks come free again whatever
//! order pages are freed in, at O(1) an operation; first fit by address does the same with a search.
//!
//! ```text
//!   runs of memory      ████████████    ██████  ███████████████████
//!   pages in use        ───────────>    ───|    ·  ·       ·
//!                                          └ pivot, one largest block further on
//! ```
//!
//! It is for where free blocks stand on their lists, and a guess where runs are more than are remembered: no invariant rests
//! on it.
//!
//! Cost: a compare and an addition whenever pages come or go; a look at the runs when it moves to another one.

use arrayvec::ArrayVec;

use crate::units::{Order, Pfn, PfnRange};

/// Runs that are told apart. Where there are more, the hole that comes last is taken for memory.
const RUNS: usize = 16;

/// Where it is, and what it must know to move.
#[derive(Debug)]
pub(crate) struct Pivot {
    /// The first frame above.
    at: Pfn,
    /// How many pages in use it is where it is for, at the start of the run that it is in.
    before: u32,
    /// Frames of that run.
    run: PfnRange,
    /// The zone's memory, in ascending order.
    runs: ArrayVec<PfnRange, RUNS>,
    /// How far above the pages in use it is: who breaks a block is to go on with the rest of it.
    room: u32,
}

impl Pivot {
    /// That of a zone without memory, with blocks up to an order.
    pub(super) const fn new(largest: Order) -> Self {
        let nowhere = PfnRange::new(Pfn::new(0), Pfn::new(0));
        Self { at: Pfn::new(0), before: 0, run: nowhere, runs: ArrayVec::new_const(), room: largest.pages() }
    }

    /// The first frame above.
    #[inline(always)]
    pub(crate) const fn at(&self) -> Pfn {
        self.at
    }

    /// The zone has this memory, of which it had none.
    pub(crate) fn cover(&mut self, range: PfnRange) {
        let index = self.runs.iter().take_while(|run| run.start < range.start).count();
        let full = self.runs.is_full();
        match self.runs[..index].last_mut() {
            Some(before) if full || before.end == range.start => before.end = before.end.max(range.end),
            None if full => self.runs[0].start = range.start,
            _ => self.runs.insert(index, range),
        }
        self.run = PfnRange::new(Pfn::new(0), Pfn::new(0));
    }

    /// The zone does not have this memory any more. Where no more runs are told apart, it is taken for memory still.
    pub(crate) fn uncover(&mut self, range: PfnRange) {
        if let Some(index) = self.runs.iter().position(|run| run.start <= range.start && range.end <= run.end) {
            let run = self.runs[index];
            let behind = PfnRange::new(range.end, run.end);
            match (run.start == range.start, behind.is_empty()) {
                (true, true) => {
                    let _ = self.runs.remove(index);
                }
                (true, false) => self.runs[index].start = range.end,
                (false, _) => {
                    if behind.is_empty() || self.runs.try_insert(index + 1, behind).is_ok() {
                        self.runs[index].end = range.start;
                    }
                }
            }
        }
        (self.before, self.run) = (0, PfnRange::new(Pfn::new(0), Pfn::new(0)));
    }

    /// So many pages are in use.
    #[inline(always)]
    pub(super) fn follow(&mut self, used: u32) {
        let into = used.wrapping_add(self.room).wrapping_sub(self.before);
        if into < self.run.pages() {
            self.at = self.run.start.plus(into);
        } else {
            self.find(used);
        }
    }

    #[cold]
    fn find(&mut self, used: u32) {
        let target = used.saturating_add(self.room);
        let mut before = 0;
        for &run in &self.runs {
            (self.before, self.run) = (before, run);
            if target - before < run.pages() {
                break;
            }
            before += run.pages();
        }
        self.at = self.run.start.plus(target - self.before);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const ROOM: u32 = Order::of(3).pages();

    fn range(frames: core::ops::Range<u32>) -> PfnRange {
        PfnRange::new(Pfn::new(frames.start), Pfn::new(frames.end))
    }

    fn pivot(runs: &[core::ops::Range<u32>]) -> Pivot {
        let mut pivot = Pivot::new(Order::of(3));
        runs.iter().for_each(|run| pivot.cover(range(run.clone())));
        pivot
    }

    fn at(pivot: &mut Pivot, used: u32) -> u32 {
        pivot.follow(used);
        pivot.at().number()
    }

    #[test]
    fn it_is_a_block_behind_the_frame_up_to_which_memory_would_be_in_use() {
        let runs = [100..110, 150..200, 200..220, 1000..1100];
        let mut orders = [[0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2]];
        for order in &mut orders {
            let mut pivot = pivot(&order.map(|index: usize| runs[index].clone()));
            let memory: std::vec::Vec<_> = runs.iter().cloned().flatten().collect();
            let expected = |used: u32| memory.get((used + ROOM) as usize).copied();
            for used in (0..180).chain((0..180).rev()).chain((0..180).map(|step| step * 77 % 180)) {
                let expected = expected(used).unwrap_or(1100 + used + ROOM - 180);
                assert_eq!(at(&mut pivot, used), expected, "{used} in use");
            }
        }
    }

    #[test]
    fn of_more_runs_than_it_remembers_it_takes_holes_for_memory() {
        let runs: std::vec::Vec<_> = (0..40u32).map(|run| run * 10..run * 10 + 5).collect();
        let mut pivot = pivot(&runs);
        assert_eq!(at(&mut pivot, 0), 13, "the third frame of the second run");
        // Of the last runs that are told apart, the last but one.
        assert_eq!(at(&mut pivot, 14 * 5 - ROOM), 14 * 10);
        for used in 0..200 {
            assert!((used..=400 + ROOM).contains(&at(&mut pivot, used)), "{used} in use");
        }
    }

    #[test]
    fn what_comes_out_of_a_hole_that_was_taken_for_memory_shortens_no_run() {
        // From the top, as a zone learns of its memory: the lowest run has all holes below those that are told apart.
        let runs: std::vec::Vec<_> = (0..40u32).rev().map(|run| run * 10..run * 10 + 5).collect();
        let mut pivot = pivot(&runs);
        let before = at(&mut pivot, 180);
        pivot.cover(range(36..38));
        assert_eq!((before, at(&mut pivot, 180)), (180 + ROOM, 180 + ROOM));
    }

    #[test]
    fn without_memory_it_is_nowhere() {
        let mut pivot = pivot(&[]);
        assert_eq!(at(&mut pivot, 0), ROOM);
    }
}
