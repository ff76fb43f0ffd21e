//! A sheaf: an array of objects that are in no slab and no user's hands, to be had without a look at any slab.
//!
//! A CPU allocates out of one and frees into one; whole sheaves change hands between CPUs through their cache. So the
//! cost of the slabs is paid once for many objects.
//!
//! Source: J. Bonwick, J. Adams, "Magazines and Vmem", USENIX 2001; V. Babka's sheaves, Linux 6.18.
#![expect(unsafe_code, reason = "sheaves are linked by bare pointers, and live in objects of a cache")]

use core::ptr::NonNull;

use arrayvec::ArrayVec;

use crate::image::{self, Note, NoteFull, layout};

/// Objects that a sheaf has room for: with its head, half a kilobyte.
pub(super) const SHEAF_OBJECTS: usize = MOST as usize;
const MOST: u32 = 61;

/// Bytes of objects that a cache wants in a sheaf at most, so that large ones do not pile up on every CPU.
const SHEAF_BYTES: u32 = 16 << 10;

/// An array of objects.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Sheaf {
    /// The next sheaf of a stack of sheaves.
    pub(super) next: Option<NonNull<Sheaf>>,
    /// The objects' slots.
    pub(super) objects: ArrayVec<NonNull<u8>, SHEAF_OBJECTS>,
}

const _: () = assert!(size_of::<Sheaf>() <= 512);

impl Sheaf {
    pub(super) const fn new() -> Self {
        Self { next: None, objects: ArrayVec::new_const() }
    }

    /// For who reads an image of memory.
    pub(super) fn write_note(note: &mut Note) -> Result<(), NoteFull> {
        let empty = Self::new();
        note.place("Sheaf.objects.elements", image::distance(&empty.objects, empty.objects.as_ptr()))?;
        layout!(note, Self as "Sheaf": next, objects)?;
        layout!(note, SheafStack as "SheafStack": top, len)
    }
}

/// Objects that a cache of this stride wants in a sheaf.
pub(super) const fn capacity(stride: u32) -> u32 {
    match SHEAF_BYTES / stride {
        0..4 => 4,
        some @ 4..MOST => some,
        _ => MOST,
    }
}

/// A stack of sheaves.
#[derive(Debug)]
pub(super) struct SheafStack {
    top: Option<NonNull<Sheaf>>,
    len: u32,
}

impl SheafStack {
    pub(super) const fn new() -> Self {
        Self { top: None, len: 0 }
    }

    pub(super) const fn len(&self) -> u32 {
        self.len
    }

    pub(super) fn push(&mut self, mut sheaf: NonNull<Sheaf>) {
        // SAFETY: whoever pushes a sheaf has it to itself.
        let pushed = unsafe { sheaf.as_mut() };
        pushed.next = self.top.replace(sheaf);
        self.len += 1;
    }

    pub(super) fn pop(&mut self) -> Option<NonNull<Sheaf>> {
        let mut sheaf = self.top?;
        // SAFETY: a sheaf on a stack is the stack's alone.
        let popped = unsafe { sheaf.as_mut() };
        self.top = popped.next.take();
        self.len -= 1;
        Some(sheaf)
    }

    /// Every sheaf, from the top.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Sheaf> {
        let mut next = self.top;
        core::iter::from_fn(move || {
            // SAFETY: a sheaf on a stack is the stack's alone, and the stack is borrowed.
            let sheaf = unsafe { next?.as_ref() };
            next = sheaf.next;
            Some(sheaf)
        })
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::boxed::Box;
    use std::vec::Vec;

    use super::*;

    #[test]
    fn a_sheaf_is_for_so_many_objects_as_make_16_kib_but_no_fewer_than_four_and_no_more_than_fit() {
        let wanted = [(8, 61), (264, 61), (512, 32), (1000, 16), (4096, 4), (4097, 4), (16 << 10, 4), (4 << 20, 4)];
        for (stride, objects) in wanted {
            assert_eq!(capacity(stride), objects, "{stride} bytes");
        }
    }

    #[test]
    fn the_sheaf_that_was_put_on_a_stack_last_is_on_top_and_leaves_first() {
        let mut sheaves = [const { Sheaf::new() }; 3].map(Box::new);
        let [first, second, third] = sheaves.each_mut().map(|sheaf| NonNull::from(&mut **sheaf));
        let mut stack = SheafStack::new();
        let shows = |stack: &SheafStack| stack.iter().map(NonNull::from).collect::<Vec<_>>();
        assert_eq!((stack.len(), shows(&stack)), (0, std::vec![]));
        for sheaf in [first, second, third] {
            stack.push(sheaf);
        }
        assert_eq!((stack.len(), shows(&stack)), (3, std::vec![third, second, first]));
        assert_eq!((stack.pop(), stack.len(), shows(&stack)), (Some(third), 2, std::vec![second, first]));
        stack.push(third);
        assert_eq!(stack.len(), 3);
        let left: Vec<_> = core::iter::from_fn(|| stack.pop()).collect();
        assert_eq!((left, stack.len()), (std::vec![third, second, first], 0));
        assert_eq!(stack.pop(), None);
    }
}
