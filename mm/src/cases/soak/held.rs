//! Memory that a CPU holds, of each kind there is, marked as its own.
#![expect(unsafe_code, reason = "reads back what it wrote to an object")]

use core::mem::MaybeUninit;

use super::super::Failure;
use super::mark::{Found, Mark, Place};
use crate::machine::Machine;
use crate::owner::{Folio, Owned};
use crate::page::{Block, ContigRange};
use crate::slab::Object;
use crate::units::{PAGE_SIZE, Pfn, PfnRange, PhysAddr};

/// A piece of memory.
#[derive(Debug)]
pub(super) enum Held<'s, M: Machine> {
    Block(Block<'s, M>),
    Range(ContigRange<'s, M>),
    Folio(Owned<'s, M, Folio>),
    Object(Object<'s, 's, M>),
}

/// A piece of memory and whose it is.
#[derive(Debug)]
pub(super) struct Marked<'s, M: Machine> {
    mark: Mark,
    held: Held<'s, M>,
}

/// Of blocks up to this many pages every word is marked; of larger ones some in every page.
const WHOLLY: u32 = 8;
/// One word in so many.
const SOME: usize = 64;

impl<'s, M: Machine> Marked<'s, M> {
    /// Marks memory that was just allocated.
    ///
    /// # Errors
    /// It cannot be written to.
    pub(super) fn new(held: Held<'s, M>, mark: Mark) -> Result<Self, Failure> {
        let mut marked = Self { mark, held };
        marked.each_word(Pass::Write)?;
        Ok(marked)
    }

    /// Where it begins in physical memory.
    pub(super) fn start(&self, machine: &M) -> PhysAddr {
        match &self.held {
            Held::Block(block) => block.head().address(),
            Held::Range(range) => range.range().start.address(),
            Held::Folio(folio) => folio.head().address(),
            Held::Object(object) => machine.physical(object.address()),
        }
    }

    /// Frees it, if it holds what was written to it; otherwise it is never freed, for somebody else has it, too.
    ///
    /// # Errors
    /// Names the first page of which somebody else has written a word.
    pub(super) fn give_up(mut self) -> Result<(), Failure> {
        self.each_word(Pass::Check).inspect_err(|_| core::mem::forget(self))
    }

    fn each_word(&mut self, pass: Pass) -> Result<(), Failure> {
        let mark = self.mark;
        match &mut self.held {
            Held::Block(block) => each_page(block.range(), |pfn, step| {
                block.with_page(pfn, |bytes| in_page(bytes, (pfn, mark), step, pass))
            }),
            Held::Range(range) => each_page(range.range(), |pfn, step| {
                range.with_page(pfn, |bytes| in_page(bytes, (pfn, mark), step, pass))
            }),
            Held::Folio(folio) => each_page(folio.range(), |pfn, step| {
                folio.with_page(pfn, |bytes| in_page(bytes, (pfn, mark), step, pass))
            }),
            Held::Object(object) => in_object(object, mark, pass),
        }
    }
}

/// What is done with each word.
#[derive(Clone, Copy)]
enum Pass {
    Write,
    Check,
}

fn each_page(range: PfnRange, mut look: impl FnMut(Pfn, usize) -> Option<Result<(), Failure>>) -> Result<(), Failure> {
    let step = if range.pages() <= WHOLLY { 1 } else { SOME };
    range.frames().try_for_each(|pfn| {
        let unseen = Failure::ExpectedOf { what: "the owner of a page can look at it", pfn };
        look(pfn, step).unwrap_or(Err(unseen))
    })
}

fn in_page(bytes: &mut [u8; PAGE_SIZE], (pfn, owner): (Pfn, Mark), step: usize, pass: Pass) -> Result<(), Failure> {
    let places = (pfn.address().0..).step_by(size_of::<u64>()).map(Place);
    for (word, place) in bytes.as_chunks_mut().0.iter_mut().zip(places).step_by(step) {
        match pass {
            Pass::Write => *word = owner.word(place).to_le_bytes(),
            Pass::Check => check(owner, place, u64::from_le_bytes(*word))?,
        }
    }
    Ok(())
}

fn in_object<M: Machine>(object: &mut Object<'_, '_, M>, owner: Mark, pass: Pass) -> Result<(), Failure> {
    let places = (object.address().addr().get() as u64..).step_by(size_of::<u64>()).map(Place);
    for (word, place) in object.bytes_mut().as_chunks_mut().0.iter_mut().zip(places) {
        match pass {
            Pass::Write => *word = owner.word(place).to_le_bytes().map(MaybeUninit::new),
            // SAFETY: every word was written when the object was marked.
            Pass::Check => check(owner, place, u64::from_le_bytes(word.map(|byte| unsafe { byte.assume_init() })))?,
        }
    }
    Ok(())
}

fn check(owner: Mark, place: Place, word: u64) -> Result<(), Failure> {
    if word == owner.word(place) {
        return Ok(());
    }
    Err(Failure::Overwritten { place, owner, found: Found::of(word, place) })
}
