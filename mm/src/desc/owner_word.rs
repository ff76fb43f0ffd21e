//! The second word of an allocated page: whose the page is, and where its owner's descriptor stands.
//!
//! ```text
//!   63                                  4 3    0
//!  +-------------------------------------+------+
//!  |  address of the owner's descriptor  | kind |    allocated, and owned
//!  |               0                     |  0   |    allocated, plain
//!  |  a number: position, first, next    |  0   |    free, a node, in flight
//!  +-------------------------------------+------+
//! ```
//!
//! Descriptors are aligned to 16 bytes, so the low four bits are the kind's; numbers are shifted past them. So this
//! word alone says whether a page has an owner, whatever the first one says at that moment: who follows a pointer in
//! it needs no second look. Pointers keep their provenance.
//!
//! Invariants: DESC-1 (an allocated page has exactly one owner; descriptor and pages name each other).
#![expect(unsafe_code, reason = "a word of a kind with descriptors is never null")]

use core::ptr::{self, NonNull};

/// Enters kinds of owners: code, name, and what the name says. A new kind is a line here.
macro_rules! owner_kinds {
    ($($(#[$doc:meta])+ $kind:ident = $code:literal, $name:literal;)+) => {
        /// Whose an allocated page is.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(u8)]
        pub enum OwnerKind {
            $($(#[$doc])+ $kind = $code,)+
        }

        impl OwnerKind {
            /// Every kind, by code.
            pub const ALL: &'static [Self] = &[$(Self::$kind,)+];

            /// The kind's name in reports.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$kind => $name,)+
                }
            }

            const fn decode(code: usize) -> Option<Self> {
                match code {
                    $($code => Some(Self::$kind),)+
                    _ => None,
                }
            }
        }
    };
}

owner_kinds! {
    /// Nobody beyond whoever holds the block: a plain page.
    Plain = 0, "plain";
    /// A folio: files' and anonymous memory.
    Folio = 1, "folio";
    /// A page table.
    PageTable = 2, "page_table";
    /// Compressed pages.
    CompressedStore = 3, "zsmalloc";
    /// Memory of one CPU.
    PerCpuArea = 4, "percpu";
    /// A kernel stack.
    KernelStack = 5, "kernel_stack";
    /// One object that is too large for a slab; it has no descriptor, since its size is the block's.
    LargeKmalloc = 6, "large_kmalloc";
    /// Memory that lies: never handed out again. It has no descriptor.
    Poisoned = 7, "hwpoison";
    /// A slab of small objects. The only kind with the highest bit: every free by address asks for it.
    Slab = 8, "slab";
}

/// Codes that the bits have room for.
const KINDS: usize = 1 << KIND_BITS;
const KIND_BITS: u32 = 4;
const KIND: usize = KINDS - 1;

/// The decoded second word.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(transparent)]
pub(crate) struct OwnerWord(*mut ());

impl OwnerWord {
    /// No owner.
    pub(crate) const PLAIN: Self = Self(ptr::null_mut());

    /// An owner of this kind, whose descriptor stands at `descriptor`.
    #[inline]
    pub(crate) fn described<T>(kind: OwnerKind, descriptor: NonNull<T>) -> Self {
        const { assert!(align_of::<T>() >= KINDS) };
        Self(descriptor.as_ptr().map_addr(|address| address | kind as usize).cast())
    }

    /// An owner of a kind that has no descriptors.
    pub(crate) const fn bare(kind: OwnerKind) -> Self {
        Self(ptr::without_provenance_mut(kind as usize))
    }

    /// A number of a page that is not allocated.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "no number is wider than 33 bits, and an address has 64")]
    pub(super) const fn number(number: u64) -> Self {
        Self(ptr::without_provenance_mut((number << KIND_BITS) as usize))
    }

    #[inline(always)]
    pub(super) fn as_number(self) -> u64 {
        self.0.addr() as u64 >> KIND_BITS
    }

    #[inline(always)]
    pub(super) const fn from_bits(bits: *mut ()) -> Self {
        Self(bits)
    }

    #[inline(always)]
    pub(super) const fn bits(self) -> *mut () {
        self.0
    }

    /// The kind; `None` if the bits are none.
    #[inline]
    pub(crate) fn kind(self) -> Option<OwnerKind> {
        OwnerKind::decode(self.0.addr() & KIND)
    }

    /// Whether the owner is of this kind.
    #[inline(always)]
    pub(crate) fn is(self, kind: OwnerKind) -> bool {
        match kind {
            OwnerKind::Slab => self.0.addr() & OwnerKind::Slab as usize != 0,
            _ => self.0.addr() & KIND == kind as usize,
        }
    }

    /// Where the descriptor stands, if this is an owner of `kind`, whose descriptors are `T`s.
    #[inline(always)]
    pub(crate) fn descriptor<T>(self, kind: OwnerKind) -> Option<NonNull<T>> {
        let described = !matches!(kind, OwnerKind::Plain | OwnerKind::LargeKmalloc | OwnerKind::Poisoned);
        // SAFETY: the owner is of this kind, which has descriptors.
        (described && self.is(kind)).then(|| unsafe { self.descriptor_of(kind) })
    }

    /// Where the descriptor stands, of an owner that is known to be of `kind`: an optional address would be looked at
    /// once more.
    ///
    /// # Safety
    /// The owner is of `kind`, and that has descriptors, which are `T`s.
    #[inline(always)]
    pub(crate) unsafe fn descriptor_of<T>(self, kind: OwnerKind) -> NonNull<T> {
        let descriptor = self.0.map_addr(|address| address - kind as usize).cast();
        // SAFETY: a word of a kind with descriptors was made of a descriptor's address and the kind (`described`).
        unsafe { NonNull::new_unchecked(descriptor) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[repr(align(16))]
    struct Aligned;

    #[test]
    fn a_kind_and_an_address_come_back_and_no_other_kind_does() {
        let place = NonNull::from(&Aligned);
        for &kind in OwnerKind::ALL {
            let word = OwnerWord::described(kind, place);
            assert_eq!(word.kind(), Some(kind));
            for &other in OwnerKind::ALL {
                let described = !matches!(other, OwnerKind::Plain | OwnerKind::LargeKmalloc | OwnerKind::Poisoned);
                let expected = (other == kind && described).then_some(place);
                assert_eq!(word.descriptor::<Aligned>(other), expected, "{kind:?} {other:?}");
            }
        }
    }

    #[test]
    fn no_number_looks_like_an_owner() {
        for number in [0, 1, 7, 15, 16, u64::from(u32::MAX), 1 << 32] {
            let word = OwnerWord::number(number);
            assert_eq!(word.kind(), Some(OwnerKind::Plain));
            assert_eq!(word.as_number(), number);
        }
    }

    #[test]
    fn every_code_is_its_own() {
        for (code, &kind) in OwnerKind::ALL.iter().enumerate() {
            assert_eq!((kind as usize, OwnerKind::decode(code)), (code, Some(kind)));
        }
    }
}
